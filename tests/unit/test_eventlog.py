"""Events come to all in one order, are kept for a while, and survive in a file."""

import os
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from ftvm.errors import HostError
from ftvm.monitor.eventlog import EVENT_LOG_FAILED, KEPT, Event, EventFile, EventLog

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


@pytest.fixture
def log() -> EventLog:
    return EventLog(lambda: 77_777, lambda: NOON)


def read(path: Path) -> list[Event]:
    return [msgspec.json.decode(line, type=Event) for line in path.read_bytes().splitlines() if line]


def test_an_event_says_what_when_and_where(log: EventLog) -> None:
    log.emit("module-failed", "module 1", reason="death", exit_status=9)
    assert log.since(0) == [
        Event(1, NOON, 77_777, "module-failed", "module 1", {"reason": "death", "exit_status": 9}),
    ]


def test_a_file_name_that_is_no_text_can_be_written_all_the_same(log: EventLog, tmp_path: Path) -> None:
    file = EventFile(str(tmp_path / "events"), log)
    log.emit("suspended", "machine", file=os.fsdecode(b"/a\xffb"))
    file.close()
    assert read(tmp_path / "events")[0].detail == {"file": "/a?b"}


def test_the_newest_events_are_kept(log: EventLog) -> None:
    for _ in range(KEPT + 5):
        log.emit("tick", "machine")
    assert [event.number for event in log.since(0)] == list(range(6, KEPT + 6))
    assert [event.number for event in log.since(KEPT + 3)] == [KEPT + 4, KEPT + 5]


def test_all_observers_see_one_order_even_when_one_of_them_emits(log: EventLog) -> None:
    seen: list[list[str]] = [[], []]

    def talkative(event: Event) -> None:
        seen[0].append(event.kind)
        if event.kind == "first":
            log.emit("second", "machine")

    log.follow(talkative)
    log.follow(lambda event: seen[1].append(event.kind))
    log.emit("first", "machine")
    assert seen == [["first", "second"], ["first", "second"]]


def test_an_observer_that_left_hears_nothing(log: EventLog) -> None:
    seen: list[Event] = []
    leave = log.follow(seen.append)
    leave()
    leave()
    log.emit("tick", "machine")
    assert not seen


def test_the_file_is_appended_one_object_per_line(log: EventLog, tmp_path: Path) -> None:
    path = tmp_path / "events"
    for text in ("a line\nof two", "ü"):
        file = EventFile(str(path), log)
        log.emit("note", "machine", text=text)
        file.close()
    log.emit("note", "machine", text="after the end")
    assert [event.detail["text"] for event in read(path)] == ["a line\nof two", "ü"]


def test_a_line_that_was_cut_off_earlier_spoils_no_other(log: EventLog, tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_bytes(b'{"number": 1, "ti')
    file = EventFile(str(path), log)
    log.emit("note", "machine")
    file.close()
    torn, whole = path.read_bytes().splitlines()
    assert torn == b'{"number": 1, "ti'
    assert msgspec.json.decode(whole, type=Event).kind == "note"


def test_a_full_disk_is_an_event_and_no_more(log: EventLog) -> None:
    file = EventFile("/dev/full", log)
    log.emit("first", "machine")
    log.emit("second", "machine")
    file.close()
    assert [event.kind for event in log.since(0)] == ["first", EVENT_LOG_FAILED, "second"]
    assert log.since(1)[0].detail["reason"] == os.strerror(28)


def test_a_pipe_that_nobody_reads_stops_nothing(log: EventLog, tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    file = EventFile(str(path), log)
    for _ in range(KEPT):
        log.emit("note", "machine", text="x" * 1000)
    file.close()
    assert [event.kind for event in log.since(0)].count(EVENT_LOG_FAILED) == 1


def test_a_file_that_cannot_be_opened_is_said_at_once(log: EventLog, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="event log"):
        EventFile(str(tmp_path / "missing" / "events"), log)

"""The verbs of every machine, over the wire."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from ftvm.control.status import machine_state
from ftvm.display.screen import Cursor, Screen
from tests.unit.control_machine import Running, Wire


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    running = Running("web")
    yield running
    running.close()
    running.hang_up()


@pytest.fixture
def wire(machine: Running) -> Wire:
    wire = Wire(machine)
    wire.received()
    return wire


@pytest.mark.parametrize(
    ("modules", "state"),
    [
        (["duplexed", "duplexed"], "duplex"),
        (["online", "failed"], "simplex"),
        (["offline", "online"], "simplex"),
        (["online", "duplexing"], "resync"),
        (["duplexed", "duplexed", "duplexed"], "triplex"),
        (["duplexed", "duplexed", "offline"], "duplex"),
        (["duplexed", "duplexed", "duplexing"], "resync"),
        (["failed", "failed"], "down"),
        (["online"], "simplex"),
    ],
)
def test_a_machine_is_called_by_what_serves_it(modules: list[str], state: str) -> None:
    assert machine_state(modules) == state


def test_status_has_what_scripts_rely_on(wire: Wire) -> None:
    wire.ask("status")
    (line,) = wire.received()
    status = line["result"]
    assert status["version"] == 1
    assert status["state"] == "duplex"
    for module in status["modules"]:
        assert module.keys() >= {"index", "state", "pid", "position", "faults", "mtbf_s", "dirty_pages"}
    assert status["disks"][0]["legs"][0]["state"] == "online"
    assert status["nics"] == []


def test_pull_and_insert_change_the_state(machine: Running, wire: Wire) -> None:
    wire.ask("pull", target=1)
    assert machine.machine.states == ["online", "offline"]
    wire.ask("insert", target=1)
    assert machine.machine.states == ["online", "duplexing"]
    assert [line["ok"] for line in wire.received()] == [True, True]


def test_insert_can_wait_and_tell_the_progress(machine: Running, wire: Wire) -> None:
    wire.ask("insert", 1, target=1, wait=True)
    machine.log.emit("module-joined", "module 0")  # somebody else's
    assert wire.received() == []
    for step in machine.machine.later:
        step()
    assert wire.received() == [{"id": 1, "progress": {"done": 0.5}}, {"id": 1, "ok": True, "result": None}]
    machine.log.emit("module-failed", "module 1")
    assert wire.received() == []


def test_a_module_that_dies_on_its_way_back_fails_the_insert(machine: Running, wire: Wire) -> None:
    wire.ask("insert", 1, target=1, wait=True)
    machine.machine.ended = True
    for step in machine.machine.later:
        step()
    assert wire.received()[-1]["error"]["message"] == "module 1 did not come back: it died"


def test_a_module_with_too_many_faults_comes_back_only_after_clear(machine: Running, wire: Wire) -> None:
    for now_s in range(6):
        machine.machine.records[1].record_fault("memory", now_s)
    wire.ask("insert", target=1)
    (line,) = wire.received()
    assert line["error"]["code"] == "usage"
    assert "clear" in line["error"]["hint"]
    assert machine.machine.states == ["duplexed", "duplexed"]
    wire.ask("clear", target=1)
    wire.ask("insert", target=1)
    assert [line["ok"] for line in wire.received()] == [True, True]
    assert machine.log.since(0)[0].kind == "cleared"


def test_threshold_changes_what_is_given_and_tells_all(machine: Running, wire: Wire) -> None:
    wire.ask("threshold", target=1, seconds=60)
    wire.ask("threshold", target=1, policy="never-restart", samples=3)
    wire.ask("threshold", target=1)
    first, second, third = (line["result"] for line in wire.received())
    assert first == {"seconds": 60, "samples": 6, "policy": "use-threshold"}
    assert second == third == {"seconds": 60, "samples": 3, "policy": "never-restart"}
    assert machine.machine.records[0].threshold.seconds == 300


def test_events_are_told_once_each_and_in_order(machine: Running, wire: Wire) -> None:
    for number in range(5):
        machine.log.emit("note", "machine", n=number)
    wire.ask("events", 1, since=3)
    (line,) = wire.received()
    assert [event["number"] for event in line["result"]["events"]] == [4, 5]
    wire.ask("events", 2, since=4, follow=True)
    machine.log.emit("note", "machine", n=5)
    assert [(line["id"], line["event"]["number"]) for line in wire.received()] == [(2, 5), (2, 6)]


def test_suspend_answers_when_the_file_is_there(machine: Running, wire: Wire) -> None:
    wire.ask("suspend", 1, file="relative")
    assert wire.received()[0]["error"]["code"] == "usage"
    wire.ask("suspend", 2, file="/tmp/file")
    assert wire.received() == []
    machine.machine.later.pop()()
    assert wire.received() == [{"id": 2, "ok": True, "result": None}]
    wire.ask("suspend", 3, file="/tmp/file")
    machine.log.emit("suspend-failed", "machine", reason="the disk is full")
    assert wire.received()[0]["error"]["message"] == "the machine could not be saved: the disk is full"


def test_those_who_leave_are_forgotten(machine: Running) -> None:
    for verb, arguments in (
        ("events", {"follow": True}),
        ("insert", {"target": 1, "wait": True}),
        ("suspend", {"file": "/x"}),
    ):
        wire = Wire(machine)
        wire.ask(verb, **arguments)
        assert len(machine.log._observers) == 1
        wire.close()
        assert not machine.log._observers


def test_quit_is_answered(machine: Running, wire: Wire) -> None:
    wire.ask("quit")
    assert wire.received() == [{"id": 1, "ok": True, "result": None}]
    assert machine.machine.ended


def test_the_screen_comes_as_a_value(wire: Wire) -> None:
    wire.ask("screen")
    (line,) = wire.received()
    screen = msgspec.convert(line["result"], Screen)
    assert screen.lines()[0] == 80 * "A"
    assert screen.cursor == Cursor(1, 2, 13, 14)
    assert screen.palette[14] == (255, 255, 85)


def test_keys_are_typed_or_refused(machine: Running, wire: Wire) -> None:
    wire.ask("sendkeys", keys="a{enter}")
    wire.ask("sendkeys", keys="{no such key}")
    fine, refused = wire.received()
    assert fine["ok"]
    assert machine.machine.typed == [[b"\x1e\x9e", b"\x1c\x9c"]]
    assert refused["error"]["code"] == "usage"

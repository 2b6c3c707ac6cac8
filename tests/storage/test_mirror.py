"""A mirror on real files and threads: what the guest sees, and what becomes of legs that fail, leave and return."""

import os
import select
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest

from ftvm.errors import FtvmError, HostError, UnusableFile, UsageError
from ftvm.legs import LegChanged, LegFault, LegState
from ftvm.storage import metadata, mirror
from ftvm.storage.events import Event, Repaired
from ftvm.storage.faulty import Fault, FaultModel
from ftvm.storage.host import Access, LocalFile, LocalHost
from ftvm.storage.leg import Reason
from ftvm.storage.opening import Surroundings, open_disk
from ftvm.storage.regions import REGION_BYTES
from ftvm.storage.request import Completion, DiskError, Operation, Request
from tests.storage.disks import SIZE, FakeClock, GatedHost, TestedDisk, images_equal, make, opened, pattern

END = SIZE - REGION_BYTES


def faults(events: list[Event]) -> list[tuple[int, Reason]]:
    return [(event.leg, event.reason) for event in events if isinstance(event, LegFault)]


def changes(events: list[Event]) -> list[tuple[int, str]]:
    return [(event.leg, event.state.value) for event in events if isinstance(event, LegChanged)]


def submit(
    disk: TestedDisk, operation: Operation, offset: int = 0, data: bytes = b"", size: int = 0
) -> list[Completion]:
    """The list gets the completion when it comes."""
    answers: list[Completion] = []
    disk.mirror.submit(Request(operation, answers.append, offset, size or len(data), [data] if data else []))
    return answers


def test_what_is_written_is_read_and_is_in_both_images(tmp_path: Path) -> None:
    paths = make(tmp_path)
    with opened(paths) as disk:
        disk.write(512, pattern(1, 1024))
        disk.write(END, pattern(2))
        disk.flush()
        assert disk.read(0, 2048) == bytes(512) + pattern(1, 1024) + bytes(512)
        for path in paths:
            assert path.read_bytes() == bytes(512) + pattern(1, 1024) + bytes(END - 1536) + pattern(2)


@pytest.mark.parametrize("operation", [Operation.DISCARD, Operation.WRITE_ZEROES])
def test_a_zeroed_range_reads_as_zeroes_from_both_and_a_discarded_one_is_a_hole(
    tmp_path: Path, operation: Operation
) -> None:
    paths = make(tmp_path)
    with opened(paths) as disk:
        disk.write(0, pattern(1, SIZE))
        disk.flush()
        full = paths[0].stat().st_blocks
        (disk.discard if operation is Operation.DISCARD else disk.write_zeroes)(512, SIZE - 1024)
        assert disk.read(0, SIZE) == pattern(1, 512) + bytes(SIZE - 1024) + pattern(1, 512)
    assert images_equal(paths)
    holes = full - paths[0].stat().st_blocks
    assert (holes > full // 2) == (operation is Operation.DISCARD)


def test_what_is_in_memory_is_read_at_once_unless_it_is_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalFile, "read_cached", LocalFile.read)  # whatever the file system offers
    paths = make(tmp_path)
    host = GatedHost(paths[1:])
    with opened(paths, host=host) as disk:
        disk.write(0, pattern(1, 4096))
        host.gate.shut()
        writing = submit(disk, Operation.WRITE, 4096, pattern(2, 4096))
        assert disk.mirror.read_now(0, 4096) == pattern(1, 4096)
        assert disk.mirror.read_now(512, 4096) is None
        host.gate.open()
        disk.mirror.wait(lambda: bool(writing))
        assert disk.mirror.read_now(512, 4096) == pattern(1, 4096)[512:] + pattern(2, 512)
        for offset, size in ((SIZE, 512), (SIZE - 512, 1024), (-512, 512), (0, 0)):
            assert disk.mirror.read_now(offset, size) is None


def test_what_is_read_at_once_has_been_checked_or_comes_the_long_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalFile, "read_cached", LocalFile.read)
    with opened(make(tmp_path, integrity=True)) as disk:
        disk.write(0, pattern(1, 4096))
        disk.mirror.inject(0, Fault(FaultModel.BIT_ROT))
        assert disk.mirror.read_now(0, 4096) is None
        assert disk.read(0, 4096) == pattern(1, 4096)


def test_many_requests_are_in_flight_and_those_that_overlap_are_served_in_order(tmp_path: Path) -> None:
    paths = make(tmp_path)
    with opened(paths) as disk:
        waiting = []
        for number in range(64):
            waiting.append(submit(disk, Operation.WRITE, number * 512, pattern(number + 1, 4096)))
        reading = submit(disk, Operation.READ, 0, size=64 * 512)
        flushing = submit(disk, Operation.FLUSH)
        assert not any(waiting), "nothing is delivered before the caller polls"
        disk.mirror.wait(lambda: all([*waiting, reading, flushing]))
        assert reading[0].data == b"".join(pattern(number + 1, 512) for number in range(64))
        assert all(answer[0].error is None for answer in [*waiting, flushing])


def test_the_event_descriptor_says_when_to_poll(tmp_path: Path) -> None:
    with opened(make(tmp_path)) as disk:
        poll = select.poll()
        poll.register(disk.mirror.fileno(), select.POLLIN)
        disk.mirror.poll()
        assert poll.poll(0) == []
        answers = submit(disk, Operation.WRITE, 0, pattern(1))
        while not answers:
            assert poll.poll(10_000)
            disk.mirror.poll()
        assert answers[0].error is None
        disk.mirror.poll()
        assert poll.poll(0) == []


def test_a_buffer_may_be_changed_as_soon_as_its_write_is_submitted(tmp_path: Path) -> None:
    """Guests do so: a page under writeback is written to again. Both legs must get the same bytes all the same."""
    paths = make(tmp_path)
    with opened(paths) as disk:
        buffer = bytearray(pattern(1))
        answers: list[Completion] = []
        disk.mirror.submit(Request(Operation.WRITE, answers.append, 0, len(buffer), [memoryview(buffer)]))
        buffer[:] = pattern(2)
        disk.mirror.wait(lambda: bool(answers))
        assert disk.read(0, REGION_BYTES) == pattern(1)
    assert images_equal(paths)


@pytest.mark.parametrize(("offset", "size"), [(SIZE, 512), (SIZE - 512, 1024), (-512, 512), (0, -512)])
def test_what_is_outside_the_disk_is_an_error_of_the_guest(tmp_path: Path, offset: int, size: int) -> None:
    paths = make(tmp_path)
    with opened(paths) as disk:
        with pytest.raises(DiskError, match="not inside the disk"):
            disk.read(offset, size)
        assert disk.states() == ["duplexed", "duplexed"]


# ---- legs that fail ----

WRITE_FAULTS = {
    FaultModel.IO_ERROR: Reason.IO_ERROR,
    FaultModel.FULL: Reason.FULL,
    FaultModel.SHORT: Reason.SHORT_WRITE,
}


@pytest.mark.parametrize("model", WRITE_FAULTS)
@pytest.mark.parametrize("leg", [0, 1])
def test_a_leg_that_fails_a_write_leaves_service_and_the_guest_does_not_notice(
    tmp_path: Path, model: FaultModel, leg: int
) -> None:
    paths = make(tmp_path)
    with opened(paths) as disk:
        disk.mirror.inject(leg, Fault(model))
        disk.write(0, pattern(1))
        disk.write(END, pattern(2))
        disk.flush()
        assert disk.read(0, 8) == pattern(1)[:8]
        assert disk.states()[leg] == "failed"
        assert disk.states()[1 - leg] == "online"
        assert faults(disk.events) == [(leg, WRITE_FAULTS[model])]
        assert (leg, "failed") in changes(disk.events)
        assert (1 - leg, "online") in changes(disk.events)
        disk.insert(leg)
        disk.resync()
        assert disk.states() == ["duplexed", "duplexed"]
    assert images_equal(paths)


def test_a_sync_that_fails_takes_everything_since_the_last_one_with_it(tmp_path: Path) -> None:
    """After a failed fsync, Linux calls the pages clean that it could not write: nothing since the last one counts."""
    paths = make(tmp_path)
    with opened(paths) as disk:
        disk.write(0, pattern(1))
        disk.flush()
        disk.write(REGION_BYTES, pattern(2))
        disk.write(END, pattern(3))
        disk.mirror.inject(1, Fault(FaultModel.IO_ERROR))
        disk.flush()
        assert disk.states() == ["online", "failed"]
        assert disk.mirror.status().legs[1].dirty_bytes == 2 * REGION_BYTES


def test_a_file_that_shrinks_is_noticed_by_reads_and_by_syncs(tmp_path: Path) -> None:
    notices: list[Callable[[TestedDisk], object]] = [lambda disk: disk.read(END, 512), lambda disk: disk.flush()]
    for number, notice in enumerate(notices):
        (tmp_path / str(number)).mkdir()
        paths = make(tmp_path / str(number))
        with opened(paths) as disk:
            disk.write(0, pattern(1))
            os.truncate(paths[0], SIZE // 2)
            notice(disk)
            assert disk.states() == ["failed", "online"]
            assert faults(disk.events) == [(0, Reason.SIZE_CHANGED)]
            with pytest.raises(UnusableFile, match="has 2097152 bytes"):
                disk.insert(0)


def test_a_sector_that_cannot_be_read_is_repaired_from_the_other_leg(tmp_path: Path) -> None:
    paths = make(tmp_path)
    with opened(paths) as disk:
        disk.write(0, pattern(1))
        disk.mirror.inject(0, Fault(FaultModel.IO_ERROR, offset=4096, size=512, count=1))
        assert disk.read(0, REGION_BYTES) == pattern(1)
        assert disk.states() == ["duplexed", "duplexed"]
        assert faults(disk.events) == [(0, Reason.IO_ERROR)]
        assert Repaired(0, 0, REGION_BYTES) in disk.events
        assert disk.mirror.status().legs[0].faults == {Reason.IO_ERROR: 1}


def test_legs_that_cannot_be_read_in_different_places_still_make_a_whole(tmp_path: Path) -> None:
    paths = make(tmp_path)
    with opened(paths) as disk:
        disk.write(0, pattern(1))
        disk.mirror.inject(0, Fault(FaultModel.IO_ERROR, offset=4096, size=512, count=2))
        disk.mirror.inject(1, Fault(FaultModel.IO_ERROR, offset=16384, size=512, count=1))
        assert disk.read(0, REGION_BYTES) == pattern(1)
        assert disk.states() == ["duplexed", "duplexed"]
        assert {event.leg for event in disk.events if isinstance(event, Repaired)} == {0, 1}


def test_a_sector_that_cannot_be_repaired_costs_the_leg(tmp_path: Path) -> None:
    with opened(make(tmp_path)) as disk:
        disk.write(0, pattern(1))
        disk.mirror.inject(0, Fault(FaultModel.IO_ERROR, offset=4096, size=512))
        assert disk.read(0, REGION_BYTES) == pattern(1)
        assert disk.states() == ["failed", "online"]


def test_a_repair_that_does_not_stay_costs_the_leg(tmp_path: Path) -> None:
    with opened(make(tmp_path)) as disk:
        disk.mirror.inject(0, Fault(FaultModel.LOST, count=1))
        disk.write(0, pattern(1))  # leg 0 lies
        disk.mirror.inject(0, Fault(FaultModel.LOST))
        disk.mirror.inject(0, Fault(FaultModel.IO_ERROR, offset=0, size=512, count=1))
        assert disk.read(0, 4096) == pattern(1, 4096)
        assert disk.states() == ["failed", "online"]


def test_the_last_leg_stays_and_its_errors_are_the_guest_s(tmp_path: Path) -> None:
    paths = make(tmp_path)
    with opened(paths) as disk:
        disk.write(0, pattern(1))
        disk.mirror.pull(0)
        disk.mirror.inject(1, Fault(FaultModel.FULL, count=2))
        with pytest.raises(DiskError, match="no space"):
            disk.write(0, pattern(2))
        with pytest.raises(DiskError, match="no space"):
            disk.write(END, pattern(2))
        assert disk.states() == ["offline", "online"]
        disk.write(0, pattern(3))
        assert disk.read(0, 8) == pattern(3)[:8]
        disk.insert(0)
        disk.resync()
    assert images_equal(paths)


def test_when_all_legs_fail_one_write_the_guest_is_told_and_one_leg_stays(tmp_path: Path) -> None:
    paths = make(tmp_path)
    with opened(paths) as disk:
        for leg in (0, 1):
            disk.mirror.inject(leg, Fault(FaultModel.FULL, count=1))
        with pytest.raises(DiskError, match="no space"):
            disk.write(0, pattern(2))
        assert disk.states() == ["online", "failed"]
        disk.insert(1)
        disk.resync()
        assert disk.states() == ["duplexed", "duplexed"]
    assert images_equal(paths)


def test_what_no_leg_can_read_is_an_error_and_no_leg_s_end(tmp_path: Path) -> None:
    with opened(make(tmp_path)) as disk:
        for leg in (0, 1):
            disk.mirror.inject(leg, Fault(FaultModel.IO_ERROR, offset=4096, size=512))
        with pytest.raises(DiskError, match="no leg can give"):
            disk.read(4096, 4096)
        assert disk.states() == ["duplexed", "duplexed"]
        assert disk.read(8192, 4096) == bytes(4096)


def test_metadata_that_cannot_be_written_cost_the_leg_before_anything_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = make(tmp_path)
    real = metadata.Sidecar.mark

    def mark(sidecar: metadata.Sidecar, masks: dict[int, int]) -> None:
        if sidecar.slot.leg == first:
            raise OSError(28, "No space left on device")
        real(sidecar, masks)

    with opened(paths) as disk:
        first = metadata.Sidecar(LocalHost().open(metadata.path_of(paths[0]), Access.PEEK)).slot.leg
        monkeypatch.setattr(metadata.Sidecar, "mark", mark)
        disk.write(0, pattern(1))
        assert disk.states() == ["failed", "online"]
        assert faults(disk.events) == [(0, Reason.FULL)]


# ---- legs that hang ----


def test_closing_a_disk_that_does_not_answer_ends_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "STALLED_AFTER_S", 0.1)
    monkeypatch.setattr(mirror, "RETIRE_S", 0.1)
    path = tmp_path / "a.img"
    path.write_bytes(bytes(SIZE))
    host = GatedHost([path])
    disk = TestedDisk([path], Surroundings(host=host))
    host.gate.shut()
    writing = submit(disk, Operation.WRITE, 0, pattern(1))
    with pytest.raises(HostError, match="does not answer"):
        disk.close()
    with pytest.raises(UnusableFile, match="in use"):
        open_disk([path])
    host.gate.open()
    while True:  # when the medium answers at last, the file is given back
        try:
            open_disk([path]).close()
            break
        except UnusableFile:
            time.sleep(0.01)
    assert not writing


def test_a_leg_that_does_not_answer_is_late_and_what_it_does_at_last_counts_for_nothing(tmp_path: Path) -> None:
    paths = make(tmp_path)
    host, clock = GatedHost(paths[1:]), FakeClock()
    with opened(paths, host=host, clock=clock) as disk:
        disk.write(0, pattern(1))
        host.gate.shut()
        writing = submit(disk, Operation.WRITE, 0, pattern(2))
        host.gate.met.wait()
        disk.mirror.wait(lambda: disk.mirror.deadline_s() is not None)  # leg 0 has done it
        clock.now_s = disk.mirror.deadline_s() or 0
        disk.mirror.wait(lambda: bool(writing))
        assert writing[0].error is None
        assert disk.states() == ["online", "failed"]
        assert faults(disk.events) == [(1, Reason.TIMEOUT)]
        disk.write(0, pattern(3))
        disk.flush()

        answers: list[FtvmError | None] = []
        disk.mirror.insert(1, answers.append)
        clock.now_s = disk.mirror.deadline_s() or 0
        disk.mirror.wait(lambda: bool(answers))
        assert "has not yet ended" in str(answers[0])
        assert disk.mirror.status().legs[1].busy

        host.gate.open()  # now it writes pattern 2
        disk.insert(1)
        disk.resync()
        assert disk.states() == ["duplexed", "duplexed"]
        assert faults(disk.events) == [(1, Reason.TIMEOUT)]
        assert disk.read(0, 8) == pattern(3)[:8]
    assert images_equal(paths)


def test_a_read_that_hangs_is_served_by_another_leg(tmp_path: Path) -> None:
    paths = make(tmp_path)
    host, clock = GatedHost(paths[:1]), FakeClock()
    with opened(paths, host=host, clock=clock) as disk:
        disk.write(0, pattern(1))
        host.gate.shut()
        reading = submit(disk, Operation.READ, size=REGION_BYTES)
        host.gate.met.wait()
        clock.now_s = disk.mirror.deadline_s() or 0
        disk.mirror.wait(lambda: bool(reading))
        assert reading[0].data == pattern(1)
        assert disk.states() == ["failed", "online"]
        assert faults(disk.events) == [(0, Reason.TIMEOUT)]
        host.gate.open()


def test_where_every_leg_is_slow_nobody_is_to_blame(tmp_path: Path) -> None:
    paths = make(tmp_path)
    host, clock = GatedHost(paths), FakeClock()
    with opened(paths, host=host, clock=clock) as disk:
        disk.write(0, pattern(1))
        disk.write(END, pattern(1))  # marked, so the next one goes straight to the legs
        host.gate.shut()
        asked = [submit(disk, Operation.WRITE, END, pattern(2)), submit(disk, Operation.READ, size=REGION_BYTES)]
        host.gate.met.wait()
        for _ in range(10):
            clock.now_s += 1000
            disk.mirror.poll()
        assert not any(asked)
        assert disk.states() == ["duplexed", "duplexed"]
        host.gate.open()
        disk.mirror.wait(lambda: all(asked))
        assert [answer[0].error for answer in asked] == [None, None]
        assert disk.states() == ["duplexed", "duplexed"]


def test_the_last_leg_is_waited_for_however_long_it_takes(tmp_path: Path) -> None:
    paths = make(tmp_path)
    host, clock = GatedHost(paths[:1]), FakeClock()
    with opened(paths, host=host, clock=clock) as disk:
        disk.mirror.pull(1)
        disk.write(0, pattern(1))
        host.gate.shut()
        reading = submit(disk, Operation.READ, size=512)
        host.gate.met.wait()
        assert disk.mirror.deadline_s() is None
        clock.now_s += 1000
        disk.mirror.poll()
        assert not reading
        host.gate.open()
        disk.mirror.wait(lambda: bool(reading))
        assert reading[0].error is None


# ---- legs that leave and return ----


def test_a_pulled_leg_gets_only_what_it_lacks_while_the_guest_works_on(tmp_path: Path) -> None:
    paths = make(tmp_path)
    with opened(paths) as disk:
        disk.write(0, pattern(1, SIZE))
        disk.flush()
        disk.flush()
        disk.mirror.pull(1)
        assert disk.states() == ["online", "offline"]
        disk.write(END, pattern(2))
        disk.insert(1)
        status = disk.mirror.status()
        assert (status.state, status.legs[1].state) == ("resync", LegState.DUPLEXING)
        assert (status.legs[1].dirty_bytes, status.legs[1].progress) == (REGION_BYTES, 0.0)
        disk.write(0, pattern(3))
        disk.resync()
        status = disk.mirror.status()
        assert (status.state, status.legs[1].progress) == ("duplex", None)
    assert changes(disk.events) == [
        (0, "online"),
        (1, "offline"),
        (1, "duplexing"),
        (0, "duplexed"),
        (1, "duplexed"),
    ]
    assert images_equal(paths)


def test_a_write_to_a_degraded_mirror_is_not_forgotten_at_the_re_add(tmp_path: Path) -> None:
    """The bug that Linux md once had: a region's bit was cleared while a leg was away, and the leg returned without it.

    Flushed, and written to again, and flushed: whatever takes marks back must leave this one.
    """
    paths = make(tmp_path)
    with opened(paths) as disk:
        disk.mirror.pull(1)
        for number in (1, 2):
            disk.write(0, pattern(number))
            disk.flush()
    with opened(paths) as disk:
        disk.mirror.pull(1)
        disk.write(END, pattern(3))
        disk.flush()
    with opened(paths) as disk:
        assert disk.mirror.status().legs[1].dirty_bytes == 2 * REGION_BYTES
        disk.resync()
    assert images_equal(paths)
    assert paths[1].read_bytes()[:8] == pattern(2)[:8]


def test_a_write_that_arrives_while_its_region_is_being_copied_is_not_lost(tmp_path: Path) -> None:
    paths = make(tmp_path)
    host = GatedHost(paths[1:])
    with opened(paths, host=host) as disk:
        disk.mirror.pull(1)
        disk.write(0, pattern(1))
        disk.insert(1)
        host.gate.shut()
        disk.mirror.resync_step(REGION_BYTES)
        # The copy of the region was read, and is on its way to leg 1.
        while not host.gate.met.wait(0.01):  # the gate wakes nobody in the mirror
            disk.mirror.poll()
        writing = submit(disk, Operation.WRITE, 0, pattern(2))
        elsewhere = submit(disk, Operation.READ, 0, size=512)
        disk.mirror.poll()
        host.gate.open()
        disk.mirror.wait(lambda: bool(writing and elsewhere))
        disk.resync()
        assert disk.read(0, 8) == pattern(2)[:8]
    assert images_equal(paths)
    assert paths[1].read_bytes()[:8] == pattern(2)[:8]


def test_writes_in_flight_when_a_leg_leaves_or_returns_reach_it_in_the_end(tmp_path: Path) -> None:
    paths = make(tmp_path)
    with opened(paths) as disk:
        for round_ in range(10):
            waiting = [
                submit(disk, Operation.WRITE, at * 8192, pattern(round_ * 64 + at + 1, 8192)) for at in range(64)
            ]
            if round_ % 2 == 0:
                disk.mirror.pull(round_ // 2 % 2)
            else:
                disk.insert(round_ // 2 % 2)
            disk.mirror.wait(partial(all, waiting))
            assert all(answer[0].error is None for answer in waiting)
            if round_ % 2:
                disk.resync()
    assert images_equal(paths)


def test_a_leg_that_fails_while_it_is_being_copied_is_copied_on_at_its_return(tmp_path: Path) -> None:
    paths = make(tmp_path)
    with opened(paths) as disk:
        disk.mirror.pull(0)
        disk.write(0, pattern(1, SIZE))
        disk.insert(0)
        disk.mirror.resync_step(SIZE // 2)
        disk.mirror.wait(lambda: disk.mirror.status().legs[0].progress == 0.5)
        disk.flush()
        disk.flush()
        disk.mirror.inject(0, Fault(FaultModel.IO_ERROR, offset=SIZE // 2, size=512))
        disk.resync()
        assert disk.states() == ["failed", "online"]
        disk.insert(0)
        # What was copied and synced before it failed is not copied again.
        assert disk.mirror.status().legs[0].dirty_bytes == SIZE // 2
        disk.resync()
    assert images_equal(paths)


def test_what_the_only_leg_cannot_read_ends_the_copy_and_not_the_disk(tmp_path: Path) -> None:
    with opened(make(tmp_path)) as disk:
        disk.mirror.pull(0)
        disk.write(0, pattern(1, SIZE))
        disk.insert(0)
        disk.mirror.inject(1, Fault(FaultModel.IO_ERROR, offset=8192, size=512, count=1000))
        disk.resync()
        assert disk.states() == ["failed", "online"]
        assert "resync" in disk.mirror.status().legs[0].reason


def test_a_leg_whose_files_are_gone_is_made_anew_and_copied_in_full(tmp_path: Path) -> None:
    paths = make(tmp_path)
    with opened(paths) as disk:
        disk.write(SIZE // 2, pattern(1))
        disk.mirror.pull(1)
        disk.mirror.wait(lambda: not disk.mirror.status().legs[1].busy)
        paths[1].unlink()
        metadata.path_of(paths[1]).unlink()
        disk.insert(1)
        assert disk.mirror.status().legs[1].dirty_bytes == SIZE
        disk.resync()
        assert disk.states() == ["duplexed", "duplexed"]
    assert images_equal(paths)
    with opened(paths) as disk:
        assert disk.states() == ["duplexed", "duplexed"]


def test_the_file_whose_place_a_new_one_took_is_old_when_it_comes_back(tmp_path: Path) -> None:
    paths = make(tmp_path)
    aside = tmp_path / "aside"
    with opened(paths) as disk:
        disk.mirror.pull(1)
        disk.write(0, pattern(1))
        disk.insert(1)
        disk.mirror.pull(1)
        disk.mirror.wait(lambda: not disk.mirror.status().legs[1].busy)
        for suffix in ("", metadata.SUFFIX):
            Path(f"{paths[1]}{suffix}").rename(f"{aside}{suffix}")
        disk.insert(1)
        disk.resync()
        disk.mirror.pull(1)
        disk.mirror.wait(lambda: not disk.mirror.status().legs[1].busy)
        for suffix in ("", metadata.SUFFIX):
            Path(f"{aside}{suffix}").rename(f"{paths[1]}{suffix}")
        disk.insert(1)
        assert disk.mirror.status().legs[1].dirty_bytes == SIZE
        disk.resync()
    assert images_equal(paths)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda path: path.write_bytes(bytes(SIZE)), "was changed from outside"),
        (lambda path: metadata.path_of(path).unlink(), "has no metadata"),
        (lambda path: os.truncate(path, 512), "has 512 bytes"),
        (lambda path: metadata.path_of(path).write_bytes(b"?"), "is damaged"),
    ],
)
def test_what_is_not_the_leg_that_left_is_not_let_in(tmp_path: Path, spoil: Callable[[Path], None], why: str) -> None:
    paths = make(tmp_path)
    with opened(paths) as disk:
        disk.mirror.pull(1)
        disk.mirror.wait(lambda: not disk.mirror.status().legs[1].busy)
        spoil(paths[1])
        before = paths[1].read_bytes()
        with pytest.raises(UnusableFile, match=why):
            disk.insert(1)
        assert disk.states() == ["online", "offline"]
        disk.write(0, pattern(1))
    assert paths[1].read_bytes() == before


def test_a_leg_of_another_disk_is_not_let_in(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = make(tmp_path / "other")
    paths = make(tmp_path)
    with opened(paths) as disk:
        disk.mirror.pull(1)
        disk.mirror.wait(lambda: not disk.mirror.status().legs[1].busy)
        for suffix in ("", metadata.SUFFIX):
            Path(f"{other[1]}{suffix}").rename(f"{paths[1]}{suffix}")
        with pytest.raises(UnusableFile, match="is not the leg that left"):
            disk.insert(1)


def test_a_disk_may_end_in_the_middle_of_a_region(tmp_path: Path) -> None:
    size = SIZE + 1536
    paths = make(tmp_path, size=size)
    with opened(paths) as disk:
        disk.write(size - 512, pattern(1, 512))
        disk.mirror.pull(1)
        disk.write(size - 1024, pattern(2, 1024))
        disk.insert(1)
        assert disk.mirror.status().legs[1].dirty_bytes == 1536
        disk.resync()
        disk.discard(size - 1536, 1536)
        assert disk.scrub().bytes_read == size
    assert images_equal(paths)
    assert [path.stat().st_size for path in paths] == [size, size]


def test_a_caller_that_asks_again_from_its_callback_does_not_keep_poll_from_returning(tmp_path: Path) -> None:
    with opened(make(tmp_path)) as disk:
        served = []

        def again(completion: Completion) -> None:
            served.append(completion)
            if len(served) < 1000:
                disk.mirror.submit(Request(Operation.READ, again, 0, 512))

        disk.read(0, 4096)
        disk.mirror.submit(Request(Operation.READ, again, 0, 512))
        disk.mirror.poll()
        assert len(served) <= 1
        disk.mirror.wait(lambda: len(served) == 1000)


def test_the_operator_cannot_do_what_makes_no_sense(tmp_path: Path) -> None:
    with opened(make(tmp_path)) as disk:
        with pytest.raises(UsageError, match="is in service"):
            disk.insert(0)
        with pytest.raises(UsageError, match="no leg 2"):
            disk.mirror.pull(2)
        disk.mirror.pull(0)
        disk.mirror.pull(0)
        with pytest.raises(UsageError, match="the only one"):
            disk.mirror.pull(1)
        with pytest.raises(UsageError, match="not in service"):
            disk.mirror.inject(0, Fault(FaultModel.FULL))
        disk.insert(0)
        with pytest.raises(UsageError, match="the only one in sync"):
            disk.mirror.pull(1)


def test_a_closed_disk_takes_no_requests(tmp_path: Path) -> None:
    mirror = open_disk(make(tmp_path))
    mirror.close()
    with pytest.raises(UsageError, match="closed"):
        mirror.submit(Request(Operation.FLUSH, lambda completion: None))


def test_closing_finishes_what_was_submitted(tmp_path: Path) -> None:
    paths = make(tmp_path)
    with opened(paths) as disk:
        waiting = [submit(disk, Operation.WRITE, at * 4096, pattern(at + 1, 4096)) for at in range(100)]
    assert all(waiting)
    assert images_equal(paths)
    assert paths[0].read_bytes()[99 * 4096 :][:8] == pattern(100)[:8]


def test_a_write_must_bring_as_much_as_it_says(tmp_path: Path) -> None:
    with opened(make(tmp_path)) as disk, pytest.raises(UsageError, match="brings 512"):
        disk.mirror.submit(
            msgspec.structs.replace(Request(Operation.WRITE, lambda completion: None), size=1024, buffers=[bytes(512)])
        )

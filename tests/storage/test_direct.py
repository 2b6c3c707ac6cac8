"""Writes that the threads of the legs do without a job, where one of them is late or fails."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from ftvm._native import lib
from ftvm.legs import LegFault
from ftvm.storage import array
from ftvm.storage.faulty import Fault, FaultModel
from ftvm.storage.host import Access, File, LocalHost
from ftvm.storage.leg import Reason, write_failure
from ftvm.storage.regions import REGION_BYTES
from ftvm.storage.request import Completion, DiskError, Operation, Request
from tests.storage.disks import FakeClock, GatedHost, TestedDisk, images_equal, make, opened, pattern


def submit_now(disk: TestedDisk, data: bytes | bytearray, answers: list[Completion]) -> bool:
    request = Request(Operation.WRITE, answers.append, 0, len(data), [memoryview(data)])
    return disk.mirror.submit_now(request)


@contextmanager
def hanging(disk: TestedDisk, host: GatedHost) -> Iterator[list[Completion]]:
    """The thread of the leg behind the gate hangs in a flush, whose completion is given."""
    disk.write(0, pattern(1))
    host.gate.shut()
    flushing: list[Completion] = []
    disk.mirror.submit(Request(Operation.FLUSH, flushing.append))
    host.gate.met.wait()
    try:
        yield flushing
    finally:
        host.gate.open()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the host is, what needs no more than a moment is done in it."""
    monkeypatch.setattr(array, "PATIENCE_US", 60_000_000)


def faults(disk: TestedDisk) -> list[tuple[int, Reason]]:
    return [(event.leg, Reason(event.reason)) for event in disk.events if isinstance(event, LegFault)]


@pytest.mark.usefixtures("patient")
def test_a_write_is_done_at_once_where_nothing_stands_in_its_way(tmp_path: Path) -> None:
    paths = make(tmp_path)
    answers: list[Completion] = []
    with opened(paths) as disk:
        assert not submit_now(disk, pattern(1), answers)  # its region must be marked first
        disk.mirror.wait(lambda: bool(answers))
        assert submit_now(disk, pattern(2), answers)
        assert [path.read_bytes()[: len(pattern(2))] for path in paths] == [pattern(2)] * 2
        disk.mirror.inject(0, Fault(FaultModel.LOST))
        assert not submit_now(disk, pattern(3), answers)
        disk.mirror.wait(lambda: len(answers) == 2)
        assert [path.read_bytes()[: len(pattern(2))] for path in paths] == [pattern(2), pattern(3)]


def test_a_leg_that_is_late_gets_what_the_others_got_whatever_becomes_of_the_buffer(tmp_path: Path) -> None:
    paths = make(tmp_path)
    host = GatedHost(paths[1:], direct=True)
    answers: list[Completion] = []
    with opened(paths, host=host) as disk:
        with hanging(disk, host) as flushing:
            buffer = bytearray(pattern(2))
            assert not submit_now(disk, buffer, answers)
            buffer[:] = pattern(3)
            disk.mirror.poll()
            assert not answers
            assert disk.mirror.read_now(0, 512) is None
        disk.mirror.wait(lambda: bool(answers and flushing))  # the descriptor says so
        assert answers[0].error is None
        assert not faults(disk)
        assert disk.read(0, len(buffer)) == pattern(2)
    assert images_equal(paths)


def test_a_leg_that_hangs_fails_and_what_it_had_not_begun_it_never_does(tmp_path: Path) -> None:
    paths = make(tmp_path)
    host, clock = GatedHost(paths[1:], direct=True), FakeClock()
    answers: list[Completion] = []
    with opened(paths, host=host, clock=clock) as disk:
        with hanging(disk, host) as flushing:
            assert not submit_now(disk, pattern(2), answers)
            disk.mirror.wait(lambda: disk.mirror.deadline_s() is not None)  # leg 0 has ended something
            clock.now_s = disk.mirror.deadline_s() or 0
            disk.mirror.wait(lambda: bool(answers and flushing))
            assert answers[0].error is None
            assert disk.states() == ["online", "failed"]
            assert faults(disk) == [(1, Reason.TIMEOUT)]
            disk.write(0, pattern(3))  # the one that is left does not wait for it
            assert disk.read(0, 8) == pattern(3)[:8]
        disk.insert(1)
        assert paths[1].read_bytes()[: len(pattern(1))] == pattern(1)
        disk.resync()
    assert images_equal(paths)


class _FullFile:
    """Whose descriptor is that of a device without space."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._full = os.open("/dev/full", os.O_WRONLY)

    def descriptor(self) -> int:
        return self._full

    def close(self) -> None:
        os.close(self._full)
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class _FullHost(LocalHost):
    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self, path: Path, access: Access) -> File:
        file = super().open(path, access)
        return cast(File, _FullFile(file)) if path == self._path else file


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("leg", [0, 1])
def test_a_leg_whose_write_fails_leaves_service_and_the_guest_does_not_notice(tmp_path: Path, leg: int) -> None:
    paths = make(tmp_path)
    answers: list[Completion] = []
    with opened(paths, host=_FullHost(paths[leg])) as disk:
        disk.mirror.submit(Request(Operation.DISCARD, answers.append, 0, 1024))  # marks the region
        disk.mirror.wait(lambda: bool(answers))
        assert not submit_now(disk, pattern(1), answers)
        disk.mirror.wait(lambda: len(answers) == 2)
        assert answers[1].error is None
        assert faults(disk) == [(leg, Reason.FULL)]
        assert disk.mirror.status().legs[leg].state.value == "failed"
        assert submit_now(disk, pattern(2), answers)
        assert disk.read(0, len(pattern(2))) == pattern(2)


def test_the_last_leg_stays_and_its_error_is_the_guests(tmp_path: Path) -> None:
    path = tmp_path / "a.img"
    path.write_bytes(bytes(1 << 20))
    with opened([path], host=_FullHost(path)) as disk:
        with pytest.raises(DiskError, match="no space: writing 65536 bytes at 0: No space left"):
            disk.write(0, pattern(1))
        assert disk.states() == ["online"]


def test_a_write_that_the_host_takes_in_part_is_a_short_one() -> None:
    failure = write_failure(4096, 1024, lib.FT_LEG_SHORT, 512)
    assert (failure.reason, failure.detail) == (Reason.SHORT_WRITE, "nothing more is taken at 4608")


def test_what_native_code_wrote_while_a_leg_was_away_is_copied_to_it(tmp_path: Path) -> None:
    paths = make(tmp_path)
    place = 5 * REGION_BYTES  # marked with its group, and written to by nobody else
    with opened(paths) as disk:
        disk.write(0, pattern(1))
        disk.mirror.pull(1)
        disk.flush()
        shortcut = disk.mirror.shortcut()
        assert shortcut is not None
        assert shortcut.direct is not None
        assert shortcut.direct.write(place, pattern(2), 60_000_000) is None
        disk.mirror.wrote([(place, len(pattern(2)))])
        disk.insert(1)
        disk.resync()
        assert disk.states() == ["duplexed", "duplexed"]
        assert paths[1].read_bytes()[place:][: len(pattern(2))] == pattern(2)
    assert images_equal(paths)


def test_native_code_is_not_let_where_somebody_is_at_work_or_a_write_is_more_than_that(tmp_path: Path) -> None:
    paths = make(tmp_path)
    host = GatedHost(paths[1:], direct=True)
    with opened(paths, host=host) as disk:
        with hanging(disk, host) as flushing:
            assert disk.mirror.shortcut() is None
        disk.mirror.wait(lambda: bool(flushing))
        shortcut = disk.mirror.shortcut()
        assert shortcut is not None
        assert shortcut.direct is not None
        disk.mirror.inject(1, Fault(FaultModel.SLOW))
        shortcut = disk.mirror.shortcut()
        assert shortcut is not None
        assert shortcut.direct is None

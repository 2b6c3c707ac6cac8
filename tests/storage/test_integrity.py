"""Checksums decide which leg is right when nobody reported an error; reads and scrubbing mend what is wrong."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from ftvm.errors import UnusableFile, UsageError
from ftvm.legs import LegFault
from ftvm.storage import admin, integrity
from ftvm.storage.events import Event, Mismatch, Repaired, Unreadable
from ftvm.storage.faulty import Fault, FaultModel
from ftvm.storage.integrity import BLOCK_BYTES
from ftvm.storage.leg import Reason
from ftvm.storage.opening import open_disk
from ftvm.storage.request import DiskError
from tests.storage.disks import SIZE, images_equal, legs_in, make, opened, pattern

BLOCK = pattern(7, BLOCK_BYTES)


def rot(leg_offset: int = 5000, bit: int = 3) -> Fault:
    return Fault(FaultModel.BIT_ROT, offset=leg_offset, bit=bit)


def repaired(events: Sequence[Event]) -> list[tuple[int, int, int]]:
    return [(event.leg, event.offset, event.size) for event in events if isinstance(event, Repaired)]


@pytest.mark.parametrize("leg", [0, 1])
def test_a_bit_that_rots_is_mended_by_the_leg_that_has_it_right(tmp_path: Path, leg: int) -> None:
    paths = make(tmp_path, integrity=True)
    with opened(paths) as disk:
        disk.write(0, pattern(1))
        disk.mirror.inject(leg, rot())
        if leg == 1:
            disk.scrub()  # reads go to leg 0
        else:
            assert disk.read(4608, 1024) == pattern(1, 1024)
        assert repaired(disk.events) == [(leg, 4096, 4096)]
        assert [event.reason for event in disk.events if isinstance(event, LegFault)] == [Reason.CHECKSUM]
        assert disk.states() == ["duplexed", "duplexed"]
    assert images_equal(paths)


def test_a_bit_that_rots_on_the_last_leg_is_an_error_and_never_wrong_data(tmp_path: Path) -> None:
    with opened(make(tmp_path, integrity=True)) as disk:
        disk.write(0, pattern(1))
        disk.mirror.pull(0)
        disk.mirror.inject(1, rot())
        with pytest.raises(DiskError):
            disk.read(4096, 512)
        assert Unreadable(4096, 4096) in disk.events
        assert disk.states() == ["offline", "online"]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(FaultModel.LOST, count=1),
        Fault(FaultModel.TORN, count=1),
        Fault(FaultModel.MISDIRECTED, displacement=65536, count=1),
        Fault(FaultModel.MISDIRECTED, displacement=-512, count=1),
    ],
    ids=lambda fault: f"{fault.model}{fault.displacement or ''}",
)
def test_a_write_that_did_not_do_what_it_said_is_found_and_undone(tmp_path: Path, fault: Fault) -> None:
    paths = make(tmp_path, integrity=True)
    with opened(paths) as disk:
        disk.write(0, pattern(1, SIZE))
        disk.mirror.inject(0, fault)
        disk.write(8192, BLOCK * 2)
        report = disk.scrub()
        assert report.sound
        assert report.repaired > 0
        assert disk.read(0, SIZE) == pattern(1, 8192) + BLOCK * 2 + pattern(1, SIZE - 16384)
        assert disk.scrub().repaired == 0
    assert images_equal(paths)


def test_without_checksums_a_difference_is_told_and_left_alone(tmp_path: Path) -> None:
    paths = make(tmp_path)
    with opened(paths) as disk:
        disk.write(0, pattern(1))
        disk.mirror.inject(1, rot())
        report = disk.scrub()
        assert (report.sound, report.mismatched, report.repaired) == (False, [4096], 0)
        assert Mismatch(4096, 4096) in disk.events
        assert disk.states() == ["duplexed", "duplexed"]
    assert not images_equal(paths)


def test_scrubbing_repairs_what_cannot_be_read_without_checksums_too(tmp_path: Path) -> None:
    paths = make(tmp_path)
    with opened(paths) as disk:
        disk.write(0, pattern(1))
        # Once for the whole chunk, once for the block.
        disk.mirror.inject(1, Fault(FaultModel.IO_ERROR, offset=8192, size=512, count=2))
        report = disk.scrub()
        assert (report.sound, report.repaired, report.bytes_read) == (True, 1, SIZE)
        assert repaired(disk.events) == [(1, 8192, 4096)]


def test_scrubbing_tells_what_no_leg_has_and_goes_on(tmp_path: Path) -> None:
    with opened(make(tmp_path, integrity=True)) as disk:
        disk.write(0, pattern(1))
        for leg in (0, 1):
            disk.mirror.inject(leg, rot())
        disk.mirror.inject(1, rot(SIZE - 1))
        report = disk.scrub()
        assert (report.unreadable, report.repaired, report.sound) == ([4096], 1, False)
        assert disk.states() == ["duplexed", "duplexed"]
        disk.write(4096, BLOCK)  # new content makes the block good again
        assert disk.scrub().sound


def test_parts_of_blocks_are_written_without_losing_their_rest(tmp_path: Path) -> None:
    paths = make(tmp_path, integrity=True)
    with opened(paths) as disk:
        disk.write(0, pattern(1, SIZE))
        disk.write(512, pattern(2, 512))
        disk.write(BLOCK_BYTES * 2 - 512, pattern(3, 1024))
        disk.discard(BLOCK_BYTES * 4 + 512, BLOCK_BYTES * 2)
        disk.write_zeroes(BLOCK_BYTES * 8 + 1024, 512)
        expected = bytearray(pattern(1, SIZE))
        expected[512:1024] = pattern(2, 512)
        expected[BLOCK_BYTES * 2 - 512 : BLOCK_BYTES * 2 + 512] = pattern(3, 1024)
        expected[BLOCK_BYTES * 4 + 512 : BLOCK_BYTES * 6 + 512] = bytes(BLOCK_BYTES * 2)
        expected[BLOCK_BYTES * 8 + 1024 : BLOCK_BYTES * 8 + 1536] = bytes(512)
        assert disk.read(0, SIZE) == expected
        assert disk.scrub().repaired == 0


def test_a_rotten_block_is_not_made_good_by_writing_a_part_of_it(tmp_path: Path) -> None:
    """Reading the rest of the block for its new checksum must not take the rot for data."""
    paths = make(tmp_path, integrity=True)
    with opened(paths) as disk:
        disk.write(0, pattern(1))
        disk.mirror.inject(0, rot(5000))
        disk.write(4096, pattern(2, 512))
        assert disk.read(4096, 4096) == pattern(2, 512) + pattern(1, 3584)
    assert images_equal(paths)


def test_a_leg_that_returns_brings_its_checksums_along(tmp_path: Path) -> None:
    paths = make(tmp_path, integrity=True)
    with opened(paths) as disk:
        disk.mirror.pull(1)
        disk.write(0, pattern(1))
        disk.insert(1)
        disk.resync()
        disk.mirror.pull(0)
        assert disk.read(0, 65536) == pattern(1)
    assert admin.check(paths).problems == []


def test_a_single_image_can_have_checksums_and_then_knows_when_it_is_wrong(tmp_path: Path) -> None:
    (path,) = make(tmp_path, 1, integrity=True)
    with opened([path]) as disk:
        disk.write(0, pattern(1))
        disk.mirror.inject(0, rot())
        assert disk.read(0, 4096) == pattern(1, 4096)
        with pytest.raises(DiskError):
            disk.read(4096, 4096)


def test_rot_while_nobody_looks_is_found_by_check_and_by_the_next_read(tmp_path: Path) -> None:
    paths = make(tmp_path, integrity=True)
    with opened(paths) as disk:
        disk.write(0, pattern(1, SIZE))
    stamp = paths[0].stat()
    with paths[0].open("r+b") as file:
        file.seek(12345)
        file.write(b"!")
    os.utime(paths[0], ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # rot does not touch the time of change
    report = admin.check(paths)
    assert report.wrong == {str(paths[0]): [12288]}
    assert report.differing == [0]
    with opened(paths) as disk:
        assert disk.read(0, SIZE) == pattern(1, SIZE)
    assert admin.check(paths).problems == []


def test_an_existing_image_gets_checksums_by_decision(tmp_path: Path) -> None:
    paths = legs_in(tmp_path)
    paths[0].write_bytes(pattern(5, SIZE))
    admin.decide(paths, paths[0], with_integrity=True)
    with opened(paths) as disk:
        assert disk.read(0, 4096) == pattern(5, 4096), "before they are computed, data count"
        disk.resync()
    assert admin.check(paths).problems == []
    with opened(paths) as disk:
        disk.mirror.inject(0, rot())
        assert disk.read(4096, 4096) == pattern(5, 4096)


def test_a_change_from_outside_to_a_single_image_is_data_and_no_error(tmp_path: Path) -> None:
    (path,) = make(tmp_path, 1, integrity=True)
    path.write_bytes(pattern(3, SIZE))
    with opened([path]) as disk:
        assert disk.read(0, SIZE) == pattern(3, SIZE)
        disk.resync()
    assert admin.check([path]).problems == []


def test_checksums_that_are_missing_or_another_leg_s_are_refused(tmp_path: Path) -> None:
    paths = make(tmp_path, integrity=True)
    first, second = (integrity.path_of(path) for path in paths)
    first.write_bytes(second.read_bytes())
    with pytest.raises(UnusableFile, match="does not hold the checksums"):
        open_disk(paths)
    first.unlink()
    with pytest.raises(UnusableFile, match="is missing"):
        open_disk(paths)


def test_a_sparse_image_has_sparse_checksums(tmp_path: Path) -> None:
    (path,) = make(tmp_path, 1, integrity=True, size=64 << 20)
    assert integrity.path_of(path).stat().st_blocks * 512 <= 8192
    assert integrity.checksums(bytes(BLOCK_BYTES)) == bytes(8)
    assert integrity.checksums(BLOCK) != bytes(8)


def test_a_disk_that_is_no_whole_number_of_blocks_has_no_checksums(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="4608 bytes"):
        admin.create(legs_in(tmp_path), 4608, with_integrity=True)
    legs_in(tmp_path)[0].write_bytes(bytes(4608))
    with pytest.raises(UnusableFile, match="4608 bytes"):
        admin.decide(legs_in(tmp_path), legs_in(tmp_path)[0], with_integrity=True)

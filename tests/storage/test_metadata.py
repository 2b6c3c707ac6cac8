"""The metadata file survives torn writes, and says when it does not."""

import itertools
from pathlib import Path

import msgspec
import pytest

from ftvm.errors import UnusableFile
from ftvm.storage import metadata
from ftvm.storage.host import Access, LocalHost
from ftvm.storage.metadata import MAX_HISTORY, MAX_LEGS, Member, Sidecar, Superblock
from ftvm.storage.regions import REGION_BYTES, SECTOR_REGIONS, RegionSet

SECTOR = 512
HOST = LocalHost()
REGIONS = 2 * SECTOR_REGIONS + 10


def superblock(generation: int = 1, eras: int = MAX_HISTORY) -> Superblock:
    """As large as one can be."""
    members = tuple(Member(bytes([leg]) * 16, "x" * 255, True, b"\xff" * 8) for leg in range(MAX_LEGS))
    return Superblock(
        array=b"\xaa" * 16,
        era=generation.to_bytes(8, "big"),
        history=tuple((1000 * generation + era).to_bytes(8, "big") for era in range(eras)),
        confirmed=b"\xff" * 8,
        generation=2**40 + generation,
        size_bytes=REGIONS * REGION_BYTES,
        integrity=True,
        members=members,
    )


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return tmp_path / "a.img"


def load(image: Path) -> Sidecar:
    return Sidecar(HOST.open(metadata.path_of(image), Access.PEEK))


def test_what_is_recorded_is_found_again(image: Path) -> None:
    bitmap = RegionSet.of((1, 3), (SECTOR_REGIONS - 1, SECTOR_REGIONS + 1), (REGIONS - 1, REGIONS))
    sidecar = metadata.create(HOST, image, superblock(), b"\x00" * 16, bitmap, 12345)
    assert (load(image).slot.stamp, load(image).slot.superblock) == (12345, superblock())
    assert load(image).bitmap() == bitmap
    sidecar.record(superblock(2), None)
    sidecar.mark({0: 0, 1: 0b100})
    found = load(image)
    assert (found.slot.stamp, found.slot.superblock) == (None, superblock(2))
    assert found.bitmap() == RegionSet.of((SECTOR_REGIONS + 2, SECTOR_REGIONS + 3), (REGIONS - 1, REGIONS))
    sidecar.close()


def test_a_record_that_is_torn_anywhere_leaves_the_one_before(image: Path) -> None:
    sidecar = metadata.create(HOST, image, superblock(), b"\x00" * 16, RegionSet(), None)
    path = metadata.path_of(image)
    for generation in (2, 3, 4):
        before = path.read_bytes()
        sidecar.record(superblock(generation), None)
        after = path.read_bytes()
        changed = [at for at in range(0, len(before), SECTOR) if before[at : at + SECTOR] != after[at : at + SECTOR]]
        assert len(changed) > 5, "a slot that fits one sector cannot be torn"
        for kept in itertools.chain([[]], ([at] for at in changed), (changed[:n] for n in range(1, len(changed)))):
            torn = bytearray(before)
            for at in kept:
                torn[at : at + SECTOR] = after[at : at + SECTOR]
            path.write_bytes(torn)
            assert load(image).slot.superblock == superblock(generation - 1)
        path.write_bytes(after)
    sidecar.close()


def test_a_sector_of_the_bitmap_that_is_not_what_was_written_counts_as_dirty(image: Path) -> None:
    bitmap = RegionSet.of((3, 4))
    metadata.create(HOST, image, superblock(), b"\x00" * 16, bitmap, None).close()
    path = metadata.path_of(image)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert load(image).bitmap() == bitmap | RegionSet.of((2 * SECTOR_REGIONS, REGIONS))
    # A sector that landed in another one's place has a right checksum there, but not here.
    data[-SECTOR:] = data[-2 * SECTOR : -SECTOR]
    path.write_bytes(data)
    assert load(image).bitmap() == bitmap | RegionSet.of((2 * SECTOR_REGIONS, REGIONS))


@pytest.mark.parametrize("damage", [b"", b"\0" * 17000, b"FTVMDISK" + b"\xff" * 17000])
def test_damaged_metadata_are_refused(image: Path, damage: bytes) -> None:
    metadata.path_of(image).write_bytes(damage)
    with pytest.raises(UnusableFile, match="damaged") as refusal:
        load(image)
    assert refusal.value.hint is not None
    assert "ftvm disk resync --from" in refusal.value.hint


def test_metadata_of_another_version_are_refused(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "VERSION", 2)
    metadata.create(HOST, image, superblock(), b"\x00" * 16, RegionSet(), None).close()
    monkeypatch.undo()
    with pytest.raises(UnusableFile, match="version 2"):
        load(image)


def test_no_half_made_metadata_are_left_in_place(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(host: LocalHost, source: Path, target: Path) -> None:
        raise OSError(5, "no")

    monkeypatch.setattr(LocalHost, "replace", refuse)
    with pytest.raises(OSError, match="no"):
        metadata.create(HOST, image, superblock(), b"\x00" * 16, RegionSet(), None)
    assert not metadata.path_of(image).exists()
    monkeypatch.undo()
    metadata.create(HOST, image, superblock(), b"\x00" * 16, RegionSet(), None).close()
    assert load(image).slot.superblock == superblock()


def test_history_is_bounded_and_ages_count_back_from_the_present() -> None:
    block = superblock(eras=0)
    for number in range(MAX_HISTORY + 5):
        block = block.next_era((5000 + number).to_bytes(8, "big"), block.members)
    assert len(block.history) == MAX_HISTORY
    assert block.age(block.era) == 0
    assert block.age(block.history[-1]) == 1
    assert block.age(superblock().era) is None
    assert len(msgspec.msgpack.encode(block)) < 8000

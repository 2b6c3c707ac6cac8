"""Files become one disk by the rules, or are refused with the command that helps. Nothing is guessed."""

import os
import shutil
from pathlib import Path

import pytest

from ftvm.errors import UnusableFile, UsageError
from ftvm.exitcodes import ExitCode
from ftvm.storage import admin, metadata
from ftvm.storage.blocking import BlockingDisk
from ftvm.storage.faulty import Fault, FaultModel
from ftvm.storage.opening import open_disk
from tests.storage.disks import SIZE, images_equal, legs_in, make, opened, pattern


def refused(paths: list[Path], why: str, helps: str) -> None:
    """Twice with the same words, and nothing in the folder has changed."""
    files = [file for file in paths[0].parent.iterdir() if file.is_file()]
    before = [file.read_bytes() for file in files]
    for _ in range(2):
        with pytest.raises(UnusableFile, match=why) as refusal:
            open_disk(paths)
        assert refusal.value.exit_code == ExitCode.UNUSABLE_FILE
        assert helps in (refusal.value.hint or "")
    assert [file.read_bytes() for file in files] == before


def copy(source: Path, target: Path) -> None:
    """With its metadata, as a backup does."""
    for suffix in ("", metadata.SUFFIX):
        shutil.copy2(f"{source}{suffix}", f"{target}{suffix}")


def alone(paths: list[Path], survivor: int, number: int) -> None:
    """Leg ``survivor`` works on after the others left."""
    with opened(paths) as disk:
        for leg in range(len(paths)):
            if leg != survivor:
                disk.mirror.pull(leg)
        disk.write(0, pattern(number))
        disk.flush()


def test_a_single_file_that_is_only_read_is_shared_with_others_that_read_it(tmp_path: Path) -> None:
    path = tmp_path / "a.img"
    path.write_bytes(pattern(1, SIZE))
    first, second = open_disk([path], read_only=True), open_disk([path], read_only=True)
    assert BlockingDisk(first).read(0, 512) == pattern(1)[:512]
    with pytest.raises(UnusableFile, match="in use"):
        open_disk([path])
    with pytest.raises(UsageError, match="cannot have this fault"):
        first.inject(0, Fault(FaultModel.BIT_ROT))
    second.close()
    first.close()
    assert path.read_bytes() == pattern(1, SIZE)


@pytest.mark.parametrize("integrity", [False, True])
def test_a_link_to_a_leg_is_that_leg(tmp_path: Path, integrity: bool) -> None:
    paths = make(tmp_path, integrity=integrity)
    (tmp_path / "far").mkdir()
    links = [tmp_path / "far" / path.name for path in paths]
    for link, path in zip(links, paths, strict=True):
        link.symlink_to(path)
    with opened(links) as disk:
        disk.write(0, pattern(1))
        assert disk.states() == ["duplexed", "duplexed"]
    assert images_equal(paths)
    assert all(path.is_symlink() for path in (tmp_path / "far").iterdir())


def test_a_single_file_is_a_disk_without_a_mirror(tmp_path: Path) -> None:
    path = tmp_path / "a.img"
    path.write_bytes(bytes(SIZE))
    with opened([path]) as disk:
        disk.write(0, pattern(1))
        assert disk.mirror.status().state == "unmirrored"
        assert disk.states() == ["online"]
        assert disk.mirror.status().dirty_bytes == 0
    assert path.read_bytes()[:8] == pattern(1)[:8]
    assert list(tmp_path.iterdir()) == [path], "no metadata for what has no mirror"


def test_equal_images_without_metadata_become_a_mirror(tmp_path: Path) -> None:
    paths = legs_in(tmp_path)
    for path in paths:
        path.write_bytes(pattern(7, SIZE))
    with opened(paths) as disk:
        assert disk.states() == ["duplexed", "duplexed"]
    with opened(paths) as disk:
        assert disk.read(0, 8) == pattern(7)[:8]


def test_sparse_and_written_zeroes_are_equal(tmp_path: Path) -> None:
    paths = legs_in(tmp_path)
    paths[0].write_bytes(bytes(SIZE))
    paths[1].touch()
    os.truncate(paths[1], SIZE)
    with opened(paths) as disk:
        assert disk.states() == ["duplexed", "duplexed"]


@pytest.mark.parametrize("at", [0, SIZE // 2, SIZE - 1])
def test_images_that_differ_without_metadata_are_refused(tmp_path: Path, at: int) -> None:
    paths = legs_in(tmp_path)
    for path in paths:
        path.write_bytes(bytes(SIZE))
    with paths[1].open("r+b") as file:
        file.seek(at)
        file.write(b"x")
    refused(paths, "contents differ", f"ftvm disk resync --from RIGHT {paths[0]} {paths[1]}")


def test_one_file_with_metadata_and_one_without_are_refused(tmp_path: Path) -> None:
    paths = make(tmp_path)
    metadata.path_of(paths[1]).unlink()
    refused(paths, "b.img has no metadata", "resync --from")


def test_legs_of_different_disks_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = make(tmp_path / "other")
    refused([make(tmp_path)[0], other[1]], "different disks", "resync --from")


def test_a_leg_and_its_copy_are_refused(tmp_path: Path) -> None:
    paths = make(tmp_path)
    copy(paths[0], paths[1])
    refused(paths, "is a copy of", "resync --from")


def test_one_file_given_twice_is_refused(tmp_path: Path) -> None:
    paths = make(tmp_path)
    (tmp_path / "link.img").symlink_to(paths[0])
    refused([paths[0], paths[0]], "are one file", "different files")
    refused([paths[0], tmp_path / "link.img"], "are one file", "different files")


def test_sizes_that_differ_are_refused(tmp_path: Path) -> None:
    paths = make(tmp_path)
    os.truncate(paths[1], 2 * SIZE)
    refused(paths, "b.img has 8388608 bytes, its disk has 4194304", f"truncate --size {SIZE}")
    os.truncate(paths[1], SIZE // 2)
    refused(paths, "b.img has 2097152 bytes, its disk has 4194304", "a part of it is lost; remove it")
    for path in paths:
        metadata.path_of(path).unlink()
    refused(paths, "4194304 bytes, .*b.img has 2097152", "one size")


@pytest.mark.parametrize("size", [0, 1000])
def test_an_image_that_is_no_whole_number_of_sectors_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.img"
    path.write_bytes(bytes(size))
    refused([path], f"has {size} bytes", "truncate")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "folder", tmp_path / "fifo"):
        os.mkfifo(path) if path.name == "fifo" else path.mkdir()
        with pytest.raises(UnusableFile, match=path.name):
            open_disk([path])
    with pytest.raises(UnusableFile, match="does not exist") as refusal:
        open_disk([tmp_path / "nothing.img"])
    assert "ftvm disk create" in (refusal.value.hint or "")
    with pytest.raises(UsageError):
        open_disk([])


def test_a_leg_that_left_is_behind_and_gets_what_it_lacks(tmp_path: Path) -> None:
    paths = make(tmp_path)
    alone(paths, survivor=1, number=3)
    assert not images_equal(paths)
    with opened(paths) as disk:
        assert disk.states() == ["duplexing", "online"]
        assert disk.read(0, 8) == pattern(3)[:8]
        disk.resync()
        assert disk.states() == ["duplexed", "duplexed"]
    assert images_equal(paths)


def test_only_what_a_leg_lacks_is_copied(tmp_path: Path) -> None:
    paths = make(tmp_path)
    alone(paths, survivor=0, number=3)
    with opened(paths) as disk:
        assert disk.mirror.status().legs[1].dirty_bytes == len(pattern(3))


def test_legs_that_were_changed_apart_are_a_split_brain(tmp_path: Path) -> None:
    paths = make(tmp_path)
    copies = [tmp_path / f"copy-{path.name}" for path in paths]
    for path, kept in zip(paths, copies, strict=True):
        copy(path, kept)
    alone(paths, survivor=0, number=1)
    alone(copies, survivor=1, number=2)
    refused([paths[0], copies[1]], "split brain", "resync --from")


def test_a_split_brain_ends_by_decision(tmp_path: Path) -> None:
    paths = make(tmp_path)
    copies = [tmp_path / f"copy-{path.name}" for path in paths]
    for path, kept in zip(paths, copies, strict=True):
        copy(path, kept)
    alone(paths, survivor=0, number=1)
    alone(copies, survivor=1, number=2)
    both = [paths[0], copies[1]]
    admin.decide(both, copies[1])
    with opened(both) as disk:
        disk.resync()
        assert disk.states() == ["duplexed", "duplexed"]
    assert images_equal(both)
    assert both[0].read_bytes()[:8] == pattern(2)[:8]


def test_a_missing_leg_that_was_in_sync_is_refused(tmp_path: Path) -> None:
    paths = make(tmp_path)
    with opened(paths) as disk:
        disk.write(0, pattern(1))
    paths[0].unlink()
    refused(paths, "a.img is missing", f"ftvm disk resync --from {paths[1]} {paths[0]} {paths[1]}")
    refused(paths[1:], "a.img is missing", f"ftvm disk split {paths[1]}")


def test_a_missing_leg_that_was_known_to_be_away_is_done_without(tmp_path: Path) -> None:
    paths = make(tmp_path)
    alone(paths, survivor=1, number=5)
    paths[0].unlink()
    metadata.path_of(paths[0]).unlink()
    for given in (paths, paths[1:]):
        with opened(given) as disk:
            assert sorted(disk.states()) == ["offline", "online"]
            assert disk.read(0, 8) == pattern(5)[:8]
            disk.write(SIZE // 2, pattern(6))


def test_a_leg_that_was_being_copied_is_not_a_disk(tmp_path: Path) -> None:
    paths = make(tmp_path)
    alone(paths, survivor=1, number=5)
    with opened(paths):
        pass  # leg 0 came into service, and nothing was copied to it
    paths[1].unlink()
    refused(paths, "b.img is missing", "bring it back")
    with pytest.raises(UnusableFile, match="has not the whole disk"):
        admin.split(paths[:1])


def test_an_old_copy_of_a_leg_in_sync_is_refused(tmp_path: Path) -> None:
    paths = make(tmp_path)
    backup = tmp_path / "backup.img"
    copy(paths[1], backup)
    with opened(paths) as disk:
        disk.write(0, pattern(9))
    copy(backup, paths[1])
    refused(paths, "b.img is an old copy", "resync --from")


def test_an_old_copy_of_a_leg_that_is_away_is_copied_in_full(tmp_path: Path) -> None:
    paths = make(tmp_path)
    backup = tmp_path / "backup.img"
    copy(paths[1], backup)
    with opened(paths) as disk:
        disk.write(SIZE // 2, pattern(9))
    alone(paths, survivor=0, number=1)
    copy(backup, paths[1])
    with opened(paths) as disk:
        assert disk.mirror.status().legs[1].dirty_bytes == SIZE
        disk.resync()
    assert images_equal(paths)


def change(path: Path, at: int = SIZE // 2) -> None:
    """As another program would, say a QEMU that booted this leg."""
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"changed")


def test_a_change_from_outside_to_one_leg_is_refused(tmp_path: Path) -> None:
    paths = make(tmp_path)
    change(paths[0])
    refused(paths, "changed from outside, and differ", "resync --from")


def test_the_same_change_from_outside_to_both_legs_is_fine(tmp_path: Path) -> None:
    paths = make(tmp_path)
    for path in paths:
        change(path)
    with opened(paths) as disk:
        assert disk.states() == ["duplexed", "duplexed"]
        assert bytes(disk.read(SIZE // 2, 512)[:7]) == b"changed"


def test_a_change_from_outside_to_a_leg_that_is_away_is_refused(tmp_path: Path) -> None:
    paths = make(tmp_path)
    alone(paths, survivor=0, number=1)
    change(paths[1])
    refused(paths, "b.img left the mirror, and was changed", "resync --from")


def test_a_change_from_outside_to_the_only_leg_makes_the_next_copy_a_full_one(tmp_path: Path) -> None:
    paths = make(tmp_path)
    alone(paths, survivor=0, number=1)
    change(paths[0], SIZE - 512)
    with opened(paths) as disk:
        disk.resync()
    assert images_equal(paths)
    assert paths[1].read_bytes()[SIZE - 512 :][:7] == b"changed"


def test_legs_are_numbered_as_they_are_given(tmp_path: Path) -> None:
    paths = make(tmp_path)
    with opened(paths[::-1]) as disk:
        assert [leg.where for leg in disk.mirror.status().legs] == [str(paths[1]), str(paths[0])]
        disk.mirror.pull(0)
    with opened(paths) as disk:
        assert disk.states() == ["online", "duplexing"]


def test_a_leg_may_be_renamed_with_its_metadata(tmp_path: Path) -> None:
    paths = make(tmp_path)
    moved = tmp_path / "moved.img"
    paths[1].rename(moved)
    metadata.path_of(paths[1]).rename(metadata.path_of(moved))
    with opened([paths[0], moved]) as disk:
        assert disk.states() == ["duplexed", "duplexed"]


def test_a_disk_of_three_legs_survives_the_loss_of_two_in_turn(tmp_path: Path) -> None:
    paths = make(tmp_path, 3)
    with opened(paths) as disk:
        disk.mirror.pull(2)
        disk.write(0, pattern(1))
        disk.mirror.pull(1)
        disk.write(SIZE // 2, pattern(2))
        disk.insert(2)
        disk.resync()
        disk.mirror.pull(0)
        disk.write(SIZE - len(pattern(3)), pattern(3))
        assert disk.states() == ["offline", "offline", "online"]
    # The word of each on the others is another one; the newest has them all in its past.
    with opened(paths) as disk:
        assert disk.states() == ["duplexing", "duplexing", "online"]
        disk.resync()
    assert images_equal(paths)


def test_a_disk_in_use_is_refused_to_others(tmp_path: Path) -> None:
    paths = make(tmp_path)
    with opened(paths):
        for given in (paths, paths[:1], [paths[1]]):
            with pytest.raises(UnusableFile, match="in use by another process"):
                open_disk(given)
    BlockingDisk(open_disk(paths)).close()

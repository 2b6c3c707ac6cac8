"""``ftvm disk`` as a user meets it."""

import json
import os
from pathlib import Path

import pytest

from ftvm.cli import _frame as cli
from ftvm.exitcodes import ExitCode
from ftvm.storage import admin, metadata
from tests.storage.disks import SIZE, images_equal, legs_in, make, opened, pattern


def disk(*words: object) -> int:
    return cli.execute(["disk", *map(str, words)])


def test_a_disk_is_made_used_looked_at_and_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = legs_in(tmp_path)
    assert disk("create", *paths, "--size", "4M") == ExitCode.OK
    assert all(path.stat().st_size == SIZE for path in paths)
    with opened(paths) as guest:
        guest.write(0, pattern(1))
    capsys.readouterr()
    assert disk("status", *paths) == ExitCode.OK
    shown = capsys.readouterr().out
    assert shown.startswith("duplex: 4M ")
    assert shown.count("in sync, generation 2") == 2
    assert disk("check", *paths) == ExitCode.OK
    assert "sound; duplex" in capsys.readouterr().out
    assert disk("split", *paths) == ExitCode.OK
    assert sorted(tmp_path.iterdir()) == paths
    assert disk("status", paths[0]) == ExitCode.OK
    assert "plain: 4M" in capsys.readouterr().out


def test_a_single_file_is_made_without_metadata(tmp_path: Path) -> None:
    path = tmp_path / "a.img"
    assert disk("create", path, "--size", "1M") == ExitCode.OK
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_that_exists_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = legs_in(tmp_path)
    metadata.path_of(paths[1]).write_bytes(b"mine")
    assert disk("create", *paths, "--size", "1M") == ExitCode.UNUSABLE_FILE
    assert f"{metadata.path_of(paths[1])} exists" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [metadata.path_of(paths[1])]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["create", "a.img", "--size", "1000"], "1000 bytes"),
        (["create", "a.img", "a.img", "--size", "1M"], "named twice"),
        (["create", *(f"{number}.img" for number in range(9)), "--size", "1M"], "9 legs"),
        (["create", "a.img"], "--size"),
        (["resync", "a.img", "--integrity"], "--from"),
        (["resync", "--from", "c.img", "a.img", "b.img"], "c.img is not one of the legs"),
        (["status"], "FILE"),
    ],
)
def test_wrong_usage_says_what_is_wrong(
    tmp_path: Path, words: list[str], why: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert disk(*words) == ExitCode.USAGE
    assert why in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_mirror_is_made_of_an_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = legs_in(tmp_path)
    paths[0].write_bytes(pattern(3, SIZE))
    assert disk("resync", "--from", paths[0], *paths, "--integrity") == ExitCode.OK
    assert images_equal(paths)
    assert "leg 1 is duplexed" in capsys.readouterr().err
    assert disk("check", *paths) == ExitCode.OK


def test_resync_brings_a_stale_leg_up_to_date(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = make(tmp_path)
    with opened(paths) as guest:
        guest.mirror.pull(1)
        guest.write(0, pattern(1))
    assert disk("status", *paths, "--json", "-") == ExitCode.OK
    facts = json.loads(capsys.readouterr().out)
    assert facts["state"] == "resync"
    assert [leg["in_sync"] for leg in facts["legs"]] == [True, False]
    assert disk("check", *paths) == ExitCode.OK
    assert "b.img is to get at most 64K copied" in capsys.readouterr().out
    assert disk("split", paths[1], paths[0]) == ExitCode.UNUSABLE_FILE
    assert "has not the whole disk" in capsys.readouterr().err
    assert disk("resync", *paths) == ExitCode.OK
    assert images_equal(paths)


def test_a_split_brain_is_shown_with_the_way_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = make(tmp_path)
    metadata.path_of(paths[0]).unlink()
    for command in ("status", "check", "resync", "scrub"):
        assert disk(command, *paths) == ExitCode.UNUSABLE_FILE
        said = "".join(capsys.readouterr())
        assert "a.img has no metadata" in said
        assert (
            f"hint: decide which one is right, and copy it over the others: ftvm disk resync --from RIGHT {paths[0]}"
            in said
        )
    assert disk("resync", "--from", paths[0], *paths) == ExitCode.OK
    assert disk("status", *paths) == ExitCode.OK


def test_what_status_says_of_a_disk_in_use_and_of_one_after_a_crash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = make(tmp_path)
    with opened(paths) as guest:
        guest.write(0, pattern(1))
        before = [(file, file.read_bytes()) for file in sorted(tmp_path.iterdir())]
        assert disk("status", *paths) == ExitCode.OK
        shown = capsys.readouterr().out
        assert shown.startswith("in use: 4M")
        assert "1M marked" in shown
        assert disk("check", *paths) == ExitCode.UNUSABLE_FILE
        assert "in use by another process" in capsys.readouterr().err
    for file, content in before:  # as it lay there
        file.write_bytes(content)
    assert disk("status", *paths) == ExitCode.OK
    shown = capsys.readouterr().out
    assert shown.startswith("resync: 4M")
    assert shown.count("not closed in good order") == 2


def test_check_finds_a_difference_that_no_metadata_explain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = make(tmp_path)
    with opened(paths) as guest:
        guest.mirror.pull(1)
        guest.write(0, pattern(1))
    with paths[0].open("r+b") as file:
        file.seek(SIZE - 1)
        file.write(b"x")
    assert disk("check", *paths, "--json", "-") == ExitCode.OK
    admin.decide(paths, paths[0])
    assert disk("resync", *paths) == ExitCode.OK
    with paths[0].open("r+b") as file:
        file.write(b"y")
    capsys.readouterr()
    assert disk("check", *paths) == ExitCode.UNUSABLE_FILE
    shown = capsys.readouterr().out
    assert "not sound" in shown
    assert "1 regions of 64 KiB, the first one at byte 0" in shown


def test_scrub_reports_and_says_by_its_exit_code_whether_all_is_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = make(tmp_path)
    assert disk("scrub", *paths) == ExitCode.OK
    assert "0 blocks repaired, 0 differ, 0 cannot be read" in capsys.readouterr().out
    stamp = paths[0].stat()
    with paths[0].open("r+b") as file:
        file.write(b"x")
    os.utime(paths[0], ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert disk("scrub", *paths, "--json", "-") == ExitCode.UNUSABLE_FILE
    assert json.loads(capsys.readouterr().out)["mismatched"] == [0]

"""``--disk`` as a user meets it: what is refused, and with which exit code."""

import subprocess
import sys
from pathlib import Path

import pytest

from ftvm.exitcodes import ExitCode


def ftvm(folder: Path, *arguments: str) -> tuple[int, str]:
    process = subprocess.run(
        [sys.executable, "-m", "ftvm", *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return process.returncode, process.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in (("a", b"a"), ("b", b"b"), ("same", b"a")):
        (tmp_path / f"{name}.img").write_bytes(512 * content)
    (tmp_path / "odd.img").write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize(
    ("disks", "code", "message"),
    [
        (["none.img"], ExitCode.UNUSABLE_FILE, "none.img does not exist"),
        (["a.img,b.img"], ExitCode.UNUSABLE_FILE, "have no metadata, and their contents differ"),
        (["odd.img"], ExitCode.UNUSABLE_FILE, "not a disk of whole sectors"),
        (["a.img,a.img"], ExitCode.UNUSABLE_FILE, "are one file"),
        (["a.img,"], ExitCode.USAGE, "has a file without a name"),
        (["a.img", "b.img", "same.img", "odd.img"], ExitCode.USAGE, "4 disks"),
    ],
)
def test_files_that_are_no_disks(folder: Path, disks: list[str], code: ExitCode, message: str) -> None:
    got, errors = ftvm(folder, "run", "hello", *[option for disk in disks for option in ("--disk", disk)])
    assert got == code
    assert message in errors
    assert errors.startswith("error: ") and "Traceback" not in errors


def test_equal_files_become_a_mirror_and_one_file_is_a_disk(folder: Path) -> None:
    assert ftvm(folder, "run", "hello", "--disk", "a.img,same.img", "--disk", "b.img,readonly")[0] == ExitCode.OK
    assert (folder / "same.img.ftvm").exists()
    assert not (folder / "b.img.ftvm").exists()


def test_a_machine_goes_on_with_its_own_disks_only(folder: Path) -> None:
    options = ("--disk", "a.img", "--timeout", "0.5", "--save-on-exit", "spin.save")
    assert ftvm(folder, "run", "spin", *options)[0] == ExitCode.TIMEOUT
    code, errors = ftvm(folder, "resume", "spin.save", "--timeout", "0.5")
    assert code == ExitCode.UNUSABLE_FILE
    assert "was saved with disks of 512 bytes, not with no disk" in errors
    assert ftvm(folder, "resume", "spin.save", "--disk", "a.img", "--timeout", "0.5")[0] == ExitCode.TIMEOUT

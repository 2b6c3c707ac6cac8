"""Fetching guests, against an apt of our own making: what a user meets when the real one says no."""

import json
import os
from pathlib import Path

import pytest

from ftvm.cli import _frame as cli
from ftvm.exitcodes import ExitCode
from ftvm.guests import catalogue

NAME = "grub-invaders"

# An archive with one package, whose newest version is in $ARCHIVE/version. What the system's package lists know of
# it is in $ARCHIVE/lists, empty on a fresh machine; 'apt-get update' needs the private lists and the network.
FAKE_APT_CACHE = """#!/bin/sh
version=$(cat "$ARCHIVE/lists")
[ -n "$version" ] || { echo "E: No packages found" >&2; exit 100; }
printf 'Package: grub-invaders\\nVersion: %s\\nDepends: libc6\\nDescription: a game\\n at: odds\\n' "$version"
"""
FAKE_APT_GET = """#!/bin/sh
echo "$@" >>"$ARCHIVE/calls"
[ ! -e "$ARCHIVE/offline" ] || { echo "E: Could not resolve the archive" >&2; exit 100; }
case "$*" in
*Dir::State::Lists=*update) cp "$ARCHIVE/version" "$ARCHIVE/lists" ;;
*download*"=$(cat "$ARCHIVE/version")") touch grub-invaders.deb ;;
*) echo "E: 404 Not Found" >&2; exit 100 ;;
esac
"""
FAKE_DPKG_DEB = """#!/bin/sh
mkdir -p "$3/boot" && cat "$ARCHIVE/version" >"$3/boot/invaders.exec"
"""


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in (("apt-cache", FAKE_APT_CACHE), ("apt-get", FAKE_APT_GET), ("dpkg-deb", FAKE_DPKG_DEB)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (tmp_path / "version").write_text("1.0")
    (tmp_path / "lists").write_text("1.0")
    monkeypatch.setenv("ARCHIVE", str(tmp_path))
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def kernel() -> str:
    guest = catalogue.find(NAME)
    assert guest is not None
    return guest.path.read_text()


def leftovers(archive: Path) -> list[str]:
    """What is in the cache beside the guest and the lock."""
    return [path.name for path in (archive / "cache/ftvm/guests").iterdir() if path.name not in (NAME, ".lock")]


def test_a_fetched_guest_is_listed_and_leaves_nothing_else(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert catalogue.find(NAME) is None
    assert cli.execute(["guests", "fetch", NAME]) == ExitCode.OK
    assert kernel() == "1.0"
    assert leftovers(archive) == []
    capsys.readouterr()
    assert cli.execute(["guests", "list", "--json", str(archive / "list.json")]) == ExitCode.OK
    listed = {guest["name"]: guest for guest in json.loads((archive / "list.json").read_text())}
    assert {"name", "path", "initrd", "append", "kind", "ready"} <= listed[NAME].keys()
    assert listed[NAME]["kind"] == "multiboot1"
    assert listed[NAME]["initrd"] is None
    assert cli.execute(["guests", "list"]) == ExitCode.OK
    assert NAME in capsys.readouterr().out.partition("not fetched yet")[0]


def test_fetching_again_downloads_nothing_until_there_is_a_newer_version(archive: Path) -> None:
    cli.execute(["guests", "fetch", NAME])
    (archive / "offline").touch()
    assert cli.execute(["guests", "fetch", NAME]) == ExitCode.OK
    (archive / "offline").unlink()
    (archive / "version").write_text("2.0")
    (archive / "lists").write_text("2.0")
    assert cli.execute(["guests", "fetch", NAME]) == ExitCode.OK
    assert kernel() == "2.0"
    assert leftovers(archive) == []


def test_a_version_that_has_left_the_archive_is_replaced_by_the_newest(archive: Path) -> None:
    (archive / "version").write_text("2.0")
    assert cli.execute(["guests", "fetch", NAME]) == ExitCode.OK
    assert kernel() == "2.0"


def test_on_a_fresh_machine_private_package_lists_are_made(archive: Path) -> None:
    (archive / "lists").write_text("")
    assert cli.execute(["guests", "fetch", NAME]) == ExitCode.OK
    assert kernel() == "1.0"
    assert str(archive / "cache/ftvm/apt") in (archive / "calls").read_text()


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    """The one error line of a fetch that the host refuses; there is a hint, and no guest."""
    assert cli.execute(["guests", "fetch", NAME]) == ExitCode.HOST
    *_, error, hint = capsys.readouterr().err.splitlines()
    assert hint.startswith("hint: ")
    assert catalogue.find(NAME) is None
    return error


def test_offline_is_told_with_what_apt_said(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (archive / "offline").touch()
    assert "Could not resolve the archive" in refusal(capsys)
    assert leftovers(archive) == []


def test_a_package_that_no_list_knows_is_named(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (archive / "version").write_text("")
    (archive / "lists").write_text("")
    assert refusal(capsys) == "error: apt knows no package 'grub-invaders'"


def test_without_apt_the_missing_program_is_named(
    archive: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(archive))
    assert refusal(capsys) == "error: the program 'apt-cache' is missing"


def test_a_cache_that_cannot_be_written_is_named(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (archive / "cache").write_text("a file")
    assert str(archive / "cache/ftvm/guests") in refusal(capsys)


@pytest.mark.parametrize("manifest", ["", "{}", '{"version": 99}', "not json"])
def test_a_manifest_that_cannot_be_read_means_not_fetched(archive: Path, manifest: str) -> None:
    cli.execute(["guests", "fetch", NAME])
    (catalogue.guest_folder(NAME) / catalogue.MANIFEST).write_text(manifest)
    assert catalogue.find(NAME) is None
    assert cli.execute(["guests", "fetch", NAME]) == ExitCode.OK
    assert kernel() == "1.0"


def test_a_guest_that_was_not_fetched_is_not_called_a_missing_file(
    archive: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(archive)
    assert cli.execute(["run", NAME]) == ExitCode.UNUSABLE_FILE
    assert f"ftvm guests fetch {NAME}" in capsys.readouterr().err


def test_the_cache_follows_the_environment(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert catalogue.cache() == archive / "cache" / "ftvm"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert catalogue.cache() == Path("/home/somebody/.cache/ftvm")

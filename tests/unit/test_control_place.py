"""Names of running machines: private, unique among the living, free again when their owner dies."""

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ftvm.control import place
from ftvm.control.place import Claim, NotRunning, Running
from ftvm.errors import HostError, UsageError


@pytest.fixture(autouse=True)
def runtime_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


def left_by_the_dead(name: str) -> Path:
    """A socket whose process was killed."""
    script = f"import os; from ftvm.control.place import Claim; claim = Claim({name!r}); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", script], check=False)
    path = place.socket_path(name)
    assert path.is_socket()
    return path


def test_folder_and_socket_are_the_owners_alone(runtime_directory: Path) -> None:
    old = os.umask(0)
    try:
        claim = Claim("web")
    finally:
        os.umask(old)
    assert claim.path == runtime_directory / "ftvm" / "web.sock"
    assert stat.S_IMODE(claim.path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(claim.path.stat().st_mode) == 0o600
    claim.close()
    assert not claim.path.exists()


def test_a_name_belongs_to_one_living_machine() -> None:
    first = Claim("web")
    with pytest.raises(UsageError, match="'web' is running already"):
        Claim("web")
    other = Claim("db")
    assert place.running() == [Running("db", os.getpid()), Running("web", os.getpid())]
    first.close()
    Claim("web").close()
    other.close()
    assert place.running() == []


def test_the_dead_leave_their_names_to_others() -> None:
    left_by_the_dead("web")
    other = left_by_the_dead("other")
    assert place.running() == []
    claim = Claim("web")
    assert place.running() == [Running("web", os.getpid())]
    assert not other.exists()  # nobody else would ever remove it
    claim.close()


def test_a_machine_too_busy_to_accept_is_alive() -> None:
    claim = Claim("web")
    waiting = []
    with pytest.raises(HostError, match="waiting to be let in"):
        for _ in range(1000):
            waiting.append(place.connect(claim.path))
    with pytest.raises(UsageError, match="running already"):
        Claim("web")
    for connection in waiting:
        connection.close()
    claim.close()


def test_nobody_is_there_is_told_from_not_allowed(runtime_directory: Path) -> None:
    with pytest.raises(NotRunning, match="no machine named 'web'"):
        place.connect(place.socket_path("web"))
    left_by_the_dead("web")
    with pytest.raises(NotRunning):
        place.connect(place.socket_path("web"))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "-x", ".x", "a b", "ä", "x" * 65, "a\n", "a\0b"])
def test_names_that_are_no_file_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name"):
        Claim(name)


@pytest.mark.parametrize("name", ["0", "web", "Web-2_b.c", "x" * 64])
def test_names_that_are_harmless_are_taken(name: str) -> None:
    assert place.check_name(name) == name


def test_a_path_too_long_for_a_socket_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    with pytest.raises(HostError, match="too long"):
        Claim("web")


def test_a_folder_that_others_can_enter_is_refused(runtime_directory: Path) -> None:
    (runtime_directory / "ftvm").mkdir()
    (runtime_directory / "ftvm").chmod(0o755)
    with pytest.raises(HostError, match="not a folder of this user alone"):
        Claim("web")


def test_a_link_in_place_of_the_folder_is_refused(runtime_directory: Path) -> None:
    (runtime_directory / "elsewhere").mkdir(mode=0o700)
    (runtime_directory / "ftvm").symlink_to("elsewhere")
    with pytest.raises(HostError, match="not a folder of this user alone"):
        Claim("web")


@pytest.mark.parametrize("value", [None, "", "relative", "/nonexistent/runtime", "/proc/1/missing"])
def test_without_a_runtime_directory_there_is_a_replacement(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    if value is not None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", value)
    assert place.folder() == Path(f"/tmp/ftvm-{os.geteuid()}/ftvm")


def test_closing_survives_a_folder_that_somebody_removed(runtime_directory: Path) -> None:
    claim = Claim("web")
    claim.path.unlink()
    claim.path.parent.rmdir()
    claim.close()


def test_peer_says_who_is_at_the_other_end() -> None:
    one, other = socket.socketpair()
    assert place.peer(one) == (os.getpid(), os.getuid())
    one.close()
    other.close()

"""``ftvm run`` as a user meets it: a terminal, signals, pipes, files that are no guests. Nothing stays behind."""

import json
import os
import pty
import select
import shlex
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ftvm.exitcodes import ExitCode
from ftvm.guests.catalogue import Guest

COMMAND = [sys.executable, "-m", "ftvm", "run"]
SILENCE_S = 60


def session_members(session: int) -> list[str]:
    """The command lines of all processes of a session, zombies left out."""
    members = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                members.append((process / "cmdline").read_text().replace("\0", " "))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
    return members


@pytest.fixture
def started() -> Iterator["list[subprocess.Popen[bytes]]"]:
    """Processes that a test started, each in a session of its own; all that is in it must have ended with it."""
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        alive = process.poll() is None
        if alive:
            process.kill()
        process.communicate()
        assert not alive
        assert session_members(process.pid) == []


def read_until(fd: int, text: bytes) -> bytes:
    """What came up to ``text``."""
    seen = b""
    while text not in seen:
        readable, _, _ = select.select([fd], [], [], SILENCE_S)
        assert readable, f"silence after {seen!r}"
        data = os.read(fd, 4096)
        assert data, f"the end after {seen!r}"
        seen += data
    return seen


@contextmanager
def terminal_of(guest: str, started: "list[subprocess.Popen[bytes]]") -> Iterator[tuple[int, int]]:
    """``ftvm run`` on a terminal: the terminal's two ends."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, guest], stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
    )
    started.append(process)
    yield controller, terminal
    os.close(terminal)
    os.close(controller)


@pytest.fixture
def on_terminal(started: "list[subprocess.Popen[bytes]]") -> Iterator[tuple[int, int]]:
    with terminal_of("echo", started) as ends:
        yield ends


def test_typing_reaches_the_guest_and_ctrl_a_x_is_the_way_out(
    on_terminal: tuple[int, int], started: "list[subprocess.Popen[bytes]]"
) -> None:
    controller, terminal = on_terminal
    before = termios.tcgetattr(terminal)
    start = read_until(controller, b"q ends")
    assert b"Ctrl-A x" in start
    os.write(controller, b"hello\x03")
    read_until(controller, b"hello")
    os.write(controller, b"\x01h")
    read_until(controller, b"send Ctrl-A")
    os.write(controller, b"\x01x")
    read_until(controller, b"ftvm: stopped")
    assert started[0].wait(SILENCE_S) == ExitCode.OK
    assert termios.tcgetattr(terminal) == before


def test_a_kill_gives_the_terminal_back(on_terminal: tuple[int, int], started: "list[subprocess.Popen[bytes]]") -> None:
    controller, terminal = on_terminal
    before = termios.tcgetattr(terminal)
    read_until(controller, b"q ends")
    assert termios.tcgetattr(terminal) != before
    started[0].terminate()
    assert started[0].wait(SILENCE_S) == 128 + signal.SIGTERM
    assert termios.tcgetattr(terminal) == before


def test_a_linux_shell_serves_a_person(
    fetched: Callable[[str], Guest], started: "list[subprocess.Popen[bytes]]"
) -> None:
    guest = fetched("debian-cloud")
    prompt = (guest.ready or "").encode()
    with terminal_of(guest.name, started) as (controller, _):
        read_until(controller, prompt)
        os.write(controller, b"echo waiting; sleep 1000\r")
        read_until(controller, b"\nwaiting\r")
        os.write(controller, b"\x03")  # Ctrl-C is the guest's, and ends what its shell runs
        read_until(controller, prompt)
        os.write(controller, b"expr 6 \\* 7\r")
        read_until(controller, b"\n42\r")
        os.write(controller, b"poweroff -f\r")
        read_until(controller, b"ftvm: exit")
    assert started[0].wait(SILENCE_S) == ExitCode.OK


@pytest.mark.parametrize("modules", ["1", "2", "3"])
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, ExitCode.INTERRUPTED), (signal.SIGTERM, 128 + signal.SIGTERM)]
)
def test_a_signal_ends_everything_at_once(
    number: signal.Signals, code: int, modules: str, started: "list[subprocess.Popen[bytes]]"
) -> None:
    command = [*COMMAND, "spin", "--modules", modules]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    started.append(process)
    assert process.stdout is not None
    read_until(process.stdout.fileno(), b"running away")
    os.killpg(process.pid, number)  # as a terminal does it: to all processes of the group
    _, errors = process.communicate(timeout=SILENCE_S)
    assert process.returncode == code
    assert b"Traceback" not in errors


def test_a_reader_that_goes_away_ends_the_run_without_a_word(started: "list[subprocess.Popen[bytes]]") -> None:
    command = [*COMMAND, "echo", "--interactive"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    started.append(process)
    assert process.stdout is not None and process.stdin is not None and process.stderr is not None
    read_until(process.stdout.fileno(), b"q ends")
    process.stdout.close()
    process.stdin.write(b"hello")
    process.stdin.flush()
    assert process.wait(SILENCE_S) == ExitCode.HOST
    assert b"Traceback" not in process.stderr.read()


def test_keys_from_a_pipe_need_no_terminal(started: "list[subprocess.Popen[bytes]]") -> None:
    command = [*COMMAND, "echo", "--interactive"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    started.append(process)
    assert process.stdout is not None and process.stdin is not None
    read_until(process.stdout.fileno(), b"q ends")
    process.stdin.write(b"hello")
    process.stdin.flush()
    read_until(process.stdout.fileno(), b"hello")
    output, _ = process.communicate(b"q", timeout=SILENCE_S)
    assert b"echo: ends" in output
    assert process.returncode == ExitCode.OK


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_do_no_harm(closed: str, tmp_path: Path) -> None:
    command = shlex.join([*COMMAND, "hello", "--console", str(tmp_path / "console")])
    finished = subprocess.run(["sh", "-c", f"{command} {closed}"], capture_output=True, check=False, timeout=SILENCE_S)
    assert finished.returncode == ExitCode.OK
    assert b"Hello" in (tmp_path / "console").read_bytes()
    assert b"Traceback" not in finished.stderr


def refused(*arguments: str | Path) -> tuple[int, list[str]]:
    finished = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=SILENCE_S)
    assert finished.stdout == ""
    return finished.returncode, finished.stderr.splitlines()


def not_a_guest(tmp_path: Path, kind: str) -> Path:
    """A file, or none, that cannot be booted."""
    path = tmp_path / kind
    hello = Path(__file__).parents[2] / "ftvm/firmware/kernels/hello.elf"
    match kind:
        case "missing":
            pass
        case "directory":
            path.mkdir()
        case "text":
            path.write_text("This is a letter, and no kernel.\n" * 100)
        case "empty":
            path.touch()
        case "truncated":
            path.write_bytes(hello.read_bytes()[:100])
    return path


@pytest.mark.parametrize("kind", ["missing", "directory", "text", "empty", "truncated"])
def test_a_file_that_is_no_guest_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    path = not_a_guest(tmp_path, kind)
    code, (error, hint) = refused(path)
    assert code == ExitCode.UNUSABLE_FILE
    assert error.startswith("error: ")
    assert str(path) in error
    assert hint.startswith("hint: ")


def test_more_memory_than_the_host_has_is_refused() -> None:
    code, (error, _) = refused("hello", "--memory", "64G", "--modules", "3")
    assert code == ExitCode.HOST
    assert "GiB" in error


def test_json_of_a_run_has_the_documented_keys() -> None:
    finished = subprocess.run([*COMMAND, "hello", "--json", "-"], capture_output=True, check=True, timeout=SILENCE_S)
    assert set(json.loads(finished.stdout)) == {
        *("version", "outcome", "exit_code", "modules", "sync_points", "blocks", "instructions", "divergences"),
        *("faults", "wall_s", "virtual_s", "longest_pause_ms", "state_digest"),
    }

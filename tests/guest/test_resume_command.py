"""``ftvm run --save-on-exit`` and ``ftvm resume`` as users meet them: signals, ``ftvm ctl``, files that are no use."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ftvm.exitcodes import ExitCode

FTVM = [sys.executable, "-m", "ftvm"]
WORKLOAD = ["run", "workload", "--append", "rounds=30", "--memory", "64M", "--no-interactive"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where all these commands run; control sockets are here too."""
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ftvm(*arguments: str) -> tuple[int, bytes, str]:
    """Exit code, console, and what was said beside it."""
    done = subprocess.run([*FTVM, *arguments], capture_output=True, check=False, timeout=200, stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout, done.stderr.decode()


def report(file: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(Path(file).read_text())
    return loaded


@contextlib.contextmanager
def started(*arguments: str) -> "Iterator[subprocess.Popen[bytes]]":
    """A machine that runs, up to the first of its console: a line may come in pieces."""
    pipe = subprocess.PIPE
    with subprocess.Popen([*FTVM, *arguments], stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.peek(1)  # type: ignore[attr-defined]  # it is buffered
            yield process
        finally:
            process.kill()


def test_a_run_that_is_cut_in_three_is_the_same_run() -> None:
    code, console, _ = ftvm(*WORKLOAD, "--json", "whole")
    assert code == ExitCode.OK
    code, first, said = ftvm(*WORKLOAD, "--stop-on", "chase", "--save-on-exit", "my file")
    assert code == ExitCode.OK
    assert "ftvm: saved; to go on: ftvm resume 'my file'" in said.splitlines()
    code, second, _ = ftvm("resume", "my file", "--modules", "3", "--stop-on", "crc32", "--save-on-exit", "my file")
    assert code == ExitCode.OK
    code, third, said = ftvm(
        "resume", "my file", "--modules", "1", "--epoch", "50k", "--json", "last", "--save-on-exit", "f"
    )
    assert code == ExitCode.OK
    assert "ftvm: nothing to save: the guest ended by itself" in said.splitlines()
    assert first + second + third == console
    assert report("last")["exit_code"] == 0
    assert report("last")["blocks"] == report("whole")["blocks"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_with_its_code_after_the_machine_was_saved(number: signal.Signals) -> None:
    with started("run", "spin", "--memory", "16M", "--no-interactive", "--save-on-exit", "file") as process:
        process.send_signal(number)
        assert process.wait(60) == 128 + number
        assert process.stderr is not None
        assert b"to go on: ftvm resume file" in process.stderr.read()
    code, _, _ = ftvm("resume", "file", "--timeout", "1", "--no-interactive", "--json", "report")
    assert code == ExitCode.TIMEOUT
    assert report("report")["blocks"] > 0


def test_a_second_signal_does_not_wait_for_the_machine(folder: Path) -> None:
    """Here nobody reads the console, so the run cannot come to its end."""
    os.mkfifo("console")
    reader = os.open("console", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open("console", os.O_WRONLY | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    with started(
        *("run", "spin", "--memory", "16M", "--no-interactive", "--save-on-exit", "file", "--console", "console")
    ) as process:
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.send_signal(signal.SIGINT)
        os.read(reader, 1 << 20)  # what was written is given away when the file is closed
        assert process.wait(60) == ExitCode.INTERRUPTED
    os.close(reader)
    os.close(writer)
    assert not Path("file").exists()


def test_ctl_suspend_saves_a_running_machine_and_ends_it() -> None:
    with started(*WORKLOAD, "--name", "w", "--event-log", "events") as process:
        assert ftvm("ctl", "w", "suspend", "none/file")[0] == ExitCode.HOST
        assert ftvm("ctl", "w", "suspend", "file") == (ExitCode.OK, b"", "")
        assert process.wait(60) == ExitCode.OK
        assert process.stdout is not None
        first = process.stdout.read()
    kinds = [json.loads(line)["kind"] for line in Path("events").read_text().splitlines()]
    assert kinds == ["suspend-failed", "suspended"]
    code, rest, _ = ftvm("resume", "file")
    assert code == ExitCode.OK
    lines = (first + rest).splitlines()
    names = [line.split()[0] for line in lines]
    assert names == [b"alu", b"copy", b"chase", b"sieve", b"quicksort", b"crc32", b"matmul"]


@pytest.mark.parametrize(
    ("contents", "words"),
    [(None, "No such file"), (b"", "not a saved machine"), (b"FTVMSAVE\2\0\0\0\0\0\0\0" + bytes(20), "of format 2")],
)
def test_a_file_that_is_no_good_is_refused_in_one_line(contents: bytes | None, words: str) -> None:
    if contents is not None:
        Path("file").write_bytes(contents)
    code, console, said = ftvm("resume", "file")
    assert (code, console) == (ExitCode.UNUSABLE_FILE, b"")
    error, hint = said.splitlines()
    assert error.startswith("error: file ")
    assert words in error
    assert hint.startswith("hint: ")


def test_a_machine_that_is_damaged_in_the_file_is_refused() -> None:
    assert ftvm("run", "spin", "--memory", "16M", "--timeout", "1", "--save-on-exit", "file")[0] == ExitCode.TIMEOUT
    data = bytearray(Path("file").read_bytes())
    data[len(data) // 2] ^= 1
    Path("file").write_bytes(data)
    code, _, said = ftvm("resume", "file")
    assert code == ExitCode.UNUSABLE_FILE
    assert said.startswith("error: file is damaged")

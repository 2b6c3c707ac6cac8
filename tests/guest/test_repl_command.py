"""``ftvm repl`` as people and scripts use it: a process with a terminal, a pipe, a file."""

import fcntl
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from ftvm.exitcodes import ExitCode


def repl(*arguments: str, lines: str = "") -> tuple[int, str]:
    process = subprocess.run(
        [sys.executable, "-m", "ftvm", "repl", *arguments],
        input=lines,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert "Traceback" not in process.stderr
    return process.returncode, process.stdout + process.stderr


def test_commands_come_from_a_pipe_and_each_is_shown_before_its_answer() -> None:
    code, shown = repl("workload", "--memory", "16M", lines="# a comment\n\nrun until position 1M\nprint rip\n")
    assert code == ExitCode.OK
    lines = shown.splitlines()
    assert lines[0] == "ftvm> run until position 1M"
    assert lines[-2:] == ["ftvm> print rip", "0x100210  1,049,104  copy+0x70"]
    assert "\x1b" not in shown


def test_a_script_goes_on_after_a_command_that_fails_and_its_exit_code_tells(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("symbols --load /nonexistent\nnosuch\nprint 6*7\nquit\nprint 1\n")
    code, shown = repl("hello", "--memory", "16M", "-x", str(script))
    assert code == ExitCode.UNUSABLE_FILE
    assert f"{script}:1: error: " in shown
    assert f"{script}:2: hint: 'help' lists the commands" in shown
    assert "42" in shown
    assert shown.endswith("ftvm> quit\n"), "nothing is done after it"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), ExitCode.USAGE),
        (("hello", "--replay", "x"), ExitCode.USAGE),
        (("hello", "--display"), ExitCode.USAGE),
        (("/nonexistent",), ExitCode.UNUSABLE_FILE),
        (("hello", "-x", "/nonexistent"), ExitCode.UNUSABLE_FILE),
        (("hello", "--symbols", "/nonexistent"), ExitCode.UNUSABLE_FILE),
        (("--replay", "/nonexistent"), ExitCode.UNUSABLE_FILE),
    ],
)
def test_what_cannot_begin_is_an_error(arguments: tuple[str, ...], code: ExitCode) -> None:
    found, shown = repl(*arguments)
    assert found == code
    assert shown.startswith("error: ")


def test_a_recorded_run_can_be_looked_into(tmp_path: Path) -> None:
    run = ["workload", "--memory", "16M", "--record", str(tmp_path / "run.rec"), "--no-interactive"]
    subprocess.run([sys.executable, "-m", "ftvm", "run", *run], capture_output=True, timeout=240, check=True)
    code, shown = repl("--replay", str(tmp_path / "run.rec"), lines="goto 1M\nback continue main\nrun\ntimeline\n")
    assert code == ExitCode.OK, shown
    assert "(the present is 7,767,472) at copy+0x70" in shown
    assert "the guest has ended with 0" in shown
    assert "=> 0x1004c0 " in shown


NUDGE_S = 5


class Person:
    """At a terminal of their own."""

    def __init__(self, tmp_path: Path, *arguments: str) -> None:
        self._home = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "TERM": "xterm"}
        self._controller, child = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ftvm", "repl", *arguments],
            stdin=child,
            stdout=child,
            stderr=child,
            env=self._home,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # Ctrl-C comes as a signal
        )
        os.close(child)
        self.seen = ""

    def type(self, keys: str) -> None:
        os.write(self._controller, keys.encode())

    def wait_for(self, text: str, nudge: str = "", patience_s: float = 60) -> str:
        """Everything that came up to ``text``, without the terminal's control sequences. ``nudge``: keys to be typed
        every few seconds until then."""
        end_s = time.monotonic() + patience_s
        nudged_s = time.monotonic() - NUDGE_S + 0.5
        while text not in self.seen:
            if nudge and time.monotonic() > nudged_s + NUDGE_S:
                self.type(nudge)
                nudged_s = time.monotonic()
            assert time.monotonic() < end_s, self.seen
            assert self._look(), self.seen
        before, _, self.seen = self.seen.partition(text)
        return before

    def command(self, line: str) -> None:
        """Type it when the prompt is there."""
        self.wait_for("modules: ")
        self.type(f"{line}\r")

    def leave(self, keys: str) -> int:
        """Type the last thing; the exit code."""
        self.wait_for("modules: ")
        self.type(keys)
        while self._look():
            pass
        return self.process.wait(60)

    def _look(self) -> bool:
        """Read what there is, as a terminal does; False when nothing can come any more."""
        if select.select([self._controller], [], [], 0.1)[0]:
            try:
                data = os.read(self._controller, 65536).decode(errors="replace")
            except OSError:  # nobody has the other end
                return False
            for _ in range(data.count("\x1b[6n")):  # where is the cursor?
                self.type("\x1b[1;1R")
            self.seen += re.sub(r"\x1b(\[[?0-9;]*[A-Za-z]|[=>])", "", data)
        return True

    def __enter__(self) -> "Person":
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._controller)


def test_a_person_stops_a_guest_that_runs_for_ever_and_looks_where_it_is(tmp_path: Path) -> None:
    with Person(tmp_path, "spin", "--memory", "16M") as person:
        person.wait_for("Ctrl-D leaves")
        person.wait_for("modules: 0 duplexed, 1 duplexed")
        person.type("ru\t")
        person.wait_for("run")
        person.type("\r")
        person.wait_for("stopped; position ", nudge="\x03")
        person.command("regs rip")
        person.wait_for("MODULE 1")
        assert person.leave("\x04") == ExitCode.OK
    assert "regs rip" in (tmp_path / "ftvm" / "repl-history").read_text()


def test_the_terminal_is_the_guest_s_while_it_is_attached(tmp_path: Path) -> None:
    with Person(tmp_path, "echo", "--memory", "16M") as person:
        person.wait_for("Ctrl-D leaves")
        person.command("run until text 'q ends'")
        person.wait_for("=> ")
        person.command("attach")
        person.wait_for("Ctrl-A h shows more keys")
        person.type("hello\r")
        person.wait_for("hello")
        person.type("\x01x")
        person.wait_for("position ")
        assert person.leave("quit\r") == ExitCode.OK

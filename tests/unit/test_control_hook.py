"""The program that hears of events: never waited for, never too many, its failures said once."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftvm.control import hook
from ftvm.control.hook import MAX_RUNNING, MAX_WAITING, EventHook
from ftvm.errors import HostError, UsageError
from ftvm.monitor.eventlog import HOOK_FAILED, EventLog
from ftvm.monitor.poller import Poller
from tests.divergence.processes import children


class Hooked:
    """An event log with hooks, and a poller that waits for their ends."""

    def __init__(self) -> None:
        self.poller = Poller()
        self.log = EventLog(lambda: 42)
        self.hooks: list[EventHook] = []

    def run(self, code: str, *arguments: str) -> EventHook:
        """Hook a Python program."""
        return self.command(f"{sys.executable} -c '{code}' {' '.join(arguments)}")

    def command(self, command: str) -> EventHook:
        self.hooks.append(EventHook(command, "web", self.log, self.poller))
        return self.hooks[-1]

    def settle(self) -> None:
        """Until no program runs any more."""
        while any(hook._running for hook in self.hooks):
            self.poller.wait(None)

    def failures(self) -> list[object]:
        return [event.detail["reason"] for event in self.log.since(0) if event.kind == HOOK_FAILED]


@pytest.fixture
def hooked() -> Iterator[Hooked]:
    hooked = Hooked()
    yield hooked
    for one in hooked.hooks:
        one.close()
    hooked.poller.close()


DUMP = """
import json, os, sys
told = {"stdin": json.load(sys.stdin), "variables": {k: v for k, v in os.environ.items() if k.startswith("FTVM_")}}
open(sys.argv[1], "w").write(json.dumps(told))
"""


def test_the_program_is_told_everything_twice(hooked: Hooked, tmp_path: Path) -> None:
    script = tmp_path / "dump.py"
    script.write_text(DUMP)
    hooked.command(f"{sys.executable} {script} '{tmp_path / 'told it'}'")
    hooked.log.emit("module-failed", "module 1", reason="de\0ath", exit_status=9, module=None)
    hooked.settle()
    told = json.loads((tmp_path / "told it").read_text())
    (event,) = hooked.log.since(0)
    assert told["stdin"]["kind"] == "module-failed"
    assert told["stdin"]["detail"] == {"reason": "de\0ath", "exit_status": 9, "module": None}
    assert told["variables"] == {
        "FTVM_MACHINE": "web",
        "FTVM_EVENT_NUMBER": "1",
        "FTVM_EVENT_TIME": event.time.isoformat(),
        "FTVM_EVENT_POSITION": "42",
        "FTVM_EVENT_KIND": "module-failed",
        "FTVM_EVENT_SUBJECT": "module 1",
        "FTVM_EVENT_REASON": "death",
        "FTVM_EVENT_EXIT_STATUS": "9",
        "FTVM_EVENT_MODULE": "",
    }


def test_no_child_is_left_unreaped(hooked: Hooked) -> None:
    before = children(os.getpid())
    hooked.command("true")
    for _ in range(20):
        hooked.log.emit("note", "machine")
    hooked.settle()
    assert children(os.getpid()) == before
    assert not hooked.failures()


def test_failures_are_one_event_until_it_works_again(hooked: Hooked, tmp_path: Path) -> None:
    flag = tmp_path / "works"
    hooked.command(f"test -e {flag}")
    for works in (False, False, True, False, False):
        flag.touch() if works else flag.unlink(missing_ok=True)
        hooked.log.emit("note", "machine")
        hooked.settle()
    assert hooked.failures() == ["exit status 1", "exit status 1"]


def test_a_program_that_vanishes_is_a_failure(hooked: Hooked, tmp_path: Path) -> None:
    script = tmp_path / "hook"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    hooked.command(str(script))
    script.unlink()
    hooked.log.emit("note", "machine")
    assert hooked.failures() == ["it cannot be started: No such file or directory"]


def test_a_host_without_descriptors_is_a_failure_and_leaves_no_child(
    hooked: Hooked, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: int) -> int:
        raise OSError(24, "Too many open files")

    before = children(os.getpid())
    monkeypatch.setattr(os, "pidfd_open", refuse)
    hooked.command("sleep 1000")
    hooked.log.emit("note", "machine")
    assert hooked.failures() == ["it cannot be started: Too many open files"]
    assert children(os.getpid()) == before


def test_a_program_killed_by_a_signal_is_a_failure(hooked: Hooked) -> None:
    hooked.run("import os; os.kill(os.getpid(), 9)")
    hooked.log.emit("note", "machine")
    hooked.settle()
    assert hooked.failures() == ["killed by signal 9"]


def test_only_so_many_run_and_only_so_many_wait(hooked: Hooked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook, "PATIENCE_S", 0)
    sleeper = hooked.command("sleep 1000")
    for _ in range(MAX_RUNNING + MAX_WAITING + 10):
        hooked.log.emit("note", "machine")
    assert (len(sleeper._running), len(sleeper._waiting)) == (MAX_RUNNING, MAX_WAITING)
    assert hooked.failures() == ["events come faster than it takes them; some were dropped"]


def test_the_last_events_are_told_before_the_end(hooked: Hooked, tmp_path: Path) -> None:
    last = hooked.command(f"sh -c 'touch {tmp_path}/$FTVM_EVENT_NUMBER'")
    for _ in range(3 * MAX_RUNNING):
        hooked.log.emit("note", "machine")
    last.close()
    assert {path.name for path in tmp_path.iterdir()} == {str(n) for n in range(1, 3 * MAX_RUNNING + 1)}


def test_a_program_that_never_ends_is_killed_at_the_end(hooked: Hooked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook, "PATIENCE_S", 0.01)
    sleeper = hooked.command("sleep 1000")
    hooked.log.emit("note", "machine")
    (process,) = sleeper._running.values()
    sleeper.close()
    assert process.returncode == -9
    assert not os.path.exists(f"/proc/{process.pid}")


@pytest.mark.parametrize("command", ["", "  ", "echo 'open"])
def test_words_that_are_no_command_are_refused(hooked: Hooked, command: str) -> None:
    with pytest.raises(UsageError):
        hooked.command(command)


def test_a_program_that_is_not_there_is_said_at_once(hooked: Hooked) -> None:
    with pytest.raises(HostError, match="'no-such-program' is no program"):
        hooked.command("no-such-program --now")

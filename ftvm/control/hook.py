"""``--on-event COMMAND``: a program that is told of each event, such as one that phones home.

The machine never waits for it: the event lies in a memory file that is the program's standard input, only so many run
at a time, and what cannot be told in time is dropped. A hook that fails is an event itself, once until it works again.
"""

import os
import select
import shlex
import shutil
import subprocess
import time
from collections import deque

import msgspec

from ftvm.errors import HostError, UsageError
from ftvm.monitor.eventlog import HOOK_FAILED, Event, EventLog
from ftvm.monitor.poller import Watcher

MAX_RUNNING = 4
MAX_WAITING = 256
PATIENCE_S = 5.0
"""For hooks that still run when the machine ends: the last events are the most interesting ones."""


class EventHook:
    """Runs ``command`` (words as in a shell, but without one) for each event of ``log``. ``close`` at the end.

    Raises UsageError for words that cannot be told apart, HostError when there is no such program.
    """

    def __init__(self, command: str, machine: str, log: EventLog, poller: Watcher) -> None:
        try:
            self._words = shlex.split(command)
        except ValueError as error:
            raise UsageError(f"the event hook {command!r}: {error}", "quote its words as for a shell") from None
        if not self._words:
            raise UsageError("an event hook without a program", "give a program, and its arguments")
        if shutil.which(self._words[0]) is None:
            raise HostError(f"the event hook {self._words[0]!r} is no program", "give its path, or install it")
        self._machine = machine
        self._log = log
        self._poller = poller
        self._waiting: deque[Event] = deque()
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._failing = False
        self._leave = log.follow(self._take)

    def close(self) -> None:
        """Let the last events be told, for at most PATIENCE_S; what runs then is killed."""
        self._leave()
        until_s = time.monotonic() + PATIENCE_S
        while self._running and (left_s := until_s - time.monotonic()) > 0:
            poll = select.poll()
            for pidfd in self._running:
                poll.register(pidfd, select.POLLIN)
            for pidfd, _ in poll.poll(left_s * 1000):
                self._ended(pidfd)
        self._waiting.clear()
        for pidfd in list(self._running):
            self._running[pidfd].kill()
            self._ended(pidfd)

    def _take(self, event: Event) -> None:
        if event.kind == HOOK_FAILED:
            return
        if len(self._waiting) >= MAX_WAITING:
            self._fail("events come faster than it takes them; some were dropped")
            return
        self._waiting.append(event)
        self._start()

    def _start(self) -> None:
        while self._waiting and len(self._running) < MAX_RUNNING:
            event = self._waiting.popleft()
            try:
                process, pidfd = self._spawn(event)
            except OSError as error:
                self._fail(f"it cannot be started: {error.strerror}")
                continue
            self._running[pidfd] = process
            self._poller.watch(pidfd, lambda pidfd=pidfd: self._ended(pidfd))  # type: ignore[misc]

    def _spawn(self, event: Event) -> "tuple[subprocess.Popen[bytes], int]":
        """The process, and a descriptor that becomes readable at its end. Raises OSError."""
        with os.fdopen(os.memfd_create("ftvm-event", os.MFD_CLOEXEC), "w+b") as file:
            file.write(msgspec.json.encode(event) + b"\n")
            file.seek(0)
            process = subprocess.Popen(
                self._words,
                stdin=file,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **self._variables(event)},
                start_new_session=True,  # Ctrl-C in the machine's terminal is not for it
            )
        try:
            return process, os.pidfd_open(process.pid)
        except OSError:
            process.kill()
            process.wait()
            raise

    def _variables(self, event: Event) -> dict[str, str]:
        fields: dict[str, object] = {
            **event.detail,
            "number": event.number,
            "time": event.time.isoformat(),
            "position": event.position,
            "kind": event.kind,
            "subject": event.subject,
        }
        variables = {
            f"FTVM_EVENT_{name.upper()}": "" if value is None else str(value) for name, value in fields.items()
        }
        variables["FTVM_MACHINE"] = self._machine
        return {name: value.replace("\0", "") for name, value in variables.items()}

    def _ended(self, pidfd: int) -> None:
        process = self._running.pop(pidfd)
        self._poller.unwatch(pidfd)
        os.close(pidfd)
        status = process.wait()
        if status == 0:
            self._failing = False
        else:
            self._fail(f"exit status {status}" if status > 0 else f"killed by signal {-status}")
        self._start()

    def _fail(self, reason: str) -> None:
        if not self._failing:
            self._failing = True
            self._log.emit(HOOK_FAILED, "machine", command=shlex.join(self._words), reason=reason)

"""What happens to a machine, as values: kept for a while, written to a file, told to whoever follows."""

import os
import stat
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from ftvm.errors import HostError

Detail = str | int | float | bool | None

KEPT = 1000
"""Events that can be asked for later."""

# Kinds that somebody in here waits for; all others are only shown. docs/control-protocol.md lists them.
MODULE_FILLING = "module-filling"  # on its way back; detail: done, from 0 to 1
MODULE_JOINED = "module-joined"
MODULE_FAILED = "module-failed"
MODULE_FAULT = "module-fault"  # transient: it stays in service
MODULE_PULLED = "module-pulled"
# The same for legs of disks and NICs: about ``disk0.1``
LEG_FILLING = "leg-filling"  # detail: done
LEG_JOINED = "leg-joined"
LEG_FAILED = "leg-failed"
LEG_FAULT = "leg-fault"
LEG_PULLED = "leg-pulled"
FAULT_INJECTED = "fault-injected"  # on purpose
SUSPENDED = "suspended"
SUSPEND_FAILED = "suspend-failed"
RECORD_FAILED = "record-failed"
EVENT_LOG_FAILED = "event-log-failed"
HOOK_FAILED = "hook-failed"


class Event(msgspec.Struct, frozen=True):
    """One change of state, as it stands in the log file and in the control protocol (docs/control-protocol.md).

    ``number`` counts from 1 without gaps; ``time`` is UTC, ``position`` that of the verified state. ``kind`` is a word
    with hyphens, ``subject`` what it happened to (``machine``, ``module 1``, ``disk0 leg 0``).
    """

    number: int
    time: datetime
    position: int
    kind: str
    subject: str
    detail: dict[str, Detail]


Observer = Callable[[Event], None]
"""Called on the machine's thread. It must neither block nor raise; it may emit."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _text(value: str) -> str:
    """File names need not be UTF-8; JSON must."""
    return value.encode(errors="replace").decode()


class EventLog:
    """Takes events from anywhere in the monitor, in one order for all; none while ``quiet``."""

    def __init__(
        self,
        position: Callable[[], int],
        now: Callable[[], datetime] = _utc_now,
        quiet: Callable[[], bool] = lambda: False,
    ) -> None:
        self._position = position
        self._now = now
        self._quiet = quiet
        self._kept: deque[Event] = deque(maxlen=KEPT)
        self._number = 0
        self._observers: list[Observer] = []
        self._undelivered: deque[Event] = deque()
        self._delivering = False

    def emit(self, kind: str, subject: str, **detail: Detail) -> None:
        """Something happened. What an observer emits meanwhile is delivered after this one, to all."""
        if self._quiet():
            return
        self._number += 1
        clean = {name: _text(value) if isinstance(value, str) else value for name, value in detail.items()}
        event = Event(self._number, self._now(), self._position(), kind, _text(subject), clean)
        self._kept.append(event)
        self._undelivered.append(event)
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._undelivered:
                next_one = self._undelivered.popleft()
                for observer in tuple(self._observers):
                    observer(next_one)
        finally:
            self._delivering = False

    def since(self, number: int) -> list[Event]:
        """The events after ``number`` (0: from the start), as far as they are still kept."""
        return [event for event in self._kept if event.number > number]

    def follow(self, observer: Observer) -> Callable[[], None]:
        """Call ``observer`` at each event from now on; the result ends that."""
        self._observers.append(observer)

        def leave() -> None:
            if observer in self._observers:
                self._observers.remove(observer)

        return leave


class EventFile:
    """Appends each event of ``log`` to a file, one JSON object per line. ``close`` at the end.

    Raises HostError when the file cannot be opened. When it cannot be written later (a full disk) that is an event, and
    the last thing this does: the machine goes on.
    """

    def __init__(self, path: str, log: EventLog) -> None:
        self._path = path
        self._log = log
        try:
            # Not blocking: a pipe that nobody reads must not stop the machine.
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
            self._fd = os.open(path, flags, 0o644)
        except OSError as error:
            raise HostError(
                f"the event log {path} cannot be written: {error.strerror}", "give a file that can be written"
            ) from None
        status = os.fstat(self._fd)
        # A line that a full disk cut off must not spoil the first one of this run.
        torn = (
            stat.S_ISREG(status.st_mode) and status.st_size > 0 and os.pread(self._fd, 1, status.st_size - 1) != b"\n"
        )
        self._before = b"\n" if torn else b""
        self._leave = log.follow(self._write)

    def _write(self, event: Event) -> None:
        line = self._before + msgspec.json.encode(event) + b"\n"
        self._before = b""
        try:
            complete = os.write(self._fd, line) == len(line)
        except OSError as error:
            self._give_up(str(error.strerror))
            return
        if not complete:
            self._give_up("it took only a part of a line")

    def _give_up(self, reason: str) -> None:
        self._leave()
        self._log.emit(EVENT_LOG_FAILED, "machine", file=self._path, reason=reason)

    def close(self) -> None:
        self._leave()
        os.close(self._fd)

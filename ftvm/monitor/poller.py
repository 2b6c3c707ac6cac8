"""The one place where the monitor sleeps: doorbells, deaths, the terminal and sockets all end the same poll."""

import functools
import os
import select
import time
import weakref
from collections.abc import Callable
from typing import Protocol

import msgspec


class Watcher(Protocol):
    """Whom to ask to be called when a file descriptor can be read."""

    def watch(self, fd: int, on_readable: Callable[[], object]) -> None: ...
    def unwatch(self, fd: int) -> None: ...


class _Timer(msgspec.Struct, eq=False):
    interval_s: float
    due_s: float
    callback: Callable[[], object]


class Poller:
    """File descriptors and what to call when one of them can be read, on the thread that waits; and what to call every
    so often."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._callbacks: dict[int, Callable[[], object]] = {}
        self._timers: list[_Timer] = []
        self._alarm = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._close = weakref.finalize(self, os.close, self._alarm)
        self.watch(self._alarm, functools.partial(os.eventfd_read, self._alarm))

    def close(self) -> None:
        """Give the alarm back; ``wake`` does nothing from now on."""
        self._close()

    def watch(self, fd: int, on_readable: Callable[[], object]) -> None:
        self._callbacks[fd] = on_readable
        self._poll.register(fd, select.POLLIN)

    def unwatch(self, fd: int) -> None:
        if self._callbacks.pop(fd, None) is not None:
            self._poll.unregister(fd)

    @property
    def watched(self) -> list[int]:
        """All file descriptors."""
        return [*self._callbacks]

    def due_s(self) -> float | None:
        """When, on the monotonic clock, something is to be called that is called every so often."""
        return min((timer.due_s for timer in self._timers), default=None)

    def every(self, interval_s: float, callback: Callable[[], object]) -> Callable[[], None]:
        """Call ``callback`` about every ``interval_s``, never more often; the result ends that."""
        timer = _Timer(interval_s, time.monotonic() + interval_s, callback)
        self._timers.append(timer)

        def cancel() -> None:
            if timer in self._timers:
                self._timers.remove(timer)

        return cancel

    def wake(self) -> None:
        """End the wait that is going on, or the next one. From any thread, or a signal handler."""
        if self._close.alive:
            os.eventfd_write(self._alarm, 1)

    def wait(self, timeout_s: float | None) -> None:
        """Sleep until something can be read, was woken, is due, or ``timeout_s`` passed; then call the callbacks."""
        if self._timers:
            left_s = min(timer.due_s for timer in self._timers) - time.monotonic()
            timeout_s = left_s if timeout_s is None else min(timeout_s, left_s)
        timeout_ms = None if timeout_s is None else max(0.0, timeout_s * 1000)
        for fd, _ in self._poll.poll(timeout_ms):
            callback = self._callbacks.get(fd)
            if callback is not None:  # an earlier callback of this round may have forgotten it
                callback()
        if self._timers:
            self._call_due(time.monotonic())

    def _call_due(self, now_s: float) -> None:
        for timer in self._timers.copy():
            if timer.due_s <= now_s and timer in self._timers:
                timer.due_s = now_s + timer.interval_s
                timer.callback()


class SyncPointPoller:
    """A poller whose callbacks wait for a sync point: ``run_due`` calls them. Until then they are not asked again."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._callbacks: dict[int, Callable[[], object]] = {}
        self._due: list[int] = []

    def watch(self, fd: int, on_readable: Callable[[], object]) -> None:
        self._callbacks[fd] = on_readable
        self._poller.watch(fd, functools.partial(self._fire, fd))

    def unwatch(self, fd: int) -> None:
        if self._callbacks.pop(fd, None) is not None:
            self._poller.unwatch(fd)

    @property
    def due(self) -> bool:
        return bool(self._due)

    def run_due(self) -> None:
        """At a sync point."""
        due, self._due = self._due, []
        for fd in due:
            callback = self._callbacks.get(fd)
            if callback is not None:
                callback()
            if fd in self._callbacks:
                self._poller.watch(fd, functools.partial(self._fire, fd))

    def _fire(self, fd: int) -> None:
        self._poller.unwatch(fd)
        self._due.append(fd)

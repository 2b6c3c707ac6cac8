"""The one place where the monitor sleeps: doorbells, deaths, the terminal and sockets all end the same poll."""

import functools
import os
import select
import weakref
from collections.abc import Callable
from typing import Protocol


class Watcher(Protocol):
    """Whom to ask to be called when a file descriptor can be read."""

    def watch(self, fd: int, on_readable: Callable[[], object]) -> None: ...
    def unwatch(self, fd: int) -> None: ...


class Poller:
    """File descriptors and what to call when one of them can be read, on the thread that waits."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._callbacks: dict[int, Callable[[], object]] = {}
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

    def wake(self) -> None:
        """End the wait that is going on, or the next one. From any thread, or a signal handler."""
        if self._close.alive:
            os.eventfd_write(self._alarm, 1)

    def wait(self, timeout_s: float | None) -> None:
        """Sleep until something can be read, was woken, or ``timeout_s`` passed; then call the callbacks."""
        timeout_ms = None if timeout_s is None else max(0.0, timeout_s * 1000)
        for fd, _ in self._poll.poll(timeout_ms):
            callback = self._callbacks.get(fd)
            if callback is not None:  # an earlier callback of this round may have forgotten it
                callback()


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

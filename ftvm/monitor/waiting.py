"""How the monitor sleeps: woken by whatever happens, never past what is due, busy with what can be done meanwhile."""

import threading
import time

from ftvm.monitor.devices import Devices
from ftvm.monitor.ending import STOPPED, TIMEOUT, Ended
from ftvm.monitor.poller import Poller
from ftvm.monitor.service import Service


class Waiting:
    """Until somebody sets ``stop`` (wake the poller then), or the monotonic time ``until_s`` has come."""

    def __init__(
        self, service: Service, devices: Devices, poller: Poller, stop: threading.Event, until_s: float | None
    ) -> None:
        self._service = service
        self._devices = devices
        self._poller = poller
        self._stop = stop
        self._until_s = until_s
        self._stretch_until_s: float | None = None
        self.at_once = False
        """An end comes in the middle of an epoch as well; until the next stretch."""

    def begin_stretch(self, until_s: float | None, at_once: bool) -> None:
        """What is waited for from here on ends at ``until_s``, too; ``at_once``: in the middle of an epoch as well."""
        self._stretch_until_s, self.at_once = until_s, at_once

    def wait(self, timeout_s: float | None) -> None:
        """Sleep until something happens; work on modules that come and go meanwhile. Raises Ended when told to end."""
        deadline_s = self._deadline_s()
        if deadline_s is not None:
            left_s = deadline_s - time.monotonic()
            timeout_s = left_s if timeout_s is None else min(timeout_s, left_s)
        self._sleep(timeout_s)
        self.end_if_told()

    def wait_for_modules(self, timeout_s: float) -> None:
        """The same in the middle of an epoch, which must be brought to its end if anything is to follow."""
        if self.at_once:
            self.wait(timeout_s)
        else:
            self._sleep(timeout_s)

    @property
    def told(self) -> bool:
        """Somebody wants an end."""
        return self._stop.is_set()

    def due_s(self) -> float | None:
        """When, on the monotonic clock, there is something to do even if nothing happens."""
        times = self._deadline_s(), self._devices.deadline_s(), self._poller.due_s()
        return min((s for s in times if s is not None), default=None)

    @property
    def watched(self) -> list[int]:
        """What ends a sleep when it can be read: file descriptors."""
        return self._poller.watched

    def has_work(self) -> bool:
        """There is something to do on modules that come and go."""
        return self._service.resync is not None or self._service.untidy

    def end_if_told(self) -> None:
        """Raises Ended."""
        if self._stop.is_set():
            self._stop.clear()
            raise Ended(STOPPED)
        deadline_s = self._deadline_s()
        if deadline_s is not None and time.monotonic() >= deadline_s:
            raise Ended(TIMEOUT)

    def _sleep(self, timeout_s: float | None) -> None:
        self._devices.tend()
        due_s = self._devices.deadline_s()
        if due_s is not None:
            left_s = max(0.0, due_s - time.monotonic())
            timeout_s = left_s if timeout_s is None else min(timeout_s, left_s)
        busy = timeout_s != 0 and (self._service.tidy() or self._copy_slice())
        self._poller.wait(0 if busy else timeout_s)

    def _deadline_s(self) -> float | None:
        return min((s for s in (self._until_s, self._stretch_until_s) if s is not None), default=None)

    def _copy_slice(self) -> bool:
        resync = self._service.resync
        return resync is not None and resync.module.alive and resync.copy_slice()

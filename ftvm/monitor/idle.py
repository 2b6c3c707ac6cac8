"""A guest that has nothing to do: it waits for its timer, for input, or for a module that needs attention."""

from collections.abc import Sized

from ftvm.module.events import Input, TimePassed
from ftvm.monitor.console import Console
from ftvm.monitor.devices import Devices
from ftvm.monitor.ending import HALTED, Ended
from ftvm.monitor.image import VerifiedImage
from ftvm.monitor.poller import SyncPointPoller
from ftvm.monitor.service import Service
from ftvm.monitor.timekeeping import RealTime
from ftvm.monitor.waiting import Waiting


class Idle:
    """With ``real_time`` it waits for the wall clock. ``interactive``: input may come to one that has no timer."""

    def __init__(
        self,
        service: Service,
        image: VerifiedImage,
        console: Console,
        requests: SyncPointPoller,
        devices: Devices,
        waiting: Waiting,
        *,
        real_time: bool,
        interactive: bool,
    ) -> None:
        self._service = service
        self._image = image
        self._console = console
        self._requests = requests
        self._devices = devices
        self._waiting = waiting
        self._clock = RealTime() if real_time else None
        self._interactive = interactive

    def forget_time(self) -> None:
        """Virtual time is another from here on: the wall clock goes on from it."""
        self._clock = RealTime() if self._clock is not None else None

    def wait(self, wake_ns: int, faults: Sized) -> list[Input]:
        """Wait until input comes or the timer event at ``wake_ns``, if not 0, is due, or a module needs attention.
        ``faults``: those that modules are to be told of, which may become more meanwhile. Raises Ended."""
        if self._clock is None:
            while not wake_ns and not self._disturbed(faults):
                self._waiting.wait(self._service.attention_in_s())
            return []  # the modules let virtual time jump by themselves
        self._clock.become_idle(self._image.virtual_ns())
        while not self._disturbed(faults):
            if not (wake_ns or self._interactive or self._devices.busy()):
                raise Ended(HALTED)
            now_ns = self._clock.now_ns()
            if wake_ns and now_ns >= wake_ns:
                return [TimePassed(wake_ns)]
            timeouts = [(wake_ns - now_ns) / 1e9 if wake_ns else None, self._service.attention_in_s()]
            self._waiting.wait(min((timeout_s for timeout_s in timeouts if timeout_s is not None), default=None))
        return [TimePassed(self._clock.now_ns())]

    def _disturbed(self, faults: Sized) -> bool:
        resync = self._service.resync
        attention_in_s = self._service.attention_in_s()
        return (
            self._console.pending()
            or self._devices.pending()
            or len(faults) > 0
            or self._requests.due
            or not all(module.alive for module in self._service.in_service)
            or (attention_in_s is not None and attention_in_s <= 0)
            or (resync is not None and resync.can_join())
        )

"""The loop that makes one machine of several modules: run an epoch, compare, commit what all agree on."""

import threading
import time
from dataclasses import dataclass

import msgspec

from ftvm.errors import EngineError
from ftvm.module import events
from ftvm.module.board import StopKind
from ftvm.module.events import ConsoleOut, GuestExit, Input, PowerOff, ResetRequest, StopText, TimePassed
from ftvm.module.link import CommandKind, Fault, Report
from ftvm.monitor.compare import Difference, Divergence, compare
from ftvm.monitor.console import Console
from ftvm.monitor.deadline import Deadline
from ftvm.monitor.image import VerifiedImage, WrittenMemory
from ftvm.monitor.module_handle import ModuleHandle, ModuleLost
from ftvm.monitor.poller import Poller
from ftvm.monitor.timekeeping import RealTime


@dataclass(frozen=True)
class Ending:
    """How a run ended: ``outcome`` as in RunResult, and what the guest wrote to the debug-exit port, if it did."""

    outcome: str
    exit_code: int | None = None


_ENDINGS = {StopKind.HALTED: Ending("halted"), StopKind.CRASH: Ending("crash")}


class _Ended(Exception):
    """Leaves the loop from wherever the end of the run was noticed."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.outcome)
        self.ending = ending


class Lockstep:
    """Drives modules, which are ready and stand at the start image, from sync point to sync point.

    The run ends when ``stop`` is set (wake the poller then) and at the monotonic time ``until_s``. With ``real_time``
    an idle guest waits for the wall clock.
    """

    def __init__(
        self,
        modules: list[ModuleHandle],
        image: VerifiedImage,
        console: Console,
        poller: Poller,
        *,
        stop: threading.Event,
        epoch_blocks: int,
        until_s: float | None,
        real_time: bool,
    ) -> None:
        self._modules = modules
        self._image = image
        self._console = console
        self._poller = poller
        self._epoch_blocks = epoch_blocks
        self._stop = stop
        self._until_s = until_s
        self._clock = RealTime() if real_time else None
        self._deadline = Deadline()
        self._epoch_began_s = 0.0
        self._stopped_s = 0.0
        self.sync_points = 0
        self.longest_pause_s = 0.0
        self.divergences: list[Divergence] = []
        self.input_log: list[tuple[int, bytes]] = []
        """(position, encoded inputs): with the start image, all that this run depends on."""

    def inject(self, faults: list[Fault]) -> None:
        """Tell all modules of faults that one of them is to have. Between two epochs only."""
        self._post(CommandKind.INJECT, 0, msgspec.msgpack.encode(faults))
        self._await_reports()

    def run(self) -> Ending:
        """Until the guest ends, somebody ends it, or the modules cannot go on. Raises EngineError."""
        try:
            self._begin_epoch([], target=0)  # the first sync point: do all modules start alike?
            while True:
                try:
                    reports, memories = self._await_reports()
                    divergence = compare(self._image, reports, memories)
                    if divergence is None:
                        self._commit(reports[0])
                        self._begin_epoch(self._inputs(reports[0]))
                except ModuleLost as lost:
                    divergence = self._absence(lost)
                if divergence is not None:
                    self._recover(divergence)
        except _Ended as end:
            return end.ending

    def _begin_epoch(self, inputs: list[Input], target: int | None = None) -> None:
        position = self._image.position
        payload = events.encode(inputs) if inputs else b""
        if inputs:
            self.input_log.append((position, payload))
        if target is None:  # input that was too long for one command enters at one position all the same
            target = position if self._console.pending() else position + self._epoch_blocks
        self._post(CommandKind.RUN, target, payload)
        if self.sync_points > 1:
            self.longest_pause_s = max(self.longest_pause_s, self._epoch_began_s - self._stopped_s)

    def _post(self, kind: CommandKind, target: int, payload: bytes) -> None:
        for module in self._modules:
            module.post(kind, target, payload)
        self._epoch_began_s = time.monotonic()

    def _await_reports(self) -> tuple[list[Report], list[WrittenMemory]]:
        """Raises ModuleLost when a module is dead, hangs or reports what cannot be."""
        waiting = self._modules
        first_done_s: float | None = None
        while waiting := [module for module in waiting if not module.reported()]:
            elapsed_s = time.monotonic() - self._epoch_began_s
            if first_done_s is None and len(waiting) < len(self._modules):
                first_done_s = elapsed_s
            limit_s = self._deadline.limit_s(first_done_s)
            if elapsed_s > limit_s:
                raise ModuleLost(waiting[0], "hang", f"no report for {elapsed_s:.1f} s")
            self._wait(limit_s - elapsed_s)
        self._stopped_s = time.monotonic()
        self._deadline.observe(self._stopped_s - self._epoch_began_s)
        self._wait(0)  # short epochs never sleep: look at the terminal here
        collected = [module.collect() for module in self._modules]
        return [report for report, _ in collected], [memory for _, memory in collected]

    def _wait(self, timeout_s: float | None) -> None:
        """Sleep until something happens. Raises _Ended when the run was told to end, ModuleLost for a dead module."""
        if self._until_s is not None:
            left_s = self._until_s - time.monotonic()
            timeout_s = left_s if timeout_s is None else min(timeout_s, left_s)
        self._poller.wait(timeout_s)
        if self._stop.is_set():
            raise _Ended(Ending("stopped"))
        if self._until_s is not None and time.monotonic() >= self._until_s:
            raise _Ended(Ending("timeout"))
        for module in self._modules:
            if not module.alive:
                raise ModuleLost(module, "death", module.cause_of_death())

    def _commit(self, report: Report) -> None:
        """Everything that all modules agree on becomes verified, and leaves. Raises _Ended when it says so."""
        self._image.commit(report)
        self.sync_points += 1
        ending: Ending | None = None
        for output in events.decode_outputs(report.outputs):
            match output:
                case ConsoleOut():
                    self._console.release(output)
                case StopText():
                    ending = Ending("stopped")
                case GuestExit(code):
                    ending = Ending("exit", code)
                case PowerOff() | ResetRequest():
                    ending = Ending("exit")
        if ending is None and report.stop in _ENDINGS:
            ending = _ENDINGS[StopKind(report.stop)]
        if report.stop == StopKind.ENGINE:
            raise EngineError(f"the engine failed at position {report.position}: {report.detail.decode()}")
        if ending is not None:
            raise _Ended(ending)

    def _inputs(self, report: Report) -> list[Input]:
        """What enters all modules at this sync point; a guest that has nothing to do waits for it here."""
        inputs: list[Input] = []
        if report.stop == StopKind.IDLE:
            inputs += self._idle(report.wake_ns)
            self._stopped_s = time.monotonic()
        return inputs + self._console.take()

    def _idle(self, wake_ns: int) -> list[Input]:
        """Wait until input comes or the timer event at ``wake_ns``, if not 0, is due."""
        if self._clock is None:
            while not wake_ns and not self._console.pending():
                self._wait(None)
            return []  # the modules let virtual time jump by themselves
        virtual_ns = self._image.virtual_ns()
        while not self._console.pending():
            now_ns = self._clock.now_ns(virtual_ns)
            if wake_ns and now_ns >= wake_ns:
                return [TimePassed(wake_ns)]
            self._wait((wake_ns - now_ns) / 1e9 if wake_ns else None)
        return [TimePassed(self._clock.now_ns(virtual_ns))]

    def _absence(self, lost: ModuleLost) -> Divergence:
        values = tuple(lost.how if module is lost.module else "sound" for module in self._modules)
        difference = Difference(lost.kind, f"module {lost.module.index}", values)
        return Divergence(
            self._image.position, (difference,), tuple(None for _ in self._modules), 0, self._modules.index(lost.module)
        )

    def _recover(self, divergence: Divergence) -> None:
        """The one place that decides what becomes of a machine whose modules do not agree: it stops."""
        self.divergences.append(divergence)
        culprit = divergence.module()
        if culprit is not None:
            self._modules[culprit].charge(divergence.differences[0].kind)
        raise _Ended(Ending("fail-stop"))

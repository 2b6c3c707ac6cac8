"""The loop that makes one machine of several modules: run an epoch, compare, commit what all agree on."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from ftvm.errors import EngineError
from ftvm.module import events
from ftvm.module.board import StopKind
from ftvm.module.events import ConsoleOut, GuestExit, Input, Output, PowerOff, ResetRequest, StopText, TimePassed
from ftvm.module.link import CommandKind, Fault, Report, Snapshot
from ftvm.monitor.compare import compare
from ftvm.monitor.console import Console
from ftvm.monitor.epoch import Epoch, EpochRunner, Result
from ftvm.monitor.image import VerifiedImage
from ftvm.monitor.pace import Pace
from ftvm.monitor.poller import Poller, SyncPointPoller
from ftvm.monitor.recovery import FailStop, Incident, Recovery
from ftvm.monitor.service import Service
from ftvm.monitor.timekeeping import RealTime
from ftvm.units import PAGE_BYTES

RESYNC_EPOCH_BLOCKS = 100_000
"""Epochs at the end of a resync: the shorter, the less has changed that must be copied in the pause of joining."""

SCRUB_PAGES = 32
"""Compared with the image at each sync point, written or not: 256 MiB in about 20 s of a busy guest, for 20 us each."""


@dataclass(frozen=True)
class Ending:
    """How a run ended: ``outcome`` as in RunResult, and what the guest wrote to the debug-exit port, if it did."""

    outcome: str
    exit_code: int | None = None


_ENDINGS: dict[int, Ending] = {StopKind.HALTED: Ending("halted"), StopKind.CRASH: Ending("crash")}
_STOPPED = Ending("stopped")


class _Ended(Exception):
    """Leaves the loop from wherever the end of the run was noticed."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.outcome)
        self.ending = ending


class Lockstep:
    """Drives the modules in service, which stand at the start image, from sync point to sync point.

    ``inputs`` (encoded) enter before the first block.

    The run ends when ``stop`` is set (wake the poller then) and at the monotonic time ``until_s``. With ``real_time``
    an idle guest waits for the wall clock. ``epoch_blocks``: see Pace.
    """

    def __init__(
        self,
        service: Service,
        image: VerifiedImage,
        console: Console,
        poller: Poller,
        requests: SyncPointPoller,
        *,
        inputs: bytes,
        stop: threading.Event,
        epoch_blocks: int | None,
        until_s: float | None,
        real_time: bool,
    ) -> None:
        self._service = service
        self._image = image
        self._console = console
        self._poller = poller
        self._requests = requests
        self._pace = Pace(epoch_blocks)
        self._stop = stop
        self._until_s = until_s
        self._clock = RealTime() if real_time else None
        self._runner = EpochRunner(self._wait)
        self._recovery = Recovery(image, self._runner, service, self._note)
        self._scrub_first = 0
        self._stopped_s: float | None = None
        self.finished = False
        """The guest ended by itself: the verified state is its last."""
        self.uncommitted = inputs
        """Encoded inputs that enter, or have entered, at the verified state."""
        self.sync_points = 0
        self.dirty_pages: dict[int, int] = {}
        """By module: pages written in the newest epoch."""
        self.longest_pause_s = 0.0
        self.incidents: list[Incident] = []
        self.input_log = [(image.position, inputs)] if inputs else []
        """(position, encoded inputs): with the start image, all that this run depends on."""

    def inject(self, faults: list[Fault]) -> None:
        """Tell all modules of faults that one of them is to have. Between two epochs only."""
        self._runner.command(self._service.in_service, CommandKind.INJECT, payload=msgspec.msgpack.encode(faults))

    def run(self) -> Ending:
        """Until the guest ends, somebody ends it, or the modules cannot go on. Raises EngineError, HostError."""
        try:
            # The first sync point: do all modules start alike?
            self._commit(self._agree(Epoch(self._image.position, self.uncommitted)))
            while True:
                self._attend()
                self._commit(self._agree(self._next_epoch()))
        except _Ended as end:
            return end.ending
        except FailStop:
            return Ending("fail-stop")

    def _next_epoch(self) -> Epoch:
        inputs = self._inputs()
        position = self._image.position
        payload = self.uncommitted = events.encode(inputs) if inputs else b""
        if inputs:
            self.input_log.append((position, payload))
        if self._console.pending():  # input that was too long for one command enters at one position all the same
            return Epoch(position, payload)
        joining = self._service.resync is not None and self._service.resync.nearly_done()
        blocks = min(RESYNC_EPOCH_BLOCKS, self._pace.blocks) if joining else self._pace.blocks
        return Epoch(position + blocks, payload)

    def _agree(self, epoch: Epoch) -> Result:
        """Run an epoch until there is a result that all in service agree on. Raises FailStop."""
        attempt = self._runner.run(self._service.in_service, epoch)
        if self._stopped_s is not None:
            self.longest_pause_s = max(self.longest_pause_s, self._runner.began_s - self._stopped_s)
        self._stopped_s = self._runner.ended_s if self.sync_points else None
        self.dirty_pages = {result.module.index: result.memory.count for result in attempt.results}
        self._wait(0)  # short epochs never sleep: look at the terminal here
        divergence = compare(self._image, attempt.reports, attempt.memories) if attempt.results else None
        if attempt.results and divergence is None and not attempt.losses:
            result = attempt.results[0]
            self._pace.observe(result.report.position - self._image.position, self._runner.epoch_s)
            return result
        return self._recovery.settle(epoch, attempt, divergence)

    def _commit(self, result: Result) -> None:
        """Everything that all modules agree on becomes verified, and leaves. Raises _Ended when it says so."""
        report = self._report = result.report
        self._image.commit(report)
        self.uncommitted = b""
        if self._service.resync is not None:
            self._service.resync.committed()
        self.sync_points += 1
        outputs = events.decode_outputs(report.outputs)
        ending = _ending(report, outputs)
        self.finished = ending not in (None, _STOPPED)
        for output in outputs:
            if isinstance(output, ConsoleOut):
                self._console.release(output)
        if report.stop == StopKind.ENGINE:
            raise EngineError(f"the engine failed at position {report.position}: {report.detail.decode()}")
        if ending is not None:
            raise _Ended(ending)

    # ---- between epochs ----

    def _attend(self) -> None:
        """At a sync point: modules that return are taken in, and others sent for."""
        self._scrub_first = (self._scrub_first + SCRUB_PAGES) % (self._image.ram_bytes // PAGE_BYTES)
        self._recovery.scrub(self._scrub_first, SCRUB_PAGES)
        if self._requests.due:
            self._requests.run_due()
        resync = self._service.resync
        if resync is not None:
            if not resync.module.alive:
                self._service.lose_returning()
            elif resync.can_join():
                self._join()
            else:
                self._service.tell_progress()
        if self._service.resync is None:  # at once: an idle guest may not come to the next sync point by itself
            self._service.bring_back()

    def _join(self) -> None:
        """The module of the resync becomes one of those in service. All of them go on with cold TLBs."""
        resync = self._service.resync
        assert resync is not None
        began_s = time.monotonic()
        resync.finish()
        snapshot = msgspec.msgpack.encode(Snapshot(self._image.arch, self._image.board))
        if self._runner.command([resync.module], CommandKind.LOAD, payload=snapshot).losses:
            self._service.lose_returning()
            return
        flushed = self._runner.command(self._service.in_service, CommandKind.FLUSH_TLB)
        for loss in flushed.losses:  # found again, and settled, in the epoch that follows
            loss.module.kill()
        self._service.seat_returned((time.monotonic() - began_s) * 1e3)

    def _inputs(self) -> list[Input]:
        """What enters all modules at this sync point; a guest that has nothing to do waits for it here."""
        inputs: list[Input] = []
        if self._report.stop == StopKind.IDLE:
            inputs += self._idle(self._report.wake_ns)
            self._stopped_s = None
        return inputs + self._console.take()

    def _idle(self, wake_ns: int) -> list[Input]:
        """Wait until input comes or the timer event at ``wake_ns``, if not 0, is due, or a module needs attention."""
        if self._clock is None:
            while not wake_ns and not self._disturbed():
                self._wait(None)
            return []  # the modules let virtual time jump by themselves
        virtual_ns = self._image.virtual_ns()
        while not self._disturbed():
            now_ns = self._clock.now_ns(virtual_ns)
            if wake_ns and now_ns >= wake_ns:
                return [TimePassed(wake_ns)]
            self._wait((wake_ns - now_ns) / 1e9 if wake_ns else None)
        return [TimePassed(self._clock.now_ns(virtual_ns))]

    def _disturbed(self) -> bool:
        resync = self._service.resync
        return (
            self._console.pending()
            or self._requests.due
            or not all(module.alive for module in self._service.in_service)
            or (resync is not None and (not resync.module.alive or resync.can_join()))
        )

    def _wait(self, timeout_s: float | None) -> None:
        """Sleep until something happens; work on a resync meanwhile. Raises _Ended when the run was told to end."""
        if self._until_s is not None:
            left_s = self._until_s - time.monotonic()
            timeout_s = left_s if timeout_s is None else min(timeout_s, left_s)
        resync = self._service.resync
        busy = resync is not None and resync.module.alive and timeout_s != 0 and resync.copy_slice()
        self._poller.wait(0 if busy else timeout_s)
        if self._stop.is_set():
            raise _Ended(_STOPPED)
        if self._until_s is not None and time.monotonic() >= self._until_s:
            raise _Ended(Ending("timeout"))

    def _note(self, incident: Incident) -> None:
        self.incidents.append(incident)


def _ending(report: Report, outputs: Sequence[Output]) -> Ending | None:
    """The end of the run, if an epoch that ended like this is the last one."""
    ending = _ENDINGS.get(report.stop)
    for output in outputs:
        match output:
            case StopText():
                ending = _STOPPED
            case GuestExit(code):
                ending = Ending("exit", code)
            case PowerOff() | ResetRequest():
                ending = Ending("exit")
    return ending

"""The loop that makes one machine of several modules: run an epoch, compare, commit what all agree on."""

import contextlib
import copy
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from ftvm.errors import EngineError, HostError, UsageError
from ftvm.module import events
from ftvm.module.agenda import without_faults
from ftvm.module.board import StopKind
from ftvm.module.console_script import Text
from ftvm.module.events import (
    ColdTlb,
    ConsoleOut,
    DebugHit,
    DebugWatch,
    ExpectFaults,
    FaultStruck,
    GuestExit,
    Input,
    Output,
    PowerOff,
    QueueKick,
    ResetRequest,
    StopText,
    TextWatch,
    TimePassed,
    TimeWatch,
)
from ftvm.module.fault import Fault, LinearBit, PageTableBit, RamBit
from ftvm.module.link import COMMAND_BYTES, CommandKind, Load, Release, Report, Snapshot
from ftvm.monitor.checkpoint import Checkpoint, Ending
from ftvm.monitor.compare import Difference, compare, differences_now
from ftvm.monitor.console import Console
from ftvm.monitor.devices import FOREVER_S, ROOM_BYTES, Devices
from ftvm.monitor.epoch import Epoch, EpochRunner, Result
from ftvm.monitor.image import PageList, VerifiedImage
from ftvm.monitor.pace import Pace
from ftvm.monitor.poller import Poller, SyncPointPoller
from ftvm.monitor.recovery import FailStop, Incident, Recovery
from ftvm.monitor.script import LoggedInput, Moment, Script, ScriptMismatch
from ftvm.monitor.service import Service
from ftvm.monitor.timekeeping import RealTime
from ftvm.units import PAGE_BYTES

SHORT_EPOCH_BLOCKS = 100_000
"""Epochs at the end of a resync: the shorter, the less has changed that must be copied in the pause of joining. And
while a device has something on its way, with real time: the shorter, the sooner it enters."""

SCRUB_EVERY = 8
"""Of the sync points at which the guest only wants a device to be served, so many have one scrub."""

SCRUB_PAGES = 32
"""Compared with the image at each sync point, written or not: 256 MiB in about 20 s of a busy guest, for 20 us each."""


MAX_LOADS = 3
"""Attempts to have all modules at one state, when some die meanwhile."""


@dataclass(frozen=True)
class Goal:
    """How far to advance: to a moment, until ``text`` came on the serial console from now on, to what ``watch`` looks
    for, to a monotonic time; to whatever comes first. A text ends the stretch at the block after its last byte,
    whatever the epoch length. ``passed``: breakpoints of ``watch`` that do not count in the first block, since
    that is where one was met last time."""

    moment: Moment | None = None
    text: bytes | None = None
    until_s: float | None = None
    watch: DebugWatch | None = None
    passed: frozenset[int] = frozenset()
    inputs: int = 0
    """At the moment, so many must have been taken too."""
    sync_points: int | None = None
    """Or to so many of them from here."""


_HALTED = Ending("halted")
_STOPPED = Ending("stopped")
_TIMEOUT = Ending("timeout")
_ENDINGS: dict[int, Ending] = {StopKind.HALTED: _HALTED, StopKind.CRASH: Ending("crash")}
_RESUMABLE = (_STOPPED, _TIMEOUT)


_NO_OUTPUTS = events.encode([])


class _Ended(Exception):
    """Leaves the loop from wherever the end of the run was noticed."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.outcome)
        self.ending = ending


class Lockstep:
    """Drives the modules in service, which stand at the start image, from sync point to sync point.

    ``inputs`` (encoded) enter before the first block; then the devices that ``kicked`` names are to be served.

    ``begin``, then ``advance`` as often as wanted. A stretch ends when ``stop`` is set (wake the poller then) and at
    the monotonic time ``until_s``. With ``real_time`` an idle guest waits for the wall clock.
    ``epoch_blocks``: see Pace. ``on_fault`` hears of faults that were due, once what they did cannot be undone.
    """

    def __init__(
        self,
        service: Service,
        image: VerifiedImage,
        console: Console,
        poller: Poller,
        requests: SyncPointPoller,
        devices: Devices,
        *,
        inputs: bytes,
        kicked: Sequence[str],
        stop: threading.Event,
        epoch_blocks: int | None,
        until_s: float | None,
        real_time: bool,
        interactive: bool,
        on_fault: Callable[[FaultStruck], None] = lambda struck: None,
    ) -> None:
        self._service = service
        self._image = image
        self._console = console
        self._poller = poller
        self._requests = requests
        self._devices = devices
        self._pace = Pace(epoch_blocks)
        self._stop = stop
        self._until_s = until_s
        self._clock = RealTime() if real_time else None
        self._interactive = interactive
        self._runner = EpochRunner(self._wait_for_modules)
        self._recovery = Recovery(image, self._runner, service, self._note, self._note_cold_tlbs)
        self._scrub_first = 0
        self._stopped_s: float | None = None
        self._goal = Goal()
        self._at_once = False
        self._advancing = False
        self._interrupted: Epoch | None = None
        self._flush_due = False
        self._away: set[int] | None = None
        """The modules are on a venture; these pages they wrote on it."""
        self._standing = False
        self._script: Script | None = None
        self._parked: tuple[list[Input], list[str]] | None = None
        """Inputs and devices to be kicked, as of where the machine was live last."""
        self.script_shown = False
        self._tainted_anywhere = False
        self._tainted: set[int] = set()
        """Pages in which the modules' RAM may differ from the image although nobody wrote there."""
        self._text: Text | None = None
        self._text_matched = 0
        self._on_fault = on_fault
        self._faults: list[Fault] = []
        self._struck: frozenset[int] = frozenset()
        self.ending: Ending | None = None
        """How the guest, or the machine, came to an end from which there is no way on."""
        self.finished = False
        """The guest ended by itself: the verified state is its last."""
        self._entering: list[Input] = [*events.decode_inputs(inputs)] if inputs else []
        self._kicked = kicked
        self._uncommitted: list[Input] = []
        self.sync_points = 0
        self.dirty_pages: dict[int, int] = {}
        """By module: pages written in the newest epoch."""
        self.longest_pause_s = 0.0
        self.incidents: list[Incident] = []
        self.on_input: list[Callable[[LoggedInput], None]] = []
        """Called with all that enters the modules: with the start image, all that the run depends on. ``begin`` logs
        none: its inputs are part of the first state."""
        self.inputs_logged = 0
        self.hit: DebugHit | None = None
        """What the goal's watch found, if that ended the last stretch."""
        self._began_at = self._began_syncs = 0
        self.inputs_taken = 0
        """Those that are part of the verified state."""
        self.newest_ending: Ending | None = None
        """Of the newest stretch that was live."""
        self.on_leaving: list[Callable[[bool], None]] = []
        """Called before the machine becomes what it was at a checkpoint; True: it will not come back."""
        self.at_sync: list[Callable[[], None]] = []
        """Called at each sync point, between two epochs; a checkpoint may be taken then."""
        self.on_incident: list[Callable[[Incident, Moment], None]] = []
        """Called with each incident, and the moment to which the modules were rolled back."""
        self.arrived = True
        """See Checkpoint."""
        self.off_script = False
        """The TLBs are not what they were in the run that is repeated, so that what runs from here may set accessed
        bits which that one did not. ``restore`` ends it."""

    def inject(self, faults: list[Fault]) -> None:
        """Tell all modules of them at the next sync point."""
        self._faults += faults

    def resumable(self) -> Snapshot:
        """The verified state, for a machine that is to go on from it. Faults that have happened since then are not in
        it, nor in what ``unseen`` gives: they happened to modules that it will not have."""
        return Snapshot(self._image.arch, without_faults(self._image.board, self._struck))

    def begin(self) -> None:
        """The first sync point, once: do all modules start alike? Raises EngineError, HostError."""
        self._stretch(self._enter)

    def put_in(self, inputs: list[Input]) -> None:
        """Let these enter all modules here, now; they are logged, and repeated with the run. Raises UsageError while
        the machine runs, or repeats a run."""
        self._must_stand_still()
        if self._script is not None:
            raise UsageError("nothing new can enter in the past", "go another way from here first")
        self._entering += inputs
        self._stretch(self._enter_now)

    def _enter_now(self) -> None:
        while self._entering:
            self._uncommitted = events.portion(self._entering, ROOM_BYTES)
            self._log_inputs(events.encode(self._uncommitted), at_once=True)
            self._step(self._epoch_here(self._uncommitted))

    def _enter(self) -> None:
        while True:
            self._uncommitted = events.portion(self._entering, ROOM_BYTES)
            self._step(self._epoch_here(self._uncommitted))
            if not self._entering:
                break
        for device in self._kicked:
            self._devices.release(QueueKick(device, 0))

    def unseen(self) -> tuple[bytes, list[str]]:
        """What belongs to the verified state and is not in it: encoded inputs, those included that are to come of what
        devices are doing, which is waited for; and devices that need another kick."""
        if self._faults:
            self._entering.append(self._told_faults())
        inputs, kicked = self._devices.settle()
        self._entering += inputs
        entering = [
            ExpectFaults([fault for fault in event.faults if fault.number not in self._struck])
            if isinstance(event, ExpectFaults)
            else event
            for event in (*self._uncommitted, *self._entering)
        ]
        return (events.encode(entering) if entering else b""), kicked

    def advance(self, goal: Goal, at_once: bool = False) -> Ending | None:
        """Until the goal is reached, which is None, or the guest ends, somebody ends it, or the modules cannot go on.

        Time and ``stop`` end a stretch at a sync point. ``at_once``: in the middle of an epoch too, which is run again
        if another stretch follows. Raises EngineError, HostError.
        """
        self._goal, self._at_once = goal, at_once
        self._text, self._text_matched = Text(goal.text) if goal.text else None, 0
        self.hit, self._began_at, self._began_syncs = None, self._image.position, self.sync_points
        self._stopped_s = None
        if self.ending is not None and not (self.ending == _HALTED and self._console.pending()):
            return self.ending
        self.ending = None
        if self._away is not None:
            self.come_back()
        ending = self._stretch(self._loop)
        if self._script is None:
            self.newest_ending = ending
        return ending

    def play(self, inputs: Sequence[LoggedInput], end: Moment, shown: bool = False) -> None:
        """From here to ``end``, repeat a run that these inputs entered: nothing else enters, nothing leaves, and it is
        not logged again. ``shown``: but the console is shown."""
        if not self._standing:
            self._must_stand_still()
        self._script, self.script_shown = Script(inputs, end), shown

    def go_cold(self) -> None:
        """The TLBs are cold from here on, as they are where a run is begun in this state."""
        self._flush_due = True

    @property
    def playing(self) -> bool:
        return self._script is not None

    def _go_live(self) -> None:
        """A script is over: devices are where they were when its run was left."""
        self._script = None
        if self._parked is not None:
            (self._entering, kicked), self._parked = self._parked, None
            for device in kicked:
                self._devices.release(QueueKick(device, 0))

    def stop_playing(self) -> None:
        """The machine is live from here on, in the middle of a script: devices serve what is in their queues."""
        self._must_stand_still()
        for observer in (*self.on_leaving,):
            observer(True)
        self._script = self._parked = None
        self._devices.forget()
        self._devices.kick_all()

    def venture(self, position: int, instructions: int) -> None:
        """Let every module go on by itself, from the verified state or where it is on such a way: to ``position``, then
        so many instructions. Nothing is compared or committed, so that they may be seen as a fault has left them, or
        inside of a block. What a script has for the first moment enters. Whatever needs the verified state ends it.

        They stop earlier where the guest waits, or the outside is to serve it. Raises UsageError, HostError.
        """
        self._must_stand_still()
        if self._away is None:
            if self._interrupted is not None:
                self._regroup()
            self._away = set()
            for entry in [] if self._script is None else self._script.entering(self.moment):
                self._send(CommandKind.RUN, self._image.position, entry.inputs, 0)
        here = max((at for at, _ in self.standing()), default=0)
        before: list[Report] = []
        while here < position:
            reports = self._send(CommandKind.RUN, position, b"", position - here)
            if reports == before or all(report.position >= position for report in reports):
                break
            before = reports
        if instructions:
            self._send(CommandKind.STEP, instructions, b"", instructions)

    @property
    def venturing(self) -> bool:
        return self._away is not None

    def standing(self) -> list[tuple[int, int]]:
        """Where each module in service stands: position, and instructions executed of the block entered there."""
        reports = [module.report for module in self._service.in_service]
        return [(report.position, report.instruction) for report in reports if report is not None]

    def differences(self) -> tuple[Difference, ...]:
        """What differs between the modules in service where they stand now, as far as anybody wrote it."""
        modules = [module for module in self._service.in_service if module.report is not None]
        pages = sorted((self._away or set()) | self._tainted)
        reports = [module.report for module in modules if module.report is not None]
        return differences_now(reports, [module.memory() for module in modules], pages)

    def next_stop(self) -> Moment | None:
        """In a run that is repeated: the next moment after this one at which something enters, or the end of it."""
        return None if self._script is None else self._script.stop_after(self.moment)

    @property
    def epoch_blocks(self) -> int:
        """The length of the next epoch, if nothing makes it shorter."""
        return self._pace.blocks

    def _send(self, kind: CommandKind, target: int, payload: bytes, blocks: int) -> list[Report]:
        """A command to modules on a venture."""
        assert self._away is not None
        attempt = self._runner.command(self._service.in_service, kind, target, payload, blocks)
        for result in attempt.results:
            self._away |= {page for page in result.memory.listed() if page < self._image.ram_bytes // PAGE_BYTES}
        for loss in attempt.losses:
            self._service.vacate(loss.module)
        self._note_struck(attempt.reports)
        return attempt.reports

    def come_back(self) -> None:
        """The end of a venture: all modules become the verified state again, with cold TLBs."""
        self._must_stand_still()
        if self._away is None:
            return
        self._drain()
        pages = None if self._tainted_anywhere else PageList.of(self._away | self._tainted)
        for module in self._service.complete():
            module.restore_pages(self._image, pages)
        self._load_all(pages, Release.LATER)
        self._note_cold_tlbs()
        self.off_script = self._script is not None
        self._away = None
        self._tainted.clear()
        self._tainted_anywhere = False

    @property
    def moment(self) -> Moment:
        """Of the verified state."""
        return Moment(self._image.position, self._image.virtual_ns())

    def checkpoint(self) -> Checkpoint:
        """The verified state, to be restored later. The TLBs are cold from here on, as they will be then: whatever runs
        from here runs alike each time. Raises UsageError while the machine runs, HostError without memory."""
        if not self._standing:
            self._must_stand_still()
        self._flush_due = True
        kicked: Sequence[str] = ()
        if self._script is None:
            _, kicked = self.unseen()
        return Checkpoint(
            self._report,
            self.moment,
            self.arrived,
            self._image.keep(),
            self.ending,
            self.sync_points,
            tuple(self.incidents),
            self.inputs_logged,
            tuple(self._entering),
            tuple(kicked),
            bytes(self._console.shown),
            tuple(copy.deepcopy(slot.policing) for slot in self._service.slots),
        )

    def restore(self, checkpoint: Checkpoint, travelling: bool = False) -> None:
        """Be what the machine was then, with a module in service at every place. What is known of faults to come is as
        it was then, and no bit is held by one. ``travelling``: what is on its way from devices now waits for the end of
        the script that is going to be played, and bits that were held then still are. Raises UsageError while the
        machine runs, HostError."""
        self._must_stand_still()
        self._drain()
        for observer in (*self.on_leaving,):
            observer(not travelling)
        if not travelling:
            self._devices.forget()
            self._parked, self._faults = None, []
        elif self._parked is None:
            _, kicked = self.unseen()
            self._parked = [*self._uncommitted, *self._entering], kicked
        if self._away is not None:
            self._tainted |= self._away
            self._away = None
        report = checkpoint.report
        pages: PageList | None = self._image.put_back(checkpoint.memory, self._tainted)
        self._image.stand_at(Snapshot(report.arch, report.board))
        if self._interrupted is not None or self._tainted_anywhere:  # nobody knows what the modules have written
            pages = None
        for module in self._service.complete():
            module.restore_pages(self._image, pages)
        self._load_all(pages, Release.LATER if travelling else Release.ALL)
        self._interrupted = None
        self._tainted.clear()
        self._tainted_anywhere = False
        self._flush_due = False
        self._report, self.ending = report, checkpoint.ending
        self._uncommitted, self._entering = [], [] if travelling else [*checkpoint.entering]
        self._script = None
        self.off_script = False
        self.arrived = checkpoint.arrived
        self.finished = self.ending is not None and self.ending.outcome != "fail-stop"
        self.sync_points, self.incidents = checkpoint.sync_points, [*checkpoint.incidents]
        self.inputs_logged = self.inputs_taken = checkpoint.inputs
        self._console.shown[:] = checkpoint.console
        for slot in self._service.slots:
            slot.policing = checkpoint.policing(slot.index)
        self._clock = RealTime() if self._clock is not None else None
        for device in () if travelling else checkpoint.kicked:
            self._devices.release(QueueKick(device, 0))

    def _regroup(self) -> None:
        """An epoch was left in its middle: all modules become the verified state again, with cold TLBs."""
        self._drain()
        for module in self._service.complete():
            module.restore_pages(self._image, None)
        self._load_all(None, Release.NONE)
        self._note_cold_tlbs()
        self._interrupted = None

    def _drain(self) -> None:
        """Wait for modules that are still doing what they were told when somebody interrupted us."""
        for loss in self._runner.drain(self._service.in_service):
            self._service.vacate(loss.module)

    def _load_all(self, pages: PageList | None, release: Release) -> None:
        """All modules become the verified state; only in ``pages``, if not None, can their RAM have changed by that.
        ``release``: which bits that faults hold are let go."""
        snapshot = Snapshot(self._image.arch, self._image.board)
        payload = msgspec.msgpack.encode(Load(snapshot, None if pages is None else pages.encode(), release))
        if len(payload) > COMMAND_BYTES:  # a long list, or much that the guest has not read
            payload = msgspec.msgpack.encode(Load(snapshot, None, release))
        for _ in range(MAX_LOADS):
            losses = self._runner.command(self._service.in_service, CommandKind.LOAD, payload=payload).losses
            if not losses:
                return
            for loss in losses:
                self._service.vacate(loss.module)
            self._service.complete()
        raise HostError("the modules of the machine end as soon as they are started")

    def _must_stand_still(self) -> None:
        if self._advancing:
            raise UsageError("the machine is running", "a callback must return first")

    def _stretch(self, work: Callable[[], None]) -> Ending | None:
        self._must_stand_still()
        self._advancing = True
        try:
            work()
        except _Ended as end:
            ending = end.ending
        except FailStop:
            ending = Ending("fail-stop")
        else:
            return None
        finally:
            self._advancing = self._standing = False
        if ending not in _RESUMABLE:
            self.ending = ending
        return ending

    def _loop(self) -> None:
        if self._interrupted is not None:
            epoch = self._interrupted
            self._regroup()
            if epoch.blocks:  # the goal is another one now
                epoch = self._epoch_towards(self._next_stop(), epoch.blocks, self._uncommitted)
            self._step(epoch)
        while True:
            self._end_if_told()
            if self._script is not None and not self._script.goes_on(self.moment):
                self._go_live()
            if self._reached():
                return
            self._standing = True
            for look in self.at_sync:
                look()
            self._standing = False
            self._attend()
            if self._script is not None:
                self._play_epoch(self._script)
            else:
                self._step(self._next_epoch())

    def _step(self, epoch: Epoch) -> None:
        self._interrupted = epoch
        self._commit(self._agree(epoch))

    def _reached(self) -> bool:
        if self.hit is not None or (self._text is not None and self._text_matched == len(self._text)):
            return True
        goal = self._goal
        if goal.sync_points is not None and self.sync_points - self._began_syncs >= goal.sync_points:
            return True
        if goal.moment is None or self.moment < goal.moment:
            return False
        return self.inputs_taken >= goal.inputs or self.moment > goal.moment

    def _next_epoch(self) -> Epoch:
        inputs = self._inputs()
        if self._flush_due:
            self._flush_due = False
            inputs.append(ColdTlb())
        # What was too much for one command enters at one position all the same.
        more = self._entering or self._console.pending() or self._devices.pending() or self._devices.patience_s() > 0
        at_once = bool(more)
        if inputs:
            self._log_inputs(events.encode(inputs), at_once)
        self._uncommitted = inputs
        if at_once:
            return self._epoch_here(inputs)
        hurried = self._devices.busy() or (self._service.resync is not None and self._service.resync.nearly_done())
        self._pace.hurry(self._devices.hurry())
        blocks = min(SHORT_EPOCH_BLOCKS, self._pace.blocks) if hurried else self._pace.blocks
        return self._epoch_towards(self._next_stop(), blocks, inputs)

    def _epoch_here(self, inputs: list[Input]) -> Epoch:
        """Take the inputs, and go no further."""
        return Epoch(self._image.position, events.encode(inputs) if inputs else b"")

    def _next_stop(self) -> Moment | None:
        """The moment that no epoch may go past: the goal, or the next one at which a script has something to enter."""
        stops = [] if self._goal.moment is None else [self._goal.moment]
        if self._script is not None:
            stops.append(self._script.next_stop(self.moment))
        return min(stops, default=None)

    def _epoch_towards(self, stop: Moment | None, blocks: int, inputs: list[Input]) -> Epoch:
        """So many blocks, but not past ``stop``."""
        position = self._image.position
        if stop is not None:
            if stop.position > position:
                blocks = min(blocks, stop.position - position)
            else:  # the guest waits here; it is only time that goes on
                blocks, inputs = 1, [*inputs, TimeWatch(stop.virtual_ns)]
        if self._text is not None:
            inputs = [*inputs, TextWatch(self._goal.text or b"", self._text_matched)]
        watch = self._goal.watch
        if watch is not None:
            if position == self._began_at and self._goal.passed:
                blocks = 1
                left = [address for address in watch.breakpoints if address not in self._goal.passed]
                watch = msgspec.structs.replace(watch, breakpoints=left)
            inputs = [*inputs, watch]
        return Epoch(position + blocks, events.encode(inputs) if inputs else b"", blocks)

    def _play_epoch(self, script: Script) -> None:
        """One epoch of a run that is repeated. Raises ScriptMismatch."""
        before = self.moment
        entry = script.take(before)
        inputs: list[Input] = []
        if entry is not None:
            self.inputs_logged += 1
            inputs += events.decode_inputs(entry.inputs)
        self._uncommitted = inputs
        # More at this moment: a roll-back, after which the epoch with these inputs was run again.
        if entry is not None and (entry.at_once or script.entering(before)):
            epoch = Epoch(before.position, entry.inputs)
        else:
            epoch = self._epoch_towards(self._next_stop(), self._pace.blocks, inputs)
        self._step(epoch)
        if entry is None and self.moment == before and self.hit is None:
            raise ScriptMismatch(f"the guest waits at {before}; the run that is repeated went on from there")

    def _log_inputs(self, payload: bytes, at_once: bool) -> None:
        self.inputs_logged += 1
        entry = LoggedInput(*self.moment, at_once, payload)
        for observer in self.on_input:
            observer(entry)

    def _note_cold_tlbs(self) -> None:
        """The modules were told otherwise: whoever repeats this run must know."""
        if self._script is None:
            self._log_inputs(events.encode([ColdTlb()]), at_once=True)

    def _agree(self, epoch: Epoch) -> Result:
        """Run an epoch until there is a result that all in service agree on. Raises FailStop."""
        attempt = self._runner.run(self._service.in_service, epoch)
        self._struck = self._note_struck(attempt.reports)
        if self._stopped_s is not None:
            self.longest_pause_s = max(self.longest_pause_s, self._runner.began_s - self._stopped_s)
        self._stopped_s = self._runner.ended_s if self.sync_points else None
        self.dirty_pages = {result.module.index: result.memory.count for result in attempt.results}
        self._wait_for_modules(0)  # short epochs never sleep: look at the terminal here
        divergence = compare(self._image, attempt.reports, attempt.memories) if attempt.results else None
        if attempt.results and divergence is None and not attempt.losses:
            result = attempt.results[0]
            self._pace.observe(result.report.position - self._image.position, self._runner.epoch_s)
            return result
        return self._recovery.settle(epoch, attempt, divergence)

    def _note_struck(self, reports: Sequence[Report]) -> frozenset[int]:
        """The numbers of the faults that were due. Remembers what they did and no dirty log tells; a module that was
        hurt may say anything."""
        struck: list[Fault] = []
        for report in reports:
            if report.outputs != _NO_OUTPUTS:
                with contextlib.suppress(msgspec.DecodeError):
                    outputs = events.decode_outputs(report.outputs)
                    struck += [output.fault for output in outputs if isinstance(output, FaultStruck)]
        for fault in struck:
            match fault.target:
                case RamBit(offset, bit):
                    first, last = offset // PAGE_BYTES, (offset + (bit + fault.change.width - 1) // 8) // PAGE_BYTES
                    if 0 <= first <= last < min(self._image.ram_bytes // PAGE_BYTES, first + 2):
                        self._tainted |= {first, last}
                case LinearBit() | PageTableBit():
                    self._tainted_anywhere = True
        return frozenset(fault.number for fault in struck)

    def _commit(self, result: Result) -> None:
        """Everything that all modules agree on becomes verified, and leaves. Raises _Ended when it says so."""
        report = self._report = result.report
        self.arrived = report.position > self._image.position and report.stop not in (StopKind.IDLE, StopKind.HALTED)
        self._image.commit(report)
        self._interrupted = None
        self.inputs_taken = self.inputs_logged
        self._uncommitted = []
        self._struck = frozenset()
        if self._service.resync is not None:
            self._service.resync.committed()
        self.sync_points += 1
        outputs = events.decode_outputs(report.outputs)
        ending = _ending(report, outputs)
        if ending in (_HALTED, _STOPPED) and self._script is not None and self._script.goes_on(self.moment):
            ending = None  # somebody let it go on then
        self.finished = ending not in (None, _STOPPED)
        for output in outputs:
            if isinstance(output, ConsoleOut):
                self._look_for_text(output)
                self._console.release(output, shown=self._script is None or self.script_shown)
            elif self._script is not None:
                continue  # what came of it is in the script
            elif isinstance(output, FaultStruck):
                self._on_fault(output)
            else:
                self._devices.release(output)
        if self._script is None and not self._entering:  # else the chips do not know yet what their devices did
            self._devices.committed()
        if report.stop == StopKind.DEBUG:
            self.hit = DebugHit.decode(report.detail)
        if report.stop == StopKind.ENGINE:
            raise EngineError(f"the engine failed at position {report.position}: {report.detail.decode()}")
        if ending is not None:
            raise _Ended(ending)

    def _look_for_text(self, output: ConsoleOut) -> None:
        if self._text is not None and output.channel == "serial":
            for byte in output.data:
                if self._text_matched < len(self._text):
                    self._text_matched = self._text.advance(self._text_matched, byte)

    # ---- between epochs ----

    def _attend(self) -> None:
        """At a sync point: modules that return are taken in, and others sent for."""
        # A guest that kicks a device comes here thousands of times a second.
        if self._report.stop != StopKind.OUTPUT or self.sync_points % SCRUB_EVERY == 0:
            self._scrub_first = (self._scrub_first + SCRUB_PAGES) % (self._image.ram_bytes // PAGE_BYTES)
            self._recovery.scrub(self._scrub_first, SCRUB_PAGES)
        if self._requests.due:
            self._requests.run_due()
        resync = self._service.resync
        if resync is not None:
            if resync.left_s() <= 0:
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
        snapshot = msgspec.msgpack.encode(Load(Snapshot(self._image.arch, self._image.board)))
        if self._runner.command([resync.module], CommandKind.LOAD, payload=snapshot).losses:
            self._service.lose_returning()
            return
        flushed = self._runner.command(self._service.in_service, CommandKind.FLUSH_TLB)
        self._note_cold_tlbs()
        for loss in flushed.losses:  # found again, and settled, in the epoch that follows
            loss.module.kill()
        self._service.seat_returned((time.monotonic() - began_s) * 1e3)

    def _inputs(self) -> list[Input]:
        """What enters all modules at this sync point; a guest that has nothing to do waits for it here."""
        inputs: list[Input] = []
        if self._report.stop == StopKind.IDLE:
            inputs += self._idle(self._report.wake_ns)
            self._stopped_s = None
        while (patience_s := self._devices.patience_s()) > 0:
            self._wait(None if patience_s == FOREVER_S else patience_s)
            self._stopped_s = None  # it is a medium that the guest waits for, not us
            if self._requests.due:
                self._requests.run_due()
        if self._faults:
            inputs.append(self._told_faults())
        if self._entering:
            return inputs + events.portion(self._entering, ROOM_BYTES)
        return inputs + self._console.take() + self._devices.take()

    def _told_faults(self) -> ExpectFaults:
        """What was injected since the last sync point, on its way into the modules."""
        told, self._faults = ExpectFaults(self._faults), []
        return told

    def _idle(self, wake_ns: int) -> list[Input]:
        """Wait until input comes or the timer event at ``wake_ns``, if not 0, is due, or a module needs attention."""
        if self._clock is None:
            while not wake_ns and not self._disturbed():
                self._wait(self._service.attention_in_s())
            return []  # the modules let virtual time jump by themselves
        self._clock.become_idle(self._image.virtual_ns())
        while not self._disturbed():
            if not (wake_ns or self._interactive or self._devices.busy()):
                raise _Ended(_HALTED)
            now_ns = self._clock.now_ns()
            if wake_ns and now_ns >= wake_ns:
                return [TimePassed(wake_ns)]
            timeouts = [(wake_ns - now_ns) / 1e9 if wake_ns else None, self._service.attention_in_s()]
            self._wait(min((timeout_s for timeout_s in timeouts if timeout_s is not None), default=None))
        return [TimePassed(self._clock.now_ns())]

    def _disturbed(self) -> bool:
        resync = self._service.resync
        attention_in_s = self._service.attention_in_s()
        return (
            self._console.pending()
            or self._devices.pending()
            or bool(self._faults)
            or self._requests.due
            or not all(module.alive for module in self._service.in_service)
            or (attention_in_s is not None and attention_in_s <= 0)
            or (resync is not None and resync.can_join())
        )

    def _wait(self, timeout_s: float | None) -> None:
        """Sleep until something happens; work on modules that come and go meanwhile. Raises _Ended when told to end."""
        deadline_s = self._deadline_s()
        if deadline_s is not None:
            left_s = deadline_s - time.monotonic()
            timeout_s = left_s if timeout_s is None else min(timeout_s, left_s)
        self._sleep(timeout_s)
        self._end_if_told()

    def _wait_for_modules(self, timeout_s: float) -> None:
        """The same in the middle of an epoch, which must be brought to its end if anything is to follow."""
        if self._at_once:
            self._wait(timeout_s)
        else:
            self._sleep(timeout_s)

    def _sleep(self, timeout_s: float | None) -> None:
        self._devices.tend()
        due_s = self._devices.deadline_s()
        if due_s is not None:
            left_s = max(0.0, due_s - time.monotonic())
            timeout_s = left_s if timeout_s is None else min(timeout_s, left_s)
        busy = timeout_s != 0 and (self._service.tidy() or self._copy_slice())
        self._poller.wait(0 if busy else timeout_s)

    def _deadline_s(self) -> float | None:
        return min((s for s in (self._until_s, self._goal.until_s) if s is not None), default=None)

    def _end_if_told(self) -> None:
        if self._stop.is_set():
            self._stop.clear()
            raise _Ended(_STOPPED)
        deadline_s = self._deadline_s()
        if deadline_s is not None and time.monotonic() >= deadline_s:
            raise _Ended(_TIMEOUT)

    def _copy_slice(self) -> bool:
        resync = self._service.resync
        return resync is not None and resync.module.alive and resync.copy_slice()

    def _note(self, incident: Incident) -> None:
        self.incidents.append(incident)
        for observer in self.on_incident:
            observer(incident, self.moment)


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

"""The loop that makes one machine of several modules: run an epoch, compare, commit what all agree on."""

import copy
import threading
import time
from collections.abc import Callable, Sequence

import msgspec

from ftvm.errors import EngineError, UsageError
from ftvm.module import events
from ftvm.module.agenda import without_faults
from ftvm.module.board import StopKind
from ftvm.module.events import ColdTlb, ConsoleOut, DebugHit, FaultStruck, Input
from ftvm.module.fault import Fault
from ftvm.module.link import CommandKind, Load, Release, Snapshot
from ftvm.monitor.checkpoint import Checkpoint
from ftvm.monitor.compare import Difference, compare
from ftvm.monitor.console import Console
from ftvm.monitor.devices import Devices
from ftvm.monitor.ending import FAIL_STOPPED, HALTED, RESUMABLE, STOPPED, Ended, Ending, ending_of
from ftvm.monitor.epoch import Epoch, EpochRunner, Result
from ftvm.monitor.goal import Goal, Stretch
from ftvm.monitor.idle import Idle
from ftvm.monitor.image import VerifiedImage
from ftvm.monitor.intake import Intake
from ftvm.monitor.pace import Pace
from ftvm.monitor.pauses import Pauses
from ftvm.monitor.poller import Poller, SyncPointPoller
from ftvm.monitor.recovery import FailStop, Incident, Recovery
from ftvm.monitor.script import LoggedInput, Moment, Script, ScriptMismatch
from ftvm.monitor.service import Service
from ftvm.monitor.strays import Strays
from ftvm.monitor.turns import Course, Passed
from ftvm.monitor.waiting import Waiting
from ftvm.units import PAGE_BYTES

SHORT_EPOCH_BLOCKS = 100_000
"""Epochs at the end of a resync: the shorter, the less has changed that must be copied in the pause of joining. And
while a device has something on its way, with real time: the shorter, the sooner it enters."""

LOOK_S = 0.001
"""Between two looks at the terminal and all else that comes from outside, while epochs are short."""

PASS_S = 0.04
"""The longest for which sync points are passed without us, as an epoch of a busy guest: a signal, of all that may come,
is not looked for there."""

MAX_SITTING_OUT = 63
"""Sync points at which it is not tried to pass some without us, after none was: each time twice as many, up to here."""

SCRUB_EVERY = 8
"""Of the sync points at which the guest only wants a device to be served, so many have one scrub."""

SCRUB_PAGES = 32
"""Compared with the image at each sync point, written or not: 256 MiB in about 20 s of a busy guest, for 20 us each."""


class Lockstep:
    """Drives the modules in service, which stand at the start image, from sync point to sync point.

    ``inputs`` (encoded) enter before the first block; then the devices that ``kicked`` names are to be served.

    ``begin``, then ``advance`` as often as wanted. A stretch ends when ``stop`` is set (wake the poller then) and at
    the monotonic time ``until_s``. With ``real_time`` an idle guest waits for the wall clock.
    ``epoch_blocks``: see Pace. ``passing``: native code may pass sync points by itself (turns.py), which nobody can
    tell by what comes of them. ``on_fault`` hears of faults that were due, once what they did cannot be undone.
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
        passing: bool = True,
    ) -> None:
        self._service = service
        self._image = image
        self._console = console
        self._requests = requests
        self._devices = devices
        self._kicked = kicked
        self._on_fault = on_fault
        self._pace = Pace(epoch_blocks)
        self._pauses = Pauses()
        self._waiting = Waiting(service, devices, poller, stop, until_s)
        idle = Idle(
            service, image, console, requests, devices, self._waiting, real_time=real_time, interactive=interactive
        )
        self._intake = Intake(console, requests, devices, idle, self._waiting, self._pauses, inputs)
        self._runner = EpochRunner(image, self._waiting.wait_for_modules, self._waiting.has_work)
        self._passing = passing
        self._recovery = Recovery(image, self._runner, service, self._note, self._note_cold_tlbs)
        self._strays = Strays(service, image, self._runner)
        self._scrub_first = 0
        self._looked_s = 0.0
        self._fruitless = self._sitting_out = 0
        self._stretch = Stretch(Goal(), 0, 0)
        self._advancing = False
        self._looping = False
        self._interrupted: Epoch | None = None
        self._standing = False
        self._script: Script | None = None
        self.script_shown = False
        self.ending: Ending | None = None
        """How the guest, or the machine, came to an end from which there is no way on."""
        self.newest_ending: Ending | None = None
        """Of the newest stretch that was live."""
        self.finished = False
        """The guest ended by itself: the verified state is its last."""
        self.sync_points = 0
        self.dirty_pages: dict[int, int] = {}
        """By module: pages written in the newest epoch."""
        self.incidents: list[Incident] = []
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

    # ---- the loop ----

    def begin(self) -> None:
        """The first sync point, once: do all modules start alike? Raises EngineError, HostError."""
        self._run(self._enter)

    def advance(self, goal: Goal, at_once: bool = False) -> Ending | None:
        """Until the goal is reached, which is None, or the guest ends, somebody ends it, or the modules cannot go on.

        Time and ``stop`` end a stretch at a sync point. ``at_once``: in the middle of an epoch too, which is run again
        if another stretch follows. Raises EngineError, HostError.
        """
        self._stretch = Stretch(goal, self._image.position, self.sync_points)
        self._waiting.begin_stretch(goal.until_s, at_once)
        self._pauses.forget()
        if self.ending is not None and not (self.ending == HALTED and self._console.pending()):
            return self.ending
        self.ending = None
        if self._strays.venturing:
            self.come_back()
        self._looping = True
        try:
            ending = self._run(self._loop)
        finally:
            self._looping = False
        if self._script is None:
            self.newest_ending = ending
        return ending

    def _run(self, work: Callable[[], None]) -> Ending | None:
        self._must_stand_still()
        self._advancing = True
        try:
            work()
        except Ended as end:
            ending = end.ending
        except FailStop:
            ending = FAIL_STOPPED
        else:
            return None
        finally:
            self._advancing = self._standing = False
        if ending not in RESUMABLE:
            self.ending = ending
        return ending

    def _enter(self) -> None:
        while True:
            self._step(self._epoch_here(self._intake.portion()))
            if not self._intake.more:
                break
        if not self._waiting.told:
            self._kick_first()

    def _kick_first(self) -> None:
        """Devices that were to be served when the machine was saved."""
        kicked, self._kicked = self._kicked, ()
        self._intake.kick(kicked)

    def _enter_now(self) -> None:
        while self._intake.more:
            inputs = self._intake.portion()
            self._intake.log(events.encode(inputs), self.moment, at_once=True)
            self._step(self._epoch_here(inputs))

    def _loop(self) -> None:
        if self._interrupted is not None:
            epoch = self._interrupted
            self._regroup()
            if epoch.blocks:  # the goal is another one now
                epoch = self._epoch_ahead(epoch.blocks, self._intake.uncommitted)
            self._step(epoch)
        self._waiting.end_if_told()
        self._kick_first()
        while True:
            self._waiting.end_if_told()
            if self._script is not None and not self._script.goes_on(self.moment):
                self._script = None
                self._intake.go_live()
            if self._stretch.reached(self.moment, self.inputs_taken, self.sync_points):
                return
            self._standing = True
            for look in self.at_sync:
                look()
            self._standing = False
            self._attend()
            self._waiting.end_if_told()  # one that was saved must not go on
            if self._script is not None:
                self._play_epoch(self._script)
            else:
                self._step(self._next_epoch())

    def _step(self, epoch: Epoch) -> None:
        self._interrupted = epoch
        self._commit(self._agree(epoch))

    def _next_epoch(self) -> Epoch:
        inputs, at_once = self._intake.gather(self._report, self.moment)
        if at_once:
            return self._epoch_here(inputs)
        hurried = self._devices.busy() or (self._service.resync is not None and self._service.resync.nearly_done())
        self._pace.hurry(self._devices.hurry())
        blocks = min(SHORT_EPOCH_BLOCKS, self._pace.blocks) if hurried else self._pace.blocks
        return self._epoch_ahead(blocks, inputs)

    def _epoch_here(self, inputs: list[Input]) -> Epoch:
        """Take the inputs, and go no further."""
        return Epoch(self._image.position, inputs)

    def _epoch_ahead(self, blocks: int, inputs: list[Input]) -> Epoch:
        """So many blocks, but past neither the goal nor the next moment at which a script has something to enter."""
        stops = [] if self._stretch.goal.moment is None else [self._stretch.goal.moment]
        if self._script is not None:
            stops.append(self._script.next_stop(self.moment))
        return self._stretch.epoch(self._image.position, min(stops, default=None), blocks, inputs)

    def _play_epoch(self, script: Script) -> None:
        """One epoch of a run that is repeated. Raises ScriptMismatch."""
        before = self.moment
        entry = script.take(before)
        inputs = self._intake.repeat(entry)
        # More at this moment: a roll-back, after which the epoch with these inputs was run again.
        if entry is not None and (entry.at_once or script.entering(before)):
            epoch = Epoch(before.position, inputs)
        else:
            epoch = self._epoch_ahead(self._pace.blocks, inputs)
        self._step(epoch)
        if entry is None and self.moment == before and self.hit is None:
            raise ScriptMismatch(f"the guest waits at {before}; the run that is repeated went on from there")

    def _agree(self, epoch: Epoch) -> Result:
        """Run an epoch until there is a result that all in service agree on. Raises FailStop."""
        course = self._course(epoch)
        attempt = self._runner.turn(self._service.in_service, epoch, course, self._passed)
        epoch = self._interrupted or epoch
        self._intake.struck = self._strays.note_struck(attempt.reports)
        self._pauses.end(self._runner.began_s)
        if self.sync_points:
            self._pauses.begin(self._runner.ended_s)
        else:
            self._pauses.forget()
        self.dirty_pages = {result.module.index: result.memory.count for result in attempt.results}
        # Short epochs never sleep: look at the terminal here, where an epoch may still be given up.
        if self._runner.ended_s > self._looked_s + LOOK_S and not attempt.in_image:
            self._looked_s = self._runner.ended_s
            self._waiting.wait_for_modules(0)
        divergence = None
        if attempt.results and not attempt.agreed:
            divergence = compare(self._image, attempt.reports, attempt.memories, attempt.modules)
        if attempt.results and divergence is None and not attempt.losses:
            result = attempt.results[0]
            self._pace.observe(result.report.position - self._image.position, self._runner.epoch_s)
            return result
        return self._recovery.settle(epoch, attempt, divergence)

    def _course(self, epoch: Epoch) -> Course | None:
        """How sync points from ``epoch`` on may be passed, if only the driver of a disk wants anything at them."""
        if (
            not (self._passing and epoch.blocks and self._stretch.open)
            or self._report.stop != StopKind.OUTPUT
            or self._script is not None
            or self.at_sync
            or self._intake.observed
            or self._waiting.has_work()
            or self._requests.due
            or self._devices.hurry()
        ):
            return None
        if self._sitting_out:
            self._sitting_out -= 1
            return None
        disk = self._devices.turn_disk()
        if disk is None:
            return None
        self._sitting_out = self._fruitless = min(2 * self._fruitless + 1, MAX_SITTING_OUT)  # unless it comes to more
        now_s, due_s, attention_in_s = time.monotonic(), self._waiting.due_s(), self._service.attention_in_s()
        until_s = now_s + (PASS_S if attention_in_s is None else min(PASS_S, attention_in_s))
        return Course(
            disk,
            until_s if due_s is None else min(until_s, due_s),
            self._waiting.watched,
            epoch.blocks,
            self.sync_points,
            SCRUB_EVERY,
            self._scrub_first,
            SCRUB_PAGES,
        )

    def _passed(self, passed: Passed) -> None:
        """Sync points that were passed without us."""
        self._sitting_out = self._fruitless = 0
        report = self._report = passed.report
        self.arrived = True
        self._image.stand_at(Snapshot(report.arch, report.board))
        self._interrupted = Epoch(passed.target, passed.inputs, passed.target - report.position)
        self._intake.passed(passed.inputs, passed.count)
        self.sync_points += passed.count
        self._scrub_first = passed.scrub_first
        self._pauses.end(passed.first_s)
        self._pauses.passed(passed.longest_pause_s)
        self._pauses.forget()

    def _commit(self, result: Result) -> None:
        """Everything that all modules agree on becomes verified, and leaves. Raises Ended when it says so."""
        report = self._report = result.report
        self.arrived = report.position > self._image.position and report.stop not in (StopKind.IDLE, StopKind.HALTED)
        self._image.commit(report)
        self._interrupted = None
        self._intake.committed()
        if self._service.resync is not None:
            self._service.resync.committed()
        self.sync_points += 1
        outputs = events.decode_outputs(report.outputs)
        ending = ending_of(report, outputs)
        if ending in (HALTED, STOPPED) and self._script is not None and self._script.goes_on(self.moment):
            ending = None  # somebody let it go on then
        self.finished = ending not in (None, STOPPED)
        shown = [output for output in outputs if isinstance(output, ConsoleOut)]
        if self._script is None:  # else what came of the others is in the script
            for output in outputs:
                if isinstance(output, FaultStruck):
                    self._on_fault(output)
                elif not isinstance(output, ConsoleOut):
                    self._devices.release(output)
            if not self._intake.more:  # else the chips do not know yet what their devices did
                self._devices.committed()
        for output in shown:  # last: whoever sees it may save the machine, with all that devices were told
            self._stretch.look_for_text(output)
            self._console.release(output, shown=self._script is None or self.script_shown)
        if report.stop == StopKind.DEBUG:
            self._stretch.hit = DebugHit.decode(report.detail)
        if report.stop == StopKind.ENGINE:
            raise EngineError(f"the engine failed at position {report.position}: {report.detail.decode()}")
        if ending is not None:
            raise Ended(ending)

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

    def _note(self, incident: Incident) -> None:
        self.incidents.append(incident)
        for observer in self.on_incident:
            observer(incident, self.moment)

    def _note_cold_tlbs(self) -> None:
        """The modules were told otherwise: whoever repeats this run must know."""
        if self._script is None:
            self._intake.log(events.encode([ColdTlb()]), self.moment, at_once=True)

    def _must_stand_still(self) -> None:
        if self._advancing:
            raise UsageError("the machine is running", "a callback must return first")

    # ---- what there is to know ----

    @property
    def moment(self) -> Moment:
        """Of the verified state."""
        return Moment(self._image.position, self._image.virtual_ns())

    @property
    def hit(self) -> DebugHit | None:
        """What the goal's watch found, if that ended the last stretch."""
        return self._stretch.hit

    @property
    def epoch_blocks(self) -> int:
        """The length of the next epoch, if nothing makes it shorter."""
        return self._pace.blocks

    @property
    def longest_pause_s(self) -> float:
        return self._pauses.longest_s

    def resumable(self) -> Snapshot:
        """The verified state, for a machine that is to go on from it. Faults that have happened since then are not in
        it, nor in what ``unseen`` gives: they happened to modules that it will not have."""
        return Snapshot(self._image.arch, without_faults(self._image.board, self._intake.struck))

    def stop_at_once(self) -> None:
        """When the stop comes, the running epoch is not committed any more: the outside would see what a machine that
        was just saved will do again."""
        self._waiting.at_once = self._looping

    # ---- what enters ----

    def inject(self, faults: list[Fault]) -> None:
        """Tell all modules of them at the next sync point."""
        self._intake.inject(faults)

    def put_in(self, inputs: list[Input]) -> None:
        """Let these enter all modules here, now; they are logged, and repeated with the run. Raises UsageError while
        the machine runs, or repeats a run."""
        self._must_stand_still()
        if self._script is not None:
            raise UsageError("nothing new can enter in the past", "go another way from here first")
        self._intake.offer(inputs)
        self._run(self._enter_now)

    def unseen(self) -> tuple[bytes, list[str]]:
        """What belongs to the verified state and is not in it: encoded inputs, those included that are to come of what
        devices are doing, which is waited for; and devices that need another kick."""
        inputs, kicked = self._intake.unseen()
        return inputs, [*kicked, *self._kicked]

    @property
    def on_input(self) -> list[Callable[[LoggedInput], None]]:
        """Called with all that enters the modules: with the start image, all that the run depends on. ``begin`` logs
        none: its inputs are part of the first state."""
        return self._intake.on_input

    @property
    def inputs_logged(self) -> int:
        return self._intake.logged

    @property
    def inputs_taken(self) -> int:
        """Those that are part of the verified state."""
        return self._intake.taken

    def go_cold(self) -> None:
        """The TLBs are cold from here on, as they are where a run is begun in this state."""
        self._intake.go_cold()

    # ---- back and forth ----

    def checkpoint(self) -> Checkpoint:
        """The verified state, to be restored later. The TLBs are cold from here on, as they will be then: whatever runs
        from here runs alike each time. Raises UsageError while the machine runs, HostError without memory."""
        if not self._standing:
            self._must_stand_still()
        self._intake.go_cold()
        entering, kicked = self._intake.keep(live=self._script is None)
        return Checkpoint(
            self._report,
            self.moment,
            self.arrived,
            self._image.keep(),
            self.ending,
            self.sync_points,
            tuple(self.incidents),
            self.inputs_logged,
            entering,
            kicked,
            bytes(self._console.shown),
            tuple(copy.deepcopy(slot.policing) for slot in self._service.slots),
        )

    def restore(self, checkpoint: Checkpoint, travelling: bool = False) -> None:
        """Be what the machine was then, with a module in service at every place. What is known of faults to come is as
        it was then, and no bit is held by one. ``travelling``: what is on its way from devices now waits for the end of
        the script that is going to be played, and bits that were held then still are. Raises UsageError while the
        machine runs, HostError."""
        self._must_stand_still()
        self._strays.drain()
        for observer in (*self.on_leaving,):
            observer(not travelling)
        self._intake.leave(travelling)
        report = checkpoint.report
        pages = self._image.put_back(checkpoint.memory, self._strays.suspects())
        self._image.stand_at(Snapshot(report.arch, report.board))
        # Of an epoch that was interrupted nobody knows what the modules have written.
        changed = pages if self._interrupted is None else None
        self._strays.follow(changed, Release.LATER if travelling else Release.ALL)
        self._interrupted = self._script = None
        self._report, self.arrived, self.ending = report, checkpoint.arrived, checkpoint.ending
        self.finished = self.ending is not None and self.ending != FAIL_STOPPED
        self.off_script = False
        self.sync_points, self.incidents = checkpoint.sync_points, [*checkpoint.incidents]
        self._console.shown[:] = checkpoint.console
        for slot in self._service.slots:
            slot.policing = checkpoint.policing(slot.index)
        self._intake.arrive(checkpoint, travelling)

    def play(self, inputs: Sequence[LoggedInput], end: Moment, shown: bool = False) -> None:
        """From here to ``end``, repeat a run that these inputs entered: nothing else enters, nothing leaves, and it is
        not logged again. ``shown``: but the console is shown."""
        if not self._standing:
            self._must_stand_still()
        self._script, self.script_shown = Script(inputs, end), shown

    @property
    def playing(self) -> bool:
        return self._script is not None

    def next_stop(self) -> Moment | None:
        """In a run that is repeated: the next moment after this one at which something enters, or the end of it."""
        return None if self._script is None else self._script.stop_after(self.moment)

    def stop_playing(self) -> None:
        """The machine is live from here on, in the middle of a script: devices serve what is in their queues."""
        self._must_stand_still()
        for observer in (*self.on_leaving,):
            observer(True)
        self._script = None
        self._intake.branch()

    # ---- ventures ----

    def venture(self, position: int, instructions: int) -> None:
        """Let every module go on by itself, from the verified state or where it is on such a way: to ``position``, then
        so many instructions. Nothing is compared or committed, so that they may be seen as a fault has left them, or
        inside of a block. What a script has for the first moment enters. Whatever needs the verified state ends it.

        They stop earlier where the guest waits, or the outside is to serve it. Raises UsageError, HostError.
        """
        self._must_stand_still()
        if not self._strays.venturing:
            if self._interrupted is not None:
                self._regroup()
            self._strays.leave()
            for entry in [] if self._script is None else self._script.entering(self.moment):
                self._strays.send(CommandKind.RUN, self._image.position, entry.inputs, 0)
        self._strays.go(position, instructions)

    @property
    def venturing(self) -> bool:
        return self._strays.venturing

    def standing(self) -> list[tuple[int, int]]:
        """Where each module in service stands: position, and instructions executed of the block entered there."""
        return self._strays.standing()

    def differences(self) -> tuple[Difference, ...]:
        """What differs between the modules in service where they stand now, as far as anybody wrote it."""
        return self._strays.differences()

    def come_back(self) -> None:
        """The end of a venture: all modules become the verified state again, with cold TLBs."""
        self._must_stand_still()
        if self._strays.venturing:
            self._strays.come_back()
            self._note_cold_tlbs()
            self.off_script = self._script is not None

    def _regroup(self) -> None:
        """An epoch was left in its middle: all modules become the verified state again, with cold TLBs."""
        self._strays.regroup()
        self._note_cold_tlbs()
        self._interrupted = None

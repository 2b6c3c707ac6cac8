"""Back and forth in the run of a machine: every place that it has been at can be gone to again, bit by bit.

with Machine(config) as machine:
    session = Session(machine)
    session.run(text="login:")
    session.back_blocks(1000)
    session.step_instructions(3)
    print(machine.modules[0].registers["rip"])

The session keeps what entered the machine, and checkpoints. To be somewhere again is to restore the checkpoint before
that place and to let the same enter as before; nothing leaves meanwhile. From the newest place, the *present*, the
machine is live.

A machine that was made of a recording is in the past from the start: its present is where the recording ends.

Between the verified state at which a fault was rolled back and the sync point that found it, the modules are shown as
they were: each for itself, with what the fault had made of them. So they are inside of a block. ``compared`` says
whether the modules stand at a verified state.
"""

import bisect
import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ftvm.debug.code import code_address
from ftvm.errors import UsageError
from ftvm.machine import Machine
from ftvm.module import events
from ftvm.module.events import ColdTlb, DebugHit, DebugWatch, Poke
from ftvm.monitor.checkpoint import Checkpoint
from ftvm.monitor.compare import Difference
from ftvm.monitor.ending import Ending
from ftvm.monitor.goal import Goal
from ftvm.monitor.recording import Recording
from ftvm.monitor.recovery import Incident
from ftvm.monitor.script import LoggedInput, Moment, Place
from ftvm.units import MIB

CHECKPOINT_S = 0.5
"""Wall time of running between two checkpoints: going back takes as long, on average half of it."""
MEMORY_BYTES = 512 * MIB
"""What checkpoints may take by default. Beyond, they are thinned out: the older, the wider apart."""
MIN_CHECKPOINTS = 3

NEAR_BLOCKS = 2000
"""So far before a place that was gone back to, there is one to go back to quickly."""
SEARCHED_BLOCKS = 1000
"""Searching backwards begins with so many, and so many findings at once."""
TRACED_BLOCKS = 4096
"""Farther than so many instructions, nobody goes back instruction by instruction at once."""


@dataclass(frozen=True)
class Episode:
    """An incident: the modules were rolled back to ``began``; whoever had got farthest stood at position ``found``."""

    incident: Incident
    began: Moment
    found: int


class Session:
    """Goes back and forth with ``machine``, inside its context, from where that stands now. Nobody else may run it."""

    def __init__(self, machine: Machine, memory_bytes: int = MEMORY_BYTES) -> None:
        self.machine = machine
        self.episodes: list[Episode] = []
        """What happened to the modules so far."""
        self.hit: DebugHit | None = None
        """What the last ``watch`` found."""
        self._loop = machine.lockstep
        self._memory_bytes = memory_bytes
        self._log: list[LoggedInput] = []
        self._checkpoints: list[Checkpoint] = []
        self._near: Checkpoint | None = None
        """Shortly before a place that was gone back to, since whoever goes back goes on doing so. The TLBs were not
        cold there: it is for looking only."""
        self._kept_s = 0.0
        self._loop.arrived = True  # nothing is known of what was before
        first = self._loop.checkpoint()
        self._logged_before = first.inputs
        self._present = Place(first.moment, 0)
        self._recording: Recording | None = machine.recording
        self._explored = first.moment
        self._add(first)
        if self._recording is not None:
            self._log += self._recording.inputs
            self._present = self._recording.last
            self._play()
        self._loop.on_input.append(self._log.append)
        self._loop.at_sync.append(self._at_sync)
        self._loop.on_incident.append(self._note)

    # ---- where it stands ----

    @property
    def position(self) -> int:
        """Of the modules: the block entry at which they stand, or that of the block inside of which they stand."""
        return self._farthest()[0]

    @property
    def instruction(self) -> int:
        """How many instructions of the block they have executed."""
        return self._farthest()[1]

    @property
    def present(self) -> int:
        """The newest position."""
        return self._present.moment.position

    @property
    def in_past(self) -> bool:
        return self._loop.playing and self._place() < self._present

    @property
    def compared(self) -> bool:
        """The modules stand at the verified state. Otherwise they went on from it without being compared."""
        return not self._loop.venturing

    def differences(self) -> tuple[Difference, ...]:
        """What differs between the modules here: registers, chips, and memory that was written since they agreed."""
        return self._loop.differences()

    @property
    def ending(self) -> Ending | None:
        """How the guest ended, if it stands at its end; of a recording: how that ended, where it does."""
        if self._recording is not None and not self.in_past:
            end = self._recording.end
            return Ending("cut-off") if end is None else Ending(end.outcome, end.exit_code)
        return self._loop.ending

    @property
    def checkpoints(self) -> list[int]:
        """The positions of those that are kept."""
        return [checkpoint.position for checkpoint in self._checkpoints]

    # ---- forward ----

    def run(
        self,
        position: int | None = None,
        text: str | None = None,
        timeout_s: float | None = None,
        watch: DebugWatch | None = None,
    ) -> Ending | None:
        """As Machine.run_until, from wherever it stands; from the past through to the present, and on from there.

        When ``watch`` finds something, that is ``hit``; after a breakpoint it stands before the very instruction. The
        breakpoint before which it stands now does not count.
        """
        here = self._next_address()
        self._commit_here()
        passed = frozenset(self._passed(here, watch))
        end: Moment | int | None = position
        if self._recording is not None and (position is None or position > self.present):
            if not self.in_past:
                return self.ending
            end = self._present.moment
        ending = self.machine.run_until(end, text, timeout_s, watch, passed)
        if self._recording is not None and ending is None and self._loop.moment == end and self.machine.hit is None:
            self._travel(self._present)
            ending = self.ending
        self._look_at_present()
        self.hit = self.machine.hit
        self._come_to_breakpoint()
        return ending

    def step_blocks(self, count: int = 1) -> Ending | None:
        """On to the entry of the ``count``-th block from here."""
        return self.goto(self.position + count)

    def step_epoch(self) -> Ending | None:
        """On by as many blocks as the machine would have run before its next comparison."""
        return self.step_blocks(self._loop.epoch_blocks)

    def step_sync(self) -> Ending | None:
        """On to the next comparison of the modules."""
        self._commit_here()
        ending = self.machine.run_until(sync_points=1)
        self._look_at_present()
        return ending

    def step_instructions(self, count: int = 1) -> Ending | None:
        """On by so many instructions; an interrupt or exception that is taken instead of one counts as one."""
        for _ in range(count):
            if not self._step():
                return self.ending
        return None

    # ---- back and forth ----

    @contextlib.contextmanager
    def before(self, episode: Episode) -> Iterator[None]:
        """Meanwhile the machine is as it was at the verified state to which that went back."""
        live, here = not self.in_past, (self.position, self.instruction)
        self._travel(episode.began)
        try:
            yield
        finally:
            if live:
                self.goto_present()
            else:
                self.goto(*here)

    def goto(self, position: int, instruction: int = 0) -> Ending | None:
        """To the entry of the block at ``position``, where the guest comes there first, and on by so many of its
        instructions. Beyond the present it runs there; if it does not come there, the result says why.

        Raises UsageError for a place that is not there; it stands where it stood then.
        """
        here = self.position, self.instruction
        if position < self._checkpoints[0].position:
            raise UsageError(f"nothing is known of position {position}", f"the session began at {self.checkpoints[0]}")
        if instruction < 0:
            raise UsageError(f"{instruction} instructions", "give 0 or more")
        episode = self._episode_at(position)
        if episode is not None:
            self._travel(episode.began)
            self._loop.venture(position, instruction)
        else:
            ending = self._arrive(position)
            if ending is not None:
                return ending
            if instruction:
                self._loop.venture(position, instruction)
        if (self.position, self.instruction) != (position, instruction):
            self.goto(*here)
            raise UsageError(f"the block at {position} has no instruction {instruction} to stand before")
        return None

    def goto_present(self) -> None:
        """To the newest place."""
        self._go_live()

    def back_blocks(self, count: int = 1) -> None:
        """Back to the entry of the ``count``-th block before this place; from inside of a block, its own counts."""
        self.goto(self.position - count + (self.instruction > 0))

    def back_instructions(self, count: int = 1) -> None:
        """Back by so many instructions."""
        if count > TRACED_BLOCKS:
            raise UsageError(f"{count} instructions back", f"at most {TRACED_BLOCKS} at once; go back by blocks first")
        here = self.position, self.instruction
        if count <= here[1]:
            self.goto(here[0], here[1] - count)
            return
        first = max(self._checkpoints[0].position, here[0] - count)
        self.goto(first)
        places: list[tuple[int, int]] = []
        while (place := (self.position, self.instruction)) < here:
            places.append(place)
            if not self._step():
                break
        if len(places) < count:
            self.goto(first)
            raise UsageError(f"{count} instructions back", f"this is the first of {len(places)} that are known")
        self.goto(*places[-count])

    def back_to(self, watch: DebugWatch) -> bool:
        """Back to where ``watch`` would have found something last, which is ``hit``; False, and at the first place that
        is known, when it never did."""
        here = self.position, self.instruction
        self.hit = None
        if self._last_in_block(here, watch):
            return True
        first, end, width = self._checkpoints[0].position, here[0], SEARCHED_BLOCKS
        # What happens in the block before is seen at the entry of this one; so that counts from inside of it.
        last = here[0] if here[1] else here[0] - 1
        while end > first:
            start = max(first, end - width)
            found = self._last_between(start, end, last, watch)
            if found is not None:
                place, self.hit = found
                self._travel(place)
                self._come_to_breakpoint()
                return True
            end, width = start, width * 8
        self._travel(self._checkpoints[0].moment)
        return False

    # ---- another future ----

    def branch(self) -> None:
        """What came after this place is forgotten, and the machine is live from here on. So that something else may
        happen: a fault, a key. Inside of a block, that is the block's entry."""
        self._commit_here()
        self._look_at_present()
        if not self._loop.playing:
            return
        if self.in_past and any(not disk.read_only for disk in self.machine.board.disks):
            raise UsageError(
                "the guest cannot go another way from here: its disks hold what it wrote later",
                "go to the present, or give it read-only disks",
            )
        self._loop.stop_playing()
        self._recording = self._near = None
        del self._log[self._loop.inputs_logged - self._logged_before :]
        self._present = self._place()
        self._checkpoints = [kept for kept in self._checkpoints if self._place_of(kept) <= self._present]
        self.episodes = [episode for episode in self.episodes if episode.began < self._present.moment]

    def poke(self, memory: Sequence[tuple[int, bytes]] = (), registers: Mapping[str, bytes] | None = None) -> None:
        """Change memory, (RAM offset, bytes), and registers, little endian, of all modules alike. A block inside of
        which it stands ends here then. It is an input like others. In the past, what came after is forgotten."""
        instructions = self.instruction
        self.branch()
        self._loop.put_in([Poke(instructions, list(memory), dict(registers or {}))])
        self._look_at_present()

    # ---- how it is done ----

    def _farthest(self) -> tuple[int, int]:
        """Where the module stands that has got farthest: a fault may have led others astray."""
        return max(self._loop.standing(), default=(0, 0)) if self._loop.venturing else (self._loop.moment.position, 0)

    def _next_address(self) -> int:
        """Of the instruction before which it stands."""
        return code_address(next(module for module in self.machine.modules if module.in_service).registers)

    def _passed(self, here: int, watch: DebugWatch | None) -> Iterator[int]:
        """Breakpoints in the block at whose entry it stands, up to ``here``."""
        if watch is not None:
            entry = self._next_address()
            yield from (address for address in watch.breakpoints if entry <= address <= here)

    def _come_to_breakpoint(self) -> None:
        """From the entry of the block in which the breakpoint is."""
        if self.hit is None or self.hit.kind != "breakpoints":
            return
        position = self.position
        while self._next_address() != self.hit.where and self.position == position:
            self._loop.venture(position, 1)

    def _last_in_block(self, here: tuple[int, int], watch: DebugWatch) -> bool:
        """Go to the last breakpoint before ``here`` in the block inside of which that is, if there is one."""
        breakpoints = {address: index for index, address in enumerate(watch.breakpoints)}
        found = None
        if here[1] and breakpoints:
            self.goto(here[0])
            while (self.position, self.instruction) < here:
                address = self._next_address()
                if address in breakpoints:
                    found = (self.instruction, DebugHit("breakpoints", breakpoints[address], address))
                self._loop.venture(here[0], 1)
        if found is None:
            return False
        self.goto(here[0], found[0])
        self.hit = found[1]
        return True

    def _last_between(self, start: int, end: int, last: int, watch: DebugWatch) -> tuple[Moment, DebugHit] | None:
        """The last thing that ``watch`` finds between two positions of the past, and where; breakpoints before ``end``,
        others up to ``last``."""
        self._travel(Moment(start, 0), exactly=True)
        found: tuple[Moment, DebugHit] | None = None
        passed: set[int] = set()
        for _ in range(SEARCHED_BLOCKS):
            self.machine.run_until(end, watch=watch, passed=frozenset(passed))
            hit, moment = self.machine.hit, self._loop.moment
            if hit is None or moment.position > (end - 1 if hit.kind == "breakpoints" else last):
                return found
            if found is not None and moment != found[0]:
                passed.clear()
            if hit.kind == "breakpoints":
                passed.add(hit.where)
            found = moment, hit
            if moment.position >= end:
                return found
        assert found is not None, "it was found often"
        middle = (found[0].position + end) // 2
        if middle in (found[0].position, end):
            return found
        return (
            self._last_between(middle, end, last, watch)
            or self._last_between(found[0].position, middle, last, watch)
            or found
        )

    def _step(self) -> bool:
        """One instruction on; False where there is none. In the past, modules go on uncompared until something enters:
        to be back at a verified state takes a while there."""
        here = self._farthest()
        if self._recording is not None and not self.in_past:
            return False
        self._loop.venture(here[0], 1)
        there = self._farthest()
        if there == here:
            return self._wait_on(here[0])
        stop = self._loop.next_stop()
        due = stop is None or there[0] >= stop.position or self._episode_at(here[0]) is not None
        if not there[1] and self._episode_at(there[0]) is None and due:
            self._arrive(there[0])
        return True

    def _wait_on(self, position: int) -> bool:
        """No instruction was executed: the guest waits, or has ended, or a device is to serve it."""
        self._commit_here()
        ending = self.machine.run_until(position + 1)
        self._look_at_present()
        return ending is None

    def _place(self) -> Place:
        """Of the verified state."""
        return Place(self._loop.moment, self._loop.inputs_taken - self._logged_before)

    def _place_of(self, checkpoint: Checkpoint) -> Place:
        return Place(checkpoint.moment, checkpoint.inputs - self._logged_before)

    def _play(self) -> None:
        """What entered after this place enters again."""
        self._loop.play(self._log[self._loop.inputs_logged - self._logged_before :], self._present.moment)

    def _commit_here(self) -> None:
        """Stand at a verified state, from which the machine runs as it ran."""
        if self._loop.venturing and self.position > self._loop.moment.position:
            self._arrive(self.position)
        elif self._loop.venturing or self._loop.off_script:
            self._travel(self._place(), exactly=True)

    def _go_live(self) -> None:
        """What is run after this is new."""
        if self.in_past:
            self._travel(self._present, exactly=True)

    def _arrive(self, position: int) -> Ending | None:
        """Where the guest comes to ``position`` first, verified."""
        if position <= self.present:
            self._travel(Moment(position, 0))
            return None
        if self._recording is not None:
            self._travel(self._present)
            return self.ending
        self._go_live()
        ending = self.machine.run_until(position)
        self._look_at_present()
        return ending

    def _travel(self, target: Moment | Place, exactly: bool = False) -> None:
        """To a place that is not after the present, or where the guest comes first to a moment, or to a position, for
        which virtual time 0 stands.

        After a venture in the past the TLBs are cold, as they were not then. ``exactly``: not so, since the machine is
        going to be run from here."""
        loop = self._loop
        to_present = target == self._present
        if not isinstance(target, Place):
            target = Place(target, bisect.bisect_left(self._log, target, key=lambda entry: entry.moment))
        if self._is_at(target) and not (exactly and loop.playing and (loop.venturing or loop.off_script)):
            loop.come_back()
            return
        here, checkpoint, near = self._place(), self._checkpoint_before(target), self._near
        runs_by = loop.playing and not loop.venturing and not loop.off_script and here <= target
        past_near = -1 if near is None else target.moment.position - near.position
        if near is not None and 0 <= past_near <= 2 * NEAR_BLOCKS and not (exactly or runs_by):
            self._go_back(near)
            loop.off_script = True
        elif not runs_by or here < self._place_of(checkpoint):
            self._go_back(checkpoint)
            approach = target.moment.position - NEAR_BLOCKS
            if not exactly and target < here and loop.moment.position < approach:
                loop.advance(Goal(Moment(approach, 0)))
                self._near = loop.checkpoint()
        while not self._is_at(target):
            ending = loop.advance(Goal(target.moment, inputs=target.inputs + self._logged_before))
            if to_present:  # there may be checkpoints on the way, which are in the log
                target = self._present
            if ending is not None and not self._is_at(target):
                raise UsageError(f"the way to {target.moment} was interrupted", f"it stands at {loop.moment}")

    def _go_back(self, checkpoint: Checkpoint) -> None:
        self._loop.restore(checkpoint, travelling=True)
        self._play()

    def _is_at(self, target: Place) -> bool:
        here, moment = self._place(), target.moment
        if here == target:
            return True
        return moment.virtual_ns == 0 and here.moment.position == moment.position and self._loop.arrived

    def _checkpoint_before(self, target: Place) -> Checkpoint:
        kept = self._checkpoints
        after = bisect.bisect_right(kept, target, key=self._place_of)
        if target.moment.virtual_ns == 0 and after < len(kept):
            following = kept[after]
            if following.position == target.moment.position and following.arrived:
                return following
        return kept[max(0, after - 1)]

    def _look_at_present(self) -> None:
        if not self._loop.playing:
            self._present = self._place()

    def _at_sync(self) -> None:
        loop = self._loop
        explores = self._recording is not None and loop.moment > self._explored and not loop.off_script
        new = not loop.playing or explores
        self._explored = max(self._explored, loop.moment)
        if new and time.monotonic() - self._kept_s > CHECKPOINT_S:
            if loop.playing:  # the TLBs are cold at a checkpoint; each time that this place is passed
                entry = LoggedInput(*loop.moment, True, events.encode([ColdTlb()]))
                self._log.insert(loop.inputs_logged - self._logged_before, entry)
                self._present = Place(self._present.moment, self._present.inputs + 1)
                self._play()
            self._add(loop.checkpoint())

    def _add(self, checkpoint: Checkpoint) -> None:
        self._kept_s = time.monotonic()
        self._checkpoints.append(checkpoint)
        while self.machine.checkpoint_bytes > self._memory_bytes and len(self._checkpoints) > MIN_CHECKPOINTS:
            self._thin_out()

    def _thin_out(self) -> None:
        """Forget the one whose loss widens a gap least, for its age."""
        kept = self._checkpoints
        newest = kept[-1].position

        def cost(index: int) -> float:
            return (kept[index + 1].position - kept[index - 1].position) / (newest - kept[index].position + 1)

        del kept[min(range(1, len(kept) - 1), key=cost)]

    def _note(self, incident: Incident, began: Moment) -> None:
        reports = [report for report in incident.divergence.reports if report is not None]
        found = max((report.position for report in reports), default=began.position)
        known = any(each.began.position < found and began.position < each.found for each in self.episodes)
        if not self._loop.playing or (self._recording is not None and not known):
            self.episodes.append(Episode(incident, began, found))

    def _episode_at(self, position: int) -> Episode | None:
        for episode in self.episodes:
            if episode.began.position < position < episode.found:
                return episode
        return None

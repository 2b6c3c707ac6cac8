"""How far a stretch goes, and whether it is there."""

import msgspec

from ftvm.module.console_script import Text
from ftvm.module.events import ConsoleOut, DebugHit, DebugWatch, Input, TextWatch, TimeWatch
from ftvm.monitor.epoch import Epoch
from ftvm.monitor.script import Moment


class Goal(msgspec.Struct, frozen=True):
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


class Stretch:
    """The way to a goal, which begins at ``position`` after so many ``sync_points``."""

    def __init__(self, goal: Goal, position: int, sync_points: int) -> None:
        self.goal = goal
        self.hit: DebugHit | None = None
        """What the goal's watch found."""
        self._began_at, self._began_syncs = position, sync_points
        self._text = Text(goal.text) if goal.text else None
        self._matched = 0

    @property
    def open(self) -> bool:
        """Nothing that the guest does leads to the goal: there is none but an end, or a time."""
        return msgspec.structs.replace(self.goal, until_s=None) == Goal()

    def look_for_text(self, output: ConsoleOut) -> None:
        """In what the guest has shown."""
        if self._text is not None and output.channel == "serial":
            for byte in output.data:
                if self._matched < len(self._text):
                    self._matched = self._text.advance(self._matched, byte)

    def reached(self, moment: Moment, inputs_taken: int, sync_points: int) -> bool:
        """Whether the goal is reached in this verified state."""
        if self.hit is not None or (self._text is not None and self._matched == len(self._text)):
            return True
        goal = self.goal
        if goal.sync_points is not None and sync_points - self._began_syncs >= goal.sync_points:
            return True
        if goal.moment is None or moment < goal.moment:
            return False
        return inputs_taken >= goal.inputs or moment > goal.moment

    def epoch(self, position: int, stop: Moment | None, blocks: int, inputs: list[Input]) -> Epoch:
        """So many blocks from ``position``, but not past ``stop``; with what it takes to find the goal."""
        if stop is not None:
            if stop.position > position:
                blocks = min(blocks, stop.position - position)
            else:  # the guest waits here; it is only time that goes on
                blocks, inputs = 1, [*inputs, TimeWatch(stop.virtual_ns)]
        if self._text is not None:
            inputs = [*inputs, TextWatch(self.goal.text or b"", self._matched)]
        watch = self.goal.watch
        if watch is not None:
            if position == self._began_at and self.goal.passed:
                blocks = 1
                left = [address for address in watch.breakpoints if address not in self.goal.passed]
                watch = msgspec.structs.replace(watch, breakpoints=left)
            inputs = [*inputs, watch]
        return Epoch(position + blocks, inputs, blocks)

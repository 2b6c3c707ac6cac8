"""What entered a machine, and how to let it enter again: a run is its first state and this.

A guest at HLT stays at its position while time goes on, so a moment is a position and a virtual time.
"""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import msgspec

from ftvm.errors import UnusableFile


class Moment(NamedTuple):
    """A place in a run where the modules can stand between two epochs; moments are in order."""

    position: int
    virtual_ns: int

    def __str__(self) -> str:
        return f"position {self.position:,}, {self.virtual_ns / 1e9:.9f} s"


class Place(NamedTuple):
    """A moment, and how many inputs had been taken: several may enter at one moment."""

    moment: Moment
    inputs: int


class LoggedInput(msgspec.Struct, frozen=True, array_like=True, tag="input", forbid_unknown_fields=True):
    """``inputs`` (encoded, ftvm/module/events.py) that entered all modules at this moment.

    ``at_once``: they took them and went no further before the next sync point.
    """

    position: Annotated[int, msgspec.Meta(ge=0)]
    virtual_ns: Annotated[int, msgspec.Meta(ge=0)]
    at_once: bool
    inputs: bytes

    @property
    def moment(self) -> Moment:
        return Moment(self.position, self.virtual_ns)


class ScriptMismatch(UnusableFile):
    """A run that is repeated does not come by where it was: it is not the same build, guest or start, or the log is
    not that of this run."""


class Script:
    """Lets ``inputs`` enter at their moments, and nothing else, until ``end``.

    Used by the loop alone, which asks at each sync point; ``now`` is where the modules stand.
    """

    def __init__(self, inputs: Sequence[LoggedInput], end: Moment) -> None:
        self._inputs = inputs
        self._next = 0
        self.end = end

    def entering(self, now: Moment) -> list[LoggedInput]:
        """All that ``take`` would give at this moment."""
        end = self._next
        while end < len(self._inputs) and self._inputs[end].moment == now:
            end += 1
        return [*self._inputs[self._next : end]]

    def stop_after(self, now: Moment) -> Moment:
        """The first moment after this one at which something enters, or the end."""
        for index in range(self._next, len(self._inputs)):
            if self._inputs[index].moment > now:
                return self._inputs[index].moment
        return self.end

    def take(self, now: Moment) -> LoggedInput | None:
        """What enters now, if anything does. Raises ScriptMismatch when its moment has gone by."""
        following = self._following()
        if following is None or following.moment > now:
            return None
        if following.moment < now:
            raise ScriptMismatch(f"the run was to take input at {following.moment}; this one is at {now} already")
        self._next += 1
        return following

    def goes_on(self, now: Moment) -> bool:
        """Whether the run went on from here."""
        return self._following() is not None or now < self.end

    def next_stop(self, now: Moment) -> Moment:
        """The next moment at which the modules must stand still."""
        following = self._following()
        return self.end if following is None else min(self.end, following.moment)

    def _following(self) -> LoggedInput | None:
        return self._inputs[self._next] if self._next < len(self._inputs) else None

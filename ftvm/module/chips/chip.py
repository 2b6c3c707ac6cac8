"""What every chip is: registers behind offsets, a state that can be saved, an optional timer, interrupt lines.

A chip is a pure state machine. It never sees an absolute address, a host clock, a file or another chip; what it
needs from outside arrives through the few callables it is given at construction, and what it does to the
outside leaves through them. All its memory between two accesses is one struct, ``state``, made of integers,
booleans, bytes, lists and tuples of them, so that the board can save, compare and load it as a value.
"""

from collections.abc import Callable
from typing import Any, Protocol

Clock = Callable[[], int]
"""Virtual time since reset in nanoseconds, as of this block."""


class IrqLine(Protocol):
    """One wire to an interrupt controller. Setting a level it already has is harmless."""

    def __call__(self, level: bool, /) -> None: ...


class Chip(Protocol):
    """A device as the board sees it. ``offset`` counts from the start of the chip's own range."""

    state: Any

    def read(self, offset: int, size: int) -> int:
        """``size`` is 1, 2 or 4 bytes (8 too for memory-mapped chips); the value is unsigned."""
        ...

    def write(self, offset: int, size: int, value: int) -> None: ...


class TimedChip(Chip, Protocol):
    """A chip that does something by itself when virtual time passes."""

    def next_event_ns(self) -> int | None:
        """Virtual time at which ``advance`` must be called next; None when nothing is armed."""
        ...

    def advance(self, now_ns: int) -> None:
        """Do everything that is due at ``now_ns`` (never less than at the last call)."""
        ...

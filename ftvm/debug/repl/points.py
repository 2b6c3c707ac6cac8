"""Breakpoints and watches of a session, by the numbers that their user knows them by."""

from collections.abc import Iterator
from dataclasses import dataclass

from ftvm.errors import UsageError
from ftvm.module.events import DebugHit, DebugWatch

MAX_POINTS = 64

Range = tuple[int, int, int]
"""First, size, access: see DebugWatch."""


@dataclass(frozen=True)
class Point:
    """One thing to look for: ``what`` is an entry of the list ``kind`` of a DebugWatch, ``text`` what its user sees."""

    number: int
    kind: str
    what: int | str | tuple[int, int] | Range
    text: str


class Points:
    """All of them. A number is not used again."""

    def __init__(self) -> None:
        self._points: list[Point] = []
        self._last_number = 0

    def __iter__(self) -> Iterator[Point]:
        return iter(self._points)

    def add(self, kind: str, what: int | str | tuple[int, int] | Range, text: str) -> Point:
        """Raises UsageError when there are too many, or this one is there already."""
        if len(self._points) == MAX_POINTS:
            raise UsageError(f"more than {MAX_POINTS} breakpoints and watches", "'delete N' takes one away")
        same = next((point for point in self._points if (point.kind, point.what) == (kind, what)), None)
        if same is not None:
            raise UsageError(f"{same.text} is number {same.number} already")
        self._last_number += 1
        self._points.append(Point(self._last_number, kind, what, text))
        return self._points[-1]

    def delete(self, number: int) -> None:
        """Raises UsageError for one that is not there."""
        left = [point for point in self._points if point.number != number]
        if len(left) == len(self._points):
            known = ", ".join(str(point.number) for point in self._points) or "none"
            raise UsageError(f"there is no breakpoint or watch {number}", f"there are: {known}")
        self._points = left

    def clear(self) -> None:
        self._points.clear()

    def watch(self, *addresses: int) -> DebugWatch | None:
        """What to look for: all of them, and breakpoints at ``addresses``; None when there is nothing."""
        watch = DebugWatch()
        for point in self._points:
            match point.what:
                case int(address):
                    watch.breakpoints.append(address)
                case str(name):
                    watch.registers.append(name)
                case (first, size):
                    watch.memory.append((first, size))
                case (first, size, access):
                    (watch.ports if point.kind == "ports" else watch.linear).append((first, size, access))
        watch.breakpoints.extend(address for address in addresses if address not in watch.breakpoints)
        return watch if self._points or addresses else None

    def found(self, hit: DebugHit) -> Point | None:
        """Whose it is; None: an address that was given to ``watch``."""
        same = [point for point in self._points if point.kind == hit.kind]
        return same[hit.index] if hit.index < len(same) else None

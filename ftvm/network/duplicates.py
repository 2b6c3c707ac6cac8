"""Which of several copies of a frame is the one to keep, when each leg brings its own."""

import time
from collections import OrderedDict
from collections.abc import Callable

import xxhash

FORGET_S = 0.4
"""Copies of one frame come within this time (the EntryForgetTime of IEC 62439-3, Parallel Redundancy Protocol)."""
MAX_FRAMES = 8192


class _Seen:
    """How often each leg has brought a frame with this content."""

    __slots__ = ("by_leg", "first_s")

    def __init__(self, first_s: float) -> None:
        self.first_s = first_s
        self.by_leg: dict[int, int] = {}


class DuplicateFilter:
    """Keeps the first copy of each frame. A leg that brings the same content twice means two frames: the first copy of
    the second one is kept too."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: OrderedDict[bytes, _Seen] = OrderedDict()

    def is_new(self, leg: int, frame: bytes) -> bool:
        now_s = self._clock()
        self._forget(now_s)
        key = xxhash.xxh3_128_digest(frame)
        seen = self._seen.get(key)
        if seen is None:
            seen = self._seen[key] = _Seen(now_s)
        delivered = max(seen.by_leg.values(), default=0)
        count = seen.by_leg[leg] = seen.by_leg.get(leg, 0) + 1
        return count > delivered

    def __len__(self) -> int:
        return len(self._seen)

    def _forget(self, now_s: float) -> None:
        while self._seen:
            oldest = next(iter(self._seen.values()))
            if len(self._seen) < MAX_FRAMES and now_s - oldest.first_s < FORGET_S:
                return
            self._seen.popitem(last=False)

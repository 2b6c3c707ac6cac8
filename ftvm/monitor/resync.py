"""Bringing a module into service while the others run: its RAM is filled from the verified image in the shadow of
their epochs, and at a sync point it takes over the rest and joins. The pause is for what the last epochs changed.
"""

import math
import time

from ftvm._native import ffi
from ftvm.errors import FtvmError
from ftvm.module.link import CommandKind
from ftvm.monitor.image import VerifiedImage
from ftvm.monitor.module_handle import ModuleHandle, ModuleLost
from ftvm.units import PAGE_BYTES

SLICE_PAGES = 256
"""Copied at a time, some 0.2 ms: the monitor must not be late for the end of an epoch."""
JOIN_PAGES = 2048
"""As few pages may be copied while the others stand still: a few milliseconds."""

ANSWER_S = 10.0
"""For the last command before it joins, which takes no time."""
MAX_ROUNDS = 20
"""Passes over RAM before a module joins all the same: the guest writes faster than we copy."""


class Resync:
    """The way of ``module``, whose RAM is all zero, into service. All calls on the monitor's thread."""

    def __init__(self, module: ModuleHandle, image: VerifiedImage) -> None:
        self.module = module
        self._image = image
        self._pending = bytearray(image.ram_bytes // PAGE_BYTES)
        self._pending_buffer = ffi.from_buffer("uint8_t[]", self._pending, require_writable=True)
        self._next = 0
        self._rounds = 0
        self._asked_s: float | None = None
        self._answered = False
        image.mark_content(self._pending_buffer)
        self._total = self.pending_pages

    @property
    def pending_pages(self) -> int:
        """How many pages are still to be copied."""
        return self._pending.count(1)

    def progress(self) -> float:
        """From 0 to 1; it may go back a little while the guest writes."""
        return 1.0 - min(1.0, self.pending_pages / self._total) if self._total else 1.0

    def copy_slice(self) -> bool:
        """Copy a little, in the shadow of an epoch. False: there was nothing to do."""
        if not self._is_ready() or (self.nearly_done() and self.pending_pages <= JOIN_PAGES):
            return False
        last = len(self._pending)
        self._next = self._image.copy_pending(self.module.ram, self._pending_buffer, self._next, SLICE_PAGES)
        if self._next == last:
            self._next = 0
            self._rounds += 1
        return True

    def committed(self) -> None:
        """The image has just committed: what changed is to be copied again."""
        self._image.mark_compared(self._pending_buffer)

    def nearly_done(self) -> bool:
        """All of RAM was copied once; what is left is what the guest keeps writing."""
        return self._rounds > 0

    def can_join(self) -> bool:
        """What is left is little enough to be copied at this sync point, or will not become less."""
        near = self.pending_pages <= JOIN_PAGES or self._rounds >= MAX_ROUNDS
        return near and self._is_ready() and self._answers()

    def stands_still(self) -> bool:
        """Its module owes no report, so that others may command it."""
        return self._asked_s is None or self._answers()

    def left_s(self) -> float:
        """Seconds until its module is taken for hung; 0 or less when it is, or is dead."""
        if not self.module.alive:
            return 0.0
        if self._answered:
            return math.inf
        if self._asked_s is None:
            return self.module.starting_left_s()
        return self._asked_s + ANSWER_S - time.monotonic()

    def _is_ready(self) -> bool:
        try:
            return self.module.alive and self.module.is_ready()
        except FtvmError:  # it ended while starting, or cannot work: whoever looks whether it lives hears of it
            self.module.kill()
            return False

    def _answers(self) -> bool:
        """It did a command while nobody waited for it: one that hangs now would be a long pause."""
        if self._asked_s is None:
            self._asked_s = time.monotonic()
            self.module.post(CommandKind.FLUSH_TLB)
        if not self._answered and self.module.reported():
            try:
                self.module.collect()
                self._answered = True
            except ModuleLost:
                self.module.kill()
        return self._answered

    def finish(self) -> None:
        """At a sync point: copy what is left."""
        self._image.copy_pending(self.module.ram, self._pending_buffer, 0, len(self._pending))

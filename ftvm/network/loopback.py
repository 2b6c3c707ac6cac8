"""Legs without a host behind them: frames come back to the NIC that sent them, or go to another NIC of the machine.

What comes back does so at once and in order, so that a run with such a leg depends on nothing but its inputs.
"""

import contextlib
import os
from collections import deque
from collections.abc import Sequence

from ftvm.errors import UsageError
from ftvm.network.frame import Frame

MAX_WAITING = 1024
"""Frames that nobody has taken out of a leg; more are dropped."""


class Wire:
    """Joins two legs. Its link is up unless one of them was pulled: also before both are plugged in."""

    def __init__(self) -> None:
        self.ends: list[Loopback | None] = [None, None]
        self.pulled = [False, False]

    def plug(self) -> "Loopback":
        """Raises UsageError when both ends are taken."""
        for side, end in enumerate(self.ends):
            if end is None:
                self.pulled[side] = False
                leg = self.ends[side] = Loopback(self)
                return leg
        raise UsageError("a wire has two ends, and both are taken", "give it to two legs")

    def pull(self, leg: "Loopback") -> None:
        side = self.ends.index(leg)
        self.ends[side] = None
        self.pulled[side] = True


class Loopback:
    """One end of a ``wire``; without one, a plug that sends everything back."""

    def __init__(self, wire: Wire | None = None) -> None:
        self.reflects = wire is None
        self.dropped = 0
        self._wire = wire
        self._waiting: deque[Frame] = deque()
        self._alarm = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._open = True
        self._tell_peer()

    @property
    def link_up(self) -> bool:
        return self._open and (self._wire is None or not any(self._wire.pulled))

    def _peer(self) -> "Loopback | None":
        if self._wire is None:
            return self if self._open else None
        return next((end for end in self._wire.ends if end is not self), None)

    def fileno(self) -> int:
        return self._alarm

    def deadline_s(self) -> float | None:
        return None

    def receive(self, limit: int) -> list[Frame]:
        waiting = self._waiting
        frames = [waiting.popleft() for _ in range(min(limit, len(waiting)))]
        if not waiting:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._alarm)
        return frames

    def send(self, frames: Sequence[Frame]) -> None:
        peer = self._peer()
        taken = frames[: MAX_WAITING - len(peer._waiting)] if peer is not None else ()
        self.dropped += len(frames) - len(taken)
        if peer is not None and taken:
            peer._waiting.extend(taken)
            os.eventfd_write(peer._alarm, 1)

    def close(self) -> None:
        if self._open:
            self._open = False
            if self._wire is not None:
                self._wire.pull(self)
                self._tell_peer()
            os.close(self._alarm)

    def _tell_peer(self) -> None:
        """The link is another one now."""
        peer = self._peer()
        if peer is not None and peer is not self:
            os.eventfd_write(peer._alarm, 1)

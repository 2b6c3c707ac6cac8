"""A leg that goes wrong on purpose: what fault injection, and the tests, put between a team and its leg.

Everything that happens by chance follows from the fault's seed and the order of the frames.
"""

import random
import time
from collections import deque
from collections.abc import Iterable, Sequence
from enum import StrEnum

import msgspec

from ftvm.errors import UsageError
from ftvm.network.frame import Frame
from ftvm.network.leg import Leg

MAX_HELD = 1024
"""Frames kept for later; more go at once."""


class FaultModel(StrEnum):
    """What goes wrong."""

    DROP = "drop"  # the frame is lost
    CORRUPT = "corrupt"  # one bit of it is another one
    DUPLICATE = "duplicate"  # it comes twice
    REORDER = "reorder"  # it comes after the next one
    DELAY = "delay"  # it comes ``seconds`` later, and all behind it no earlier
    LINK_DOWN = "link-down"  # nothing passes, and the link is down, for ``seconds`` (0: for ever)


class Direction(StrEnum):
    """Seen from the guest."""

    SENT = "sent"
    RECEIVED = "received"
    BOTH = "both"


class Fault(msgspec.Struct, frozen=True):
    """``rate`` is the probability that a frame is concerned, ``count`` how many at most (0: no limit).

    Raises UsageError for what cannot be.
    """

    model: FaultModel
    direction: Direction = Direction.BOTH
    rate: float = 1.0
    count: int = 0
    seconds: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise UsageError(f"a fault of every frame with probability {self.rate}", "give 0 to 1")
        if self.count < 0 or not 0 <= self.seconds < 1e6:
            raise UsageError(f"a fault of {self.count} frames for {self.seconds} seconds", "neither may be negative")


class _Lane:
    """One direction: which frames go on, and when."""

    def __init__(self, fault: Fault, chance: random.Random) -> None:
        self._fault = fault
        self._chance = chance
        self._left = fault.count or None
        self._swapped: Frame | None = None
        self._held: deque[tuple[float, Frame]] = deque()

    def deadline_s(self) -> float | None:
        return self._held[0][0] if self._held else None

    def due(self, now_s: float) -> list[Frame]:
        """The frames whose delay is over."""
        frames = []
        while self._held and self._held[0][0] <= now_s:
            frames.append(self._held.popleft()[1])
        return frames

    def pass_on(self, frames: Iterable[Frame], now_s: float) -> list[Frame]:
        passed: list[Frame] = []
        for frame in frames:
            passed += self._one(frame, now_s)
        return passed

    def _one(self, frame: Frame, now_s: float) -> list[Frame]:
        if self._swapped is not None:
            before, self._swapped = self._swapped, None
            return [frame, before]
        struck = self._strikes()
        if self._held or (struck and self._fault.model is FaultModel.DELAY):
            if len(self._held) < MAX_HELD:
                wait_s = self._fault.seconds if struck else 0.0
                last_s = self._held[-1][0] if self._held else now_s
                self._held.append((max(last_s, now_s + wait_s), frame))
                return []
            return [frame]
        if not struck:
            return [frame]
        match self._fault.model:
            case FaultModel.DROP:
                return []
            case FaultModel.CORRUPT:
                data = bytearray(frame.data)
                data[self._chance.randrange(len(data))] ^= 1 << self._chance.randrange(8)
                return [Frame(bytes(data), frame.offload)]
            case FaultModel.DUPLICATE:
                return [frame, frame]
            case _:
                self._swapped = frame
                return []

    def _strikes(self) -> bool:
        if self._left == 0 or self._chance.random() >= self._fault.rate:
            return False
        if self._left is not None:
            self._left -= 1
        return True


class FaultyLeg:
    """``leg`` with one fault; wrap again for more."""

    def __init__(self, leg: Leg, fault: Fault) -> None:
        self._leg = leg
        self._fault = fault
        self._lost = 0
        chance = random.Random(fault.seed)
        frames = fault.model is not FaultModel.LINK_DOWN
        self._sent = _Lane(fault, chance) if frames and fault.direction is not Direction.RECEIVED else None
        self._received = _Lane(fault, chance) if frames and fault.direction is not Direction.SENT else None
        self._down_until_s: float | None = None
        if fault.model is FaultModel.LINK_DOWN:
            self._down_until_s = time.monotonic() + fault.seconds if fault.seconds else float("inf")

    @property
    def link_up(self) -> bool:
        return self._down_until_s is None and self._leg.link_up

    @property
    def reflects(self) -> bool:
        return self._leg.reflects

    @property
    def dropped(self) -> int:
        return self._leg.dropped + self._lost

    def fileno(self) -> int:
        return self._leg.fileno()

    def deadline_s(self) -> float | None:
        lanes = (lane.deadline_s() for lane in (self._sent, self._received) if lane is not None)
        moments = (self._leg.deadline_s(), self._down_until_s, *lanes)
        return min((moment for moment in moments if moment is not None and moment != float("inf")), default=None)

    def receive(self, limit: int) -> list[Frame]:
        now_s = time.monotonic()
        if self._down_until_s is not None and now_s >= self._down_until_s:
            self._down_until_s = None
        if self._sent is not None:
            late = self._sent.due(now_s)
            if late:
                self._leg.send(late)
        frames = self._leg.receive(limit)
        if self._down_until_s is not None:
            self._lost += len(frames)
            return []
        if self._received is None:
            return frames
        return self._received.due(now_s) + self._received.pass_on(frames, now_s)

    def send(self, frames: Sequence[Frame]) -> None:
        if self._down_until_s is not None:
            self._lost += len(frames)
            return
        self._leg.send(frames if self._sent is None else self._sent.pass_on(frames, time.monotonic()))

    def close(self) -> None:
        self._leg.close()

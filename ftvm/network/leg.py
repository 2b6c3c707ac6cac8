"""One host-side half of a NIC. Nothing here ever waits: a leg that cannot take a frame drops it, as a wire would."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

from ftvm.network.frame import Frame


class Reason(StrEnum):
    """Why a leg is not what it should be."""

    LINK_DOWN = "link down"
    IO_ERROR = "I/O error"
    BAD_FRAME = "bad frame"
    GONE = "interface gone"
    PULLED = "pulled"


class LegFailed(Exception):
    """``detail`` is one line. The leg may come up again by itself; ``link_up`` tells."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Leg(Protocol):
    """What a NIC's team needs of a leg, and each kind of leg is (one file each)."""

    @property
    def link_up(self) -> bool:
        """Whether frames pass. ``receive`` brings it up to date."""
        ...

    @property
    def reflects(self) -> bool:
        """Frames come back on purpose: those from the NIC's own address are meant for it."""
        ...

    @property
    def dropped(self) -> int:
        """Frames that could not be taken."""
        ...

    def fileno(self) -> int:
        """Can be read when ``receive`` has something to do. Stays the same."""
        ...

    def deadline_s(self) -> float | None:
        """When, on the monotonic clock, ``receive`` must be called even if nothing can be read."""
        ...

    def receive(self, limit: int) -> list[Frame]:
        """Up to ``limit`` frames that have come. Raises LegFailed; what came before that is lost, as on a wire."""
        ...

    def send(self, frames: Sequence[Frame]) -> None:
        """Raises LegFailed when the leg takes none from now on."""
        ...

    def close(self) -> None: ...

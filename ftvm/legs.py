"""What the legs of a disk and those of a NIC have in common: their states, and what happens to them, as values.

Each fault of a leg is one ``LegFault``, whether the leg stays in service, comes back by itself, or not: whoever polices
legs (mean time between faults) counts them, and pulls the leg when it has seen enough.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from ftvm.errors import FtvmError


class LegState(StrEnum):
    """The states of a leg, in the words of ``ftvm ctl status``."""

    DUPLEXED = "duplexed"  # has everything, can carry the traffic; beside another one that does
    DUPLEXING = "duplexing"  # gets all writes, and is being brought in sync
    ONLINE = "online"  # as duplexed, but the only one
    OFFLINE = "offline"  # taken out of service, or not there at the start
    FAILED = "failed"  # out of service by a failure of its own

    @property
    def sound(self) -> bool:
        """The device could do with this leg alone."""
        return self in (LegState.DUPLEXED, LegState.ONLINE)


class LegChanged(msgspec.Struct, frozen=True):
    """``leg`` is in another state now; ``reason`` says why, for people."""

    leg: int
    state: LegState
    reason: str


class LegFault(msgspec.Struct, frozen=True):
    """``leg`` failed an operation, lost its link, or broke."""

    leg: int
    reason: StrEnum
    detail: str


class LegStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One leg, for people and for ``--json``. ``where``: its file or interface. ``reason``: why it is out of service.
    ``progress``: how much of what it lacks is there, 0 to 1, while it is brought back. ``active``: it carries traffic.
    """

    index: int
    where: str
    state: LegState
    reason: str
    progress: float | None = None
    active: bool | None = None


class LeggedStatus(Protocol):
    @property
    def state(self) -> str: ...
    @property
    def legs(self) -> Sequence[LegStatus]: ...


class Legged(Protocol):
    """A disk's mirror, or a NIC's team."""

    @property
    def may_leave(self) -> frozenset[LegState]:
        """States of a leg that can be pulled."""
        ...

    def status(self) -> LeggedStatus: ...

    def pull(self, leg: int) -> None:
        """Take a leg out of service. Raises UsageError for the last one that is sound."""
        ...

    def insert(self, leg: int, on_done: Callable[[FtvmError | None], None]) -> None:
        """Bring a leg back; ``on_done`` is told when it is in service, or why it is not. Raises FtvmError when that is
        known at once."""
        ...

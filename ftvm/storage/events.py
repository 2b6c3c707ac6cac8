"""What happens to a disk that somebody may want to know: values, given to one callback as they happen.

Each fault of a leg is one ``LegFault``, whether the leg stays in service or not: whoever polices legs (mean time
between faults) counts them, and calls ``Mirror.pull`` when it has seen enough.
"""

from dataclasses import dataclass
from enum import StrEnum

from ftvm.storage.leg import Reason


class LegState(StrEnum):
    """The states of a leg, in the words of ``ftvm ctl status``."""

    DUPLEXED = "duplexed"  # in sync, with another one that is
    DUPLEXING = "duplexing"  # gets all writes, and is being brought in sync
    ONLINE = "online"  # in sync, the only one
    OFFLINE = "offline"  # taken out of service, or not there when the disk was opened
    FAILED = "failed"  # out of service by a failure of its own


@dataclass(frozen=True)
class LegChanged:
    """``leg`` is in another state now; ``reason`` says why, for people."""

    leg: int
    state: LegState
    reason: str


@dataclass(frozen=True)
class LegFault:
    """``leg`` failed an operation."""

    leg: int
    reason: Reason
    detail: str


@dataclass(frozen=True)
class Repaired:
    """What ``leg`` could not read, or had wrong, was written again from a leg that has it right."""

    leg: int
    offset: int
    size: int


@dataclass(frozen=True)
class Mismatch:
    """Legs in sync differ here, and nothing says which one is right."""

    offset: int
    size: int


@dataclass(frozen=True)
class Unreadable:
    """No leg can give these bytes."""

    offset: int
    size: int


Event = LegChanged | LegFault | Repaired | Mismatch | Unreadable

"""What happens to a NIC that somebody may want to know: values, given to one callback as they happen.

They say the same as those of a disk (ftvm/storage/events.py): each fault of a leg is one ``LegFault``, whether the leg
comes up again by itself or not; whoever polices legs counts them, and calls ``Team.pull`` when it has seen enough.
"""

from dataclasses import dataclass
from enum import StrEnum

from ftvm.network.leg import Reason


class LegState(StrEnum):
    """The states of a leg, in the words of ``ftvm ctl status``."""

    DUPLEXED = "duplexed"  # can carry the traffic, beside another one that can
    ONLINE = "online"  # can carry the traffic, the only one
    OFFLINE = "offline"  # taken out of service
    FAILED = "failed"  # no link, or broken


@dataclass(frozen=True)
class LegChanged:
    """``leg`` is in another state now; ``reason`` says why, for people."""

    leg: int
    state: LegState
    reason: str


@dataclass(frozen=True)
class LegFault:
    """``leg`` lost its link, or broke."""

    leg: int
    reason: Reason
    detail: str


@dataclass(frozen=True)
class ActiveLeg:
    """The traffic takes ``leg`` from now on; None: no leg has a link."""

    leg: int | None


Event = LegChanged | LegFault | ActiveLeg

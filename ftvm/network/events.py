"""What happens to a NIC that somebody may want to know: values, given to one callback as they happen."""

from dataclasses import dataclass

from ftvm.legs import LegChanged, LegFault


@dataclass(frozen=True)
class ActiveLeg:
    """The traffic takes ``leg`` from now on; None: no leg has a link."""

    leg: int | None


Event = LegChanged | LegFault | ActiveLeg

"""What happens to a NIC that somebody may want to know: values, given to one callback as they happen."""

import msgspec

from ftvm.legs import LegChanged, LegFault


class ActiveLeg(msgspec.Struct, frozen=True):
    """The traffic takes ``leg`` from now on; None: no leg has a link."""

    leg: int | None


Event = LegChanged | LegFault | ActiveLeg

"""What happens to a disk that somebody may want to know: values, given to one callback as they happen."""

import msgspec

from ftvm.legs import LegChanged, LegFault


class Repaired(msgspec.Struct, frozen=True):
    """What ``leg`` could not read, or had wrong, was written again from a leg that has it right."""

    leg: int
    offset: int
    size: int


class Mismatch(msgspec.Struct, frozen=True):
    """Legs in sync differ here, and nothing says which one is right."""

    offset: int
    size: int


class Unreadable(msgspec.Struct, frozen=True):
    """No leg can give these bytes."""

    offset: int
    size: int


Event = LegChanged | LegFault | Repaired | Mismatch | Unreadable

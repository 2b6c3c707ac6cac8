"""What happens to a disk that somebody may want to know: values, given to one callback as they happen."""

from dataclasses import dataclass

from ftvm.legs import LegChanged, LegFault


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

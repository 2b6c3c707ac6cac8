"""Which contents a disk has, for somebody who comes back to it later: a machine that was saved."""

from collections.abc import Collection

import msgspec


class LegStamp(msgspec.Struct, frozen=True, array_like=True):
    """A leg in sync: which one (empty without metadata), and when its image was changed last (ns since 1970)."""

    leg: bytes
    changed_ns: int

    def may_be(self, other: "LegStamp") -> bool:
        """Whether both can be the same leg: metadata may have been made or removed in between."""
        return self.leg == other.leg or not (self.leg and other.leg)


def unchanged(before: Collection[LegStamp], now: Collection[LegStamp]) -> bool:
    """Whether one leg had everything before, and has it now, and was not changed: all legs in sync are equal. True if
    nothing is known of before."""
    return not before or any(old.changed_ns == new.changed_ns and old.may_be(new) for old in before for new in now)

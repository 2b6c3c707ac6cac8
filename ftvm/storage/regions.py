"""Sets of regions of a disk, as the bitmap of the metadata file stores them.

A region is 64 KiB: small enough that bringing a leg back copies little, large enough that the bitmap of a terabyte is
2 MiB. The set is sparse: one integer for each bitmap sector that is not empty, so that an operation costs
what it touches and not what the disk measures.
"""

from collections.abc import Iterator, Mapping

from ftvm.units import KIB

REGION_BYTES = 64 * KIB

SECTOR_REGIONS = 4032
"""Regions in one sector of the bitmap: 504 bytes of bits; the checksum takes the other 8."""


Span = tuple[int, int]
"""Regions from the first to the one after the last."""


def span_of(offset: int, size: int) -> Span:
    """The regions that the bytes [offset, offset + size) touch."""
    return offset // REGION_BYTES, -(-(offset + size) // REGION_BYTES)


def region_count(size_bytes: int) -> int:
    return -(-size_bytes // REGION_BYTES)


def sector_count(regions: int) -> int:
    """Sectors of the bitmap of so many regions."""
    return -(-regions // SECTOR_REGIONS)


def _masks(span: Span) -> Iterator[tuple[int, int]]:
    """The span as (bitmap sector, bits in it)."""
    first, stop = span
    while first < stop:
        sector, bit = divmod(first, SECTOR_REGIONS)
        count = min(stop - first, SECTOR_REGIONS - bit)
        yield sector, ((1 << count) - 1) << bit
        first += count


class RegionSet:
    """A set of region numbers."""

    __slots__ = ("_masks",)

    def __init__(self, masks: Mapping[int, int] | None = None) -> None:
        self._masks = {sector: mask for sector, mask in (masks or {}).items() if mask}

    @classmethod
    def of(cls, *spans: Span) -> "RegionSet":
        made = cls()
        for span in spans:
            made.add(span)
        return made

    def add(self, span: Span) -> None:
        for sector, mask in _masks(span):
            self._masks[sector] = self._masks.get(sector, 0) | mask

    def remove(self, span: Span) -> None:
        for sector, mask in _masks(span):
            self._keep(sector, self._masks.get(sector, 0) & ~mask)

    def covers(self, span: Span) -> bool:
        """Whether every region of the span is in the set."""
        return all(self._masks.get(sector, 0) & mask == mask for sector, mask in _masks(span))

    def overlaps(self, span: Span) -> bool:
        return bool(self._masks) and any(self._masks.get(sector, 0) & mask for sector, mask in _masks(span))

    def update(self, other: "RegionSet") -> None:
        for sector, mask in other._masks.items():
            self._masks[sector] = self._masks.get(sector, 0) | mask

    def clear(self) -> None:
        self._masks.clear()

    def copy(self) -> "RegionSet":
        return RegionSet(self._masks)

    def __or__(self, other: "RegionSet") -> "RegionSet":
        both = self.copy()
        both.update(other)
        return both

    def __and__(self, other: "RegionSet") -> "RegionSet":
        return RegionSet({sector: mask & other.mask(sector) for sector, mask in self._masks.items()})

    def __len__(self) -> int:
        return sum(mask.bit_count() for mask in self._masks.values())

    def __bool__(self) -> bool:
        return bool(self._masks)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RegionSet) and self._masks == other._masks

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"RegionSet.of({', '.join(map(str, self.spans()))})"

    def mask(self, sector: int) -> int:
        """The bits of one sector of the bitmap."""
        return self._masks.get(sector, 0)

    def sectors(self) -> set[int]:
        """The sectors of the bitmap that are not empty."""
        return set(self._masks)

    def first_span(self, limit: int = SECTOR_REGIONS) -> Span | None:
        """The lowest regions in one piece, at most ``limit`` of them and none beyond their bitmap sector."""
        if not self._masks:
            return None
        sector = min(self._masks)
        mask = self._masks[sector]
        low = (mask & -mask).bit_length() - 1
        above = mask >> low
        count = min(limit, (~above & (above + 1)).bit_length() - 1)
        first = sector * SECTOR_REGIONS + low
        return first, first + count

    def spans(self) -> Iterator[Span]:
        """All regions, in ascending order, in pieces."""
        rest = self.copy()
        while (span := rest.first_span()) is not None:
            yield span
            rest.remove(span)

    def _keep(self, sector: int, mask: int) -> None:
        if mask:
            self._masks[sector] = mask
        else:
            self._masks.pop(sector, None)

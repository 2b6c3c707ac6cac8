"""Laying out guest RAM before the machine starts: what lies where, and what is still free."""

from bisect import bisect_right
from enum import IntEnum
from typing import NamedTuple

from ftvm.boot.plan import Segment
from ftvm.errors import UnusableFile
from ftvm.memory_map import BIOS, BIOS_BYTES, EBDA, HIGH_MEMORY, HIGH_RAM, LOW_RAM_LIMIT, usable_ram
from ftvm.units import KIB, MIB, Gpa, format_size

BIOS_DATA_END = 0x500
"""[0, 0x500) holds the interrupt vectors and the BIOS data area."""

EBDA_BYTES = 1 * KIB


class MemoryType(IntEnum):
    """Types of address ranges (ACPI 6.4, table 15.2); Linux, Multiboot, PVH and INT 15h E820 share the numbers."""

    USABLE = 1
    RESERVED = 2


class MemoryRange(NamedTuple):
    """One entry of the memory map that a guest is given."""

    base: int
    size_bytes: int
    type: MemoryType


def memory_map(ram_bytes: int, kept_bytes: int = 0) -> list[MemoryRange]:
    """What the firmware says about memory, in ascending order.

    ``kept_bytes`` at the end of low RAM are the firmware's own.
    """
    ranges = [MemoryRange(base, size, MemoryType.USABLE) for base, size in usable_ram(ram_bytes)]
    if kept_bytes:
        base, size, kind = ranges[1]
        ranges[1] = MemoryRange(base, size - kept_bytes, kind)
        ranges.append(MemoryRange(base + size - kept_bytes, kept_bytes, MemoryType.RESERVED))
    ranges.append(MemoryRange(EBDA, EBDA_BYTES, MemoryType.RESERVED))
    ranges.append(MemoryRange(BIOS, BIOS_BYTES, MemoryType.RESERVED))
    return sorted(ranges)


def lower_kib() -> int:
    """KiB of memory from address 0."""
    return EBDA // KIB


def upper_kib(ram_bytes: int) -> int:
    """KiB of memory from 1 MiB up to the first hole."""
    return (low_ram_end(ram_bytes) - HIGH_MEMORY) // KIB


def low_ram_end(ram_bytes: int) -> int:
    """Where RAM below 4 GiB ends."""
    return min(ram_bytes, LOW_RAM_LIMIT)


def align_up(value: int, alignment: int) -> int:
    """The next multiple of ``alignment``; 0 counts as 1."""
    return -(-value // alignment) * alignment if alignment else value


class Layout:
    """RAM that fills up. Everything placed lies in usable RAM, above the BIOS's data, and nothing overlaps."""

    def __init__(self, ram_bytes: int) -> None:
        self.ram_bytes = ram_bytes
        (low, low_bytes), *rest = usable_ram(ram_bytes)
        self._free = [(BIOS_DATA_END, low + low_bytes), *((base, base + size) for base, size in rest)]
        self._segments: list[Segment] = []
        self._end = BIOS_DATA_END

    @property
    def segments(self) -> tuple[Segment, ...]:
        """What was placed, in ascending order."""
        return tuple(sorted(self._segments, key=lambda segment: segment.gpa))

    @property
    def end(self) -> int:
        """The end of the highest memory in use."""
        return self._end

    def place(self, gpa: int, data: bytes | memoryview, what: str, size_bytes: int = 0) -> None:
        """Put ``data`` at ``gpa``; ``size_bytes`` claims more than that, as zeros. ``what`` is for messages.

        Raises UnusableFile where that is not free RAM.
        """
        end = gpa + max(len(data), size_bytes)
        if end == gpa:
            return
        index = bisect_right(self._free, gpa, key=lambda free: free[0]) - 1
        if index < 0 or end > self._free[index][1]:
            raise self._not_free(gpa, end, what)
        self._end = max(self._end, end)
        start, stop = self._free[index]
        self._free[index : index + 1] = [part for part in ((start, gpa), (end, stop)) if part[0] < part[1]]
        if data:
            self._segments.append(Segment(Gpa(gpa), data))

    def find(
        self, size_bytes: int, *, align: int = 16, lowest: int = 0, highest: int = HIGH_RAM, from_top: bool = False
    ) -> int | None:
        """Address of free memory within [lowest, highest), the lowest or highest possible; None where there is none."""
        for start, end in reversed(self._free) if from_top else self._free:
            first = align_up(max(start, lowest), align)
            last = (min(end, highest) - size_bytes) // align * align
            if first <= last:
                return last if from_top else first
        return None

    def add(
        self,
        data: bytes | memoryview,
        what: str,
        *,
        align: int = 16,
        lowest: int = 0,
        highest: int = HIGH_RAM,
        from_top: bool = False,
    ) -> int:
        """Place ``data`` where ``find`` says and return the address. Raises UnusableFile when there is no room."""
        size_bytes = len(data)
        gpa = self.find(size_bytes, align=align, lowest=lowest, highest=highest, from_top=from_top)
        if gpa is None:
            raise UnusableFile(
                f"{what} ({size_bytes} bytes) does not fit in what is free of {format_size(self.ram_bytes)} of RAM",
                "give the machine more memory with --memory",
            )
        self.place(gpa, data, what)
        return gpa

    def _not_free(self, gpa: int, end: int, what: str) -> UnusableFile:
        needs = f"{what} needs memory at 0x{gpa:x}-0x{end:x}"
        link_it = "link it to 1 MiB or above, within the RAM"
        ranges = usable_ram(self.ram_bytes)
        if gpa < BIOS_DATA_END:
            return UnusableFile(f"{needs}, but the BIOS has its data below 0x{BIOS_DATA_END:x}", link_it)
        if any(base <= gpa and end <= base + size for base, size in ranges):
            return UnusableFile(f"{needs}, where another part of it lies already", "its parts must not overlap")
        base, size = ranges[1]
        if gpa >= HIGH_MEMORY and base + size < end <= LOW_RAM_LIMIT:
            return UnusableFile(
                f"{needs}, but RAM ends at 0x{base + size:x}",
                f"give the machine at least {format_size(align_up(end, MIB))} with --memory",
            )
        return UnusableFile(f"{needs}, where there is no RAM", link_it)

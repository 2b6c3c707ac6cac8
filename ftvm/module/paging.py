"""Linear addresses of the guest: its page tables, walked in RAM (SDM vol. 3, chapter 4)."""

import mmap
from collections.abc import Iterator

from ftvm.memory_map import ram_offset
from ftvm.module.registers import register
from ftvm.units import PAGE_BYTES

_CR0, _CR3, _CR4, _EFER = (register(name) for name in ("cr0", "cr3", "cr4", "efer"))

_CR0_PG = 1 << 31
_CR4_PSE = 1 << 4
_CR4_PAE = 1 << 5
_EFER_LMA = 1 << 10
_PRESENT = 1 << 0
_LARGE = 1 << 7
_ADDRESS = (1 << 52) - PAGE_BYTES


class LinearMemory:
    """Guest memory as the guest's own code sees it, in the architectural state ``arch``. Read only."""

    def __init__(self, ram: memoryview | mmap.mmap, arch: bytes) -> None:
        self._ram = ram
        self._paging = bool(_CR0.of(arch) & _CR0_PG)
        cr3, cr4 = _CR3.of(arch), _CR4.of(arch)
        # From the top: (lowest address bit that the level looks at, number of bits, whether an entry may map a page).
        self._levels: tuple[tuple[int, int, bool], ...]
        if _EFER.of(arch) & _EFER_LMA:
            self._levels = ((39, 9, False), (30, 9, True), (21, 9, True), (12, 9, False))
            self._entry_bytes, self._linear_bits, self._top = 8, 64, cr3 & _ADDRESS
        elif cr4 & _CR4_PAE:
            self._levels = ((30, 2, False), (21, 9, True), (12, 9, False))
            self._entry_bytes, self._linear_bits, self._top = 8, 32, cr3 & 0xFFFFFFE0
        else:
            self._levels = ((22, 10, bool(cr4 & _CR4_PSE)), (12, 10, False))
            self._entry_bytes, self._linear_bits, self._top = 4, 32, cr3 & 0xFFFFF000

    def translate(self, linear: int) -> int | None:
        """The guest physical address, or None where nothing is mapped."""
        linear &= (1 << self._linear_bits) - 1
        if not self._paging:
            return linear
        for shift, may_be_large, _, entry in self._walk(linear):
            if not entry & _PRESENT:
                break
            if shift == 12 or (may_be_large and entry & _LARGE):
                in_page = (1 << shift) - 1
                page = entry & _ADDRESS & ~in_page
                if shift == 22:  # PSE-36: bits 13..20 of the entry are bits 32..39 of the address
                    page |= (entry >> 13 & 0xFF) << 32
                return page | linear & in_page
        return None

    def entry_address(self, linear: int, level: int) -> int | None:
        """The guest physical address of a page-table entry that maps ``linear``: of level 1 for a small page, up to 4
        (with PAE up to 3, else up to 2) for the top, or 0 for the last one of its walk, however large the page.

        None when the walk has no such level.
        """
        if not self._paging:
            return None
        path = [gpa for _, _, gpa, _ in self._walk(linear & ((1 << self._linear_bits) - 1))]
        place = len(self._levels) - level if level else len(path) - 1
        return path[place] if 0 <= place < len(path) else None

    def _walk(self, linear: int) -> Iterator[tuple[int, bool, int, int]]:
        """From the top: the lowest address bit that a level looks at, whether its entry may map a page, where the entry
        is, the entry. The last one maps a page, or is not present."""
        table = self._top
        for shift, bits, may_be_large in self._levels:
            gpa = table + (linear >> shift & ((1 << bits) - 1)) * self._entry_bytes
            entry = self._entry(gpa)
            yield shift, may_be_large, gpa, entry
            if not entry & _PRESENT or (may_be_large and entry & _LARGE):
                return
            table = entry & _ADDRESS

    def _entry(self, gpa: int) -> int:
        """A page table entry; not present where there is no RAM."""
        offset = ram_offset(gpa, len(self._ram))
        return 0 if offset is None else int.from_bytes(self._ram[offset : offset + self._entry_bytes], "little")

    def read(self, linear: int, size: int) -> bytes:
        """Up to ``size`` bytes; fewer where the mapping or RAM ends."""
        data = b""
        while len(data) < size:
            at = linear + len(data)
            gpa = self.translate(at)
            offset = None if gpa is None else ram_offset(gpa, len(self._ram))
            if offset is None:
                break
            data += self._ram[offset : offset + min(size - len(data), PAGE_BYTES - at % PAGE_BYTES)]
        return data

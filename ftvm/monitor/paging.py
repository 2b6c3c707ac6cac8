"""Linear addresses of the guest: its page tables, walked in verified memory (SDM vol. 3, chapter 4)."""

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

    def __init__(self, ram: memoryview, arch: bytes) -> None:
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
        table = self._top
        for shift, bits, may_be_large in self._levels:
            entry = self._entry(table + (linear >> shift & ((1 << bits) - 1)) * self._entry_bytes)
            if not entry & _PRESENT:
                return None
            if shift == 12 or (may_be_large and entry & _LARGE):
                in_page = (1 << shift) - 1
                page = entry & _ADDRESS & ~in_page
                if shift == 22:  # PSE-36: bits 13..20 of the entry are bits 32..39 of the address
                    page |= (entry >> 13 & 0xFF) << 32
                return page | linear & in_page
            table = entry & _ADDRESS
        raise AssertionError("the last level maps pages")

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

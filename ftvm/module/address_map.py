"""Where chips are: at I/O ports, and in pages of guest physical memory; there for good, or as the guest moves them."""

from collections.abc import Callable, Iterable
from functools import partial

from ftvm.module.chips.chip import Chip
from ftvm.module.chips.pci import PciFunction
from ftvm.units import PAGE_BYTES

_PAGE_SHIFT = PAGE_BYTES.bit_length() - 1

_Read = Callable[[int, int], int]
_Write = Callable[[int, int, int], None]
_Place = tuple[_Read, _Write, int]
"""Whom to ask for a port, with the offset of the port; or for a page, with the address that has offset 0."""
_Page = tuple[_Read, _Write, int, bool, Chip]
"""The same for a page; whether ``changes`` counts accesses to it; and the chip."""


class AddressMap:
    """Finds the chip for an access. What nobody claims reads as ones, and can be written without effect."""

    def __init__(self) -> None:
        self.changes = 0
        """Another number whenever the state of any chip may have changed, except by what ``remap`` calls quiet. Whoever
        changes one in another way than by an access counts it here."""
        self._fixed_byte_ports: dict[int, _Place] = {}
        self._fixed_wide_ports: dict[int, _Place] = {}
        self._byte_ports: dict[int, _Place] = {}
        self._wide_ports: dict[int, _Place] = {}  # 16- and 32-bit accesses that must not be split
        self._pages: dict[int, _Page] = {}

    def place(self, port: int, count: int, chip: Chip, offset: int = 0, wide: bool = False) -> None:
        """A chip that stays at these ports, the first of which is its ``offset``. ``wide``: it takes 16 and 32 bits at
        once. In effect from the next ``remap`` on, as ``place_wide``."""
        for index in range(count):
            place = (chip.read, chip.write, offset + index)
            self._fixed_byte_ports[port + index] = place
            if wide:
                self._fixed_wide_ports[port + index] = place

    def place_wide(self, port: int, chip: Chip) -> None:
        """The same for one that bytes do not reach."""
        self._fixed_wide_ports[port] = (chip.read, chip.write, 0)

    def remap(self, functions: Iterable[PciFunction], pages: Iterable[tuple[int, Chip]], quiet: Chip) -> None:
        """What can be moved is elsewhere now: what the BARs of ``functions`` decode, and chips that have a page.

        ``changes`` does not count accesses to the chip ``quiet``, nor to pages of BARs in which there are only signals.
        """
        self._byte_ports, self._wide_ports = dict(self._fixed_byte_ports), dict(self._fixed_wide_ports)
        self._pages = {}
        for function in functions:
            for bar, address in function.mappings():
                read, write = partial(function.read_bar, bar.index), partial(function.write_bar, bar.index)
                if bar.io:
                    for offset in range(bar.size):
                        self._byte_ports.setdefault(address + offset, (read, write, offset))
                        self._wide_ports.setdefault(address + offset, (read, write, offset))
                else:
                    for page in range(address >> _PAGE_SHIFT, (address + bar.size) >> _PAGE_SHIFT):
                        signals = (page << _PAGE_SHIFT) - address in bar.signals
                        self._pages[page] = (read, write, address, not signals, function)
        for base, chip in pages:
            self._pages[base >> _PAGE_SHIFT] = (chip.read, chip.write, base, chip is not quiet, chip)

    def answers(self, chip: Chip, gpa: int) -> bool:
        """An access to this address is one to the chip."""
        place = self._pages.get(gpa >> _PAGE_SHIFT)
        return place is not None and place[4] is chip

    def port_read(self, port: int, size: int) -> int:
        self.changes += 1
        place = (self._byte_ports if size == 1 else self._wide_ports).get(port)
        if place is not None:
            return place[0](place[2], size)
        if size == 1:
            return 0xFF
        value = 0
        for index in range(size):
            value |= self.port_read(port + index & 0xFFFF, 1) << 8 * index
        return value

    def port_write(self, port: int, size: int, value: int) -> None:
        self.changes += 1
        place = (self._byte_ports if size == 1 else self._wide_ports).get(port)
        if place is not None:
            place[1](place[2], size, value)
        elif size > 1:
            for index in range(size):
                self.port_write(port + index & 0xFFFF, 1, value >> 8 * index & 0xFF)

    def mmio_read(self, gpa: int, size: int) -> int:
        place = self._pages.get(gpa >> _PAGE_SHIFT)
        if place is None:
            return (1 << 8 * size) - 1
        self.changes += place[3]
        if size == 8:
            return self.mmio_read(gpa, 4) | self.mmio_read(gpa + 4, 4) << 32
        return place[0](gpa - place[2], size)

    def mmio_write(self, gpa: int, size: int, value: int) -> None:
        place = self._pages.get(gpa >> _PAGE_SHIFT)
        if place is None:
            return
        self.changes += place[3]
        if size == 8:
            self.mmio_write(gpa, 4, value & 0xFFFF_FFFF)
            self.mmio_write(gpa + 4, 4, value >> 32)
        else:
            place[1](gpa - place[2], size, value)

"""Where things are in the guest's physical address space: what the board, the loaders and the ACPI tables share."""

from ftvm.units import GIB, KIB, MIB, Gpa

EBDA = Gpa(0x9FC00)
"""End of conventional memory; [EBDA, 0xA0000) is reserved, as on a PC."""

VGA_TEXT = Gpa(0xB8000)
"""80x25 text memory. The whole of [0, 1 MiB) is backed by RAM, so it is plain memory of the module."""

BIOS = Gpa(0xE0000)
BIOS_BYTES = 128 * KIB
"""[0xE0000, 0x100000): RSDP and ACPI tables, reserved in the memory map."""

HIGH_MEMORY = Gpa(1 * MIB)

LOW_RAM_LIMIT = Gpa(3 * GIB)
"""RAM below this address; what does not fit continues at HIGH_RAM."""

HIGH_RAM = Gpa(4 * GIB)

PCI_WINDOW = Gpa(0xE0000000)
PCI_WINDOW_END = Gpa(0xFEC00000)
IO_APIC = Gpa(0xFEC00000)
LOCAL_APIC = Gpa(0xFEE00000)

MIN_RAM_BYTES = 2 * MIB
MAX_RAM_BYTES = 64 * GIB


def usable_ram(ram_bytes: int) -> list[tuple[int, int]]:
    """The (address, bytes) ranges that a guest may use as RAM, in ascending order."""
    low = min(ram_bytes, LOW_RAM_LIMIT)
    ranges = [(0, int(EBDA)), (int(HIGH_MEMORY), low - HIGH_MEMORY)]
    if ram_bytes > LOW_RAM_LIMIT:
        ranges.append((int(HIGH_RAM), ram_bytes - LOW_RAM_LIMIT))
    return ranges


def ram_offset(gpa: int, ram_bytes: int) -> int | None:
    """Offset into the module's RAM of a guest physical address, or None where there is no RAM."""
    if 0 <= gpa < min(ram_bytes, LOW_RAM_LIMIT):
        return gpa
    if HIGH_RAM <= gpa < HIGH_RAM + ram_bytes - LOW_RAM_LIMIT:
        return gpa - HIGH_RAM + LOW_RAM_LIMIT
    return None


def ram_range(gpa: int, size: int, ram_bytes: int) -> int | None:
    """Offset into the module's RAM of the first of ``size`` bytes, 1 or more, or None where not all of them are RAM in
    one piece."""
    first, last = ram_offset(gpa, ram_bytes), ram_offset(gpa + size - 1, ram_bytes)
    return first if size > 0 and first is not None and last is not None and last - first == size - 1 else None


def physical(offset: int) -> int:
    """The guest physical address of an offset into RAM."""
    return offset if offset < LOW_RAM_LIMIT else offset - LOW_RAM_LIMIT + HIGH_RAM

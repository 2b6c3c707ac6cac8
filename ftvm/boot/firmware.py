"""What a PC's firmware leaves in memory before it starts a system, and the way from reset to that system.

The BIOS area, all of it reserved in the memory map and backed by RAM:

    0xE8000  identity page tables of the 64-bit stub
    0xEE000  stack of kernels that do not set their own
    0xEF000  the stub that changes the mode (firmware/stubs/enter32.S, enter64.S)
    0xF0000  the BIOS (firmware/stubs/bios.S), where the CPU starts
    0xF8000  RSDP and ACPI tables, MP table, memory map for INT 15h
    0xFFFF0  reset vector
"""

import struct
from pathlib import Path

import msgspec

from ftvm.boot import acpi, mptable
from ftvm.boot.layout import EBDA_BYTES, MemoryRange, low_ram_end, lower_kib, memory_map, upper_kib
from ftvm.boot.plan import Segment
from ftvm.errors import HostError
from ftvm.memory_map import EBDA
from ftvm.platform_ports import COM1
from ftvm.units import KIB, PAGE_BYTES, Gpa

STUBS = Path(__file__).parents[1] / "firmware" / "stubs"

PAGE_TABLES = Gpa(0xE8000)
ENTRY_STUB = Gpa(0xEF000)  # as linked: firmware/stubs/addresses.mk
BIOS_CODE = Gpa(0xF0000)
TABLES = Gpa(0xF8000)
RESET_VECTOR = Gpa(0xFFFF0)

SECTOR_BYTES = 512

RSDP = TABLES
"""Where kernels find the ACPI tables; a boot protocol that has a field for it is told."""

_BIOS_CS = 0xF000
_BIOS_START_IP = 0x20
_BIOS_RESET_IP = 0x24
_BDA = Gpa(0x400)


class Disk(msgspec.Struct, frozen=True):
    """The disk that the BIOS shows to a boot sector. ``contents`` lies at ``address`` and is whole sectors."""

    address: Gpa
    contents: bytes
    heads: int
    sectors_per_track: int
    is_floppy: bool

    @property
    def sectors(self) -> int:
        return len(self.contents) // SECTOR_BYTES

    @property
    def last_cylinder(self) -> int:
        """Counted from 0; what lies behind cylinder 1023 has no cylinder number."""
        return min(max(0, self.sectors - 1) // (self.heads * self.sectors_per_track), 1023)


class Entry(msgspec.Struct, frozen=True):
    """How a kernel wants to be started.

    ``bits`` is 16 (real mode at 0:``ip``), 32 or 64 (flat); its registers are zero but for ``registers``, by their
    names in that mode. ``disk`` is what INT 13h reads.
    """

    bits: int
    ip: int
    registers: dict[str, int] = msgspec.field(default_factory=dict)
    disk: Disk | None = None


class Reset(msgspec.Struct, frozen=True):
    """The firmware in memory, and where the CPU comes out of reset. See BootPlan."""

    segments: tuple[Segment, ...]
    cs: int
    ip: int
    registers: dict[str, int]


def install(ram_bytes: int, entry: Entry) -> Reset:
    """Firmware for a machine of ``ram_bytes`` that starts ``entry``. Raises HostError when ftvm lacks its stubs."""
    disk = entry.disk
    kept_bytes = low_ram_end(ram_bytes) - disk.address if disk else 0
    ranges = memory_map(ram_bytes, kept_bytes)
    tables, e820 = _tables(ranges)

    segments: list[Segment] = []
    registers = entry.registers
    boot_ip, boot_cs = entry.ip, 0
    if entry.bits != 16:
        stub, boot_ip = _entry_stub(entry)
        boot_cs, registers = ENTRY_STUB >> 4, {}
        segments.append(Segment(ENTRY_STUB, stub))
    if entry.bits == 64:
        segments.append(Segment(PAGE_TABLES, _identity_page_tables(PAGE_TABLES)))
    if disk:
        segments.append(Segment(disk.address, disk.contents))

    extended_kib = upper_kib(ram_bytes) - kept_bytes // KIB
    below_16m = min(extended_kib, 15 * KIB)
    above_16m_blocks = (extended_kib - below_16m) // 64
    parameters = struct.pack("<HHHHHH", boot_ip, boot_cs, e820 - BIOS_CODE, len(ranges), below_16m, above_16m_blocks)
    if disk:
        geometry = disk.heads, disk.sectors_per_track, disk.last_cylinder
        parameters += struct.pack("<IIHHH", disk.address, disk.sectors, *geometry)
    segments += [
        Segment(_BDA, _bios_data_area(disk)),
        Segment(EBDA, bytes([EBDA_BYTES // KIB])),
        Segment(BIOS_CODE, _stub("bios", parameters)),
        Segment(TABLES, tables),
        # JMP FAR, the firmware's date, and the model byte of a PC/AT.
        Segment(RESET_VECTOR, struct.pack("<BHH8sxB", 0xEA, _BIOS_RESET_IP, _BIOS_CS, b"01/01/26", 0xFC)),
    ]
    return Reset(tuple(segments), _BIOS_CS, _BIOS_START_IP, registers)


def _tables(ranges: list[MemoryRange]) -> tuple[bytes, Gpa]:
    """What stands from TABLES on: ACPI, MP table, memory map; and the address of the last."""
    block = bytearray(acpi.build(TABLES))
    block.extend(bytes(-len(block) % 16))
    block.extend(mptable.build(TABLES + len(block)))
    e820 = Gpa(TABLES + len(block))
    block.extend(b"".join(e820_entry(memory_range) for memory_range in ranges))
    return bytes(block), e820


def rsdp() -> bytes:
    """The root pointer that stands at RSDP."""
    return acpi.build(TABLES)[: acpi.RSDP_BYTES]


def e820_entry(entry: MemoryRange) -> bytes:
    """One entry of the memory map as INT 15h E820 gives it and Linux keeps it: base, length, type."""
    return struct.pack("<QQI", *entry)


_REGISTER_SUFFIXES = ("ax", "bx", "cx", "dx", "si", "di", "bp")


def _entry_stub(entry: Entry) -> tuple[bytes, int]:
    """The stub that enters a 32- or 64-bit kernel, and the offset of its own entry, right behind its parameters.

    Those are the kernel's entry point and registers; for 64 bits, the page tables too.
    """
    prefix, layout = ("e", "<8I") if entry.bits == 32 else ("r", "<9Q")
    values = [entry.ip, *(entry.registers.get(prefix + suffix, 0) for suffix in _REGISTER_SUFFIXES)]
    parameters = struct.pack(layout, *values, *([PAGE_TABLES] if entry.bits == 64 else []))
    return _stub(f"enter{entry.bits}", parameters), len(parameters)


def _identity_page_tables(base: int) -> bytes:
    """A PML4, a PDPT and four page directories that map the first 4 GiB to themselves in 2 MiB pages.

    Accessed and dirty bits are set, so that walking these tables writes nothing.
    """
    table, page = 0x23, 0xE3  # present, writable, accessed; page: large, dirty
    pml4 = struct.pack("<512Q", base + PAGE_BYTES | table, *[0] * 511)
    pdpt = struct.pack("<512Q", *(base + (2 + index) * PAGE_BYTES | table for index in range(4)), *[0] * 508)
    pages = struct.pack("<2048Q", *(index << 21 | page for index in range(2048)))
    return pml4 + pdpt + pages


def _bios_data_area(disk: Disk | None) -> bytes:
    """[0x400, 0x500) as a BIOS leaves it (IBM PS/2 and PC BIOS Interface Technical Reference, section 3)."""
    area = bytearray(0x100)

    def put(address: int, layout: str, *values: int) -> None:
        struct.pack_into(f"<{layout}", area, address - _BDA, *values)

    put(0x400, "H", COM1)
    put(0x40E, "H", EBDA >> 4)
    floppy = disk is not None and disk.is_floppy
    put(0x410, "H", 1 << 9 | 0b10 << 4 | 1 << 1 | floppy)  # one serial port, 80x25 colour, FPU, floppy drive
    put(0x413, "H", lower_kib())
    put(0x41A, "HH", 0x1E, 0x1E)  # key buffer: head, tail
    put(0x449, "BHH", 3, 80, 0x1000)  # video mode, columns, bytes per page
    put(0x460, "H", 0x0607)  # cursor: first and last scan line
    put(0x463, "HB", 0x3D4, 0x29)  # CRT controller, mode control register
    put(0x475, "B", disk is not None and not floppy)  # hard disks
    put(0x480, "HH", 0x1E, 0x3E)  # key buffer: start, end
    put(0x484, "BH", 24, 16)  # rows - 1, lines per character
    put(0x487, "BBB", 0x60, 0xF9, 0x51)  # 256 KiB of video memory; switches; VGA active, 400 lines
    put(0x496, "B", 0x10)  # keyboard of 101 keys
    return bytes(area)


def _stub(name: str, parameters: bytes) -> bytes:
    """Guest code that the build made of firmware/stubs/NAME.S, with its parameters filled in."""
    try:
        code = (STUBS / f"{name}.bin").read_bytes()
    except OSError:
        raise HostError(f"the boot stub {name} is missing from this installation", "build ftvm again") from None
    return parameters + code[len(parameters) :]

"""The ACPI tables: how an unmodified kernel finds the CPU, the interrupt controllers, the devices and the power switch.

Sections are those of ACPI 6.4. The machine has fixed ACPI hardware (4.8), so the tables use the layout of ACPI 5.
"""

import struct

from ftvm import platform_ports as ports
from ftvm.boot import aml
from ftvm.boot.layout import align_up
from ftvm.memory_map import IO_APIC, LOCAL_APIC, PCI_WINDOW, PCI_WINDOW_END

RSDP_BYTES = 36
RSDP_V1_BYTES = 20
PCI_SLOTS = 32

_OEM = b"FTVM  "
_OEM_TABLE = b"FTVM    "
_CREATOR = b"FTVM"
_REVISION = 1


def checksum(data: bytes | bytearray) -> int:
    """The byte that makes all bytes add up to 0."""
    return -sum(data) & 0xFF


def pci_route(slot: int, pin: int) -> int:
    """Index of the PIRQ line that pin INTA + ``pin`` of ``slot`` is wired to."""
    return (slot + pin) % len(ports.PIRQ_GSI)


def build(base: int) -> bytes:
    """All tables as one block for guest physical address ``base``, a multiple of 64; the RSDP stands first."""
    block = bytearray(align_up(RSDP_BYTES, 64))

    def add(table: bytes) -> int:
        block.extend(bytes(align_up(len(block), 64) - len(block)))
        address = base + len(block)
        block.extend(table)
        return address

    dsdt = add(_dsdt())
    facs = add(_facs())
    tables = [add(_fadt(dsdt, facs)), add(_madt())]
    rsdt = add(_table(b"RSDT", 1, struct.pack(f"<{len(tables)}I", *tables)))
    xsdt = add(_table(b"XSDT", 1, struct.pack(f"<{len(tables)}Q", *tables)))
    block[:RSDP_BYTES] = _rsdp(rsdt, xsdt)
    return bytes(block)


def _rsdp(rsdt: int, xsdt: int) -> bytes:
    """Root system description pointer, revision 2 (5.2.5.3): the first checksum covers what ACPI 1.0 knew."""
    first = bytearray(struct.pack("<8sB6sBI", b"RSD PTR ", 0, _OEM, 2, rsdt))
    first[8] = checksum(first)
    whole = first + struct.pack("<IQB3x", RSDP_BYTES, xsdt, 0)
    whole[32] = checksum(whole)
    return bytes(whole)


def _table(signature: bytes, revision: int, body: bytes) -> bytes:
    """A system description table with its header (5.2.6)."""
    header = struct.pack(
        "<4sIBB6s8sI4sI", signature, 36 + len(body), revision, 0, _OEM, _OEM_TABLE, _REVISION, _CREATOR, _REVISION
    )
    table = bytearray(header + body)
    table[9] = checksum(table)
    return bytes(table)


def _facs() -> bytes:
    """Firmware ACPI control structure (5.2.10): nothing sleeps, so only its frame matters."""
    return struct.pack("<4sI24xB31x", b"FACS", 64, 2)


def _io_register(port: int, size_bytes: int, access_bytes: int) -> bytes:
    """A generic address (5.2.3.2) in I/O space, accessed so many bytes at a time."""
    return struct.pack("<BBBBQ", 1, size_bytes * 8, 0, {1: 1, 2: 2, 4: 3}[access_bytes], port)


_NO_REGISTER = bytes(12)

_FADT_WBINVD = 1 << 0
_FADT_PROC_C1 = 1 << 2
_FADT_NO_SLEEP_BUTTON = 1 << 5
_FADT_NO_RTC_WAKE = 1 << 6
_FADT_RESET_REGISTER = 1 << 10

_BOOT_LEGACY_DEVICES = 1 << 0
_BOOT_8042 = 1 << 1


def _fadt(dsdt: int, facs: int) -> bytes:
    """Fixed ACPI description table (5.2.9), revision 5."""
    body = struct.pack("<IIBBH", facs, dsdt, 0, 4, ports.SCI_IRQ)  # profile 4: enterprise server
    body += struct.pack("<IBBBB", ports.SMI_COMMAND, ports.ACPI_ENABLE, ports.ACPI_DISABLE, 0, 0)
    body += struct.pack("<II", ports.PM1A_EVENT, 0)
    body += struct.pack("<II", ports.PM1A_CONTROL, 0)
    body += struct.pack("<IIII", 0, ports.PM_TIMER, ports.GPE0, 0)
    body += bytes([ports.PM1A_EVENT_BYTES, ports.PM1A_CONTROL_BYTES, 0, ports.PM_TIMER_BYTES])
    body += bytes([ports.GPE0_BYTES, 0, 0, 0])
    body += struct.pack("<HHHHBB", 0xFFFF, 0xFFFF, 0, 0, 0, 0)  # no C2, no C3; WBINVD works; no throttling
    body += struct.pack("<BBBHx", 0, 0, ports.RTC_CENTURY, _BOOT_LEGACY_DEVICES | _BOOT_8042)
    flags = _FADT_WBINVD | _FADT_PROC_C1 | _FADT_NO_SLEEP_BUTTON | _FADT_NO_RTC_WAKE | _FADT_RESET_REGISTER
    body += struct.pack("<I", flags)
    body += _io_register(ports.RESET_CONTROL, 1, 1) + struct.pack("<BHB", ports.RESET_VALUE, 0, 0)
    body += struct.pack("<QQ", 0, dsdt)
    body += _io_register(ports.PM1A_EVENT, ports.PM1A_EVENT_BYTES, 2) + _NO_REGISTER
    body += _io_register(ports.PM1A_CONTROL, ports.PM1A_CONTROL_BYTES, 2) + _NO_REGISTER
    body += _NO_REGISTER + _io_register(ports.PM_TIMER, ports.PM_TIMER_BYTES, 4)
    body += _io_register(ports.GPE0, ports.GPE0_BYTES, 1) + _NO_REGISTER
    body += _NO_REGISTER + _NO_REGISTER  # sleep control and status: of hardware-reduced ACPI only
    return _table(b"FACP", 5, body)


_ACTIVE_HIGH_LEVEL = 0b1101


def _madt() -> bytes:
    """Multiple APIC description table (5.2.12)."""
    body = struct.pack("<II", LOCAL_APIC, 1)  # flag PCAT_COMPAT: there are 8259s too
    body += struct.pack("<BBBBI", 0, 8, 0, ports.LOCAL_APIC_ID, 1)  # processor 0, enabled
    body += struct.pack("<BBBxII", 1, 12, ports.IO_APIC_ID, IO_APIC, 0)
    body += struct.pack("<BBBBIH", 2, 10, 0, ports.TIMER_IRQ, ports.TIMER_GSI, 0)
    body += struct.pack("<BBBBIH", 2, 10, 0, ports.SCI_IRQ, ports.SCI_IRQ, _ACTIVE_HIGH_LEVEL)
    body += struct.pack("<BBBHB", 4, 6, 0xFF, 0, 1)  # NMI at LINT1 of all processors
    return _table(b"APIC", 3, body)


def _routes(interrupts: tuple[int, ...]) -> bytes:
    """The elements of a _PRT (6.2.13): every pin of every slot, wired to a fixed interrupt."""

    def route(slot: int, pin: int) -> bytes:
        any_function = slot << 16 | 0xFFFF
        interrupt = interrupts[pci_route(slot, pin)]
        return aml.package([aml.integer(any_function), aml.integer(pin), aml.ZERO, aml.integer(interrupt)])

    return aml.package([route(slot, pin) for slot in range(PCI_SLOTS) for pin in range(4)])


def _dsdt() -> bytes:
    """Differentiated system description table: the devices that cannot be found by asking the hardware."""
    sleep_type = aml.integer(ports.S5_SLEEP_TYPE)
    pci = aml.device(
        "PCI0",
        aml.name("_HID", aml.eisa_id("PNP0A03")),
        aml.name("_UID", aml.ZERO),
        aml.name("_BBN", aml.ZERO),
        aml.name(
            "_CRS",
            aml.resources(
                aml.bus_window(0, 0),
                aml.io_ports(0xCF8, 8),
                aml.io_window(0x0000, 0x0CF7),
                aml.io_window(0x0D00, 0xFFFF),
                aml.memory_window(0xA0000, 0xBFFFF),
                aml.memory_window(PCI_WINDOW, PCI_WINDOW_END - 1),
            ),
        ),
        aml.name("PICR", _routes(ports.PIRQ_ISA_IRQ)),
        aml.name("APCR", _routes(ports.PIRQ_GSI)),
        aml.method(
            "_PRT", 0, aml.if_(aml.path("\\PICF"), aml.return_(aml.path("APCR"))), aml.return_(aml.path("PICR"))
        ),
    )

    def isa_device(name: str, hid: str, unit: int, *descriptors: bytes) -> bytes:
        return aml.device(
            name,
            aml.name("_HID", aml.eisa_id(hid)),
            aml.name("_UID", aml.integer(unit)),
            aml.name("_CRS", aml.resources(*descriptors)),
        )

    body = aml.name("\\_S5_", aml.package([sleep_type, sleep_type, aml.ZERO, aml.ZERO]))
    body += aml.name("\\PICF", aml.ZERO)
    body += aml.method("\\_PIC", 1, aml.store(aml.ARG0, "\\PICF"))  # the kernel says which controllers it uses
    body += aml.scope(
        "\\_SB_",
        aml.device("CPU0", aml.name("_HID", aml.string("ACPI0007")), aml.name("_UID", aml.ZERO)),
        pci,
        # System board resources: the ports of the fixed ACPI hardware, and the 8259s' trigger mode registers.
        isa_device("SYSR", "PNP0C02", 0, aml.io_ports(ports.PM1A_EVENT, 0x10), aml.io_ports(0x4D0, 2)),
        isa_device("RTC_", "PNP0B00", 0, aml.io_ports(0x70, 2), aml.irq(ports.RTC_IRQ)),
        isa_device("KBD_", "PNP0303", 0, aml.io_ports(0x60, 1), aml.io_ports(0x64, 1), aml.irq(ports.KEYBOARD_IRQ)),
        isa_device("COM1", "PNP0501", 1, aml.io_ports(ports.COM1, 8), aml.irq(ports.COM1_IRQ)),
    )
    return _table(b"DSDT", 2, body)

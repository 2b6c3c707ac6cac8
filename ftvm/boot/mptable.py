"""The MP configuration table (Intel MultiProcessor Specification 1.4, chapter 4), for kernels that do not read ACPI."""

import struct

from ftvm import platform_ports as ports
from ftvm.boot.acpi import PCI_SLOTS, checksum, pci_route
from ftvm.memory_map import IO_APIC, LOCAL_APIC

_PCI_BUS, _ISA_BUS = 0, 1
_INT, _NMI, _EXT_INT = 0, 1, 3
_CONFORMS, _ACTIVE_HIGH_LEVEL, _ACTIVE_LOW_LEVEL = 0, 0b1101, 0b1111
_FLOATING_POINTER_BYTES = 16


def build(base: int) -> bytes:
    """Floating pointer, then the table, for guest physical address ``base``, a multiple of 16."""
    table = _configuration()
    pointer = bytearray(struct.pack("<4sIBBB5B", b"_MP_", base + _FLOATING_POINTER_BYTES, 1, 4, 0, 0, 0, 0, 0, 0))
    pointer[10] = checksum(pointer)
    return bytes(pointer) + table


def _configuration() -> bytes:
    # Boot processor: family 6, FPU and APIC on chip.
    entries = [struct.pack("<BBBBIIII", 0, ports.LOCAL_APIC_ID, 0x14, 0b11, 0x600, 0x201, 0, 0)]
    entries.append(struct.pack("<BB6s", 1, _PCI_BUS, b"PCI   "))
    entries.append(struct.pack("<BB6s", 1, _ISA_BUS, b"ISA   "))
    entries.append(struct.pack("<BBBBI", 2, ports.IO_APIC_ID, 0x11, 1, IO_APIC))
    for irq in range(16):
        if irq == ports.TIMER_GSI:
            continue  # the cascade of the 8259s; its pin carries the timer
        pin = ports.TIMER_GSI if irq == ports.TIMER_IRQ else irq
        flags = _ACTIVE_HIGH_LEVEL if irq == ports.SCI_IRQ else _CONFORMS
        entries.append(_interrupt(3, _INT, flags, _ISA_BUS, irq, ports.IO_APIC_ID, pin))
    for slot in range(PCI_SLOTS):
        for pin in range(4):
            gsi = ports.PIRQ_GSI[pci_route(slot, pin)]
            entries.append(_interrupt(3, _INT, _ACTIVE_LOW_LEVEL, _PCI_BUS, slot << 2 | pin, ports.IO_APIC_ID, gsi))
    entries.append(_interrupt(4, _EXT_INT, _CONFORMS, _ISA_BUS, 0, 0xFF, 0))
    entries.append(_interrupt(4, _NMI, _CONFORMS, _ISA_BUS, 0, 0xFF, 1))
    body = b"".join(entries)
    table = bytearray(
        struct.pack(
            "<4sHBB8s12sIHHIHBx", b"PCMP", 44 + len(body), 4, 0, b"FTVM    ", b"FTVM        ",
            0, 0, len(entries), LOCAL_APIC, 0, 0,
        )
        + body
    )  # fmt: skip
    table[7] = checksum(table)
    return bytes(table)


def _interrupt(entry: int, kind: int, flags: int, bus: int, source: int, apic: int, pin: int) -> bytes:
    """An I/O (3) or local (4) interrupt assignment (4.3.4, 4.3.5)."""
    return struct.pack("<BBHBBBB", entry, kind, flags, bus, source, apic, pin)

"""The I/O APIC: 24 pins and a redirection table. Source: Intel 82093AA data sheet.

Pins are driven with logical levels (asserted or not), so the polarity bits are storage only.
"""

from collections.abc import Callable

import msgspec

from ftvm.module.chips.lapic import EXTINT, NMI
from ftvm.platform_ports import IO_APIC_ID, IO_APIC_PINS

SELECT = 0x00
WINDOW = 0x10

ID = 0x00
VERSION = 0x01
ARBITRATION = 0x02
TABLE = 0x10  # two registers for each pin

VERSION_VALUE = 0x11

VECTOR = 0x000FF
DELIVERY = 0x00700
LOGICAL = 0x00800
REMOTE_IRR = 0x04000
LEVEL = 0x08000
MASKED = 0x10000
_WRITABLE = 0xFF00_0000_0001_AFFF

Send = Callable[[int, bool, int, int, bool], bool]
"""Destination, logical, delivery mode, vector, level-triggered; True if a local APIC accepted the message."""


class IoapicState(msgspec.Struct):
    select: int = 0
    id: int = IO_APIC_ID
    table: list[int] = msgspec.field(default_factory=lambda: IO_APIC_PINS * [MASKED])
    lines: int = 0
    """Levels of the pins, as bits."""


class Ioapic:
    def __init__(self, send: Send) -> None:
        self.state = IoapicState()
        self._send = send

    def set_irq(self, pin: int, asserted: bool) -> None:
        state = self.state
        bit = 1 << pin
        if not asserted:
            state.lines &= ~bit
        elif not state.lines & bit:
            state.lines |= bit
            self._deliver(pin)

    def end_of_interrupt(self, vector: int) -> None:
        """The EOI broadcast of a local APIC for a level-triggered interrupt."""
        state = self.state
        for pin, entry in enumerate(state.table):
            if entry & VECTOR == vector and entry & REMOTE_IRR:
                state.table[pin] = entry & ~REMOTE_IRR
                self._deliver_level(pin)

    def is_masked(self, pin: int) -> bool:
        return bool(self.state.table[pin] & MASKED)

    def nmi_possible(self) -> bool:
        """A pin is set up to cause NMIs."""
        return any(entry & (MASKED | DELIVERY) == NMI << 8 for entry in self.state.table)

    def passes_external(self) -> bool:
        """Pin 0, the 8259s' INTR, is open as ExtINT."""
        return self.state.table[0] & (MASKED | DELIVERY) == EXTINT << 8

    def read(self, offset: int, size: int) -> int:
        register = offset & ~3
        value = self.state.select if register == SELECT else self._read_window() if register == WINDOW else 0
        return value >> 8 * (offset & 3) & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """SELECT takes any width; the window is written as 32 bits only."""
        if offset == SELECT:
            self.state.select = value & 0xFF
        elif offset == WINDOW and size == 4:
            self._write_window(value)

    def _read_window(self) -> int:
        state = self.state
        select = state.select
        if select in (ID, ARBITRATION):
            return state.id << 24
        if select == VERSION:
            return (IO_APIC_PINS - 1) << 16 | VERSION_VALUE
        pin, high = divmod(select - TABLE, 2)
        if 0 <= pin < IO_APIC_PINS:
            return state.table[pin] >> 32 * high & 0xFFFF_FFFF
        return 0

    def _write_window(self, value: int) -> None:
        state = self.state
        if state.select == ID:
            state.id = value >> 24 & 0xF
            return
        pin, high = divmod(state.select - TABLE, 2)
        if not 0 <= pin < IO_APIC_PINS:
            return
        old = state.table[pin]
        new = old & 0xFFFF_FFFF | value << 32 if high else old & ~0xFFFF_FFFF | value
        new = new & _WRITABLE
        if new & LEVEL:
            # An edge-triggered entry has no remote IRR; guests clear a stuck one by going there and back.
            new |= old & REMOTE_IRR
        state.table[pin] = new
        self._deliver_level(pin)

    def _deliver_level(self, pin: int) -> None:
        if self.state.table[pin] & LEVEL and self.state.lines >> pin & 1:
            self._deliver(pin)

    def _deliver(self, pin: int) -> None:
        """Send the message for an edge, or for a level that no local APIC is handling yet. A masked edge is lost."""
        state = self.state
        entry = state.table[pin]
        if entry & MASKED or entry & REMOTE_IRR:
            return
        level = bool(entry & LEVEL)
        delivery = (entry & DELIVERY) >> 8
        accepted = self._send(entry >> 56, bool(entry & LOGICAL), delivery, entry & VECTOR, level)
        if accepted and level and delivery not in (NMI, EXTINT):
            state.table[pin] |= REMOTE_IRR

"""ACPI power management: PM1a event and control blocks, PM timer, GPE0, SMI command port. Source: ACPI 6.4, 4.8.

There is no system management mode: the command port switches between legacy and ACPI mode by itself.
"""

from collections.abc import Callable

import msgspec

from ftvm.module.chips.chip import Clock, IrqLine
from ftvm.platform_ports import (
    ACPI_DISABLE,
    ACPI_ENABLE,
    GPE0,
    GPE0_BYTES,
    PM1A_CONTROL,
    PM1A_EVENT,
    PM_TIMER,
    PM_TIMER_BITS,
    PM_TIMER_BYTES,
    PM_TIMER_HZ,
    S5_SLEEP_TYPE,
)

# Offsets from PM1A_EVENT
STATUS = 0x0
ENABLE = 0x2
CONTROL = PM1A_CONTROL - PM1A_EVENT
TIMER = PM_TIMER - PM1A_EVENT
GPE_STATUS = GPE0 - PM1A_EVENT
GPE_ENABLE = GPE_STATUS + GPE0_BYTES // 2
PORTS = GPE_STATUS + GPE0_BYTES
SMI_COMMAND = PORTS  # then its status byte, which is storage
SMI_PORTS = 2

TIMER_STATUS = 0x0001
GLOBAL = 0x0020
POWER_BUTTON = 0x0100
SLEEP_BUTTON = 0x0200
RTC = 0x0400
_ENABLES = TIMER_STATUS | GLOBAL | POWER_BUTTON | SLEEP_BUTTON | RTC

SCI_ENABLE = 0x0001
BUS_MASTER_RELOAD = 0x0002
SLEEP_TYPE = 0x1C00
SLEEP_ENABLE = 0x2000

_NS_PER_SECOND = 1_000_000_000
_HALF_RANGE = 1 << (PM_TIMER_BITS - 1)  # TMR_STS is set when the top bit changes


def _ticks(now_ns: int) -> int:
    return now_ns * PM_TIMER_HZ // _NS_PER_SECOND


class AcpiPmState(msgspec.Struct):
    status: int = 0
    enable: int = 0
    control: int = 0
    gpe: bytearray = msgspec.field(default_factory=lambda: bytearray(GPE0_BYTES))
    """Status, then enable. Nothing sets a status bit."""
    smi: bytearray = msgspec.field(default_factory=lambda: bytearray(SMI_PORTS))
    seen_ns: int = 0
    """Until when TIMER_STATUS is up to date."""
    sci: bool = False


class AcpiPm:
    """``sci`` is the level-triggered SCI; ``power_off`` is called when the guest enters S5."""

    def __init__(self, clock: Clock, sci: IrqLine, power_off: Callable[[], None], rearm: Callable[[], None]) -> None:
        self.state = AcpiPmState()
        self._clock = clock
        self._sci = sci
        self._power_off = power_off
        self._rearm = rearm

    def read(self, offset: int, size: int) -> int:
        """Any width and alignment, as bytes of the registers."""
        first = offset & ~3
        return int.from_bytes(self._registers(first), "little") >> 8 * (offset & 3) & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        self._see(self._clock())
        for index in range(size):
            self._write_byte(offset + index, value >> 8 * index & 0xFF)
        self._update_sci()
        self._rearm()

    def next_event_ns(self) -> int | None:
        state = self.state
        if not state.control & SCI_ENABLE or not state.enable & TIMER_STATUS or state.status & TIMER_STATUS:
            return None
        halves = _ticks(state.seen_ns) // _HALF_RANGE + 1
        return -(-halves * _HALF_RANGE * _NS_PER_SECOND // PM_TIMER_HZ)

    def advance(self, now_ns: int) -> None:
        self._see(now_ns)

    def _registers(self, first: int) -> bytes:
        """The four bytes from offset ``first``, a multiple of four."""
        state = self.state
        if first == STATUS:
            self._see(self._clock())
            return (state.status | state.enable << 16).to_bytes(4, "little")
        if first == CONTROL:
            return state.control.to_bytes(4, "little")
        if first == TIMER:
            return (_ticks(self._clock()) % (1 << PM_TIMER_BITS)).to_bytes(PM_TIMER_BYTES, "little")
        return bytes(state.gpe) if first == GPE_STATUS else bytes(state.smi) + bytes(2)

    def _write_byte(self, offset: int, value: int) -> None:
        state = self.state
        if offset < ENABLE:
            state.status &= ~(value << 8 * offset)  # write one to clear
        elif offset < CONTROL:
            shift = 8 * (offset - ENABLE)
            state.enable = (state.enable & ~(0xFF << shift) | value << shift) & _ENABLES
        elif offset < CONTROL + 2:
            self._write_control(8 * (offset - CONTROL), value)
        elif GPE_STATUS <= offset < GPE_ENABLE:
            state.gpe[offset - GPE_STATUS] &= ~value
        elif GPE_ENABLE <= offset < PORTS:
            state.gpe[offset - GPE_STATUS] = value
        elif offset >= SMI_COMMAND:
            state.smi[offset - SMI_COMMAND] = value
            if offset == SMI_COMMAND and value == ACPI_ENABLE:
                state.control |= SCI_ENABLE
            elif offset == SMI_COMMAND and value == ACPI_DISABLE:
                state.control &= ~SCI_ENABLE

    def _write_control(self, shift: int, value: int) -> None:
        state = self.state
        control = state.control & ~(0xFF << shift) | value << shift
        state.control = control & (SCI_ENABLE | BUS_MASTER_RELOAD | SLEEP_TYPE)
        if control & SLEEP_ENABLE and (control & SLEEP_TYPE) >> 10 == S5_SLEEP_TYPE:
            self._power_off()

    def _see(self, now_ns: int) -> None:
        state = self.state
        if _ticks(now_ns) // _HALF_RANGE != _ticks(state.seen_ns) // _HALF_RANGE:
            state.status |= TIMER_STATUS
        state.seen_ns = now_ns
        self._update_sci()

    def _update_sci(self) -> None:
        state = self.state
        sci = bool(state.control & SCI_ENABLE and state.status & state.enable)
        if sci != state.sci:
            state.sci = sci
            self._sci(sci)

"""The 16550A serial port. Source: National Semiconductor PC16550D data sheet; OUT2 gates the interrupt, as on a PC.

The transmitter is as fast as the guest: a byte leaves at once, and the holding register is empty again. The receiver
runs at the programmed speed in virtual time. The terminal at the other end honours RTS and has endless
patience: a byte that does not fit, or that nobody is ready for, waits on the wire instead of being lost.
"""

from collections.abc import Callable
from typing import Protocol

import msgspec

from ftvm.module.chips.chip import Clock, IrqLine

DATA = 0  # RBR and THR; divisor latch low when LCR_DLAB
IER = 1  # divisor latch high when LCR_DLAB
IIR = 2  # read
FCR = 2  # write
LCR = 3
MCR = 4
LSR = 5
MSR = 6
SCR = 7

IER_RECEIVED = 0x01
IER_THR_EMPTY = 0x02
IER_LINE_STATUS = 0x04
IER_MODEM_STATUS = 0x08

IIR_NONE = 0x01
IIR_MODEM_STATUS = 0x00
IIR_THR_EMPTY = 0x02
IIR_RECEIVED = 0x04
IIR_LINE_STATUS = 0x06
IIR_TIMEOUT = 0x0C
IIR_FIFOS = 0xC0

FCR_ENABLE = 0x01
FCR_CLEAR_RECEIVER = 0x02
FCR_CLEARS = 0x06  # these two bits clear themselves

LCR_STOP_BITS = 0x04
LCR_PARITY = 0x08
LCR_DLAB = 0x80

MCR_DTR = 0x01
MCR_RTS = 0x02
MCR_OUT1 = 0x04
MCR_OUT2 = 0x08
MCR_LOOP = 0x10

LSR_DATA_READY = 0x01
LSR_OVERRUN = 0x02
LSR_TRANSMITTER_IDLE = 0x60  # THR empty, and the shift register too

MSR_CTS = 0x10
MSR_DSR = 0x20
MSR_RI = 0x40
MSR_DCD = 0x80
MSR_DELTAS = 0x0F
_TERMINAL_PRESENT = MSR_CTS | MSR_DSR | MSR_DCD

WIRE_BYTES = 65536
"""As many the terminal keeps for a guest that does not read. Whoever types looks how many there are."""

_FIFO_BYTES = 16
_TRIGGER_BYTES = (1, 4, 8, 14)
_TIMEOUT_CHARACTERS = 4
_CLOCKS_PER_BIT = 16
_CLOCK_HZ = 1_843_200
_NS_PER_SECOND = 1_000_000_000


class UartState(msgspec.Struct):
    ier: int = 0
    fcr: int = 0
    lcr: int = 0
    mcr: int = 0
    lsr: int = LSR_TRANSMITTER_IDLE
    msr: int = _TERMINAL_PRESENT
    scr: int = 0
    divisor: int = 12
    received: list[int] = msgspec.field(default_factory=list)
    """What RBR returns next, oldest first; one byte at most while the FIFOs are off."""
    thr_empty_pending: bool = False
    timeout_pending: bool = False
    wire: bytearray = msgspec.field(default_factory=bytearray)
    """Bytes that the terminal has yet to send."""
    arrival_ns: int | None = None
    """When the next byte of ``wire`` has come in."""
    timeout_ns: int | None = None
    interrupt: bool = False


class Source(Protocol):
    """Somebody who has bytes to send."""

    def waits(self) -> bool:
        """Whether there is one to ``take``."""
        ...

    def take(self) -> int: ...


class Uart:
    """``transmit`` takes each byte sent. ``rearm`` is called when ``next_event_ns`` may have become earlier. What
    ``source`` has is sent before what was received.
    """

    def __init__(
        self,
        clock: Clock,
        irq: IrqLine,
        transmit: Callable[[int], None],
        rearm: Callable[[], None],
        source: Source | None = None,
    ) -> None:
        self.state = UartState()
        self._clock = clock
        self._irq = irq
        self._transmit = transmit
        self._rearm = rearm
        self._source = source

    def receive(self, data: bytes) -> None:
        """The terminal sends these bytes, after those it has not finished sending."""
        self.state.wire += data
        self._await_arrival()

    def listen(self) -> None:
        """The source has something now."""
        self._await_arrival()

    def read(self, offset: int, size: int) -> int:
        state = self.state
        if offset == LSR:
            lsr = state.lsr
            if lsr & LSR_OVERRUN:
                state.lsr = lsr & ~LSR_OVERRUN
                self._update()
            return lsr
        if offset == DATA:
            return state.divisor & 0xFF if state.lcr & LCR_DLAB else self._read_received()
        if offset == IER:
            return state.divisor >> 8 if state.lcr & LCR_DLAB else state.ier
        if offset == IIR:
            cause = self._cause()
            if cause == IIR_THR_EMPTY:
                state.thr_empty_pending = False
                self._update()
            return cause | IIR_FIFOS if state.fcr & FCR_ENABLE else cause
        if offset == LCR:
            return state.lcr
        if offset == MCR:
            return state.mcr
        if offset == MSR:
            msr = state.msr
            state.msr &= ~MSR_DELTAS
            self._update()
            return msr
        return state.scr

    def write(self, offset: int, size: int, value: int) -> None:
        state = self.state
        if offset == DATA:
            if state.lcr & LCR_DLAB:
                state.divisor = state.divisor & 0xFF00 | value
            else:
                self._send(value)
        elif offset == IER:
            if state.lcr & LCR_DLAB:
                state.divisor = state.divisor & 0xFF | value << 8
            else:
                self._write_ier(value & 0x0F)
        elif offset == FCR:
            self._write_fcr(value)
        elif offset == LCR:
            state.lcr = value
        elif offset == MCR:
            self._write_mcr(value & 0x1F)
        elif offset == SCR:
            state.scr = value

    def next_event_ns(self) -> int | None:
        arrival, timeout = self.state.arrival_ns, self.state.timeout_ns
        if arrival is None or timeout is None:
            return timeout if arrival is None else arrival
        return min(arrival, timeout)

    def advance(self, now_ns: int) -> None:
        state = self.state
        if state.timeout_ns is not None and state.timeout_ns <= now_ns:
            state.timeout_ns = None
            state.timeout_pending = True
        while state.arrival_ns is not None and state.arrival_ns <= now_ns:
            arrived_ns, state.arrival_ns = state.arrival_ns, None
            self._put_received(self._next_byte(), arrived_ns)
            self._await_arrival(arrived_ns)
        self._update()

    # ---- receiver ----

    def _room(self) -> bool:
        return len(self.state.received) < (_FIFO_BYTES if self.state.fcr & FCR_ENABLE else 1)

    def _await_arrival(self, since_ns: int | None = None) -> None:
        """Let the next byte start on its way, if there is one, room for it, and a guest that is ready.

        Ready means that the guest asserts RTS or has receiver interrupts enabled, and is not in loopback.
        """
        state = self.state
        ready = (state.mcr & MCR_RTS or state.ier & IER_RECEIVED) and not state.mcr & MCR_LOOP
        if not ready:
            state.arrival_ns = None
        elif (state.wire or self._source_waits()) and state.arrival_ns is None and self._room():
            state.arrival_ns = (self._clock() if since_ns is None else since_ns) + self._character_ns()
            self._rearm()

    def _source_waits(self) -> bool:
        return self._source is not None and self._source.waits()

    def _next_byte(self) -> int:
        if self._source is not None and self._source.waits():
            return self._source.take()
        return self.state.wire.pop(0)

    def _character_ns(self) -> int:
        """Start bit, data, parity and stop bits at the programmed speed; a divisor of 0 counts as 65536."""
        lcr = self.state.lcr
        bits = 1 + 5 + (lcr & 3) + bool(lcr & LCR_PARITY) + (2 if lcr & LCR_STOP_BITS else 1)
        return bits * _CLOCKS_PER_BIT * (self.state.divisor or 0x10000) * _NS_PER_SECOND // _CLOCK_HZ

    def _put_received(self, byte: int, now_ns: int) -> None:
        state = self.state
        if self._room():
            state.received.append(byte)
        else:
            state.lsr |= LSR_OVERRUN
            if not state.fcr & FCR_ENABLE:
                state.received[0] = byte
        state.lsr |= LSR_DATA_READY
        self._restart_timeout(now_ns)

    def _read_received(self) -> int:
        state = self.state
        if not state.received:
            return 0
        byte = state.received.pop(0)
        if not state.received:
            state.lsr &= ~LSR_DATA_READY
        now_ns = self._clock()
        self._restart_timeout(now_ns)
        self._await_arrival(now_ns)
        self._update()
        return byte

    def _clear_received(self) -> None:
        state = self.state
        state.received.clear()
        state.lsr &= ~LSR_DATA_READY
        self._restart_timeout(self._clock())

    def _restart_timeout(self, now_ns: int) -> None:
        """The FIFO was written or read: a character that stays in it is reported four character times from now."""
        state = self.state
        state.timeout_pending = False
        state.timeout_ns = None
        if state.received and state.fcr & FCR_ENABLE:
            state.timeout_ns = now_ns + _TIMEOUT_CHARACTERS * self._character_ns()
            self._rearm()

    # ---- transmitter ----

    def _send(self, byte: int) -> None:
        state = self.state
        if state.mcr & MCR_LOOP:
            self._put_received(byte, self._clock())
            self._update()
        else:
            self._transmit(byte)
        if state.ier & IER_THR_EMPTY:
            # The interrupt goes away with the write and comes back when the byte is out, which is now.
            state.thr_empty_pending = False
            self._update()
            state.thr_empty_pending = True
            self._update()
        else:
            state.thr_empty_pending = True

    # ---- control ----

    def _write_ier(self, value: int) -> None:
        state = self.state
        if value & ~state.ier & IER_THR_EMPTY:
            state.thr_empty_pending = True
        state.ier = value
        self._await_arrival()
        self._update()

    def _write_fcr(self, value: int) -> None:
        state = self.state
        changed = (value ^ state.fcr) & FCR_ENABLE
        if not value & FCR_ENABLE:
            value = 0  # the other bits are not written
        state.fcr = value & ~FCR_CLEARS
        if changed or value & FCR_CLEAR_RECEIVER:
            self._clear_received()
        self._await_arrival()
        self._update()

    def _write_mcr(self, value: int) -> None:
        state = self.state
        state.mcr = value
        if value & MCR_LOOP:
            lines = (
                (MSR_CTS if value & MCR_RTS else 0)
                | (MSR_DSR if value & MCR_DTR else 0)
                | (MSR_RI if value & MCR_OUT1 else 0)
                | (MSR_DCD if value & MCR_OUT2 else 0)
            )
        else:
            lines = _TERMINAL_PRESENT
        changed = (lines ^ state.msr) & 0xF0
        # The delta of RI reports its trailing edge only.
        deltas = (changed & ~MSR_RI | changed & state.msr & MSR_RI) >> 4
        state.msr = lines | state.msr & MSR_DELTAS | deltas
        self._await_arrival()
        self._update()

    # ---- interrupts ----

    def _cause(self) -> int:
        """What IIR reports: the pending, enabled interrupt of highest priority."""
        state = self.state
        ier = state.ier
        if ier & IER_LINE_STATUS and state.lsr & LSR_OVERRUN:
            return IIR_LINE_STATUS
        if ier & IER_RECEIVED:
            if len(state.received) >= self._trigger():
                return IIR_RECEIVED
            if state.timeout_pending:
                return IIR_TIMEOUT
        if ier & IER_THR_EMPTY and state.thr_empty_pending:
            return IIR_THR_EMPTY
        if ier & IER_MODEM_STATUS and state.msr & MSR_DELTAS:
            return IIR_MODEM_STATUS
        return IIR_NONE

    def _trigger(self) -> int:
        fcr = self.state.fcr
        return _TRIGGER_BYTES[fcr >> 6] if fcr & FCR_ENABLE else 1

    def _update(self) -> None:
        state = self.state
        # OUT2 opens the way to the bus; in loopback the pin is inactive.
        connected = state.mcr & (MCR_OUT2 | MCR_LOOP) == MCR_OUT2
        interrupt = connected and self._cause() != IIR_NONE
        if interrupt != state.interrupt:
            state.interrupt = interrupt
            self._irq(interrupt)

"""The 16550A: what its data sheet says, and a terminal that never loses a byte."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.module.chips.uart import DATA, FCR, IER, IIR, LCR, LSR, MCR, MSR, SCR, Uart

CHARACTER_NS = 10 * 16 * 10**9 // 1_843_200  # 8N1 at 115200
OUT2_RTS_DTR = 0x0B
NONE, MODEM, THR, RECEIVED, LINE, TIMEOUT = 0x01, 0x00, 0x02, 0x04, 0x06, 0x0C


class Bench:
    def __init__(self, fifo: bool = True, mcr: int = OUT2_RTS_DTR, ier: int = 0) -> None:
        self.now_ns = 0
        self.sent = bytearray()
        self.levels: list[bool] = []
        self.uart = Uart(lambda: self.now_ns, self.levels.append, self.sent.append, lambda: None)
        self.write(LCR, 0x80)
        self.write(DATA, 1)
        self.write(IER, 0)
        self.write(LCR, 0x03)
        if fifo:
            self.write(FCR, 0x07)
        self.write(MCR, mcr)
        self.write(IER, ier)

    def write(self, offset: int, value: int) -> None:
        self.uart.write(offset, 1, value)

    def read(self, offset: int) -> int:
        return self.uart.read(offset, 1)

    def go(self, duration_ns: int) -> None:
        """Let time pass, stopping at every event as the board does."""
        end = self.now_ns + duration_ns
        while (event := self.uart.next_event_ns()) is not None and event <= end:
            self.now_ns = event
            self.uart.advance(event)
        self.now_ns = end

    @property
    def irq(self) -> bool:
        return bool(self.levels) and self.levels[-1]

    @property
    def cause(self) -> int:
        return self.read(IIR) & 0x0F

    def received(self) -> bytes:
        data = bytearray()
        while self.read(LSR) & 1:
            data.append(self.read(DATA))
        return bytes(data)


def test_a_byte_written_is_sent_and_the_transmitter_is_empty_again() -> None:
    bench = Bench()
    bench.write(DATA, ord("x"))
    assert bench.sent == b"x"
    assert bench.read(LSR) == 0x60


def test_the_divisor_hides_behind_dlab() -> None:
    bench = Bench()
    bench.write(IER, 0x05)
    bench.write(LCR, 0x83)
    bench.write(DATA, 0x34)
    bench.write(IER, 0x12)
    assert (bench.read(DATA), bench.read(IER)) == (0x34, 0x12)
    bench.write(LCR, 0x03)
    assert bench.read(IER) == 0x05
    assert bench.sent == b""


def test_registers_keep_what_is_written_to_their_bits() -> None:
    bench = Bench()
    bench.write(SCR, 0xA5)
    bench.write(IER, 0xFF)
    bench.write(MCR, 0xEF)
    bench.write(LCR, 0x1B)
    assert [bench.read(offset) for offset in (SCR, IER, MCR, LCR)] == [0xA5, 0x0F, 0x0F, 0x1B]


def test_iir_tells_a_16550a_with_its_fifos_on() -> None:
    assert Bench(fifo=True).read(IIR) == 0xC1
    assert Bench(fifo=False).read(IIR) == 0x01


def test_fcr_bits_are_written_only_together_with_the_enable_bit() -> None:
    bench = Bench(fifo=False)
    bench.write(FCR, 0xC0)
    assert bench.uart.state.fcr == 0


def test_enabling_the_thr_interrupt_with_an_empty_thr_raises_it_at_once() -> None:
    bench = Bench()
    bench.write(IER, 0x02)
    assert bench.irq
    assert bench.cause == THR
    assert not bench.irq, "reading IIR resets it when it is the cause"
    assert bench.cause == NONE
    bench.write(IER, 0x02)
    assert not bench.irq, "it was enabled already"
    bench.write(IER, 0x00)
    bench.write(IER, 0x02)
    assert bench.irq


def test_a_written_byte_raises_the_thr_interrupt_again_with_an_edge() -> None:
    bench = Bench(ier=0x02)
    assert bench.levels == [True]
    bench.write(DATA, 1)
    assert bench.levels == [True, False, True]
    assert bench.cause == THR
    bench.write(DATA, 2)
    assert bench.levels == [True, False, True, False, True]


def test_reading_iir_does_not_reset_thr_empty_when_something_else_is_the_cause() -> None:
    bench = Bench(ier=0x03)
    bench.uart.receive(b"a")
    bench.go(CHARACTER_NS)
    assert bench.cause == RECEIVED
    bench.read(DATA)
    assert bench.cause == THR


def test_out2_connects_the_interrupt() -> None:
    bench = Bench(mcr=0x03, ier=0x02)
    assert bench.cause == THR, "the chip itself does interrupt"
    bench.write(IER, 0x00)
    bench.write(IER, 0x02)
    assert not bench.irq
    bench.write(MCR, OUT2_RTS_DTR)
    assert bench.irq
    bench.write(MCR, 0x03)
    assert not bench.irq


def test_bytes_arrive_one_character_time_apart() -> None:
    bench = Bench()
    bench.uart.receive(b"ab")
    bench.go(CHARACTER_NS - 1)
    assert bench.read(LSR) == 0x60
    bench.go(1)
    assert bench.read(LSR) == 0x61
    bench.go(CHARACTER_NS)
    assert bench.received() == b"ab"


@pytest.mark.parametrize(
    ("lcr", "divisor", "bits"),
    [(0x03, 1, 10), (0x03, 12, 10), (0x00, 1, 7), (0x1F, 96, 12), (0x0A, 3, 10), (0x03, 0, 10)],
)
def test_the_character_time_follows_the_line_settings(lcr: int, divisor: int, bits: int) -> None:
    bench = Bench()
    bench.write(LCR, 0x80 | lcr)
    bench.write(DATA, divisor)
    bench.write(IER, 0)
    bench.write(LCR, lcr)
    bench.uart.receive(b"a")
    assert bench.uart.next_event_ns() == bits * 16 * (divisor or 65536) * 10**9 // 1_843_200


@pytest.mark.parametrize(("fifo", "room"), [(True, 16), (False, 1)])
def test_what_does_not_fit_waits_on_the_wire(fifo: bool, room: int) -> None:
    bench = Bench(fifo=fifo)
    text = bytes(range(40))
    bench.uart.receive(text)
    bench.go(100 * CHARACTER_NS)
    assert len(bench.uart.state.received) == room
    assert bench.uart.next_event_ns() is None
    data = bytearray()
    while len(data) < 40:
        data += bench.received()
        bench.go(20 * CHARACTER_NS)
    assert data == text
    assert not bench.read(LSR) & 0x02, "nothing was overrun"


@given(data=st.binary(max_size=100), reads=st.lists(st.integers(0, 30 * CHARACTER_NS), max_size=50), fifo=st.booleans())
def test_every_byte_comes_once_and_in_order(data: bytes, reads: list[int], fifo: bool) -> None:
    bench = Bench(fifo=fifo)
    bench.uart.receive(data[:50])
    got = bytearray()
    for index, pause in enumerate(reads):
        bench.go(pause)
        if index % 3:
            got += bench.received()
        elif bench.read(LSR) & 1:
            got.append(bench.read(DATA))
    bench.uart.receive(data[50:])
    for _ in range(len(data)):
        bench.go(CHARACTER_NS)
        got += bench.received()
    assert got == data


def test_nothing_arrives_before_the_guest_is_ready() -> None:
    bench = Bench(mcr=0x00)
    bench.uart.receive(b"a")
    assert bench.uart.next_event_ns() is None
    bench.write(IER, 0x01)
    assert bench.uart.next_event_ns() == CHARACTER_NS
    bench.write(IER, 0x00)
    assert bench.uart.next_event_ns() is None
    bench.write(MCR, 0x02)
    bench.go(CHARACTER_NS)
    assert bench.received() == b"a"


@pytest.mark.parametrize(("fcr", "trigger"), [(0x01, 1), (0x41, 4), (0x81, 8), (0xC1, 14)])
def test_the_received_interrupt_comes_at_the_trigger_level_and_goes_below_it(fcr: int, trigger: int) -> None:
    bench = Bench(ier=0x01)
    bench.write(FCR, fcr)
    bench.uart.receive(bytes(trigger))
    bench.go((trigger - 1) * CHARACTER_NS)
    assert not bench.irq
    bench.go(CHARACTER_NS)
    assert bench.irq
    assert bench.cause == RECEIVED
    bench.read(DATA)
    assert not bench.irq


def test_a_character_that_stays_in_the_fifo_is_reported_after_four_character_times() -> None:
    bench = Bench(ier=0x01)
    bench.write(FCR, 0xC1)
    bench.uart.receive(b"ab")
    bench.go(6 * CHARACTER_NS - 1)
    assert not bench.irq
    bench.go(1)
    assert bench.cause == TIMEOUT
    bench.read(DATA)
    assert not bench.irq, "reading the FIFO resets the time-out"
    bench.go(4 * CHARACTER_NS)
    assert bench.cause == TIMEOUT, "one byte is still there"
    bench.read(DATA)
    bench.go(100 * CHARACTER_NS)
    assert not bench.irq


def test_without_fifos_every_byte_interrupts() -> None:
    bench = Bench(fifo=False, ier=0x01)
    bench.uart.receive(b"ab")
    bench.go(CHARACTER_NS)
    assert bench.cause == RECEIVED
    bench.read(DATA)
    assert not bench.irq
    bench.go(CHARACTER_NS)
    assert bench.irq


def test_clearing_the_receiver_fifo_drops_what_is_in_it_but_not_what_is_on_the_wire() -> None:
    bench = Bench()
    bench.uart.receive(bytes(range(20)))
    bench.go(16 * CHARACTER_NS)
    bench.write(FCR, 0x03)
    assert not bench.read(LSR) & 1
    bench.go(4 * CHARACTER_NS)
    assert bench.received() == bytes(range(16, 20))


def test_switching_the_fifos_clears_them() -> None:
    bench = Bench()
    bench.uart.receive(b"ab")
    bench.go(2 * CHARACTER_NS)
    bench.write(FCR, 0x00)
    assert not bench.read(LSR) & 1


def test_an_empty_receiver_reads_as_zero() -> None:
    assert Bench().read(DATA) == 0


def test_loopback_sends_to_itself_and_leaves_the_terminal_alone() -> None:
    bench = Bench(mcr=0x1E)
    bench.uart.receive(b"z")
    bench.write(DATA, 0xAE)
    assert bench.sent == b""
    assert bench.read(LSR) & 1
    assert bench.read(DATA) == 0xAE
    assert bench.uart.next_event_ns() is None
    bench.write(MCR, OUT2_RTS_DTR)
    bench.go(CHARACTER_NS)
    assert bench.received() == b"z"


@pytest.mark.parametrize(("fifo", "kept"), [(True, bytes(range(16))), (False, bytes([17]))])
def test_an_overrun_is_reported_until_lsr_is_read(fifo: bool, kept: bytes) -> None:
    bench = Bench(fifo=fifo, mcr=0x10, ier=0x04)
    for byte in range(18):
        bench.write(DATA, byte)
    assert bench.cause == LINE
    assert bench.read(LSR) & 0x03 == 0x03
    assert bench.cause == NONE
    assert not bench.read(LSR) & 0x02
    assert bench.received() == kept, "FIFO: the new byte is lost; RBR: the old one is"


@pytest.mark.parametrize(("mcr", "msr"), [(0x10, 0x00), (0x11, 0x20), (0x12, 0x10), (0x14, 0x40), (0x18, 0x80)])
def test_loopback_connects_the_modem_outputs_to_the_inputs(mcr: int, msr: int) -> None:
    bench = Bench()
    bench.write(MCR, mcr)
    bench.read(MSR)
    assert bench.read(MSR) == msr


def test_changes_of_modem_inputs_are_reported_once() -> None:
    bench = Bench(ier=0x08)
    assert bench.read(MSR) == 0xB0, "a terminal is connected"
    bench.write(MCR, 0x10)
    assert bench.read(MSR) == 0x0B, "CTS, DSR and DCD fell"
    assert bench.read(MSR) == 0x00
    bench.write(MCR, 0x14)
    assert bench.read(MSR) == 0x40, "RI reports its trailing edge only"
    bench.write(MCR, 0x10)
    assert bench.cause == MODEM
    assert bench.read(MSR) == 0x04
    assert bench.cause == NONE


def test_causes_come_in_order_of_priority() -> None:
    bench = Bench(fifo=False, mcr=0x10, ier=0x0F)
    bench.write(DATA, 1)
    bench.write(DATA, 2)
    causes = [bench.cause]
    bench.read(LSR)
    causes.append(bench.cause)
    bench.read(DATA)
    causes += [bench.cause, bench.cause]
    bench.read(MSR)
    causes.append(bench.cause)
    assert causes == [LINE, RECEIVED, THR, MODEM, NONE]


def test_the_interrupt_does_not_leave_the_chip_in_loopback() -> None:
    bench = Bench(mcr=0x1B, ier=0x02)
    assert bench.cause == THR
    bench.write(DATA, 1)
    assert not bench.irq

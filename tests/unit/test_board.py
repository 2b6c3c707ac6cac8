"""The board: the chips wired together, the loop that runs a CPU among them, and scripted consoles.

The CPU here is a fake with the real one's contract (native/ftvm.h): it counts blocks, stops at block entries only,
obeys requests and limits there, and takes interrupts there.
"""

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ftvm.module.board import JUMPS_PER_RUN, OUTPUT_LIMIT_BYTES, Board, BoardConfig, Stop, StopKind
from ftvm.module.chips.pci import Bar, PciFunction
from ftvm.module.cpu import STOP_CRASH, STOP_ENGINE, STOP_HALT, STOP_POSITION, STOP_REQUEST, Devices
from ftvm.module.events import (
    ConsoleIn,
    ConsoleOut,
    DebugHit,
    DebugWatch,
    GuestExit,
    KeyboardIn,
    Output,
    PowerOff,
    ResetRequest,
    StopText,
    TimePassed,
)
from ftvm.units import MIB, NS_PER_BLOCK

LAPIC, IOAPIC = 0xFEE00000, 0xFEC00000
MS = 1_000_000
HLT, CLI, STI = "hlt", "cli", "sti"

Action = Callable[["FakeCpu"], object] | str
"""What one block does."""


class FakeCpu:
    """Does one action a block, over and over; an interrupt's handler quiets every chip that could have asked for it."""

    def __init__(self, actions: Iterable[Action] = ()) -> None:
        self.actions = list(actions)
        self.log: list[object] = []
        self.devices: Devices | None = None
        self._position = self._skipped = self._limit = 0
        self.next_action = 0
        self.interrupts = True
        self.halted = self.line = self._request = self._nmi = False
        self.ends_with: int | None = None
        self.in_block: Callable[[], None] = lambda: None

    # -- the board's side --

    def connect(self, devices: Devices, lapic: object) -> None:
        self.devices = devices

    def position(self) -> int:
        return self._position

    def now_ns(self) -> int:
        return self._position * NS_PER_BLOCK + self._skipped

    def tsc(self) -> int:
        return self.now_ns()

    def error(self) -> str:
        return "why"

    def interrupts_enabled(self) -> bool:
        return self.interrupts

    def request_stop(self) -> None:
        self._request = True

    def limit(self, position: int) -> None:
        self._limit = min(self._limit, position)

    def set_interrupt_line(self, level: bool) -> None:
        self.line = level

    def raise_nmi(self) -> None:
        self._nmi = True

    def step(self, count: int) -> tuple[int, int]:
        return self.run(self._position + 1), 1

    def begin_block(self) -> None:
        raise AssertionError("nobody stops inside of a block")

    def write_state(self, offset: int, data: bytes) -> None:
        raise AssertionError("nobody pokes")

    def instruction(self) -> int:
        return 0

    def look_for(self, watch: DebugWatch | None) -> None:
        assert watch is None

    def hit(self) -> DebugHit:
        raise AssertionError("nobody looks on")

    def skip_to_ns(self, now_ns: int) -> None:
        assert now_ns > self.now_ns()
        self._skipped += now_ns - self.now_ns()

    def run(self, position: int) -> int:
        self._limit = position
        while True:
            if self._request:
                self._request = False
                return STOP_REQUEST
            if self._position >= self._limit:
                return STOP_POSITION
            if self._nmi or (self.line and self.interrupts):
                self.halted = False
            if self.halted:
                return STOP_HALT
            self._position += 1
            if self._nmi:
                self._nmi = False
                self.log.append("nmi")
            elif self.line and self.interrupts:
                self._take_interrupt()
            else:
                self._act()
            if self.ends_with is not None:
                return self.ends_with

    # -- the guest's side --

    def out(self, port: int, value: int, size: int = 1) -> None:
        self.board.port_write(port, size, value)

    def inp(self, port: int, size: int = 1) -> int:
        return self.board.port_read(port, size)

    @property
    def board(self) -> Any:
        assert self.devices is not None
        return self.devices

    def vectors(self) -> list[int]:
        return [entry[3] for entry in self.log if isinstance(entry, tuple) and entry[0] == "interrupt"]

    def times(self) -> list[int]:
        return [entry[2] for entry in self.log if isinstance(entry, tuple) and entry[0] == "interrupt"]

    def _act(self) -> None:
        if not self.actions:
            return
        action = self.actions[self.next_action % len(self.actions)]
        self.next_action += 1
        if action == HLT:
            self.halted = True
        elif action in (CLI, STI):
            self.interrupts = action == STI
        elif callable(action):
            self.log.append(action(self))

    def _take_interrupt(self) -> None:
        vector = self.board.interrupt_ack()
        self.log.append(("interrupt", self._position, self.now_ns(), vector))
        self.out(0x70, 0x0C)
        self.inp(0x71)
        for port in (0x60, 0x3F8, 0x3FA, 0x3FD, 0x3FE):
            self.log.append(self.inp(port))
        self.out(0x600, 0xFFFF, 2)
        self.out(0xA0, 0x20)
        self.out(0x20, 0x20)
        self.board.mmio_write(LAPIC + 0xB0, 4, 0)

    def frozen(self) -> tuple[object, ...]:
        return (self._position, self._skipped, self.next_action, self.interrupts, self.halted, self.line, self._nmi)

    def thaw(self, frozen: tuple[Any, ...]) -> None:
        self._position, self._skipped, self.next_action, self.interrupts, self.halted, self.line, self._nmi = frozen


def outb(port: int, value: int, size: int = 1) -> Action:
    return lambda cpu: cpu.out(port, value, size)


def inb(port: int, size: int = 1) -> Action:
    return lambda cpu: (port, cpu.inp(port, size))


def store(gpa: int, value: int) -> Action:
    return lambda cpu: cpu.board.mmio_write(gpa, 4, value)


def say(text: bytes) -> list[Action]:
    return [outb(0x3F8, byte) for byte in text]


def initialize_pics(mask: int = 0xFFFF) -> list[Action]:
    words = ((0x20, 0x11), (0x21, 0x20), (0x21, 0x04), (0x21, 0x01), (0xA0, 0x11), (0xA1, 0x28), (0xA1, 0x02))
    masks = ((0xA1, 0x01), (0x21, mask & 0xFF), (0xA1, mask >> 8))
    return [outb(port, value) for port, value in (*words, *masks)]


def start_timer(count: int) -> list[Action]:
    """Counter 0 as a rate generator."""
    return [outb(0x43, 0x34), outb(0x40, count & 0xFF), outb(0x40, count >> 8)]


def pause(blocks: int) -> list[Action]:
    return [lambda cpu: None] * blocks


def machine(*actions: list[Action], **config: Any) -> tuple[Board, FakeCpu]:
    """A board and a CPU that does ``actions``, then halts again and again."""
    cpu = FakeCpu([action for group in actions for action in group])
    return Board(BoardConfig(ram_bytes=64 * MIB, **config), cpu), cpu


def merged(outputs: list[Output]) -> list[Output]:
    result: list[Output] = []
    for output in outputs:
        last = result[-1] if result else None
        if isinstance(output, ConsoleOut) and isinstance(last, ConsoleOut) and output.channel == last.channel:
            result[-1] = ConsoleOut(last.channel, last.data + output.data)
        else:
            result.append(output)
    return result


def idle_loop(cpu: FakeCpu) -> None:
    """From now on, the CPU halts again after every interrupt."""
    cpu.actions = [HLT]
    cpu.next_action = 0


def boot(board: Board, cpu: FakeCpu) -> None:
    """Do all actions once, whatever interrupts come between."""
    while cpu.next_action < len(cpu.actions):
        assert board.run(cpu.position() + 1) == Stop(StopKind.POSITION)


# ---- ports and memory ----


def test_nobody_answers_at_unclaimed_ports_and_addresses() -> None:
    board, _ = machine()
    assert board.port_read(0x1F0, 1) == 0xFF
    assert board.port_read(0x300, 4) == 0xFFFFFFFF
    assert board.mmio_read(0xD0000000, 2) == 0xFFFF
    assert board.mmio_read(0xE0000000, 8) == (1 << 64) - 1
    before = board.save()
    board.port_write(0x300, 2, 0x1234)
    board.mmio_write(0xD0000000, 8, 0)
    assert board.save() == before


def test_wide_accesses_to_byte_wide_chips_are_split() -> None:
    board, _ = machine()
    board.port_write(0x3D4, 2, 0x340F)  # index 0F, then data 34
    board.port_write(0x3D4, 1, 0x0F)
    assert board.port_read(0x3D4, 2) == 0x340F
    board.port_write(0x83, 4, 0x44332211)
    assert board.port_read(0x82, 4) == 0x33221100
    assert board.port_read(0x3FF, 2) >> 8 == 0xFF, "the second byte is nobody's"
    assert board.port_read(0xFFFF, 2) == 0xFFFF


def test_the_reset_control_port_lies_in_the_middle_of_pci_s_address_register() -> None:
    board, _ = machine()
    board.port_write(0xCF8, 4, 0x80000000)
    board.port_write(0xCF9, 1, 0x02)
    assert board.port_read(0xCF8, 4) == 0x80000000
    assert board.port_read(0xCF9, 1) == 0x02
    assert board.port_read(0xCFC, 4) == 0x12378086
    assert board.port_read(0xCFE, 2) == 0x1237
    assert board.port_read(0xCFF, 1) == 0x12
    assert board.take_outputs() == []


@pytest.mark.parametrize(
    ("port", "size", "value"),
    [
        (0x21, 1, 0xF8),
        (0xA1, 1, 0xFF),
        (0x61, 1, 0x00),
        (0x64, 1, 0x14),
        (0x92, 1, 0x02),
        (0x3FD, 1, 0x60),
        (0x4D0, 2, 0x0C00),
        (0xE9, 1, 0xE9),
        (0x604, 2, 0x0000),
        (0xB2, 2, 0x0000),
    ],
)
def test_every_chip_is_where_a_pc_has_it(port: int, size: int, value: int) -> None:
    board, cpu = machine(initialize_pics(mask=0xFFF8))
    boot(board, cpu)
    assert board.port_read(port, size) & ~0x10 == value & ~0x10


def test_the_apics_are_in_memory() -> None:
    board, _ = machine()
    assert board.mmio_read(LAPIC + 0x30, 4) == 0x50014
    board.mmio_write(IOAPIC, 4, 1)
    assert board.mmio_read(IOAPIC + 0x10, 4) == 0x170011
    board.mmio_write(LAPIC + 0x80, 8, 0x20)
    assert board.mmio_read(LAPIC + 0x80, 8) == 0x20
    assert board.cr8_read() == 2
    board.cr8_write(5)
    assert board.mmio_read(LAPIC + 0x80, 4) == 0x50


def test_the_local_apic_can_be_moved_and_switched_off() -> None:
    board, _ = machine()
    assert board.msr_read(0x1B) == 0xFEE00900
    assert board.msr_write(0x1B, 0xFED00900)
    assert board.mmio_read(0xFED00030, 4) == 0x50014
    assert board.mmio_read(LAPIC + 0x30, 4) == 0xFFFFFFFF
    assert board.msr_write(0x1B, 0xFED00100)
    assert board.mmio_read(0xFED00030, 4) == 0xFFFFFFFF
    assert not board.msr_write(0x1B, 0xFED00D00)
    assert board.msr_read(0xC0000080) is None
    assert not board.msr_write(0xC0000080, 0)


class Card(PciFunction):
    """An I/O and a memory region that remember the last access."""

    def __init__(self) -> None:
        super().__init__(0x1234, 0x5678, 0xFF0000, bars=(Bar(0, 32, io=True), Bar(1, 8192, io=False)), interrupt_pin=1)
        self.writes: list[tuple[int, int, int, int]] = []

    def read_bar(self, index: int, offset: int, size: int) -> int:
        return index << 16 | offset

    def write_bar(self, index: int, offset: int, size: int, value: int) -> None:
        self.writes.append((index, offset, size, value))


def configure(board: Board, slot: int, register: int, value: int, size: int = 4) -> None:
    board.port_write(0xCF8, 4, 1 << 31 | slot << 11 | register & 0xFC)
    board.port_write(0xCFC + (register & 3), size, value)


def test_what_a_pci_function_decodes_is_reached_where_its_bars_say() -> None:
    board, _ = machine()
    card = Card()
    board.pci.plug(4, 0, card)
    configure(board, 4, 0x10, 0xC000)
    configure(board, 4, 0x14, 0xE0002000)
    assert board.port_read(0xC004, 2) == 0xFFFF
    configure(board, 4, 0x04, 3, 2)
    assert board.port_read(0xC004, 2) == 4
    assert board.mmio_read(0xE0003008, 4) == 0x11008
    board.port_write(0xC01F, 1, 7)
    board.port_write(0xC010, 4, 8)
    board.mmio_write(0xE0002000, 2, 9)
    assert card.writes == [(0, 31, 1, 7), (0, 16, 4, 8), (1, 0, 2, 9)]
    configure(board, 4, 0x10, 0x0060)
    assert board.port_read(0x61, 1) & 0x0F == 0x00, "the board's own ports stay"
    assert board.port_read(0x70, 1) == 0xFF
    configure(board, 4, 0x04, 0, 2)
    assert board.mmio_read(0xE0003008, 4) == 0xFFFFFFFF


# ---- interrupts ----


def test_the_timer_reaches_the_cpu_through_the_8259_at_the_position_of_its_tick() -> None:
    board, cpu = machine(initialize_pics(mask=0xFFFE), start_timer(1193), pause(100))
    cpu.actions += pause(1_000_000)
    board.run(500_000)
    assert cpu.vectors()[:4] == 4 * [0x20]
    start_tick = 13 * NS_PER_BLOCK * 1_193_182 // 10**9  # of the last byte of the count
    # The control word raised OUT, which is an edge of its own; then each period of 1193 ticks ends with one.
    for number, time_ns in enumerate(cpu.times()[1:4], start=1):
        due_ns = -(-(start_tick + 1 + 1193 * number) * 10**9 // 1_193_182)
        assert due_ns <= time_ns - NS_PER_BLOCK < due_ns + NS_PER_BLOCK, "the first block entry after the edge"


def test_a_timer_that_is_armed_in_the_middle_of_a_run_stops_that_run() -> None:
    arm = [store(LAPIC + 0x3E0, 0b1011), store(LAPIC + 0x320, 0x40), store(LAPIC + 0x380, 5000)]
    board, cpu = machine(arm, pause(10_000))
    board.run(10_000)
    armed_ns = 3 * NS_PER_BLOCK
    assert cpu.times() == [armed_ns + 5000 + NS_PER_BLOCK]
    assert cpu.vectors() == [0x40]


def test_irq_0_is_pin_2_of_the_io_apic() -> None:
    route = [store(IOAPIC, 0x14), store(IOAPIC + 0x10, 0x55)]
    board, cpu = machine(initialize_pics(), route, start_timer(100), pause(10_000))
    board.run(20_000)
    assert set(cpu.vectors()) == {0x55}


def test_the_8259s_can_come_in_at_pin_0_of_the_io_apic() -> None:
    route = [store(LAPIC + 0x350, 0x10000), store(IOAPIC, 0x10), store(IOAPIC + 0x10, 0x700)]
    board, cpu = machine(route, initialize_pics(mask=0xFFFE), start_timer(100), pause(30_000))
    board.run(30_000)
    assert len(cpu.vectors()) > 2
    assert set(cpu.vectors()) == {0x20}


def test_an_interrupt_that_went_away_has_no_vector() -> None:
    board, _ = machine()
    assert board.interrupt_ack() == -1


def test_a_key_arrives_as_irq_1() -> None:
    board, cpu = machine(initialize_pics(mask=0xFFFD), [outb(0x64, 0x60), outb(0x60, 0x45)], pause(100))
    boot(board, cpu)
    board.put([KeyboardIn(b"\x1e\x9e")])
    board.run(cpu.position() + 50)
    assert cpu.vectors() == [0x21, 0x21]
    assert [entry for entry in cpu.log if entry in (0x1E, 0x9E)] == [0x1E, 0x9E]


def test_pci_interrupts_reach_both_kinds_of_interrupt_controller() -> None:
    route = [store(IOAPIC, 0x10 + 2 * 18), store(IOAPIC + 0x10, 0x8062)]
    board, cpu = machine(initialize_pics(mask=0xF7FB), route, pause(10))
    card = Card()
    board.pci.plug(6, 0, card)  # INTA of slot 6 is PIRQC: ISA IRQ 11 and pin 18
    boot(board, cpu)
    cpu.interrupts = False
    card.set_interrupt(True)
    cpu.interrupts = True
    board.run(cpu.position() + 1)
    assert cpu.vectors() == [0x62]
    board.run(cpu.position() + 1)
    assert cpu.vectors() == [0x62, 0x62], "it lasts until the device is satisfied"
    board.mmio_write(LAPIC + 0x80, 4, 0xF0)
    board.run(cpu.position() + 1)
    assert cpu.vectors()[2:] == [0x2B]
    card.set_interrupt(False)
    board.run(cpu.position() + 100)
    assert cpu.vectors()[3:] == []


def test_an_isa_interrupt_that_two_share_falls_when_both_let_go() -> None:
    board, _ = machine()
    configure(board, 1, 0x60, 4, 1)  # PIRQA to IRQ 4, where COM1 is
    card = Card()
    board.pci.plug(4, 0, card)
    board.port_write(0x3FC, 1, 0x0B)
    board.port_write(0x3F9, 1, 0x02)
    card.set_interrupt(True)
    board.port_write(0x3F9, 1, 0x00)
    assert board.chips["pic0"].state.lines == 0x10
    card.set_interrupt(False)
    assert board.chips["pic0"].state.lines == 0x00


def test_an_nmi_message_reaches_the_cpu() -> None:
    board, cpu = machine([store(LAPIC + 0x300, 0x4400)], pause(5))
    board.run(5)
    assert cpu.log[1] == "nmi"


# ---- waiting ----


def test_at_hlt_virtual_time_jumps_to_the_next_event() -> None:
    board, cpu = machine(initialize_pics(mask=0xFFFE), start_timer(11932))
    boot(board, cpu)
    idle_loop(cpu)
    board.run(20)
    assert cpu.position() == 20
    periods = {(b - a) // MS for a, b in zip(cpu.times()[2:], cpu.times()[3:], strict=False)}
    assert periods <= {9, 10}


def test_a_halted_guest_that_nothing_can_wake_is_halted() -> None:
    board, cpu = machine([CLI, HLT])
    assert board.run(100) == Stop(StopKind.HALTED)
    board, cpu = machine([HLT])
    assert board.run(100) == Stop(StopKind.HALTED)
    assert cpu.position() == 1


def test_a_timer_whose_interrupt_is_masked_everywhere_wakes_nobody() -> None:
    board, _ = machine(initialize_pics(mask=0xFFFF), start_timer(1000), [HLT])
    assert board.run(100) == Stop(StopKind.HALTED)
    board, _ = machine(initialize_pics(mask=0xFEFF), start_timer(1000), [outb(0x70, 0x0B), outb(0x71, 0x12), HLT])
    assert board.run(100) == Stop(StopKind.HALTED), "IRQ 8 is open at the slave, but the master's cascade is not"
    board, cpu = machine(initialize_pics(mask=0xFEFB), [outb(0x70, 0x0B), outb(0x71, 0x12), HLT])
    board.run(15)
    assert cpu.vectors() == [0x28]


def test_an_interactive_guest_that_waits_for_input_is_idle() -> None:
    board, _ = machine([HLT], interactive=True)
    assert board.run(100) == Stop(StopKind.IDLE, None)
    board, _ = machine([CLI, HLT], interactive=True)
    assert board.run(100) == Stop(StopKind.HALTED)


def test_without_interrupts_an_nmi_may_still_come() -> None:
    route = [store(IOAPIC, 0x14), store(IOAPIC + 0x10, 0x400)]
    board, cpu = machine(initialize_pics(), route, start_timer(1000), [CLI, HLT])
    boot(board, cpu)
    assert cpu.halted
    nmis = cpu.log.count("nmi")
    board.run(cpu.position() + 1)
    assert cpu.log.count("nmi") == nmis + 1


def test_a_guest_that_halts_with_output_pending_is_idle_so_that_it_is_seen() -> None:
    board, cpu = machine(initialize_pics(mask=0xFFFE), start_timer(11932), pause(100), say(b"prompt> "), [HLT])
    stop = board.run(1000)
    assert stop.kind == StopKind.IDLE
    assert stop.wake_ns is not None and 9 * MS < stop.wake_ns < 11 * MS
    assert cpu.now_ns() < MS
    assert board.take_outputs() == [ConsoleOut("serial", b"prompt> ")]


def test_a_guest_that_idles_for_long_lets_the_monitor_look() -> None:
    arm = [store(LAPIC + 0x3E0, 0b1011), store(LAPIC + 0x320, 0x20040), store(LAPIC + 0x380, 1000)]
    board, cpu = machine(arm, [store(LAPIC + 0x80, 0xF0), HLT])  # the task priority keeps the interrupt away
    stop = board.run(1000)
    assert stop.kind == StopKind.IDLE
    assert cpu.now_ns() == 30 + 1000 * JUMPS_PER_RUN
    assert stop.wake_ns == cpu.now_ns() + 1000


def test_in_real_time_virtual_time_waits_for_the_clock() -> None:
    board, cpu = machine(initialize_pics(mask=0xFFFE), start_timer(11932), pause(100), [HLT], real_time=True)
    stop = board.run(1000)
    now_ns, wake_ns = cpu.now_ns(), stop.wake_ns
    assert stop.kind == StopKind.IDLE and wake_ns is not None and wake_ns > 9 * MS
    assert board.run(1000) == stop
    assert cpu.now_ns() == now_ns
    board.put([TimePassed(5 * MS)])
    assert board.run(1000) == stop
    assert cpu.now_ns() == 5 * MS
    board.put([TimePassed(wake_ns + 1000)])  # OUT falls, and rises one tick later
    idle_loop(cpu)
    assert board.run(1000).kind == StopKind.IDLE
    assert wake_ns < cpu.times()[-1] <= wake_ns + 1000


def test_time_that_passes_means_nothing_when_it_is_virtual() -> None:
    board, _ = machine()
    before = board.save()
    board.put([TimePassed(10**9)])
    assert board.save() == before


# ---- the end of an epoch ----


def test_a_run_goes_as_far_as_it_was_told_to() -> None:
    board, cpu = machine(pause(1))
    assert board.run(1000) == Stop(StopKind.POSITION)
    assert cpu.position() == 1000
    assert board.run(1000) == Stop(StopKind.POSITION)
    assert cpu.position() == 1000


@pytest.mark.parametrize(("code", "kind"), [(STOP_CRASH, StopKind.CRASH), (STOP_ENGINE, StopKind.ENGINE)])
def test_the_end_of_the_cpu_is_passed_on_with_its_reason(code: int, kind: StopKind) -> None:
    board, cpu = machine(pause(1))
    cpu.ends_with = code
    assert board.run(10) == Stop(kind, detail="why")


def test_much_output_ends_an_epoch() -> None:
    board, cpu = machine(say(b"x"))
    assert board.run(100_000) == Stop(StopKind.OUTPUT)
    assert cpu.position() == OUTPUT_LIMIT_BYTES + 1
    assert board.take_outputs() == [ConsoleOut("serial", b"x" * (OUTPUT_LIMIT_BYTES + 1))]
    assert board.run(100_000) == Stop(StopKind.OUTPUT)
    assert cpu.position() == 2 * (OUTPUT_LIMIT_BYTES + 1)


def test_console_output_is_merged_by_channel_and_in_order() -> None:
    board, _ = machine(say(b"ab"), [outb(0xE9, 0x31), outb(0xE9, 0x32)], say(b"c"), pause(5))
    board.run(8)
    serial, debug = "serial", "debug"
    assert board.take_outputs() == [ConsoleOut(serial, b"ab"), ConsoleOut(debug, b"12"), ConsoleOut(serial, b"c")]
    assert board.take_outputs() == []


@pytest.mark.parametrize(
    ("actions", "output"),
    [
        ([outb(0xF4, 0x21)], GuestExit(0x21)),
        ([outb(0xF4, 0x12345678, 4)], GuestExit(0x12345678)),
        ([outb(0x604, 0x3400, 2)], PowerOff()),
        ([outb(0x64, 0xFE)], ResetRequest("i8042")),
        ([outb(0x92, 0x03)], ResetRequest("port-92")),
        ([outb(0xCF9, 0x06)], ResetRequest("port-cf9")),
    ],
)
def test_the_guest_can_end_the_run(actions: list[Action], output: Output) -> None:
    board, cpu = machine(actions, pause(10))
    assert board.run(10) == Stop(StopKind.EXIT)
    assert cpu.position() == 1
    assert board.take_outputs() == [output]
    assert board.run(10) == Stop(StopKind.POSITION), "a guest that is let go on goes on"


def test_what_the_same_block_says_after_the_exit_still_counts() -> None:
    def both(cpu: FakeCpu) -> None:
        cpu.out(0x3F8, 0x41)
        cpu.out(0xF4, 0)
        cpu.out(0x3F8, 0x42)

    board, _ = machine([both])
    assert board.run(10) == Stop(StopKind.EXIT)
    assert board.take_outputs() == [ConsoleOut("serial", b"A"), GuestExit(0), ConsoleOut("serial", b"B")]


def test_an_error_in_a_chip_leaves_the_board_usable() -> None:
    board, _ = machine([lambda cpu: 1 // 0], pause(10))
    with pytest.raises(ZeroDivisionError):
        board.run(10)
    assert board.run(10) == Stop(StopKind.POSITION)


# ---- the scripted console ----

READY = [outb(0x3FC, 0x0B), outb(0x3FA, 0x07)]


def read_serial(cpu: FakeCpu) -> object:
    return cpu.inp(0x3F8) if cpu.inp(0x3FD) & 1 else None


def heard(cpu: FakeCpu) -> bytes:
    return bytes(entry for entry in cpu.log if type(entry) is int)


def test_the_text_to_stop_at_ends_the_run_once() -> None:
    board, cpu = machine(say(b"xx login: login: "), stop_on=b"login:")
    assert board.run(1000) == Stop(StopKind.EXIT)
    assert cpu.position() == len(b"xx login:")
    assert board.take_outputs() == [ConsoleOut("serial", b"xx login:"), StopText()]
    assert board.run(1000) == Stop(StopKind.POSITION)


@given(st.text("ab", min_size=1, max_size=6), st.text("ab", max_size=40))
def test_the_text_is_found_where_it_first_ends(wanted: str, text: str) -> None:
    board, cpu = machine(say(text.encode()) + pause(1), stop_on=wanted.encode())
    board.run(len(text) + 1)
    found = text.find(wanted)
    assert cpu.position() == (found + len(wanted) if found >= 0 else len(text) + 1)


def test_input_waits_for_its_text() -> None:
    board, cpu = machine(READY, say(b"$ "), pause(1), input=b"ls\n", input_after=b"$ ")
    boot(board, cpu)
    assert board._script.waits()
    cpu.actions, cpu.next_action, cpu.log = [read_serial], 0, []
    board.run(cpu.position() + 2_000_000)
    assert heard(cpu) == b"ls\n"


def test_input_without_a_text_waits_for_a_guest_that_listens() -> None:
    board, cpu = machine(pause(1), input=b"hi")
    board.run(1_000_000)
    assert board.port_read(0x3FD, 1) == 0x60
    cpu.actions, cpu.next_action = [*READY, *pause(300_000), *[read_serial] * 300_000], 0
    board.run(cpu.position() + 600_002)
    assert heard(cpu) == b"hi"


def test_typed_input_comes_after_scripted_input() -> None:
    board, cpu = machine(READY, input=b"one")
    board.put([ConsoleIn(b"two")])
    boot(board, cpu)
    cpu.actions, cpu.next_action = [read_serial], 0
    board.run(cpu.position() + 1_000_000)
    assert heard(cpu) == b"onetwo"


# ---- determinism ----

_PORTS = [0x20, 0x21, 0xA0, 0xA1, 0x4D0, 0x4D1, *range(0x40, 0x44), 0x60, 0x61, 0x64, 0x70, 0x71, *range(0x3F8, 0x400)]
_PORTS += [0x600, 0x602, 0x604, 0x608, 0xB2, 0x3C0, 0x3D4, 0x3D5, 0x3DA, 0xE9, 0xCF8, 0xCFC]
_LAPIC = [0x80, 0xB0, 0xD0, 0xE0, 0xF0, 0x280, 0x300, 0x310, 0x320, 0x350, 0x360, 0x370, 0x380, 0x390, 0x3E0]


def _deadline(delta: int) -> Action:
    return lambda cpu: cpu.board.msr_write(0x6E0, cpu.tsc() + delta)


def _load(gpa: int) -> Action:
    return lambda cpu: (gpa, cpu.board.mmio_read(gpa, 4))


def _register(port: int, index: int, value: int) -> Action:
    return lambda cpu: (cpu.out(port, index), cpu.out(port + 1, value), cpu.inp(port + 1))


_bytes = st.integers(0, 0xFF)
_traffic = st.one_of(
    st.builds(outb, st.sampled_from(_PORTS), _bytes),
    st.builds(inb, st.sampled_from(_PORTS), st.sampled_from([1, 2, 4])),
    st.builds(_register, st.just(0x70), st.sampled_from([*range(14), 0x32]), _bytes),
    st.builds(store, st.sampled_from([LAPIC + offset for offset in _LAPIC]), st.integers(0, 0xFFFF)),
    st.builds(store, st.just(LAPIC + 0x320), st.integers(0x10, 0xFF).map(lambda vector: vector | 0x20000)),
    st.builds(_load, st.sampled_from([LAPIC + offset for offset in _LAPIC])),
    st.builds(store, st.just(IOAPIC), st.integers(0x10, 0x20)),
    st.builds(store, st.just(IOAPIC + 0x10), st.integers(0, 0x1FFFF)),
    st.builds(_deadline, st.integers(-100, 20_000)),
    st.sampled_from([HLT, STI, STI, CLI]),
).map(lambda action: [action])
_program = st.lists(_traffic | st.integers(1, 500).map(pause), max_size=40).map(
    lambda parts: list(chain.from_iterable(parts))
)
# Timers run, the APIC's in TSC-deadline mode, and everything is unmasked.
_preamble = [*initialize_pics(0x0000), *READY, *start_timer(40), outb(0x3F9, 0x03), store(LAPIC + 0x320, 0x40040)]


def _play(actions: list[Action], epochs: list[int], reload: bool) -> object:
    """Everything that can be seen of a run of ``sum(epochs)`` blocks; ``reload``: on a new board each epoch.

    None: the guest waited for ever.
    """
    board, cpu = machine(_preamble, actions, pause(2), input=b"some input", stop_on=b"\x41\x42")
    outputs: list[Output] = []
    target, idles, at, ends = 0, 0, 0, []
    for epoch in epochs:
        target += epoch
        while cpu.position() < target:
            stop = board.run(target)
            outputs += board.take_outputs()
            if reload:
                saved, frozen, log = board.save(), cpu.frozen(), cpu.log
                board, cpu = machine(_preamble, actions, pause(2), input=b"some input", stop_on=b"\x41\x42")
                cpu.thaw(frozen)
                cpu.log = log
                board.load(saved)
                assert board.save() == saved
                assert cpu.frozen() == frozen
            idles, at = (idles + 1 if cpu.position() == at else 0), cpu.position()
            if idles == 20:
                return None  # the guest waits for what it keeps away from itself
            if stop.kind == StopKind.EXIT:
                ends.append(cpu.position())
            if stop.kind == StopKind.HALTED:
                return "halted", cpu.frozen(), board.save(), cpu.log, merged(outputs), ends
    return "ran", cpu.frozen(), board.save(), cpu.log, merged(outputs), ends


@given(_program, st.lists(st.integers(1, 3000), min_size=1, max_size=12), st.booleans())
def test_nothing_depends_on_where_epochs_end(actions: list[Action], epochs: list[int], reload: bool) -> None:
    whole = _play(actions, [sum(epochs)], reload=False)
    assume(whole is not None)
    assert _play(actions, epochs, reload) == whole


def test_the_same_holds_for_epochs_of_one_block() -> None:
    actions = [*say(b"tick"), outb(0x70, 0x0B), outb(0x71, 0x52), HLT, inb(0x40), inb(0x61), STI, _deadline(700)]
    actions += pause(200)
    whole = _play(actions, [3000], reload=False)
    assert whole is not None
    assert _play(actions, 3000 * [1], reload=True) == whole


def test_a_saved_board_says_what_it_is_made_of() -> None:
    board, _ = machine()
    assert {"pic0", "pit", "uart", "lapic", "ioapic", "pci", "rtc", "vga"} <= set(board.chips)
    twin, _ = machine()
    assert board.save() == twin.save()
    twin.port_write(0x21, 1, 0x55)
    assert board.save() != twin.save()


def test_loading_restores_the_interrupt_line_and_what_pci_decodes() -> None:
    board, cpu = machine()
    card = Card()
    board.pci.plug(4, 0, card)
    board.chips["card"] = card
    configure(board, 4, 0x10, 0xC000)
    configure(board, 4, 0x04, 1, 2)
    saved = board.save()
    configure(board, 4, 0x10, 0xD000)
    cpu.line = True
    board.load(saved)
    assert cpu.line is False
    assert board.port_read(0xC004, 2) == 4
    assert board.port_read(0xD004, 2) == 0xFFFF

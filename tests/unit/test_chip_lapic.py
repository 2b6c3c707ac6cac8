"""The local APIC, against chapter 11 of volume 3 of the SDM."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.module.chips import lapic
from ftvm.module.chips.lapic import (
    CURRENT_COUNT,
    DFR,
    DIVIDE,
    EOI,
    ESR,
    ICR_HIGH,
    ICR_LOW,
    ID,
    INITIAL_COUNT,
    IRR,
    ISR,
    LDR,
    LVT_ERROR,
    LVT_LINT0,
    LVT_LINT1,
    LVT_TIMER,
    PPR,
    SVR,
    TMR,
    TPR,
    VERSION,
    Lapic,
    LapicState,
)

MASKED = 0x10000
PERIODIC = 0x20000
DEADLINE = 0x40000
EXTINT = 0x700
NMI = 0x400
MSR_BASE, MSR_DEADLINE = 0x1B, 0x6E0
DIVIDE_BY_1 = 0b1011


class Bench:
    def __init__(self, enable: bool = True) -> None:
        self.now_ns = 0
        self.tsc_offset = 0
        self.intr = False
        self.nmis = 0
        self.ended: list[int] = []
        self.moves = 0
        self.external = 0x77
        self.chip = Lapic(
            clock=lambda: self.now_ns,
            tsc=lambda: self.now_ns + self.tsc_offset,
            interrupt=self._set_intr,
            nmi=self._nmi,
            external=lambda: self.external,
            broadcast_eoi=self.ended.append,
            moved=self._moved,
            rearm=lambda: None,
        )
        if enable:
            self[SVR] = 0x1FF

    def _set_intr(self, level: bool) -> None:
        assert level != self.intr, "only changes are reported"
        self.intr = level

    def _nmi(self) -> None:
        self.nmis += 1

    def _moved(self) -> None:
        self.moves += 1

    def __getitem__(self, offset: int) -> int:
        return self.chip.read(offset, 4)

    def __setitem__(self, offset: int, value: int) -> None:
        self.chip.write(offset, 4, value)

    def send(self, vector: int, level: bool = False) -> bool:
        return self.chip.message(0, False, 0, vector, level)

    def go(self, duration_ns: int) -> list[int]:
        """Let time pass, acknowledging and ending every interrupt; returns the times of those."""
        end, taken = self.now_ns + duration_ns, []
        while (event := self.chip.next_event_ns()) is not None and event <= end:
            self.now_ns = event
            self.chip.advance(event)
            if self.intr:
                self.chip.acknowledge()
                self[EOI] = 0
                taken.append(event)
        self.now_ns = end
        return taken

    def bit(self, bank: int, vector: int) -> bool:
        return bool(self[bank + (vector >> 5 << 4)] >> (vector & 31) & 1)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_after_reset_it_is_software_disabled_with_everything_masked() -> None:
    bench = Bench(enable=False)
    assert bench[SVR] == 0xFF
    assert bench[ID] == 0
    assert bench[VERSION] == 0x50014
    assert bench[DFR] == 0xFFFFFFFF
    assert [bench[offset] for offset in range(LVT_TIMER, LVT_ERROR + 1, 0x10)] == 6 * [MASKED]
    assert bench.chip.read_msr(MSR_BASE) == 0xFEE00900
    bench[LVT_TIMER] = 0x30
    assert bench[LVT_TIMER] == MASKED | 0x30, "the mask bits cannot be cleared"
    assert not bench.send(0x40)


def test_an_interrupt_is_pending_then_in_service_then_over(bench: Bench) -> None:
    assert bench.send(0x51)
    assert bench.intr and bench.bit(IRR, 0x51)
    assert bench.chip.acknowledge() == 0x51
    assert not bench.intr
    assert not bench.bit(IRR, 0x51) and bench.bit(ISR, 0x51)
    assert bench[PPR] == 0x50
    bench[EOI] = 0
    assert not bench.bit(ISR, 0x51)
    assert bench[PPR] == 0
    assert bench.ended == []


def test_nothing_to_acknowledge_is_no_vector(bench: Bench) -> None:
    assert bench.chip.acknowledge() is None


def test_the_highest_vector_goes_first_and_its_class_blocks_others(bench: Bench) -> None:
    for vector in (0x31, 0x52, 0x35):
        bench.send(vector)
    assert bench.chip.acknowledge() == 0x52
    assert not bench.intr
    bench.send(0x5F)
    assert not bench.intr, "the same class waits"
    bench.send(0x60)
    assert bench.chip.acknowledge() == 0x60
    bench[EOI] = 0
    bench[EOI] = 0
    assert bench.chip.acknowledge() == 0x5F
    bench[EOI] = 0
    assert bench.chip.acknowledge() == 0x35
    bench[EOI] = 0
    assert bench.chip.acknowledge() == 0x31


@pytest.mark.parametrize(("tpr", "delivered"), [(0x3F, True), (0x40, False), (0x4F, False), (0xFF, False)])
def test_the_task_priority_holds_interrupts_of_its_class_and_below(bench: Bench, tpr: int, delivered: bool) -> None:
    bench[TPR] = tpr
    bench.send(0x45)
    assert bench.intr is delivered
    assert bench[PPR] == tpr
    bench[TPR] = 0
    assert bench.intr


def test_cr8_is_the_upper_half_of_the_task_priority(bench: Bench) -> None:
    bench.chip.write_cr8(0x9)
    assert bench[TPR] == 0x90
    bench[TPR] = 0x5A
    assert bench.chip.read_cr8() == 0x5


def test_only_level_triggered_interrupts_broadcast_their_end(bench: Bench) -> None:
    bench.send(0x41, level=True)
    assert bench.bit(TMR, 0x41)
    bench.chip.acknowledge()
    bench[EOI] = 0
    assert bench.ended == [0x41]
    bench.send(0x41)
    assert not bench.bit(TMR, 0x41)
    bench.chip.acknowledge()
    bench[EOI] = 0
    bench[EOI] = 0
    assert bench.ended == [0x41]


@given(st.lists(st.integers(16, 255), max_size=30), st.integers(0, 15))
def test_interrupts_are_taken_in_order_of_their_vectors(vectors: list[int], priority: int) -> None:
    bench = Bench()
    bench.chip.write_cr8(priority)
    for vector in vectors:
        bench.send(vector)
    taken = []
    while bench.intr:
        vector = bench.chip.acknowledge()
        assert vector is not None
        taken.append(vector)
        bench[EOI] = 0
    assert taken == sorted({vector for vector in vectors if vector >> 4 > priority}, reverse=True)


@pytest.mark.parametrize(
    ("low", "high", "arrives"),
    [
        (0x040C0, 0x00000000, True),  # physical, our id
        (0x040C0, 0x01000000, False),
        (0x040C0, 0xFF000000, True),
        (0x440C0, 0x33000000, True),  # self
        (0x840C0, 0x33000000, True),  # all
        (0xC40C0, 0x00000000, False),  # all but self
        (0x048C0, 0x04000000, True),  # logical, flat: LDR is 04
        (0x048C0, 0x06000000, True),
        (0x048C0, 0x02000000, False),
        (0x041C0, 0x00000000, True),  # lowest priority
    ],
)
def test_interprocessor_interrupts_reach_us_when_they_are_addressed_to_us(
    bench: Bench, low: int, high: int, arrives: bool
) -> None:
    bench[LDR] = 0x04FFFFFF
    bench[ICR_HIGH] = high
    bench[ICR_LOW] = low
    assert bench.bit(IRR, 0xC0) is arrives
    assert bench[ICR_HIGH] == high
    assert bench[ICR_LOW] == low, "delivery is never pending"


@pytest.mark.parametrize(("destination", "arrives"), [(0x21, True), (0x23, True), (0x22, False), (0x31, False)])
def test_the_cluster_model_matches_cluster_and_member(bench: Bench, destination: int, arrives: bool) -> None:
    bench[DFR] = 0x0FFFFFFF
    bench[LDR] = 0x21000000
    assert bench.chip.message(destination, True, 0, 0x40, False) is arrives


@pytest.mark.parametrize("low", [0x04500, 0x04608, 0x04200, 0xC4500, 0x84500, 0x08500])
def test_init_startup_and_smi_vanish(bench: Bench, low: int) -> None:
    bench[ICR_HIGH] = 0x01000000
    bench[ICR_LOW] = low
    assert not bench.intr and bench.nmis == 0
    bench[ESR] = 0
    assert bench[ESR] == 0


def test_an_nmi_can_be_sent_to_ourselves(bench: Bench) -> None:
    bench[ICR_HIGH] = 0
    bench[ICR_LOW] = 0x04400
    assert bench.nmis == 1
    bench[ICR_LOW] = 0xC4400
    assert bench.nmis == 1


def test_illegal_vectors_are_errors_when_sent_and_when_received(bench: Bench) -> None:
    bench[ICR_LOW] = 0x4400F
    assert bench[ESR] == 0, "ESR shows errors after it is written"
    bench[ESR] = 0
    assert bench[ESR] == 0x20
    assert not bench.send(0x0F)
    bench[ESR] = 0
    assert bench[ESR] == 0x40
    bench[ESR] = 0
    assert bench[ESR] == 0


def test_a_register_that_is_not_there_is_an_error(bench: Bench) -> None:
    assert bench[0x040] == 0
    bench[ESR] = 0
    assert bench[ESR] == 0x80
    bench[0x3F0] = 1
    bench[ESR] = 0
    assert bench[ESR] == 0x80
    bench[VERSION] = 1
    bench[ISR] = 1
    bench[ESR] = 0
    assert bench[ESR] == 0, "read-only registers are there"
    assert bench[ISR] == 0


def test_errors_interrupt_through_their_lvt_entry(bench: Bench) -> None:
    bench[LVT_ERROR] = 0xFE
    bench[ICR_LOW] = 0x44000
    assert bench.chip.acknowledge() == 0xFE
    bench[EOI] = 0
    bench[LVT_ERROR] = 0x05
    bench[ICR_LOW] = 0x44000
    assert not bench.intr


@pytest.mark.parametrize(
    ("divide", "divisor"),
    [(0b0000, 2), (0b0001, 4), (0b0010, 8), (0b0011, 16), (0b1000, 32), (0b1001, 64), (0b1010, 128), (0b1011, 1)],
)
def test_the_timer_counts_at_a_gigahertz_by_its_divisor(bench: Bench, divide: int, divisor: int) -> None:
    bench.now_ns = 12345
    bench[DIVIDE] = divide
    bench[LVT_TIMER] = 0x40
    bench[INITIAL_COUNT] = 1000
    assert bench[CURRENT_COUNT] == 1000
    bench.now_ns += 300 * divisor
    assert bench[CURRENT_COUNT] == 700
    assert bench.chip.next_event_ns() == 12345 + 1000 * divisor


def test_a_one_shot_timer_fires_once(bench: Bench) -> None:
    bench[DIVIDE] = DIVIDE_BY_1
    bench[LVT_TIMER] = 0x40
    bench[INITIAL_COUNT] = 5000
    assert bench.go(100_000) == [5000]
    assert bench[CURRENT_COUNT] == 0
    assert bench[INITIAL_COUNT] == 5000


def test_a_periodic_timer_fires_again_and_again_and_stops_at_zero(bench: Bench) -> None:
    bench[DIVIDE] = DIVIDE_BY_1
    bench[LVT_TIMER] = PERIODIC | 0x40
    bench[INITIAL_COUNT] = 1000
    assert bench.go(3500) == [1000, 2000, 3000]
    assert bench[CURRENT_COUNT] == 500
    bench[INITIAL_COUNT] = 0
    assert bench.go(10_000) == []


def test_a_masked_timer_counts_without_interrupts(bench: Bench) -> None:
    bench[DIVIDE] = DIVIDE_BY_1
    bench[LVT_TIMER] = MASKED | PERIODIC | 0x40
    bench[INITIAL_COUNT] = 1000
    assert bench.chip.next_event_ns() is None
    bench.now_ns = 5300
    assert bench[CURRENT_COUNT] == 700
    bench[LVT_TIMER] = PERIODIC | 0x40
    assert not bench.intr, "what passed while it was masked is lost"
    assert bench.go(1000) == [6000]


def test_the_divisor_can_change_while_the_timer_runs(bench: Bench) -> None:
    bench[DIVIDE] = DIVIDE_BY_1
    bench[LVT_TIMER] = 0x40
    bench[INITIAL_COUNT] = 1000
    bench.now_ns = 400
    bench[DIVIDE] = 0b0000
    assert bench[CURRENT_COUNT] == 600
    assert bench.go(10_000) == [400 + 2 * 600]


def test_the_deadline_is_a_value_of_the_tsc(bench: Bench) -> None:
    bench.tsc_offset = 1_000_000
    bench[LVT_TIMER] = DEADLINE | 0x40
    assert bench.chip.write_msr(MSR_DEADLINE, 1_000_500)
    assert bench.chip.read_msr(MSR_DEADLINE) == 1_000_500
    bench[INITIAL_COUNT] = 7
    assert (bench[INITIAL_COUNT], bench[CURRENT_COUNT]) == (0, 0)
    assert bench.go(10_000) == [500]
    assert bench.chip.read_msr(MSR_DEADLINE) == 0


def test_a_deadline_in_the_past_is_due_at_once_and_zero_disarms(bench: Bench) -> None:
    bench.now_ns = 10_000
    bench[LVT_TIMER] = DEADLINE | 0x40
    bench.chip.write_msr(MSR_DEADLINE, 20_000)
    bench.chip.write_msr(MSR_DEADLINE, 0)
    assert bench.chip.next_event_ns() is None
    bench.chip.write_msr(MSR_DEADLINE, 5)
    assert bench.chip.next_event_ns() == 10_000


def test_the_deadline_msr_is_dead_in_other_modes_and_a_change_of_mode_disarms(bench: Bench) -> None:
    bench[LVT_TIMER] = 0x40
    bench.chip.write_msr(MSR_DEADLINE, 5000)
    assert bench.chip.read_msr(MSR_DEADLINE) == 0
    assert bench.chip.next_event_ns() is None
    bench[INITIAL_COUNT] = 100
    bench[LVT_TIMER] = DEADLINE | 0x40
    assert bench.chip.next_event_ns() is None
    bench.chip.write_msr(MSR_DEADLINE, 5000)
    bench[LVT_TIMER] = 0x40
    assert bench.chip.next_event_ns() is None


def test_a_late_look_at_the_timer_does_not_lose_the_interrupt(bench: Bench) -> None:
    bench[DIVIDE] = DIVIDE_BY_1
    bench[LVT_TIMER] = 0x40
    bench[INITIAL_COUNT] = 100
    bench.now_ns = 105  # due, but the board has not called advance yet
    bench[INITIAL_COUNT] = 100
    assert bench.intr


def test_lint0_as_extint_lets_the_8259s_through_whatever_the_task_priority(bench: Bench) -> None:
    bench[TPR] = 0xFF
    bench.chip.set_lint0(True)
    assert not bench.intr
    assert not bench.chip.hears_lint0()
    bench[LVT_LINT0] = EXTINT
    assert bench.intr and bench.chip.hears_lint0()
    assert bench.chip.acknowledge() == 0x77
    assert bench[ISR + 0x30] == 0, "it never enters the local APIC"
    bench.chip.set_lint0(False)
    assert not bench.intr


def test_our_own_interrupts_go_before_external_ones(bench: Bench) -> None:
    bench[LVT_LINT0] = EXTINT
    bench.chip.set_lint0(True)
    bench.send(0x30)
    assert bench.chip.acknowledge() == 0x30
    assert bench.chip.acknowledge() == 0x77


def test_a_disabled_apic_is_bypassed_by_the_8259s() -> None:
    bench = Bench(enable=False)
    bench.chip.set_lint0(True)
    assert bench.intr
    assert bench.chip.acknowledge() == 0x77
    bench.chip.write_msr(MSR_BASE, 0xFEE00100)
    assert bench.intr


def test_lint0_can_be_an_ordinary_interrupt_or_an_nmi(bench: Bench) -> None:
    bench[LVT_LINT0] = 0x66
    bench.chip.set_lint0(True)
    assert bench.chip.acknowledge() == 0x66
    bench.chip.set_lint0(True)
    assert not bench.intr, "no edge"
    bench.chip.set_lint0(False)
    assert not bench.chip.nmi_possible()
    bench[LVT_LINT0] = NMI
    assert bench.chip.nmi_possible()
    bench.chip.set_lint0(True)
    assert bench.nmis == 1


def test_an_extint_message_waits_for_its_acknowledge(bench: Bench) -> None:
    assert bench.chip.message(0, False, lapic.EXTINT, 0, False)
    assert bench.intr
    assert bench.chip.acknowledge() == 0x77
    assert not bench.intr


def test_software_disable_masks_the_lvt_and_keeps_what_was_accepted(bench: Bench) -> None:
    bench[LVT_LINT1] = NMI
    bench.send(0x40)
    bench[SVR] = 0xFF
    assert bench[LVT_LINT1] == MASKED | NMI
    assert not bench.send(0x50)
    assert bench.chip.acknowledge() == 0x40


def test_hardware_disable_forgets_everything_and_hides_the_registers(bench: Bench) -> None:
    bench.send(0x40)
    bench[TPR] = 0x20
    assert bench.chip.write_msr(MSR_BASE, 0xFEE00100)
    assert not bench.chip.enabled and bench.moves == 1
    assert not bench.intr
    assert not bench.send(0x40)
    assert bench.chip.write_msr(MSR_BASE, 0xFEE00900)
    assert bench.chip.enabled and bench.moves == 2
    assert (bench[TPR], bench[SVR]) == (0, 0xFF)


def test_the_base_can_move_and_x2apic_is_refused(bench: Bench) -> None:
    assert bench.chip.write_msr(MSR_BASE, 0xFED00900)
    assert bench.chip.address == 0xFED00000
    for bad in (0xFED00D00, 0xFED00901, 0xFED00B00, 1 << 52 | 0xFED00900):
        assert not bench.chip.write_msr(MSR_BASE, bad)
    assert bench.chip.read_msr(MSR_BASE) == 0xFED00900


def test_parts_of_a_register_can_be_read_but_not_written(bench: Bench) -> None:
    assert bench.chip.read(VERSION, 1) == 0x14
    assert bench.chip.read(VERSION + 2, 1) == 0x05
    assert bench.chip.read(VERSION + 4, 4) == 0
    bench.chip.write(TPR, 1, 0x50)
    bench.chip.write(TPR + 1, 4, 0x50)
    assert bench[TPR] == 0


NUMBERS = st.one_of(
    st.integers(0, 300), st.sampled_from([1 << 16, (1 << 32) - 1, 1 << 32]), st.integers(0, (1 << 64) - 1)
)
STATES = st.builds(
    LapicState,
    **dict.fromkeys(("base", "id", "tpr", "ldr", "dfr", "svr", "esr", "errors", "icr", "divide"), NUMBERS),
    **{name: st.lists(NUMBERS, min_size=8, max_size=8) for name in ("isr", "tmr", "irr")},
    lvt=st.lists(NUMBERS, min_size=6, max_size=6),
    initial_count=NUMBERS,
    tsc_deadline=NUMBERS,
    expires_ns=st.none() | st.integers(0, (1 << 64) - 2),
    **{name: st.booleans() for name in ("lint0", "extint", "output")},
)


@given(state=STATES)
def test_a_state_is_saved_as_every_chip_s_is_and_comes_back(state: LapicState) -> None:
    bench = Bench()
    bench.chip.state = state
    assert msgspec.msgpack.encode(bench.chip.packed()) == msgspec.msgpack.encode(state)
    assert bench.chip.state == state


def test_a_state_is_a_copy_that_is_changed_by_assigning(bench: Bench) -> None:
    state = bench.chip.state
    state.tpr = 0x30
    assert bench[TPR] == 0
    bench.chip.state = state
    assert bench[TPR] == 0x30


@pytest.mark.parametrize("wrong", [{"tpr": -1}, {"tpr": 1 << 64}, {"isr": [0] * 7 + [-1]}])
def test_a_saved_state_with_impossible_numbers_is_refused(wrong: dict[str, Any]) -> None:
    saved = msgspec.msgpack.decode(msgspec.msgpack.encode(LapicState()))
    with pytest.raises((msgspec.ValidationError, OverflowError)):
        msgspec.msgpack.decode(msgspec.msgpack.encode(saved | wrong), type=LapicState)


def test_a_deadline_at_the_end_of_time_never_comes(bench: Bench) -> None:
    bench[LVT_TIMER] = DEADLINE | 0x40
    bench.now_ns, bench.tsc_offset = 1000, -500
    assert bench.chip.write_msr(MSR_DEADLINE, (1 << 64) - 1)
    assert bench.chip.next_event_ns() is None
    assert bench.chip.read_msr(MSR_DEADLINE) == (1 << 64) - 1


def test_reserved_bits_stay_zero(bench: Bench) -> None:
    ones: Any = 0xFFFFFFFF
    expected = {ID: 0xFF000000, LDR: 0xFF000000, SVR: 0x1FF, TPR: 0xFF, DIVIDE: 0b1011, LVT_TIMER: 0x700FF}
    expected |= {LVT_LINT0: 0x1A7FF, LVT_ERROR: 0x100FF, DFR: ones}
    for offset, value in expected.items():
        bench[offset] = ones
        assert bench[offset] == value, hex(offset)

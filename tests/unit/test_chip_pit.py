"""The 8254, against the timing diagrams of its data sheet, and port 61h."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.module.chips.pit import CLOCK_HZ, CONTROL, Pit, ns_at, tick_at
from ftvm.module.chips.port61 import Port61

LOW, HIGH, BOTH = 1, 2, 3


class Bench:
    """A PIT whose clock is set in ticks; remembers the ticks at which OUT0 changed."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.edges: list[tuple[int, bool]] = []
        self.pit = Pit(lambda: self.now_ns, self._irq, lambda: None)
        self.port61 = Port61(lambda: self.now_ns, self.pit.set_gate2, self.pit.output2)

    def _irq(self, level: bool) -> None:
        self.edges.append((tick_at(self.now_ns), level))

    def go(self, tick: int) -> None:
        """Let time pass until ``tick``, stopping at every event as the board does."""
        while (event := self.pit.next_event_ns()) is not None and event <= ns_at(tick):
            self.now_ns = event
            self.pit.advance(event)
        self.now_ns = ns_at(tick)

    def control(self, counter: int, access: int, mode: int, bcd: bool = False) -> None:
        self.pit.write(CONTROL, 1, counter << 6 | access << 4 | mode << 1 | bcd)

    def count(self, counter: int, value: int) -> None:
        self.pit.write(counter, 1, value & 0xFF)
        self.pit.write(counter, 1, value >> 8)

    def program(self, counter: int, mode: int, count: int) -> None:
        self.control(counter, BOTH, mode)
        self.count(counter, count)

    def read(self, counter: int) -> int:
        return self.pit.read(counter, 1) | self.pit.read(counter, 1) << 8

    def latched(self, counter: int) -> int:
        self.pit.write(CONTROL, 1, counter << 6)
        return self.read(counter)

    def status(self, counter: int) -> int:
        self.pit.write(CONTROL, 1, 0xE0 | 2 << counter)
        return self.pit.read(counter, 1)

    def gate(self, level: bool) -> None:
        self.port61.write(0, 1, 0x01 if level else 0x00)


@pytest.fixture
def bench() -> Bench:
    return Bench()


@given(st.integers(0, 10**12))
def test_a_tick_begins_at_its_first_nanosecond(tick: int) -> None:
    assert tick_at(ns_at(tick)) == tick
    assert tick == 0 or tick_at(ns_at(tick) - 1) == tick - 1


def test_the_clock_gains_nothing_and_loses_nothing_in_a_day() -> None:
    assert tick_at(86_400 * 10**9) == 86_400 * CLOCK_HZ


def test_mode_0_rises_once_count_plus_one_ticks_after_the_write(bench: Bench) -> None:
    bench.program(0, 0, 4)
    bench.go(100)
    assert bench.edges == [(5, True)]
    assert bench.latched(0) == (4 - 99) & 0xFFFF, "it goes on counting from FFFF"


def test_mode_0_a_new_count_starts_again_and_its_first_byte_stops_the_old(bench: Bench) -> None:
    bench.program(0, 0, 50)
    bench.go(30)
    bench.pit.write(0, 1, 10)
    bench.go(100)
    assert bench.edges == []
    bench.pit.write(0, 1, 0)
    bench.go(200)
    assert bench.edges == [(111, True)]


def test_mode_0_the_gate_holds_the_count(bench: Bench) -> None:
    bench.gate(True)
    bench.program(2, 0, 100)
    bench.go(11)
    bench.gate(False)
    bench.go(500)
    assert bench.latched(2) == 90
    bench.gate(True)
    bench.go(589)
    assert not bench.pit.output2()
    bench.go(590)
    assert bench.pit.output2()


def test_mode_1_is_a_one_shot_that_the_gate_starts_and_restarts(bench: Bench) -> None:
    bench.program(2, 1, 20)
    assert bench.pit.output2()
    bench.go(50)
    bench.gate(True)
    assert bench.pit.output2()
    bench.go(51)
    assert not bench.pit.output2()
    bench.gate(False)
    bench.go(61)
    bench.gate(True)
    bench.go(81)
    assert not bench.pit.output2(), "retriggered at 61: low until 82"
    bench.go(82)
    assert bench.pit.output2()


def test_mode_1_a_new_count_waits_for_the_next_trigger(bench: Bench) -> None:
    bench.program(2, 1, 20)
    bench.gate(True)
    bench.go(5)
    bench.count(2, 3)
    bench.go(20)
    assert not bench.pit.output2()
    bench.go(21)
    assert bench.pit.output2()
    bench.gate(False)
    bench.gate(True)
    bench.go(22)
    assert not bench.pit.output2()
    bench.go(25)
    assert bench.pit.output2()


def test_mode_2_is_low_for_the_last_tick_of_each_period(bench: Bench) -> None:
    bench.program(0, 2, 5)
    bench.go(16)
    assert bench.edges == [(0, True), (5, False), (6, True), (10, False), (11, True), (15, False), (16, True)]


def test_mode_2_reads_count_down_to_one(bench: Bench) -> None:
    bench.program(0, 2, 4)
    counts = []
    for tick in range(1, 10):
        bench.go(tick)
        counts.append(bench.latched(0))
    assert counts == [4, 3, 2, 1, 4, 3, 2, 1, 4]


def test_mode_2_a_new_count_takes_effect_after_the_period(bench: Bench) -> None:
    bench.program(0, 2, 10)
    bench.go(3)
    bench.count(0, 4)
    bench.go(19)
    assert [tick for tick, level in bench.edges if level] == [0, 11, 15, 19]


def test_mode_2_the_gate_raises_out_and_starts_the_period_again(bench: Bench) -> None:
    bench.gate(True)
    bench.program(2, 2, 10)
    bench.go(10)
    assert not bench.pit.output2()
    bench.gate(False)
    assert bench.pit.output2(), "at once"
    bench.go(25)
    bench.gate(True)
    bench.go(26)
    assert bench.latched(2) == 10
    bench.go(35)
    assert not bench.pit.output2()


@pytest.mark.parametrize(("count", "high", "low"), [(6, 3, 3), (7, 4, 3)])
def test_mode_3_is_a_square_wave_whose_odd_tick_is_high(bench: Bench, count: int, high: int, low: int) -> None:
    bench.program(0, 3, count)
    bench.go(1 + 2 * count)
    rises = [0, 1 + count, 1 + 2 * count]
    falls = [1 + high, 1 + count + high]
    assert bench.edges == sorted([(t, True) for t in rises] + [(t, False) for t in falls])
    assert high + low == count


@pytest.mark.parametrize(
    ("count", "counts"), [(6, [6, 4, 2, 6, 4, 2, 6]), (7, [6, 4, 2, 0, 6, 4, 2, 6])], ids=["even", "odd"]
)
def test_mode_3_counts_by_two(bench: Bench, count: int, counts: list[int]) -> None:
    bench.program(0, 3, count)
    read = []
    for tick in range(1, 1 + len(counts)):
        bench.go(tick)
        read.append(bench.latched(0))
    assert read == counts


def test_mode_3_a_new_count_takes_effect_after_the_half_period(bench: Bench) -> None:
    bench.program(0, 3, 20)
    bench.go(5)
    bench.count(0, 8)
    bench.go(23)
    assert bench.edges == [(0, True), (11, False), (15, True), (19, False), (23, True)]
    bench.go(25)
    bench.count(0, 100)
    bench.go(127)
    assert bench.edges[5:] == [(27, False), (77, True), (127, False)]


def test_mode_4_strobes_once(bench: Bench) -> None:
    bench.program(0, 4, 3)
    bench.go(50)
    assert bench.edges == [(0, True), (4, False), (5, True)]
    bench.count(0, 2)
    bench.go(100)
    assert bench.edges[3:] == [(53, False), (54, True)]


def test_mode_5_strobes_after_each_trigger(bench: Bench) -> None:
    bench.program(2, 5, 3)
    bench.go(10)
    bench.gate(True)
    outputs = []
    for tick in range(11, 17):
        bench.go(tick)
        outputs.append(bench.pit.output2())
    assert outputs == [True, True, True, False, True, True]


@pytest.mark.parametrize(("written", "read"), [(6, 2), (7, 3)])
def test_modes_6_and_7_are_2_and_3(bench: Bench, written: int, read: int) -> None:
    bench.program(0, written, 10)
    assert bench.status(0) >> 1 & 7 == read


def test_a_count_of_zero_is_the_largest(bench: Bench) -> None:
    bench.program(0, 2, 0)
    bench.go(1 + 65536)
    assert [tick for tick, level in bench.edges if level] == [0, 65537]


def test_bcd_counts_in_tens(bench: Bench) -> None:
    bench.control(0, BOTH, 0, bcd=True)
    bench.count(0, 0x1000)
    bench.go(2)
    assert bench.latched(0) == 0x0999
    bench.go(1002)
    assert bench.edges == [(1001, True)]
    assert bench.latched(0) == 0x9999
    bench.control(0, BOTH, 2, bcd=True)
    bench.count(0, 0)
    bench.go(1002 + 10001)
    assert bench.edges[-1] == (11003, True)


def test_one_byte_access_means_the_other_byte_is_zero(bench: Bench) -> None:
    bench.control(0, HIGH, 2)
    bench.pit.write(0, 1, 0x02)
    bench.go(2)
    assert bench.pit.read(0, 1) == 0x01, "01FF: the high byte"
    bench.control(0, LOW, 2)
    bench.pit.write(0, 1, 0x20)
    bench.go(4)
    assert bench.pit.read(0, 1) == 0x1F


def test_a_latched_count_stays_until_it_is_read(bench: Bench) -> None:
    bench.program(0, 2, 1000)
    bench.go(101)
    bench.pit.write(CONTROL, 1, 0)
    bench.go(201)
    bench.pit.write(CONTROL, 1, 0)
    bench.go(301)
    assert bench.read(0) == 900, "the second latch was ignored"
    assert bench.read(0) == 700


def test_read_back_latches_status_before_count_and_several_counters(bench: Bench) -> None:
    bench.program(0, 3, 100)
    bench.program(1, 2, 50)
    bench.go(11)
    bench.pit.write(CONTROL, 1, 0xC6)  # count and status of counters 0 and 1
    bench.go(21)
    assert bench.pit.read(0, 1) == 0x80 | BOTH << 4 | 3 << 1
    assert bench.read(0) == 80
    assert bench.pit.read(1, 1) == 0x80 | BOTH << 4 | 2 << 1
    assert bench.read(1) == 40


def test_the_null_count_flag_lasts_until_the_count_is_loaded(bench: Bench) -> None:
    bench.control(0, BOTH, 2)
    assert bench.status(0) & 0x40
    bench.count(0, 10)
    assert bench.status(0) & 0x40
    bench.go(1)
    assert not bench.status(0) & 0x40
    bench.count(0, 20)
    assert bench.status(0) & 0x40, "a new count waits for the end of the period"
    bench.go(11)
    assert not bench.status(0) & 0x40


def test_a_control_word_sets_out_to_the_modes_initial_level(bench: Bench) -> None:
    bench.program(0, 2, 5)
    bench.go(1)
    bench.control(0, BOTH, 0)
    assert bench.edges == [(0, True), (1, False)]
    bench.go(1000)
    assert len(bench.edges) == 2, "nothing counts before a count is written"


def test_the_control_word_cannot_be_read(bench: Bench) -> None:
    assert bench.pit.read(CONTROL, 1) == 0xFF


def test_late_events_are_caught_up_before_a_register_is_written(bench: Bench) -> None:
    bench.program(0, 0, 4)
    bench.now_ns = ns_at(5)  # due, but the board has not called advance yet
    bench.control(0, BOTH, 0)
    assert [level for _, level in bench.edges] == [True, False]


@given(
    mode=st.integers(0, 5),
    counts=st.lists(st.integers(2, 40), min_size=1, max_size=4),
    gaps=st.lists(st.integers(0, 60), min_size=4, max_size=4),
    steps=st.lists(st.integers(1, 30), min_size=1, max_size=30),
)
def test_out_follows_the_same_ticks_however_often_one_looks(
    mode: int, counts: list[int], gaps: list[int], steps: list[int]
) -> None:
    def outputs(looks: set[int]) -> list[bool]:
        bench = Bench()
        bench.gate(True)
        bench.program(2, mode, counts[0])
        seen, writes, at = [], {}, 0
        for gap, count in zip(gaps, counts[1:], strict=False):
            at += gap
            writes.setdefault(at, []).append(count)
        gates = {at + 10: False, at + 15: True}
        for tick in range(300):
            if tick in looks or tick in writes or tick in gates or tick > 250:
                bench.go(tick)
                output = bench.pit.output2()
                if tick > 250:
                    seen.append(output)
            for count in writes.get(tick, ()):
                bench.count(2, count)
            if tick in gates:
                bench.gate(gates[tick])
        return seen

    looks, tick = set(), 0
    for step in steps:
        tick += step
        looks.add(tick)
    assert outputs(looks) == outputs(set(range(300)))


def test_port_61_shows_the_gate_the_speaker_and_out2(bench: Bench) -> None:
    bench.port61.write(0, 1, 0x03)
    bench.program(2, 0, 10)
    assert bench.port61.read(0, 1) & 0x2F == 0x03
    bench.go(11)
    assert bench.port61.read(0, 1) & 0x2F == 0x23


def test_port_61_shows_the_memory_refresh_every_15_microseconds(bench: Bench) -> None:
    toggles = 0
    last = bench.port61.read(0, 1) & 0x10
    for bench.now_ns in range(0, 1_000_000, 1_000):
        refresh = bench.port61.read(0, 1) & 0x10
        toggles += refresh != last
        last = refresh
    assert toggles == 66

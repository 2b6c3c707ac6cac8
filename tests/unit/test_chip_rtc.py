"""The MC146818: date, alarms, interrupts and CMOS memory."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.module.chips.rtc import Date, Rtc
from ftvm.units import GIB, MIB

S = 1_000_000_000
MS = 1_000_000
BASE = 1_767_225_600  # 2026-01-01 00:00:00, a Thursday
SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY = 0, 2, 4, 6, 7, 8, 9, 0x32
A, B, C, D = 0x0A, 0x0B, 0x0C, 0x0D
SET, PIE, AIE, UIE, BINARY, H24 = 0x80, 0x40, 0x20, 0x10, 0x04, 0x02


class Bench:
    def __init__(self, base_s: int = BASE, ram_bytes: int = 256 * MIB) -> None:
        self.now_ns = 0
        self.levels: list[bool] = []
        self.rises: list[int] = []
        self.rtc = Rtc(lambda: self.now_ns, self._irq, lambda: None, base_s, ram_bytes)

    def _irq(self, level: bool) -> None:
        self.levels.append(level)
        if level:
            self.rises.append(self.now_ns)

    def write(self, index: int, value: int) -> None:
        self.rtc.write(0, 1, index)
        self.rtc.write(1, 1, value)

    def read(self, index: int) -> int:
        self.rtc.write(0, 1, index)
        return self.rtc.read(1, 1)

    def go(self, duration_ns: int, at_event: Callable[[], object] = lambda: None) -> None:
        end = self.now_ns + duration_ns
        while (event := self.rtc.next_event_ns()) is not None and event <= end:
            self.now_ns = event
            self.rtc.advance(event)
            at_event()
        self.now_ns = end

    def date(self) -> tuple[int, ...]:
        return tuple(self.read(index) for index in (CENTURY, YEAR, MONTH, DAY, HOURS, MINUTES, SECONDS))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_the_date_is_bcd_and_24_hours_at_first(bench: Bench) -> None:
    bench.now_ns = ((58 * 24 + 13) * 3600 + 59 * 60 + 59) * S
    assert bench.date() == (0x20, 0x26, 0x02, 0x28, 0x13, 0x59, 0x59)
    assert bench.read(WEEKDAY) == 7, "a Saturday"
    bench.now_ns += S
    assert bench.date() == (0x20, 0x26, 0x02, 0x28, 0x14, 0x00, 0x00)


def test_binary_mode_applies_at_once(bench: Bench) -> None:
    bench.now_ns = (25 * 24 * 3600 + 45) * S
    bench.write(B, BINARY | H24)
    assert bench.date() == (20, 26, 1, 26, 0, 0, 45)


@pytest.mark.parametrize(("hour", "register"), [(0, 0x12), (1, 0x01), (11, 0x11), (12, 0x92), (13, 0x81), (23, 0x91)])
def test_twelve_hour_mode_has_a_pm_bit(bench: Bench, hour: int, register: int) -> None:
    bench.write(B, 0)
    bench.now_ns = hour * 3600 * S
    assert bench.read(HOURS) == register
    bench.now_ns = 0
    bench.write(HOURS, register)
    bench.write(B, H24 | BINARY)
    assert bench.read(HOURS) == hour


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((0x19, 0x99, 0x12, 0x31), (0x20, 0x00, 0x01, 0x01)),
        ((0x20, 0x24, 0x02, 0x28), (0x20, 0x24, 0x02, 0x29)),
        ((0x20, 0x23, 0x02, 0x28), (0x20, 0x23, 0x03, 0x01)),
        ((0x21, 0x00, 0x02, 0x28), (0x21, 0x00, 0x03, 0x01)),
        ((0x20, 0x00, 0x02, 0x28), (0x20, 0x00, 0x02, 0x29)),
        ((0x20, 0x26, 0x04, 0x30), (0x20, 0x26, 0x05, 0x01)),
    ],
)
def test_midnight_knows_the_calendar(bench: Bench, before: tuple[int, ...], after: tuple[int, ...]) -> None:
    bench.write(B, SET | H24)
    # In an order that goes through dates which do not exist.
    for index, value in zip((DAY, MONTH, YEAR, CENTURY), reversed(before), strict=True):
        bench.write(index, value)
    for index, value in ((HOURS, 0x23), (MINUTES, 0x59), (SECONDS, 0x59), (WEEKDAY, 7)):
        bench.write(index, value)
    bench.write(B, H24)
    assert bench.date() == (*before, 0x23, 0x59, 0x59)
    bench.now_ns += S
    assert bench.date() == (*after, 0, 0, 0)
    assert bench.read(WEEKDAY) == 1


@given(st.integers(-(10**10), 10**11), st.integers(0, 10**10))
def test_dates_add_up(base: int, seconds: int) -> None:
    date = Date.since_1970(base)
    assert date.after(seconds) == Date.since_1970(base + seconds)
    assert 1 <= date.month <= 12 and 1 <= date.day <= 31 and date.hour < 24


def test_set_stops_the_date_and_not_the_divider_chain(bench: Bench) -> None:
    bench.now_ns = 700 * MS
    bench.write(B, SET | H24)
    bench.write(SECONDS, 0x30)
    bench.now_ns = 5_700 * MS
    assert bench.read(SECONDS) == 0x30
    bench.write(B, H24)
    bench.now_ns = 5_999 * MS
    assert bench.read(SECONDS) == 0x30
    bench.now_ns = 6_000 * MS
    assert bench.read(SECONDS) == 0x31


def test_the_divider_chain_in_reset_holds_the_date_and_restarts_with_half_a_second(bench: Bench) -> None:
    bench.now_ns = 2_300 * MS
    bench.write(A, 0x76)
    bench.now_ns = 60 * S
    assert bench.read(SECONDS) == 0x02
    bench.write(A, 0x26)
    bench.now_ns += 499 * MS
    assert bench.read(SECONDS) == 0x02
    bench.now_ns += 1 * MS
    assert bench.read(SECONDS) == 0x03


def test_update_in_progress_warns_before_the_date_changes(bench: Bench) -> None:
    bench.now_ns = S - 2_228_001
    assert bench.read(A) == 0x26
    bench.now_ns += 1
    assert bench.read(A) == 0xA6
    bench.now_ns = S - 1
    assert (bench.read(A), bench.read(SECONDS)) == (0xA6, 0)
    bench.now_ns = S
    assert (bench.read(A), bench.read(SECONDS)) == (0x26, 1)
    bench.now_ns = 2 * S - 1
    bench.write(B, SET | H24)
    assert bench.read(A) == 0x26


def test_register_c_shows_what_happened_and_forgets_it(bench: Bench) -> None:
    bench.now_ns = 100_000
    assert bench.read(C) == 0x00
    bench.now_ns = 1 * MS
    assert bench.read(C) == 0x40, "rate 6 is 1,024 Hz"
    bench.now_ns = 1_500 * MS
    assert bench.read(C) == 0x50
    assert bench.read(C) == 0x00


def test_the_update_interrupt_comes_each_second_once_register_c_was_read(bench: Bench) -> None:
    bench.write(B, UIE | H24)
    bench.go(2_500 * MS)
    assert bench.rises == [S], "the request stands until register C is read"
    assert bench.read(C) & 0x90 == 0x90
    assert bench.levels == [True, False]
    bench.go(2 * S, at_event=lambda: bench.read(C))
    assert bench.rises == [S, 3 * S, 4 * S]


@pytest.mark.parametrize(("rate", "period"), [(1, 128), (2, 256), (3, 4), (6, 32), (15, 16384)])
def test_the_periodic_interrupt_has_the_programmed_rate(bench: Bench, rate: int, period: int) -> None:
    bench.write(A, 0x20 | rate)
    bench.write(B, PIE | H24)
    bench.go(2 * S, at_event=lambda: bench.read(C))
    assert len(bench.rises) == 2 * 32768 // period
    assert bench.rises[0] == -(-period * S // 32768)


def test_rate_0_is_no_rate(bench: Bench) -> None:
    bench.write(A, 0x20)
    bench.write(B, PIE | H24)
    bench.go(2 * S)
    assert bench.rises == []
    assert bench.read(C) & 0x40 == 0


@pytest.mark.parametrize(
    ("hours", "minutes", "seconds", "first"),
    [
        (0x00, 0x00, 0x05, 5),
        (0x13, 0x30, 0x15, (13 * 60 + 30) * 60 + 15),
        (0xFF, 0x30, 0x15, 30 * 60 + 15),
        (0xC0, 0xFF, 0x15, 15),
        (0xFF, 0xFF, 0xFF, 1),
        (0x00, 0x00, 0x00, 86_400),
        (0x01, 0xFF, 0x10, 3_610),
    ],
)
def test_the_alarm_comes_when_all_registers_match(
    bench: Bench, hours: int, minutes: int, seconds: int, first: int
) -> None:
    for index, value in ((5, hours), (3, minutes), (1, seconds)):
        bench.write(index, value)
    bench.write(B, AIE | H24)
    bench.go(86_400 * S)
    assert bench.rises == [first * S]
    assert bench.read(C) & 0xA0 == 0xA0


def test_an_alarm_that_matches_nothing_never_comes(bench: Bench) -> None:
    bench.write(5, 0x24)
    bench.write(B, AIE | H24)
    assert bench.rtc.next_event_ns() is None


def test_an_alarm_without_interrupt_is_seen_in_register_c(bench: Bench) -> None:
    bench.write(1, 0x10)
    bench.write(3, 0xFF)
    bench.write(5, 0xFF)
    bench.now_ns = 9_900 * MS
    assert bench.read(C) & 0x20 == 0
    bench.now_ns = 10 * S
    assert bench.read(C) & 0xA0 == 0x20


def test_set_cancels_the_update_interrupt(bench: Bench) -> None:
    bench.write(B, SET | UIE | H24)
    assert bench.read(B) == SET | H24


def test_an_interrupt_enabled_after_its_flag_was_set_comes_at_once(bench: Bench) -> None:
    bench.now_ns = 1_100 * MS
    bench.write(B, UIE | H24)
    assert bench.levels == [True]


def test_a_late_look_still_raises_the_interrupt(bench: Bench) -> None:
    bench.write(B, UIE | H24)
    bench.now_ns = S  # due, but the board has not called advance yet
    assert bench.read(C) & 0x90 == 0x90
    assert bench.levels == [True, False]


def test_register_d_says_that_memory_is_valid(bench: Bench) -> None:
    bench.write(D, 0x00)
    assert bench.read(D) == 0x80


def test_the_index_port_has_the_nmi_bit_and_cannot_be_read(bench: Bench) -> None:
    bench.rtc.write(0, 1, 0x80 | D)
    assert bench.rtc.read(1, 1) == 0x80
    assert bench.rtc.read(0, 1) == 0xFF


def test_cmos_memory_is_memory(bench: Bench) -> None:
    for index in (0x0E, 0x0F, 0x33, 0x40, 0x7F):
        bench.write(index, index ^ 0x5A)
    assert [bench.read(index) for index in (0x0E, 0x0F, 0x33, 0x40, 0x7F)] == [0x54, 0x55, 0x69, 0x1A, 0x25]


@pytest.mark.parametrize(
    ("ram_bytes", "extended_kib", "above_16m", "above_4g"),
    [
        (2 * MIB, 1024, 0, 0),
        (16 * MIB, 15 * 1024, 0, 0),
        (256 * MIB, 0xFFFF, 240 * 16, 0),
        (3 * GIB, 0xFFFF, (3 * 1024 - 16) * 16, 0),
        (8 * GIB, 0xFFFF, (3 * 1024 - 16) * 16, 5 * 1024 * 16),
    ],
)
def test_cmos_tells_the_size_of_memory(ram_bytes: int, extended_kib: int, above_16m: int, above_4g: int) -> None:
    bench = Bench(ram_bytes=ram_bytes)

    def number(*indexes: int) -> int:
        return sum(bench.read(index) << 8 * place for place, index in enumerate(indexes))

    assert number(0x15, 0x16) == 640
    assert number(0x17, 0x18) == number(0x30, 0x31) == extended_kib
    assert number(0x34, 0x35) == above_16m
    assert number(0x5B, 0x5C, 0x5D) == above_4g
    assert number(0x2F, 0x2E) == sum(bench.read(index) for index in range(0x10, 0x2E))

"""The MC146818 real-time clock with 128 bytes of CMOS memory. Source: Motorola MC146818A data sheet.

The date advances with virtual time only. Registers are encoded when they are read, so that a change of mode (BCD or
binary, 12 or 24 hours) applies at once.
"""

from collections.abc import Callable

import msgspec

from ftvm.memory_map import HIGH_MEMORY, LOW_RAM_LIMIT
from ftvm.module.chips.chip import Clock, IrqLine
from ftvm.platform_ports import RTC_CENTURY
from ftvm.units import KIB, MIB

INDEX = 0  # offset of port 70
DATA = 1  # offset of port 71

SECONDS = 0x00
SECONDS_ALARM = 0x01
MINUTES = 0x02
MINUTES_ALARM = 0x03
HOURS = 0x04
HOURS_ALARM = 0x05
DAY_OF_WEEK = 0x06
DAY = 0x07
MONTH = 0x08
YEAR = 0x09
A = 0x0A
B = 0x0B
C = 0x0C
D = 0x0D

A_UPDATE_IN_PROGRESS = 0x80
A_DIVIDER_RESET = 0x60  # both bits set: the divider chain is held in reset
A_RATE = 0x0F

B_SET = 0x80
B_PERIODIC = 0x40
B_ALARM = 0x20
B_UPDATE = 0x10
B_BINARY = 0x04
B_24_HOURS = 0x02

C_REQUEST = 0x80
C_PERIODIC = 0x40
C_ALARM = 0x20
C_UPDATE = 0x10

D_VALID = 0x80

HOUR_PM = 0x80
ALARM_ANY = 0xC0

NMI_DISABLE = 0x80  # in the index port; nothing on this board raises NMI

_NS = 1_000_000_000
_UPDATE_NS = 244_000 + 1_984_000  # UIP goes high this long before an update has ended
_FIRST_UPDATE_NS = 500_000_000  # after the divider chain left reset
_OSCILLATOR_HZ = 32_768
_DAY_S = 86_400
_ALARMS = (SECONDS_ALARM, MINUTES_ALARM, HOURS_ALARM)
_DATE = (SECONDS, MINUTES, HOURS, DAY_OF_WEEK, DAY, MONTH, YEAR, RTC_CENTURY)


def _cmos(ram_bytes: int) -> bytearray:
    """CMOS memory as a PC's setup program leaves it: no drives, and the sizes of RAM."""
    cmos = bytearray(128)
    below_4g = min(ram_bytes, LOW_RAM_LIMIT)
    extended_kib = min(below_4g - HIGH_MEMORY, 0xFFFF * KIB) // KIB
    above_16m = max(below_4g - 16 * MIB, 0) // (64 * KIB)
    above_4g = max(ram_bytes - LOW_RAM_LIMIT, 0) // (64 * KIB)
    cmos[0x14] = 0x02  # equipment: coprocessor, VGA
    cmos[0x15:0x17] = (640).to_bytes(2, "little")
    cmos[0x17:0x19] = cmos[0x30:0x32] = extended_kib.to_bytes(2, "little")
    cmos[0x34:0x36] = above_16m.to_bytes(2, "little")
    cmos[0x5B:0x5E] = above_4g.to_bytes(3, "little")
    cmos[0x2E:0x30] = sum(cmos[0x10:0x2E]).to_bytes(2, "big")
    return cmos


class Date(msgspec.Struct):
    """The date registers, decoded. What a guest wrote stays as it is until the next second, even February 30."""

    second: int
    minute: int
    hour: int
    weekday: int
    """1 = Sunday. It counts days by itself, whatever the date."""
    day: int
    month: int
    year: int
    """0..99"""
    century: int

    @classmethod
    def since_1970(cls, seconds: int) -> "Date":
        start = cls(second=0, minute=0, hour=0, weekday=5, day=1, month=1, year=70, century=19)  # a Thursday
        return start.after(seconds)

    def second_of_day(self) -> int:
        return (self.hour * 60 + self.minute) * 60 + self.second

    def after(self, seconds: int) -> "Date":
        if seconds == 0:
            return self
        days, second = divmod(self.second_of_day() + seconds, _DAY_S)
        years, month = divmod(self.month - 1, 12)
        day_number = _day_number(self.century * 100 + self.year + years, month + 1, self.day) + days
        year, month, day = _calendar_day(day_number)
        return Date(
            second=second % 60,
            minute=second // 60 % 60,
            hour=second // 3600,
            weekday=(self.weekday - 1 + days) % 7 + 1,
            day=day,
            month=month,
            year=year % 100,
            century=year // 100,
        )


# Gregorian years that start in March have their leap day at the end, and months of 153 days in five.


def _day_number(year: int, month: int, day: int) -> int:
    """Days from March 1 of year 0; ``day`` may lie outside its month."""
    years = year - (month <= 2)
    return years * 365 + years // 4 - years // 100 + years // 400 + (153 * ((month - 3) % 12) + 2) // 5 + day - 1


def _calendar_day(day_number: int) -> tuple[int, int, int]:
    """(year, month, day), the inverse of ``_day_number``."""
    cycle, day_of_cycle = divmod(day_number, 146_097)  # 400 years
    year = (day_of_cycle - day_of_cycle // 1_460 + day_of_cycle // 36_524 - day_of_cycle // 146_096) // 365
    day_of_year = day_of_cycle - (365 * year + year // 4 - year // 100)
    month = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * month + 2) // 5 + 1
    return 400 * cycle + year + (month >= 10), (month + 2) % 12 + 1, day


class RtcState(msgspec.Struct):
    cmos: bytearray
    """Registers 0Eh to 7Fh and the alarm registers; the rest is not stored here."""
    date: "Date"
    """At ``origin_ns``, or where the clock stands."""
    index: int = 0
    a: int = 0x26  # 32,768 Hz, rate 1,024 Hz
    b: int = B_24_HOURS
    flags: int = 0
    """Register C without C_REQUEST."""
    origin_ns: int = 0
    """When the divider chain started a second; may lie before reset."""
    seen_ns: int = 0
    """Until when ``flags`` are complete."""
    interrupt: bool = False
    event_ns: int | None = None
    """The next interrupt; flags that raise none are found when they are read."""


class Rtc:
    """``base_s`` is the date at reset in seconds since 1970. ``irq`` follows the request flag of register C."""

    def __init__(self, clock: Clock, irq: IrqLine, rearm: Callable[[], None], base_s: int, ram_bytes: int) -> None:
        self.state = RtcState(cmos=_cmos(ram_bytes), date=Date.since_1970(base_s))
        self._clock = clock
        self._irq = irq
        self._rearm = rearm

    def read(self, offset: int, size: int) -> int:
        if offset == INDEX:
            return 0xFF  # write only
        state = self.state
        index = state.index
        now_ns = self._clock()
        if index == A:
            in_progress = self._running() and _NS - (now_ns - state.origin_ns) % _NS <= _UPDATE_NS
            return state.a | (A_UPDATE_IN_PROGRESS if in_progress else 0)
        if index == B:
            return state.b
        if index == C:
            self._see(now_ns)
            self._update()
            value = state.flags | (C_REQUEST if state.interrupt else 0)
            state.flags = 0
            self._update()
            self._rearm()
            return value
        if index == D:
            return D_VALID
        if index in _DATE:
            return self._read_date(index, self._date(now_ns))
        return state.cmos[index]

    def write(self, offset: int, size: int, value: int) -> None:
        state = self.state
        if offset == INDEX:
            state.index = value & ~NMI_DISABLE
            return
        index = state.index
        now_ns = self._clock()
        self._see(now_ns)
        if index == A:
            self._write_a(value & ~A_UPDATE_IN_PROGRESS, now_ns)
        elif index == B:
            self._write_b(value, now_ns)
        elif index in _DATE:
            self._freeze(now_ns)
            self._write_date(index, value)
        elif index not in (C, D):
            state.cmos[index] = value
        self._update()
        self._rearm()

    def next_event_ns(self) -> int | None:
        return self.state.event_ns

    def advance(self, now_ns: int) -> None:
        self._see(now_ns)
        self._update()

    # ---- flags and interrupts ----

    def _see(self, now_ns: int) -> None:
        """Set the flags for everything that happened since the last look."""
        state = self.state
        period = self._period_clocks()
        if period and self._clocks(now_ns) // period > self._clocks(state.seen_ns) // period:
            state.flags |= C_PERIODIC
        if self._running():
            seconds_before = (state.seen_ns - state.origin_ns) // _NS
            seconds = (now_ns - state.origin_ns) // _NS
            if seconds > seconds_before:
                state.flags |= C_UPDATE
                alarm = self._next_alarm(seconds_before)
                if alarm is not None and alarm <= seconds:
                    state.flags |= C_ALARM
        state.seen_ns = now_ns

    def _update(self) -> None:
        state = self.state
        # Flags and enable bits have the same places in registers C and B.
        interrupt = bool(state.flags & state.b & (C_PERIODIC | C_ALARM | C_UPDATE))
        if interrupt != state.interrupt:
            state.interrupt = interrupt
            self._irq(interrupt)
        # While register C waits to be read, nothing changes for the guest.
        state.event_ns = None if interrupt else self._next_interrupt_ns()

    def _next_interrupt_ns(self) -> int | None:
        state = self.state
        events: list[int] = []
        period = self._period_clocks()
        if state.b & B_PERIODIC and period:
            clocks = self._clocks(state.seen_ns)
            events.append(self._clock_ns(clocks - clocks % period + period))
        if self._running():
            second = (state.seen_ns - state.origin_ns) // _NS
            if state.b & B_UPDATE:
                events.append(state.origin_ns + (second + 1) * _NS)
            elif state.b & B_ALARM and (alarm := self._next_alarm(second)) is not None:
                events.append(state.origin_ns + alarm * _NS)
        return min(events, default=None)

    def _period_clocks(self) -> int:
        """The periodic interrupt's period in oscillator clocks; 0 when there is none."""
        state = self.state
        rate = state.a & A_RATE
        if rate == 0 or self._divider_reset():
            return 0
        return 128 << (rate - 1) if rate <= 2 else 1 << (rate - 1)

    def _clocks(self, now_ns: int) -> int:
        return (now_ns - self.state.origin_ns) * _OSCILLATOR_HZ // _NS

    def _clock_ns(self, clocks: int) -> int:
        """The first nanosecond at which so many oscillator clocks have passed."""
        return self.state.origin_ns - (-clocks * _NS // _OSCILLATOR_HZ)

    def _next_alarm(self, after: int) -> int | None:
        """The first second that matches the alarm registers, counted from ``origin_ns`` and later than ``after``."""
        cmos = self.state.cmos
        seconds, minutes, hours = (None if cmos[index] & ALARM_ANY == ALARM_ANY else cmos[index] for index in _ALARMS)
        start = self.state.date.second_of_day()
        at = after + 1
        while at <= after + _DAY_S:
            second_of_day = (start + at) % _DAY_S
            if hours is not None and self._encode_hour(second_of_day // 3600) != hours:
                at += 3600 - second_of_day % 3600
            elif minutes is not None and self._encode(second_of_day // 60 % 60) != minutes:
                at += 60 - second_of_day % 60
            elif seconds is not None and self._encode(second_of_day % 60) != seconds:
                at += 1
            else:
                return at
        return None

    # ---- the date ----

    def _running(self) -> bool:
        return not self.state.b & B_SET and not self._divider_reset()

    def _divider_reset(self) -> bool:
        return self.state.a & A_DIVIDER_RESET == A_DIVIDER_RESET

    def _date(self, now_ns: int) -> Date:
        state = self.state
        return state.date.after((now_ns - state.origin_ns) // _NS) if self._running() else state.date

    def _freeze(self, now_ns: int) -> None:
        """Count from the date as it is now, and from the second that the divider chain is in."""
        state = self.state
        state.date = msgspec.structs.replace(self._date(now_ns))
        state.origin_ns = now_ns - (now_ns - state.origin_ns) % _NS

    def _write_a(self, value: int, now_ns: int) -> None:
        self._freeze(now_ns)
        was_reset = self._divider_reset()
        self.state.a = value
        if was_reset and not self._divider_reset():
            self.state.origin_ns = now_ns + _FIRST_UPDATE_NS - _NS

    def _write_b(self, value: int, now_ns: int) -> None:
        self._freeze(now_ns)
        self.state.b = value & ~B_UPDATE if value & B_SET else value

    def _read_date(self, index: int, date: Date) -> int:
        if index == SECONDS:
            return self._encode(date.second)
        if index == MINUTES:
            return self._encode(date.minute)
        if index == HOURS:
            return self._encode_hour(date.hour)
        if index == DAY_OF_WEEK:
            return date.weekday
        if index == DAY:
            return self._encode(date.day)
        if index == MONTH:
            return self._encode(date.month)
        return self._encode(date.year if index == YEAR else date.century)

    def _write_date(self, index: int, value: int) -> None:
        date = self.state.date
        if index == SECONDS:
            date.second = self._decode(value)
        elif index == MINUTES:
            date.minute = self._decode(value)
        elif index == HOURS:
            date.hour = self._decode_hour(value)
        elif index == DAY_OF_WEEK:
            date.weekday = value & 7
        elif index == DAY:
            date.day = self._decode(value)
        elif index == MONTH:
            date.month = self._decode(value)
        elif index == YEAR:
            date.year = self._decode(value)
        else:
            date.century = self._decode(value)

    def _encode(self, value: int) -> int:
        return value & 0xFF if self.state.b & B_BINARY else (value // 10 << 4 | value % 10) & 0xFF

    def _decode(self, value: int) -> int:
        return value if self.state.b & B_BINARY else (value >> 4) * 10 + (value & 0xF)

    def _encode_hour(self, hour: int) -> int:
        if self.state.b & B_24_HOURS:
            return self._encode(hour)
        return self._encode((hour + 11) % 12 + 1) | (HOUR_PM if hour >= 12 else 0)

    def _decode_hour(self, value: int) -> int:
        if self.state.b & B_24_HOURS:
            return self._decode(value)
        return self._decode(value & ~HOUR_PM) % 12 + (12 if value & HOUR_PM else 0)

"""The 8254 programmable interval timer: three 16-bit down counters. Source: Intel 8254 data sheet (231164).

Nothing counts: a counter remembers the clock tick at which its counting element was loaded, and everything that
can be read, and the ticks at which OUT changes, follow from that.
"""

from collections.abc import Callable

import msgspec

from ftvm.module.chips.chip import Clock, IrqLine

COUNTERS = 3
CONTROL = 3  # offset of the control word; 0..2 are the counters

CLOCK_HZ = 1_193_182
NS_PER_SECOND = 1_000_000_000

ACCESS_LATCH = 0
ACCESS_LOW = 1
ACCESS_HIGH = 2
ACCESS_BOTH = 3
SELECT_READ_BACK = 3

INTERRUPT_ON_TERMINAL_COUNT = 0
ONE_SHOT = 1
RATE_GENERATOR = 2
SQUARE_WAVE = 3
SOFTWARE_STROBE = 4
HARDWARE_STROBE = 5

_PERIODIC = (RATE_GENERATOR, SQUARE_WAVE)
_TRIGGERED = (ONE_SHOT, HARDWARE_STROBE)


def tick_at(now_ns: int) -> int:
    """Clock ticks since reset at a virtual time."""
    return now_ns * CLOCK_HZ // NS_PER_SECOND


def ns_at(tick: int) -> int:
    """The first nanosecond at which ``tick`` has passed."""
    return -(-tick * NS_PER_SECOND // CLOCK_HZ)


class Counter(msgspec.Struct):
    """One counter. Times are clock ticks since reset; ``now`` never goes back."""

    mode: int = INTERRUPT_ON_TERMINAL_COUNT
    bcd: bool = False
    access: int = ACCESS_BOTH
    gate: bool = True
    initial: int = 0x10000
    """The count register (CR); 0 as written is kept as the largest count."""
    initial_written: bool = False
    """CR was written since the control word."""
    loaded: int = 0x10000
    """What the counting element (CE) started from."""
    counting: bool = False
    start: int = 0
    """When CE held ``loaded``, if it is counting."""
    held: int | None = None
    """Ticks counted so far, while the gate holds the count."""
    load_at: int | None = None
    """When CE will be loaded from CR."""
    null_count: bool = True
    low_byte: int | None = None
    """The first byte of a two-byte write."""
    high_next: bool = False
    """The next read of two returns the high byte."""
    latched_count: int | None = None
    latched_status: int | None = None

    def sync(self, now: int) -> None:
        """Load CE if that was due."""
        if self.load_at is None or now < self.load_at:
            return
        start = self.load_at
        if self.mode == SQUARE_WAVE and self.counting and self.output(start - 1):
            start -= (self.initial + 1) // 2  # the high half just ended: the low half comes next
        self.counting = True
        self.start = start
        self.loaded = self.initial
        self.held = 0 if not self.gate and self.mode not in _TRIGGERED else None
        self.load_at = None
        self.null_count = False

    def output(self, now: int) -> bool:
        """Level of OUT."""
        if not self.counting:
            return self.mode != INTERRUPT_ON_TERMINAL_COUNT
        elapsed = self._elapsed(now)
        if self.mode in _PERIODIC:
            if not self.gate:
                return True
            phase = elapsed % self.loaded
            if self.mode == RATE_GENERATOR:
                return phase != self.loaded - 1
            return phase < (self.loaded + 1) // 2
        if self.mode in (INTERRUPT_ON_TERMINAL_COUNT, ONE_SHOT):
            return elapsed >= self.loaded
        return elapsed != self.loaded

    def next_change(self, now: int) -> int | None:
        """The next tick after ``now`` at which OUT may change; None: only a write or the gate will change it."""
        change = None
        if self.counting and self.held is None:
            elapsed = now - self.start
            if self.mode in _PERIODIC:
                # A period of one tick is not allowed; OUT stays as it is.
                change = self._next_boundary(now) if self.loaded > 1 else None
            elif elapsed < self.loaded:
                change = self.start + self.loaded
            elif elapsed == self.loaded and self.mode in (SOFTWARE_STROBE, HARDWARE_STROBE):
                change = now + 1
        if self.load_at is not None and (change is None or self.load_at < change):
            return self.load_at
        return change

    def set_control(self, access: int, mode: int, bcd: bool) -> None:
        self.mode = mode & 3 if mode > HARDWARE_STROBE else mode
        self.bcd = bcd
        self.access = access
        self.initial_written = False
        self._stop()
        self.null_count = True
        self.low_byte = self.latched_count = self.latched_status = None
        self.high_next = False

    def write(self, now: int, value: int) -> None:
        """A byte for the count register."""
        if self.access == ACCESS_BOTH:
            if self.low_byte is None:
                self.low_byte = value
                if self.mode == INTERRUPT_ON_TERMINAL_COUNT:
                    self._stop()
                return
            count = self.low_byte | value << 8
            self.low_byte = None
        else:
            count = value << 8 if self.access == ACCESS_HIGH else value
        if self.bcd:
            count = sum((count >> 4 * digit & 0xF) * 10**digit for digit in range(4))
        self.initial = count or self._modulus
        self.initial_written = True
        self.null_count = True
        if self.mode in _TRIGGERED:
            return  # the gate loads it
        if self.mode == INTERRUPT_ON_TERMINAL_COUNT:
            self._stop()
        if self.mode not in _PERIODIC or not self.counting:
            self.load_at = now + 1
        elif self.gate:
            # The current period, or half of a square wave, is finished first. With the gate low, the gate loads.
            self.load_at = self._next_boundary(now) if self.mode == SQUARE_WAVE else self._period_end(now)

    def read(self, now: int) -> int:
        if self.latched_status is not None:
            status, self.latched_status = self.latched_status, None
            return status
        count = self.latched_count if self.latched_count is not None else self._count(now)
        if self.access == ACCESS_BOTH:
            high = self.high_next
            self.high_next = not high
            last = high
        else:
            high = self.access == ACCESS_HIGH
            last = True
        if last:
            self.latched_count = None
        return count >> 8 if high else count & 0xFF

    def latch_count(self, now: int) -> None:
        if self.latched_count is None:
            self.latched_count = self._count(now)

    def latch_status(self, now: int) -> None:
        if self.latched_status is None:
            self.latched_status = (
                self.output(now) << 7 | self.null_count << 6 | self.access << 4 | self.mode << 1 | self.bcd
            )

    def set_gate(self, now: int, level: bool) -> None:
        if level == self.gate:
            return
        self.gate = level
        if self.mode in _TRIGGERED:
            if level and self.initial_written:
                self.load_at = now + 1
        elif not level:
            if self.counting:
                self.held = now - self.start
                if self.mode in _PERIODIC:
                    self.load_at = None
        elif self.mode in _PERIODIC:
            if self.initial_written:
                self._stop()
                self.load_at = now + 1
        elif self.held is not None:
            self.start = now - self.held
            self.held = None

    @property
    def _modulus(self) -> int:
        return 10_000 if self.bcd else 0x10000

    def _stop(self) -> None:
        """No count runs: OUT takes its initial level, which is low in mode 0 only."""
        self.counting = False
        self.held = self.load_at = None

    def _elapsed(self, now: int) -> int:
        if not self.counting:
            return 0
        return now - self.start if self.held is None else self.held

    def _count(self, now: int) -> int:
        """CE, as it is read."""
        elapsed = self._elapsed(now)
        if self.mode == RATE_GENERATOR:
            count = self.loaded - elapsed % self.loaded
        elif self.mode == SQUARE_WAVE:
            phase = elapsed % self.loaded
            half = (self.loaded + 1) // 2
            # It counts by two, from an even number, once for each half.
            count = (self.loaded & ~1) - 2 * (phase if phase < half else phase - half)
        else:
            count = self.loaded - elapsed
        count %= self._modulus
        if self.bcd:
            return sum(count // 10**digit % 10 << 4 * digit for digit in range(4))
        return count

    def _next_boundary(self, now: int) -> int:
        """The next tick at which OUT changes in a periodic mode."""
        phase = (now - self.start) % self.loaded
        first = self.loaded - 1 if self.mode == RATE_GENERATOR else (self.loaded + 1) // 2
        return now - phase + first if phase < first else self._period_end(now)

    def _period_end(self, now: int) -> int:
        return now + self.loaded - (now - self.start) % self.loaded


class PitState(msgspec.Struct):
    counters: list[Counter] = msgspec.field(default_factory=lambda: [Counter() for _ in range(COUNTERS)])
    output0: bool = False
    change_at: int | None = None
    """The tick at which the output of counter 0 must be looked at again."""


class Pit:
    """``irq`` is the output of counter 0. ``rearm`` is called when ``next_event_ns`` may have changed.

    The gate of counter 2 starts low, as port 61 leaves it; the others are wired high.
    """

    def __init__(self, clock: Clock, irq: IrqLine, rearm: Callable[[], None]) -> None:
        self.state = PitState()
        self.state.counters[2].gate = False
        self._clock = clock
        self._irq = irq
        self._rearm = rearm

    def set_gate2(self, level: bool) -> None:
        now = tick_at(self._clock())
        counter = self.state.counters[2]
        counter.sync(now)
        counter.set_gate(now, level)

    def output2(self) -> bool:
        now = tick_at(self._clock())
        counter = self.state.counters[2]
        counter.sync(now)
        return counter.output(now)

    def read(self, offset: int, size: int) -> int:
        if offset == CONTROL:
            return 0xFF
        now = self._catch_up()
        counter = self.state.counters[offset]
        counter.sync(now)
        return counter.read(now)

    def write(self, offset: int, size: int, value: int) -> None:
        now = self._catch_up()
        if offset != CONTROL:
            self.state.counters[offset].sync(now)
            self.state.counters[offset].write(now, value)
        else:
            self._control(now, value)
        self._look(now)
        self._rearm()

    def next_event_ns(self) -> int | None:
        return None if self.state.change_at is None else ns_at(self.state.change_at)

    def advance(self, now_ns: int) -> None:
        now = tick_at(now_ns)
        while self.state.change_at is not None and self.state.change_at <= now:
            self._look(self.state.change_at)

    def _catch_up(self) -> int:
        now_ns = self._clock()
        self.advance(now_ns)
        return tick_at(now_ns)

    def _control(self, now: int, value: int) -> None:
        select, access = value >> 6, value >> 4 & 3
        if select == SELECT_READ_BACK:
            for index, counter in enumerate(self.state.counters):
                if value >> (index + 1) & 1:
                    counter.sync(now)
                    if not value & 0x20:
                        counter.latch_count(now)
                    if not value & 0x10:
                        counter.latch_status(now)
            return
        counter = self.state.counters[select]
        counter.sync(now)
        if access == ACCESS_LATCH:
            counter.latch_count(now)
        else:
            counter.set_control(access, value >> 1 & 7, bool(value & 1))

    def _look(self, now: int) -> None:
        """Bring the output of counter 0 up to date, and note when to look again."""
        counter = self.state.counters[0]
        counter.sync(now)
        output = counter.output(now)
        if output != self.state.output0:
            self.state.output0 = output
            self._irq(output)
        self.state.change_at = counter.next_change(now)

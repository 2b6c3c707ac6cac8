"""The local APIC of the machine's one CPU, in xAPIC mode. Source: Intel SDM vol. 3A, chapter 11 (July 2023 numbering).

The timer counts at 1 GHz, one tick per nanosecond of virtual time, and so does the TSC. There is no other processor:
INIT, start-up and SMI messages vanish, as messages to absent processors do.
"""

from collections.abc import Callable

import msgspec

from ftvm.memory_map import LOCAL_APIC
from ftvm.module.chips.chip import Clock, IrqLine
from ftvm.platform_ports import LOCAL_APIC_ID

ID = 0x020
VERSION = 0x030
TPR = 0x080
PPR = 0x0A0
EOI = 0x0B0
LDR = 0x0D0
DFR = 0x0E0
SVR = 0x0F0
ISR = 0x100  # eight registers 10h apart, as TMR and IRR
TMR = 0x180
IRR = 0x200
ESR = 0x280
ICR_LOW = 0x300
ICR_HIGH = 0x310
LVT_TIMER = 0x320
LVT_THERMAL = 0x330
LVT_PERFORMANCE = 0x340
LVT_LINT0 = 0x350
LVT_LINT1 = 0x360
LVT_ERROR = 0x370
INITIAL_COUNT = 0x380
CURRENT_COUNT = 0x390
DIVIDE = 0x3E0

VERSION_VALUE = 0x0005_0014  # six LVT entries, integrated APIC

SVR_ENABLE = 0x100

# Local vector table and interrupt command
VECTOR = 0x0FF
DELIVERY = 0x700
MASKED = 0x1_0000
TIMER_MODE = 0x6_0000
TIMER_ONE_SHOT = 0x0_0000
TIMER_PERIODIC = 0x2_0000
TIMER_DEADLINE = 0x4_0000

FIXED = 0
LOWEST_PRIORITY = 1
NMI = 4
EXTINT = 7

ICR_LOGICAL = 0x800
ICR_SHORTHAND = 0xC_0000
SHORTHAND_NONE = 0
SHORTHAND_SELF = 1
SHORTHAND_ALL = 2
SHORTHAND_OTHERS = 3

ESR_SEND_ILLEGAL_VECTOR = 0x20
ESR_RECEIVE_ILLEGAL_VECTOR = 0x40
ESR_ILLEGAL_REGISTER = 0x80

MSR_APIC_BASE = 0x1B
MSR_TSC_DEADLINE = 0x6E0
MSRS = (MSR_APIC_BASE, MSR_TSC_DEADLINE)
BASE_BOOTSTRAP_PROCESSOR = 0x100
BASE_ENABLE = 0x800
_BASE_WRITABLE = (1 << 52) - 0x1000 | BASE_ENABLE | BASE_BOOTSTRAP_PROCESSOR  # so x2APIC mode, bit 10, is refused

_LVT_WRITABLE = (
    VECTOR | MASKED | TIMER_MODE,
    VECTOR | DELIVERY | MASKED,  # thermal
    VECTOR | DELIVERY | MASKED,  # performance
    VECTOR | DELIVERY | MASKED | 0xA000,  # LINT0, with polarity and trigger mode
    VECTOR | DELIVERY | MASKED | 0xA000,  # LINT1
    VECTOR | MASKED,  # error
)
_ICR_WRITABLE = 0xC_CFFF
_FIRST_LEGAL_VECTOR = 16
_BROADCAST = 0xFF


class LapicState(msgspec.Struct):
    base: int = LOCAL_APIC | BASE_ENABLE | BASE_BOOTSTRAP_PROCESSOR
    """IA32_APIC_BASE."""
    id: int = LOCAL_APIC_ID
    tpr: int = 0
    ldr: int = 0
    dfr: int = 0xFFFF_FFFF
    svr: int = 0xFF
    isr: list[int] = msgspec.field(default_factory=lambda: 8 * [0])
    tmr: list[int] = msgspec.field(default_factory=lambda: 8 * [0])
    irr: list[int] = msgspec.field(default_factory=lambda: 8 * [0])
    esr: int = 0
    errors: int = 0
    """What ESR will show after it is written."""
    icr: int = 0
    lvt: list[int] = msgspec.field(default_factory=lambda: len(_LVT_WRITABLE) * [MASKED])
    divide: int = 0
    initial_count: int = 0
    tsc_deadline: int = 0
    """0 while not armed."""
    expires_ns: int | None = None
    """When the timer reaches zero, or passes the deadline."""
    lint0: bool = False
    """Level of the LINT0 pin."""
    extint: bool = False
    """An ExtINT message from the I/O APIC waits to be acknowledged."""
    output: bool = False
    """Level of INTR to the CPU."""


class Lapic:
    """``interrupt`` is INTR to the CPU, ``nmi`` its NMI pin.

    ``external`` is the acknowledge cycle that an ExtINT interrupt causes on the 8259s; ``broadcast_eoi`` tells I/O
    APICs that a level-triggered vector is done; ``moved`` is called when the base address or the enable bit
    changed; ``rearm`` when ``next_event_ns`` may have become earlier.
    """

    def __init__(
        self,
        clock: Clock,
        tsc: Callable[[], int],
        interrupt: IrqLine,
        nmi: Callable[[], None],
        external: Callable[[], int],
        broadcast_eoi: Callable[[int], None],
        moved: Callable[[], None],
        rearm: Callable[[], None],
    ) -> None:
        self.state = LapicState()
        self._clock = clock
        self._tsc = tsc
        self._interrupt = interrupt
        self._nmi = nmi
        self._external = external
        self._broadcast_eoi = broadcast_eoi
        self._moved = moved
        self._rearm = rearm
        self._writers = {
            ID: self._write_id,
            TPR: self._write_tpr,
            EOI: self._write_eoi,
            LDR: self._write_ldr,
            DFR: self._write_dfr,
            SVR: self._write_svr,
            ESR: self._write_esr,
            ICR_LOW: self._write_icr_low,
            ICR_HIGH: self._write_icr_high,
            INITIAL_COUNT: self._write_initial_count,
            DIVIDE: self._write_divide,
        }
        self._readers: dict[int, Callable[[], int]] = {
            ID: lambda: self.state.id << 24,
            VERSION: lambda: VERSION_VALUE,
            TPR: lambda: self.state.tpr,
            PPR: self._processor_priority,
            EOI: lambda: 0,
            LDR: lambda: self.state.ldr << 24,
            DFR: lambda: self.state.dfr,
            SVR: lambda: self.state.svr,
            ESR: lambda: self.state.esr,
            ICR_LOW: lambda: self.state.icr & 0xFFFF_FFFF,
            ICR_HIGH: lambda: self.state.icr >> 32,
            INITIAL_COUNT: lambda: self.state.initial_count,
            CURRENT_COUNT: self._current_count,
            DIVIDE: lambda: self.state.divide,
        }

    # ---- what the CPU sees ----

    @property
    def enabled(self) -> bool:
        """By IA32_APIC_BASE; without it there are no registers, and LINT0 is the CPU's INTR pin."""
        return bool(self.state.base & BASE_ENABLE)

    @property
    def address(self) -> int:
        """Guest physical address of the registers."""
        return self.state.base & ~0xFFF

    def read(self, offset: int, size: int) -> int:
        """Registers are 32 bits wide, 10h apart; narrower reads get their part of one."""
        return self._read_register(offset & ~3) >> 8 * (offset & 3) & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Writes that are not 32 bits wide and aligned are undefined (11.4.1): ignored."""
        if size != 4 or offset & 3:
            return
        writer = self._writers.get(offset)
        if writer is not None:
            writer(value)
        elif LVT_TIMER <= offset <= LVT_ERROR and not offset & 0xF:
            self._write_lvt(offset, value)
        elif offset not in self._readers and not self._is_vector_register(offset):
            self._error(ESR_ILLEGAL_REGISTER)

    def read_msr(self, index: int) -> int:
        """IA32_APIC_BASE or IA32_TSC_DEADLINE."""
        if index == MSR_APIC_BASE:
            return self.state.base
        self._catch_up()
        return self.state.tsc_deadline

    def write_msr(self, index: int, value: int) -> bool:
        """False: the CPU must raise #GP(0)."""
        if index == MSR_TSC_DEADLINE:
            self._write_tsc_deadline(value)
            return True
        if value & ~_BASE_WRITABLE:
            return False
        if value != self.state.base:
            if not value & BASE_ENABLE:
                # 11.4.3: when it is enabled again, it comes up as after a reset.
                self.state = LapicState(lint0=self.state.lint0, output=self.state.output)
            self.state.base = value
            self._moved()
            self._update()
        return True

    def read_cr8(self) -> int:
        return self.state.tpr >> 4

    def write_cr8(self, value: int) -> None:
        self._write_tpr(value << 4)

    def acknowledge(self) -> int | None:
        """The CPU takes the interrupt that INTR announced; returns its vector, None if there is none any more."""
        vector = self._deliverable()
        if vector >= 0:
            bit = 1 << (vector & 31)
            self.state.irr[vector >> 5] &= ~bit
            self.state.isr[vector >> 5] |= bit
        elif self._external_waits():
            self.state.extint = False
            vector = self._external()
        self._update()
        return vector if vector >= 0 else None

    # ---- what comes in ----

    def set_lint0(self, level: bool) -> None:
        """The LINT0 pin: INTR of the 8259s."""
        state = self.state
        rises = level and not state.lint0
        state.lint0 = level
        lvt = self._lint0()
        if rises and self.enabled and not lvt & MASKED:
            if lvt & DELIVERY == FIXED << 8:
                self._accept(lvt & VECTOR, level=False)
            elif lvt & DELIVERY == NMI << 8:
                self._nmi()
        self._update()

    def message(self, destination: int, logical: bool, delivery: int, vector: int, level: bool) -> bool:
        """An interrupt message on the bus. False: it was not for us, or we are disabled."""
        if not self.enabled or not self._is_addressed(destination, logical):
            return False
        if delivery in (FIXED, LOWEST_PRIORITY):
            return self._accept(vector, level)
        if delivery == NMI:
            self._nmi()
        elif delivery == EXTINT:
            self.state.extint = True
            self._update()
        return True

    def nmi_possible(self) -> bool:
        """LINT0 is set up to cause NMIs."""
        return self.enabled and self._lint0() & (MASKED | DELIVERY) == NMI << 8

    def hears_lint0(self) -> bool:
        """What comes in at LINT0 can reach the CPU."""
        return self._passes_external() or not self._lint0() & MASKED

    # ---- timer ----

    def next_event_ns(self) -> int | None:
        """A masked timer needs no attention; it is brought up to date when somebody looks."""
        return None if self.state.lvt[0] & MASKED else self.state.expires_ns

    def advance(self, now_ns: int) -> None:
        state = self.state
        if state.expires_ns is None or state.expires_ns > now_ns:
            return
        lvt = state.lvt[0]
        if lvt & TIMER_MODE == TIMER_PERIODIC and state.initial_count:
            period_ns = state.initial_count * self._divisor()
            state.expires_ns += (1 + (now_ns - state.expires_ns) // period_ns) * period_ns
        else:
            state.expires_ns = None
            state.tsc_deadline = 0
        if not lvt & MASKED:
            self._accept(lvt & VECTOR, level=False)

    def _catch_up(self) -> int:
        now_ns = self._clock()
        self.advance(now_ns)
        return now_ns

    def _divisor(self) -> int:
        """Bits 3, 1 and 0 of the divide configuration: 2, 4, ... 128, and 1."""
        divide = self.state.divide
        return 1 << ((((divide >> 1 & 4) | divide & 3) + 1) & 7)

    def _current_count(self) -> int:
        now_ns = self._catch_up()
        state = self.state
        if state.expires_ns is None or state.lvt[0] & TIMER_MODE == TIMER_DEADLINE:
            return 0
        return -((now_ns - state.expires_ns) // self._divisor())

    def _write_initial_count(self, value: int) -> None:
        now_ns = self._catch_up()
        state = self.state
        if state.lvt[0] & TIMER_MODE == TIMER_DEADLINE:
            return
        state.initial_count = value
        state.expires_ns = now_ns + value * self._divisor() if value else None
        self._rearm()

    def _write_divide(self, value: int) -> None:
        count = self._current_count()
        self.state.divide = value & 0b1011
        if count:
            self.state.expires_ns = self._clock() + count * self._divisor()
            self._rearm()

    def _write_tsc_deadline(self, value: int) -> None:
        now_ns = self._catch_up()
        state = self.state
        if state.lvt[0] & TIMER_MODE != TIMER_DEADLINE:
            return
        state.tsc_deadline = value
        # The time is fixed here: a guest that sets its TSC while a deadline is armed moves the deadline no more.
        state.expires_ns = now_ns + max(0, value - self._tsc()) if value else None
        self._rearm()

    # ---- registers ----

    def _read_register(self, offset: int) -> int:
        if offset & 0xF:
            return 0
        reader = self._readers.get(offset)
        if reader is not None:
            return reader()
        if LVT_TIMER <= offset <= LVT_ERROR:
            return self.state.lvt[(offset - LVT_TIMER) >> 4]
        if self._is_vector_register(offset):
            words = (self.state.isr, self.state.tmr, self.state.irr)[(offset - ISR) >> 7]
            return words[offset >> 4 & 7]
        self._error(ESR_ILLEGAL_REGISTER)
        return 0

    @staticmethod
    def _is_vector_register(offset: int) -> bool:
        return ISR <= offset < ESR and not offset & 0xF

    def _write_id(self, value: int) -> None:
        self.state.id = value >> 24

    def _write_tpr(self, value: int) -> None:
        self.state.tpr = value & 0xFF
        self._update()

    def _write_eoi(self, value: int) -> None:
        state = self.state
        vector = _highest(state.isr)
        if vector < 0:
            return
        word, bit = vector >> 5, 1 << (vector & 31)
        state.isr[word] &= ~bit
        if state.tmr[word] & bit:
            self._broadcast_eoi(vector)
        self._update()

    def _write_ldr(self, value: int) -> None:
        self.state.ldr = value >> 24

    def _write_dfr(self, value: int) -> None:
        self.state.dfr = value | 0x0FFF_FFFF

    def _write_svr(self, value: int) -> None:
        state = self.state
        state.svr = value & (SVR_ENABLE | VECTOR)
        if not value & SVR_ENABLE:
            state.lvt = [lvt | MASKED for lvt in state.lvt]
        self._update()

    def _write_esr(self, value: int) -> None:
        self.state.esr, self.state.errors = self.state.errors, 0

    def _write_lvt(self, offset: int, value: int) -> None:
        self._catch_up()
        state = self.state
        index = (offset - LVT_TIMER) >> 4
        new = value & _LVT_WRITABLE[index]
        if not state.svr & SVR_ENABLE:
            new |= MASKED
        old, state.lvt[index] = state.lvt[index], new
        if offset == LVT_TIMER:
            if (old ^ new) & TIMER_DEADLINE:
                state.expires_ns = None  # 11.5.4.1: changing to or from TSC-deadline mode disarms
                state.tsc_deadline = 0
            self._rearm()
        self._update()

    def _write_icr_high(self, value: int) -> None:
        self.state.icr = (value & 0xFF00_0000) << 32 | self.state.icr & 0xFFFF_FFFF

    def _write_icr_low(self, value: int) -> None:
        state = self.state
        state.icr = state.icr & ~0xFFFF_FFFF | value & _ICR_WRITABLE
        shorthand = (value & ICR_SHORTHAND) >> 18
        delivery = (value & DELIVERY) >> 8
        vector = value & VECTOR
        if delivery in (FIXED, LOWEST_PRIORITY) and vector < _FIRST_LEGAL_VECTOR:
            self._error(ESR_SEND_ILLEGAL_VECTOR)
        elif shorthand == SHORTHAND_NONE:
            if delivery in (FIXED, LOWEST_PRIORITY, NMI):
                self.message(state.icr >> 56, bool(value & ICR_LOGICAL), delivery, vector, level=False)
        elif shorthand in (SHORTHAND_SELF, SHORTHAND_ALL) and delivery in (FIXED, LOWEST_PRIORITY):
            self._accept(vector, level=False)

    # ---- interrupts ----

    def _is_addressed(self, destination: int, logical: bool) -> bool:
        if destination == _BROADCAST:
            return True
        if not logical:
            return destination == self.state.id
        members = self.state.ldr & destination
        if self.state.dfr >> 28 == 0xF:  # flat model
            return members != 0
        return self.state.ldr >> 4 == destination >> 4 and members & 0xF != 0

    def _accept(self, vector: int, level: bool) -> bool:
        """A fixed interrupt, from a message, a timer or a pin."""
        state = self.state
        if not self.enabled or not state.svr & SVR_ENABLE:
            return False
        if vector < _FIRST_LEGAL_VECTOR:
            self._error(ESR_RECEIVE_ILLEGAL_VECTOR)
            return False
        word, bit = vector >> 5, 1 << (vector & 31)
        state.irr[word] |= bit
        if level:
            state.tmr[word] |= bit
        else:
            state.tmr[word] &= ~bit
        self._update()
        return True

    def _error(self, bit: int) -> None:
        state = self.state
        state.errors |= bit
        lvt = state.lvt[(LVT_ERROR - LVT_TIMER) >> 4]
        # An error interrupt with an illegal vector would be an error again.
        if not lvt & MASKED and lvt & VECTOR >= _FIRST_LEGAL_VECTOR:
            self._accept(lvt & VECTOR, level=False)

    def _processor_priority(self) -> int:
        tpr = self.state.tpr
        in_service = max(_highest(self.state.isr), 0)
        return tpr if tpr >> 4 >= in_service >> 4 else in_service & 0xF0

    def _deliverable(self) -> int:
        """The pending vector that the CPU would take now, or -1."""
        vector = _highest(self.state.irr)
        return vector if vector >= 0 and vector >> 4 > self._processor_priority() >> 4 else -1

    def _lint0(self) -> int:
        return self.state.lvt[(LVT_LINT0 - LVT_TIMER) >> 4]

    def _passes_external(self) -> bool:
        """INTR of the 8259s is INTR of the CPU: through LINT0 as ExtINT, or past an APIC that is disabled."""
        state = self.state
        if not state.base & BASE_ENABLE or not state.svr & SVR_ENABLE:
            return True
        return self._lint0() & (MASKED | DELIVERY) == EXTINT << 8

    def _external_waits(self) -> bool:
        return self.state.extint or (self.state.lint0 and self._passes_external())

    def _update(self) -> None:
        output = self._deliverable() >= 0 or self._external_waits()
        if output != self.state.output:
            self.state.output = output
            self._interrupt(output)


def _highest(words: list[int]) -> int:
    """The highest vector whose bit is set; -1 when none is."""
    for index in (7, 6, 5, 4, 3, 2, 1, 0):
        if words[index]:
            return index * 32 + words[index].bit_length() - 1
    return -1

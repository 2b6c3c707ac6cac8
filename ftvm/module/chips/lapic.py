"""The local APIC of the machine's one CPU, in xAPIC mode. Source: Intel SDM vol. 3A, chapter 11 (July 2023 numbering).

It is asked at every interrupt, so what it does is native/lapic.c; a running CPU does most of it without coming here
(see ft_cpu_attach_lapic). Here is its state as a value, and what its accesses mean for other chips.

The timer counts at 1 GHz, one tick per nanosecond of virtual time, and so does the TSC. There is no other processor:
INIT, start-up and SMI messages vanish, as messages to absent processors do.
"""

from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from ftvm._native import ffi, lib
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

SVR_ENABLE = 0x100

# Local vector table
MASKED = 0x1_0000
LVT_ENTRIES = 6

# Delivery modes
NMI = 4
EXTINT = 7

MSR_APIC_BASE = 0x1B
MSR_TSC_DEADLINE = 0x6E0
MSRS = (MSR_APIC_BASE, MSR_TSC_DEADLINE)
BASE_BOOTSTRAP_PROCESSOR = 0x100
BASE_ENABLE = 0x800

U64 = Annotated[int, msgspec.Meta(ge=0)]
_NEVER = (1 << 64) - 1
_INTR: int = lib.FT_LAPIC_INTR
_REARM: int = lib.FT_LAPIC_REARM


class LapicState(msgspec.Struct):
    base: U64 = LOCAL_APIC | BASE_ENABLE | BASE_BOOTSTRAP_PROCESSOR
    """IA32_APIC_BASE."""
    id: U64 = LOCAL_APIC_ID
    tpr: U64 = 0
    ldr: U64 = 0
    dfr: U64 = 0xFFFF_FFFF
    svr: U64 = 0xFF
    isr: list[U64] = msgspec.field(default_factory=lambda: 8 * [0])
    tmr: list[U64] = msgspec.field(default_factory=lambda: 8 * [0])
    irr: list[U64] = msgspec.field(default_factory=lambda: 8 * [0])
    esr: U64 = 0
    errors: U64 = 0
    """What ESR will show after it is written."""
    icr: U64 = 0
    lvt: list[U64] = msgspec.field(default_factory=lambda: LVT_ENTRIES * [MASKED])
    divide: U64 = 0
    initial_count: U64 = 0
    tsc_deadline: U64 = 0
    """0 while not armed."""
    expires_ns: U64 | None = None
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
        self.native: Any = ffi.new("ft_lapic *")
        """The state, which a CPU may change by itself while it runs."""
        lib.ft_lapic_reset(self.native)
        self._effects = ffi.new("uint32_t *")
        self._bytes = ffi.new("uint8_t[]", lib.FT_LAPIC_BYTES)
        self._clock = clock
        self._tsc = tsc
        self._interrupt = interrupt
        self._nmi = nmi
        self._external = external
        self._broadcast_eoi = broadcast_eoi
        self._moved = moved
        self._rearm = rearm

    @property
    def state(self) -> LapicState:
        """A copy. To change it, assign."""
        return msgspec.msgpack.decode(self.packed(), type=LapicState)

    @state.setter
    def state(self, state: LapicState) -> None:
        for name in LapicState.__struct_fields__:
            value = getattr(state, name)
            setattr(self.native, name, _NEVER if value is None else value)

    def packed(self) -> msgspec.Raw:
        """The state in msgpack."""
        return msgspec.Raw(ffi.buffer(self._bytes, lib.ft_lapic_encode(self.native, self._bytes))[:])

    # ---- what the CPU sees ----

    @property
    def enabled(self) -> bool:
        """By IA32_APIC_BASE; without it there are no registers, and LINT0 is the CPU's INTR pin."""
        return bool(self.native.base & BASE_ENABLE)

    @property
    def address(self) -> int:
        """Guest physical address of the registers."""
        return int(self.native.base) & ~0xFFF

    @property
    def output(self) -> bool:
        """Level of INTR to the CPU."""
        return bool(self.native.output)

    def read(self, offset: int, size: int) -> int:
        """Registers are 32 bits wide, 10h apart; narrower reads get their part of one."""
        value = lib.ft_lapic_read(self.native, offset, size, self._clock(), self._effects)
        self._take(self._effects[0])
        return int(value)

    def write(self, offset: int, size: int, value: int) -> None:
        """Writes that are not 32 bits wide and aligned are undefined (11.4.1): ignored."""
        self._take(lib.ft_lapic_write(self.native, offset, size, value, self._clock()))

    def read_msr(self, index: int) -> int:
        """IA32_APIC_BASE or IA32_TSC_DEADLINE."""
        if index == MSR_APIC_BASE:
            return int(self.native.base)
        deadline = lib.ft_lapic_read_deadline(self.native, self._clock(), self._effects)
        self._take(self._effects[0])
        return int(deadline)

    def write_msr(self, index: int, value: int) -> bool:
        """False: the CPU must raise #GP(0)."""
        if index == MSR_TSC_DEADLINE:
            self._take(lib.ft_lapic_write_deadline(self.native, value, self._clock(), self._tsc()))
            return True
        if lib.ft_lapic_write_base(self.native, value, self._effects) != 0:
            return False
        self._take(self._effects[0])
        return True

    def read_cr8(self) -> int:
        return int(self.native.tpr) >> 4

    def write_cr8(self, value: int) -> None:
        self._take(lib.ft_lapic_write_cr8(self.native, value))

    def acknowledge(self) -> int | None:
        """The CPU takes the interrupt that INTR announced; returns its vector, None if there is none any more."""
        vector: int = lib.ft_lapic_acknowledge(self.native, self._effects)
        self._take(self._effects[0])
        if vector < 0 and lib.ft_lapic_take_external(self.native):
            vector = self._external()
            self._take(lib.ft_lapic_update(self.native))
        return vector if vector >= 0 else None

    # ---- what comes in ----

    def set_lint0(self, level: bool) -> None:
        """The LINT0 pin: INTR of the 8259s."""
        self._take(lib.ft_lapic_set_lint0(self.native, level))

    def message(self, destination: int, logical: bool, delivery: int, vector: int, level: bool) -> bool:
        """An interrupt message on the bus. False: it was not for us, or we are disabled."""
        effects = lib.ft_lapic_message(self.native, destination, logical, delivery, vector, level)
        self._take(effects)
        return bool(effects & lib.FT_LAPIC_ACCEPTED)

    def nmi_possible(self) -> bool:
        """LINT0 is set up to cause NMIs."""
        return bool(lib.ft_lapic_nmi_possible(self.native))

    def hears_lint0(self) -> bool:
        """What comes in at LINT0 can reach the CPU."""
        return bool(lib.ft_lapic_hears_lint0(self.native))

    # ---- timer ----

    def next_event_ns(self) -> int | None:
        """A masked timer needs no attention; it is brought up to date when somebody looks."""
        event_ns: int = lib.ft_lapic_next_event_ns(self.native)
        return None if event_ns == _NEVER else event_ns

    def advance(self, now_ns: int) -> None:
        self._take(lib.ft_lapic_advance(self.native, now_ns))

    def _take(self, effects: int) -> None:
        """What it means for others."""
        if not effects:
            return
        if effects & lib.FT_LAPIC_MOVED:
            self._moved()
        if effects & _INTR:
            self._interrupt(self.output)
        if effects & lib.FT_LAPIC_NMI:
            self._nmi()
        if effects & _REARM:
            self._rearm()
        if effects & lib.FT_LAPIC_EOI:
            self._broadcast_eoi(effects >> lib.FT_LAPIC_VECTOR & 0xFF)

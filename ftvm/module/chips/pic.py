"""One 8259A interrupt controller. Source: Intel 8259A data sheet (231468); ELCR: Intel 82371SB (PIIX3), 3.5.

Only the 8086/8088 mode exists: the MCS-80 call sequence and buffered mode mean nothing on this board. ICW1's LTIM bit
is replaced by the edge/level control register, as on every PC with PCI.
"""

from collections.abc import Callable

import msgspec

from ftvm.module.chips.chip import IrqLine

COMMAND = 0  # A0 = 0: ICW1, OCW2, OCW3; reads IRR or ISR, or polls
DATA = 1  # A0 = 1: ICW2..4, OCW1; reads the mask
ELCR = 2  # ports 4D0/4D1 on a PC

ICW1_IC4 = 0x01
ICW1_SINGLE = 0x02
ICW1_SELECT = 0x10

ICW4_AUTO_EOI = 0x02
ICW4_FULLY_NESTED = 0x10  # special fully nested mode

OCW3_SELECT = 0x08
OCW3_READ_ISR = 0x01
OCW3_READ = 0x02
OCW3_POLL = 0x04
OCW3_SPECIAL_MASK = 0x20
OCW3_SPECIAL_MASK_ENABLE = 0x40

# OCW2 bits 7..5: rotate, specific, end of interrupt
OCW2_ROTATE_IN_AUTO_EOI_CLEAR = 0
OCW2_EOI = 1
OCW2_SPECIFIC_EOI = 3
OCW2_ROTATE_IN_AUTO_EOI_SET = 4
OCW2_ROTATE_ON_EOI = 5
OCW2_SET_PRIORITY = 6
OCW2_ROTATE_ON_SPECIFIC_EOI = 7

SPURIOUS_LEVEL = 7

_ROTATIONS = tuple(tuple((lowest + step) & 7 for step in range(1, 9)) for lowest in range(8))
"""For each lowest level, all levels in order of priority."""


class PicState(msgspec.Struct):
    lines: int = 0
    """Levels of the inputs IR0..IR7, as bits; so are the registers that follow."""
    edges: int = 0
    """Inputs that rose, have not fallen since and were not acknowledged."""
    isr: int = 0
    imr: int = 0
    elcr: int = 0
    vector_base: int = 0
    slaves: int = 0
    lowest: int = 7
    """The level that has the lowest priority; the next one up has the highest."""
    expected_icw: int = 0
    """2, 3 or 4 while an initialization sequence waits for that word, else 0."""
    needs_icw4: bool = False
    single: bool = False
    auto_eoi: bool = False
    rotate_in_auto_eoi: bool = False
    fully_nested: bool = False
    special_mask: bool = False
    read_isr: bool = False
    poll: bool = False
    output: bool = False
    """Level of the INT pin."""


class Pic:
    """``output`` is the INT pin. ``elcr_mask``: inputs that may be set to level-triggered.

    ``cascade``, for a master: acknowledges the slave and returns its vector.
    """

    def __init__(self, output: IrqLine, elcr_mask: int, cascade: Callable[[], int] | None = None) -> None:
        self.state = PicState()
        self._output = output
        self._elcr_mask = elcr_mask
        self._cascade = cascade

    def set_irq(self, level: int, asserted: bool) -> None:
        """Drive input IR0..IR7. An edge that falls again before it is acknowledged is forgotten (figure 9)."""
        state = self.state
        bit = 1 << level
        if asserted:
            if not state.lines & bit:
                state.lines |= bit
                state.edges |= bit
                self._update()
        elif state.lines & bit:
            state.lines &= ~bit
            state.edges &= ~bit
            self._update()

    def acknowledge(self) -> int:
        """The CPU's interrupt acknowledge cycle; returns the vector. Without a request it is that of IR7 (spurious)."""
        state = self.state
        level = self._pending()
        if level is None:
            return state.vector_base | SPURIOUS_LEVEL
        self._accept(level)
        if self._cascade is not None and not state.single and state.slaves >> level & 1:
            return self._cascade()
        return state.vector_base | level

    def is_masked(self, level: int) -> bool:
        return bool(self.state.imr >> level & 1)

    def read(self, offset: int, size: int) -> int:
        state = self.state
        if offset == ELCR:
            return state.elcr
        if state.poll:
            state.poll = False
            level = self._pending()
            if level is None:
                return 0
            self._accept(level)
            return 0x80 | level
        if offset == DATA:
            return state.imr
        return state.isr if state.read_isr else self._requests()

    def write(self, offset: int, size: int, value: int) -> None:
        state = self.state
        if offset == ELCR:
            state.elcr = value & self._elcr_mask
        elif offset == DATA:
            self._write_data(value)
        elif value & ICW1_SELECT:
            self._initialize(value)
        elif value & OCW3_SELECT:
            self._write_ocw3(value)
        else:
            self._write_ocw2(value >> 5, value & 7)
        self._update()

    def _initialize(self, icw1: int) -> None:
        # The edge sense circuit is reset: a line that is high already must fall and rise to interrupt.
        old = self.state
        self.state = PicState(
            lines=old.lines,
            elcr=old.elcr,
            vector_base=old.vector_base,
            slaves=old.slaves,
            expected_icw=2,
            needs_icw4=bool(icw1 & ICW1_IC4),
            single=bool(icw1 & ICW1_SINGLE),
            output=old.output,
        )

    def _write_data(self, value: int) -> None:
        state = self.state
        if state.expected_icw == 0:
            state.imr = value
            return
        if state.expected_icw == 2:
            state.vector_base = value & 0xF8
            state.expected_icw = 4 if state.single else 3
        elif state.expected_icw == 3:
            state.slaves = value
            state.expected_icw = 4
        else:
            state.auto_eoi = bool(value & ICW4_AUTO_EOI)
            state.fully_nested = bool(value & ICW4_FULLY_NESTED)
            state.expected_icw = 0
        if state.expected_icw == 4 and not state.needs_icw4:
            state.expected_icw = 0

    def _write_ocw2(self, command: int, level: int) -> None:
        state = self.state
        if command in (OCW2_EOI, OCW2_ROTATE_ON_EOI):
            in_service = state.isr & ~state.imr if state.special_mask else state.isr
            for highest in self._by_priority():
                if in_service >> highest & 1:
                    state.isr &= ~(1 << highest)
                    if command == OCW2_ROTATE_ON_EOI:
                        state.lowest = highest
                    break
        elif command in (OCW2_SPECIFIC_EOI, OCW2_ROTATE_ON_SPECIFIC_EOI):
            state.isr &= ~(1 << level)
            if command == OCW2_ROTATE_ON_SPECIFIC_EOI:
                state.lowest = level
        elif command == OCW2_SET_PRIORITY:
            state.lowest = level
        elif command == OCW2_ROTATE_IN_AUTO_EOI_SET:
            state.rotate_in_auto_eoi = True
        elif command == OCW2_ROTATE_IN_AUTO_EOI_CLEAR:
            state.rotate_in_auto_eoi = False

    def _write_ocw3(self, value: int) -> None:
        state = self.state
        if value & OCW3_SPECIAL_MASK_ENABLE:
            state.special_mask = bool(value & OCW3_SPECIAL_MASK)
        if value & OCW3_POLL:
            state.poll = True
        elif value & OCW3_READ:
            state.read_isr = bool(value & OCW3_READ_ISR)

    def _requests(self) -> int:
        state = self.state
        return (state.edges & ~state.elcr) | (state.lines & state.elcr)

    def _by_priority(self) -> tuple[int, ...]:
        """All levels, that of the highest priority first."""
        return _ROTATIONS[self.state.lowest]

    def _pending(self) -> int | None:
        """The level that an acknowledge cycle would take, if INT is to be asserted at all."""
        state = self.state
        wanted = self._requests() & ~state.imr
        if not wanted:
            return None
        in_service = state.isr
        if state.special_mask:
            in_service &= ~state.imr
        # A slave in service may interrupt again, with a request that is higher among its own.
        not_blocking_itself = state.slaves if state.fully_nested else 0
        for level in self._by_priority():
            bit = 1 << level
            if wanted & bit and (not in_service & bit or not_blocking_itself & bit):
                return level
            if in_service & bit:
                return None
        return None

    def _accept(self, level: int) -> None:
        state = self.state
        bit = 1 << level
        state.edges &= ~bit
        if not state.auto_eoi:
            state.isr |= bit
        elif state.rotate_in_auto_eoi:
            state.lowest = level
        # INT falls with the acknowledge, so that the next request is an edge to the master.
        state.output = False
        self._output(False)
        self._update()

    def _update(self) -> None:
        state = self.state
        output = self._pending() is not None
        if output != state.output:
            state.output = output
            self._output(output)

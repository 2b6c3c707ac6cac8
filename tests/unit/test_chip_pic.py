"""The 8259A, one alone and two in cascade."""

from functools import partial

import pytest

from ftvm.module.chips import pic
from ftvm.module.chips.pic import COMMAND, DATA, ELCR, Pic

NON_SPECIFIC_EOI = 0x20
SPECIFIC_EOI = 0x60
READ_IRR = 0x0A
READ_ISR = 0x0B
POLL = 0x0C
SPECIAL_MASK_ON = 0x68
SPECIAL_MASK_OFF = 0x48


class Line:
    def __init__(self) -> None:
        self.levels: list[bool] = []

    def __call__(self, level: bool) -> None:
        self.levels.append(level)

    @property
    def level(self) -> bool:
        return bool(self.levels) and self.levels[-1]


def initialize(chip: Pic, base: int = 0x20, icw3: int = 0, icw4: int = 0x01, icw1: int = 0x11) -> None:
    for offset, word in ((COMMAND, icw1), (DATA, base), (DATA, icw3), (DATA, icw4)):
        chip.write(offset, 1, word)


def command(chip: Pic, word: int) -> None:
    chip.write(COMMAND, 1, word)


def read_irr(chip: Pic) -> int:
    command(chip, READ_IRR)
    return chip.read(COMMAND, 1)


def read_isr(chip: Pic) -> int:
    command(chip, READ_ISR)
    return chip.read(COMMAND, 1)


def pulse(chip: Pic, level: int) -> None:
    chip.set_irq(level, False)
    chip.set_irq(level, True)


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
def chip(line: Line) -> Pic:
    chip = Pic(line, 0xF8)
    initialize(chip)
    return chip


def test_an_edge_is_requested_acknowledged_and_ended(chip: Pic, line: Line) -> None:
    chip.set_irq(3, True)
    assert line.level
    assert read_irr(chip) == 0x08
    assert chip.acknowledge() == 0x23
    assert not line.level
    assert (read_irr(chip), read_isr(chip)) == (0x00, 0x08)
    command(chip, NON_SPECIFIC_EOI)
    assert read_isr(chip) == 0
    assert not line.level, "the line is still high, but there was no new edge"


def test_a_masked_edge_is_remembered_until_it_is_unmasked(chip: Pic, line: Line) -> None:
    chip.write(DATA, 1, 0x08)
    chip.set_irq(3, True)
    assert not line.level
    assert chip.read(DATA, 1) == 0x08
    chip.write(DATA, 1, 0x00)
    assert line.level


def test_an_edge_that_falls_before_it_is_acknowledged_becomes_spurious(chip: Pic, line: Line) -> None:
    chip.set_irq(3, True)
    chip.set_irq(3, False)
    assert not line.level
    assert chip.acknowledge() == 0x27
    assert read_isr(chip) == 0, "a spurious IR7 is not in service"


def test_a_level_is_requested_as_long_as_it_lasts(chip: Pic, line: Line) -> None:
    chip.write(ELCR, 1, 0xFF)
    assert chip.read(ELCR, 1) == 0xF8, "inputs 0 to 2 are edge-triggered for ever"
    chip.set_irq(5, True)
    assert chip.acknowledge() == 0x25
    command(chip, NON_SPECIFIC_EOI)
    assert line.level
    chip.set_irq(5, False)
    assert not line.level


def test_a_higher_level_interrupts_a_lower_one_and_not_the_other_way(chip: Pic, line: Line) -> None:
    chip.set_irq(4, True)
    chip.acknowledge()
    chip.set_irq(6, True)
    assert not line.level
    chip.set_irq(1, True)
    assert line.level
    assert chip.acknowledge() == 0x21
    assert read_isr(chip) == 0x12
    command(chip, NON_SPECIFIC_EOI)
    assert read_isr(chip) == 0x10, "the highest in service is the one that ended"
    command(chip, NON_SPECIFIC_EOI)
    assert chip.acknowledge() == 0x26


def test_a_specific_eoi_ends_the_level_it_names(chip: Pic) -> None:
    for level in (6, 2):
        chip.set_irq(level, True)
        chip.acknowledge()
    command(chip, SPECIFIC_EOI | 6)
    assert read_isr(chip) == 0x04


def test_rotation_on_eoi_makes_the_level_that_was_served_the_lowest(chip: Pic) -> None:
    chip.set_irq(3, True)
    chip.acknowledge()
    command(chip, 0xA0)
    pulse(chip, 3)
    chip.set_irq(4, True)
    assert chip.acknowledge() == 0x24


def test_priorities_can_be_set(chip: Pic) -> None:
    command(chip, 0xC0 | 5)  # lowest: 5, highest: 6
    for level in (0, 5, 7):
        chip.set_irq(level, True)
    order = []
    for _ in range(3):
        order.append(chip.acknowledge() & 7)
        command(chip, SPECIFIC_EOI | order[-1])
    assert order == [7, 0, 5]


def test_rotation_on_a_specific_eoi_names_the_lowest(chip: Pic) -> None:
    chip.set_irq(0, True)
    chip.acknowledge()
    command(chip, 0xE0)
    pulse(chip, 0)
    chip.set_irq(7, True)
    assert chip.acknowledge() == 0x27


def test_automatic_eoi_leaves_nothing_in_service(line: Line) -> None:
    chip = Pic(line, 0xF8)
    initialize(chip, icw4=0x03)
    chip.set_irq(2, True)
    chip.set_irq(5, True)
    assert chip.acknowledge() == 0x22
    assert read_isr(chip) == 0
    assert line.level, "the next one needs no EOI"
    assert chip.acknowledge() == 0x25


def test_automatic_eoi_can_rotate(line: Line) -> None:
    chip = Pic(line, 0xF8)
    initialize(chip, icw4=0x03)
    command(chip, 0x80)
    chip.set_irq(2, True)
    chip.acknowledge()
    pulse(chip, 2)
    chip.set_irq(6, True)
    assert chip.acknowledge() == 0x26
    command(chip, 0x00)
    chip.acknowledge()
    assert chip.state.lowest == 6, "rotation is off again"


def test_special_mask_mode_lets_lower_levels_through_a_masked_one(chip: Pic, line: Line) -> None:
    chip.set_irq(4, True)
    chip.acknowledge()
    chip.set_irq(6, True)
    chip.write(DATA, 1, 0x10)
    assert not line.level, "a level in service blocks lower ones even if it is masked"
    command(chip, SPECIAL_MASK_ON)
    assert line.level
    assert chip.acknowledge() == 0x26
    command(chip, NON_SPECIFIC_EOI)
    assert read_isr(chip) == 0x10, "a masked level is not ended by a non-specific EOI in this mode"
    command(chip, SPECIAL_MASK_OFF)
    command(chip, NON_SPECIFIC_EOI)
    assert read_isr(chip) == 0


def test_polling_acknowledges_without_the_cpu(chip: Pic, line: Line) -> None:
    command(chip, POLL)
    assert chip.read(COMMAND, 1) == 0
    chip.set_irq(5, True)
    command(chip, POLL)
    assert chip.read(COMMAND, 1) == 0x85
    assert not line.level
    assert read_isr(chip) == 0x20


def test_icw1_forgets_edges_masks_and_modes(chip: Pic, line: Line) -> None:
    chip.write(DATA, 1, 0xFF)
    chip.set_irq(3, True)
    command(chip, READ_ISR)
    command(chip, SPECIAL_MASK_ON)
    command(chip, 0xC2)
    initialize(chip, base=0x48)
    assert chip.read(DATA, 1) == 0
    assert not line.level, "IR3 is high, but an edge is needed"
    assert not chip.state.special_mask
    pulse(chip, 3)
    assert chip.read(COMMAND, 1) == 0x08, "IRR is what is read after ICW1"
    assert chip.acknowledge() == 0x4B


def test_initialization_takes_the_words_that_icw1_announces(line: Line) -> None:
    chip = Pic(line, 0xF8)
    for offset, word in ((COMMAND, 0x12), (DATA, 0x60), (DATA, 0xF0)):  # single, no ICW4
        chip.write(offset, 1, word)
    assert chip.read(DATA, 1) == 0xF0, "the third word is the mask already"
    for offset, word in ((COMMAND, 0x10), (DATA, 0x60), (DATA, 0x04), (DATA, 0x0F)):  # cascade, no ICW4
        chip.write(offset, 1, word)
    assert chip.read(DATA, 1) == 0x0F
    for offset, word in ((COMMAND, 0x13), (DATA, 0x60), (DATA, 0x01), (DATA, 0xAA)):  # single, ICW4
        chip.write(offset, 1, word)
    assert chip.read(DATA, 1) == 0xAA


class Cascade:
    def __init__(self, master_icw4: int = 0x01) -> None:
        self.intr = Line()
        self.master = Pic(self.intr, 0xF8, cascade=lambda: self.slave.acknowledge())
        self.slave = Pic(partial(self.master.set_irq, 2), 0xDE)
        initialize(self.master, 0x20, 0x04, master_icw4)
        initialize(self.slave, 0x28, 0x02)


def test_a_slave_gives_the_vector_and_both_are_in_service() -> None:
    pair = Cascade()
    pair.slave.set_irq(4, True)
    assert pair.intr.level
    assert pair.master.acknowledge() == 0x2C
    assert (read_isr(pair.master), read_isr(pair.slave)) == (0x04, 0x10)
    assert not pair.intr.level


@pytest.mark.parametrize("slave_first", [True, False])
def test_a_second_request_of_the_slave_follows_whatever_the_order_of_eois(slave_first: bool) -> None:
    pair = Cascade()
    pair.slave.set_irq(1, True)
    pair.slave.set_irq(6, True)
    assert pair.master.acknowledge() == 0x29
    for chip in (pair.slave, pair.master) if slave_first else (pair.master, pair.slave):
        command(chip, NON_SPECIFIC_EOI)
    assert pair.intr.level
    assert pair.master.acknowledge() == 0x2E


def test_the_slaves_own_spurious_interrupt_is_ir7_of_the_slave() -> None:
    assert Cascade().slave.acknowledge() == 0x2F


@pytest.mark.parametrize(("icw4", "nested"), [(0x01, False), (0x11, True)])
def test_only_the_special_fully_nested_mode_lets_a_slave_interrupt_itself(icw4: int, nested: bool) -> None:
    pair = Cascade(icw4)
    pair.slave.set_irq(5, True)
    pair.master.acknowledge()
    pair.slave.set_irq(1, True)
    assert pair.intr.level is nested
    pair.slave.set_irq(1, False)
    pair.master.set_irq(6, True)
    assert not pair.intr.level, "levels below the slave's wait in either mode"


def test_mask_bits_can_be_asked_for(chip: Pic) -> None:
    chip.write(DATA, 1, 0x41)
    assert [level for level in range(8) if chip.is_masked(level)] == [0, 6]


def test_priority_tables_start_behind_the_lowest_level() -> None:
    assert pic._ROTATIONS[7] == (0, 1, 2, 3, 4, 5, 6, 7)
    assert pic._ROTATIONS[2] == (3, 4, 5, 6, 7, 0, 1, 2)

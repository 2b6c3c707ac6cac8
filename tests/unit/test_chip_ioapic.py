"""The I/O APIC's redirection table."""

import pytest

from ftvm.module.chips.ioapic import SELECT, WINDOW, Ioapic

MASKED, LEVEL, LOGICAL, REMOTE_IRR, ACTIVE_LOW = 0x10000, 0x8000, 0x800, 0x4000, 0x2000

Message = tuple[int, bool, int, int, bool]


class Bench:
    def __init__(self) -> None:
        self.accepts = True
        self.messages: list[Message] = []
        self.chip = Ioapic(self._send)

    def _send(self, *message: object) -> bool:
        self.messages.append(message)  # type: ignore[arg-type]
        return self.accepts

    def read(self, register: int) -> int:
        self.chip.write(SELECT, 4, register)
        return self.chip.read(WINDOW, 4)

    def write(self, register: int, value: int) -> None:
        self.chip.write(SELECT, 4, register)
        self.chip.write(WINDOW, 4, value)

    def route(self, pin: int, low: int, destination: int = 0) -> None:
        self.write(0x11 + 2 * pin, destination << 24)
        self.write(0x10 + 2 * pin, low)

    def low(self, pin: int) -> int:
        return self.read(0x10 + 2 * pin)

    def vectors(self) -> list[int]:
        return [message[3] for message in self.messages]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_it_has_24_pins_all_masked(bench: Bench) -> None:
    assert bench.read(1) == 0x00170011
    assert [bench.low(pin) for pin in range(24)] == 24 * [MASKED]
    assert bench.read(0x40) == 0


def test_its_id_can_be_set_and_is_its_arbitration_id(bench: Bench) -> None:
    assert bench.read(0) == 0x01000000
    bench.write(0, 0xF5000000)
    assert (bench.read(0), bench.read(2)) == (0x05000000, 0x05000000)


def test_an_entry_keeps_its_two_halves(bench: Bench) -> None:
    bench.route(5, LOGICAL | ACTIVE_LOW | LEVEL | 0x135, destination=0xA5)
    assert bench.low(5) == LOGICAL | ACTIVE_LOW | LEVEL | 0x135
    assert bench.read(0x1B) == 0xA5000000
    bench.write(0x1A, 0xFFFFFFFF)
    assert bench.low(5) == 0x1AFFF, "delivery status and remote IRR are read only"


def test_the_select_register_can_be_written_as_a_byte(bench: Bench) -> None:
    bench.chip.write(SELECT, 1, 0x01)
    assert bench.chip.read(SELECT, 4) == 0x01
    assert bench.chip.read(WINDOW, 1) == 0x11
    assert bench.chip.read(WINDOW + 2, 1) == 0x17


def test_an_edge_sends_one_message(bench: Bench) -> None:
    bench.route(4, LOGICAL | 0x134, destination=0x03)
    bench.chip.set_irq(4, True)
    bench.chip.set_irq(4, True)
    assert bench.messages == [(0x03, True, 1, 0x34, False)]
    bench.chip.set_irq(4, False)
    bench.chip.set_irq(4, True)
    assert bench.vectors() == [0x34, 0x34]
    assert bench.low(4) == LOGICAL | 0x134


def test_an_edge_on_a_masked_pin_is_lost(bench: Bench) -> None:
    bench.chip.set_irq(4, True)
    bench.route(4, 0x34)
    assert bench.messages == []


def test_a_level_is_sent_once_and_again_after_its_end_if_it_lasts(bench: Bench) -> None:
    bench.route(9, LEVEL | 0x39)
    bench.chip.set_irq(9, True)
    assert bench.messages == [(0, False, 0, 0x39, True)]
    assert bench.low(9) & REMOTE_IRR
    bench.chip.set_irq(9, False)
    bench.chip.set_irq(9, True)
    assert len(bench.messages) == 1, "it is in service"
    bench.chip.end_of_interrupt(0x38)
    assert len(bench.messages) == 1
    bench.chip.end_of_interrupt(0x39)
    assert len(bench.messages) == 2
    bench.chip.set_irq(9, False)
    bench.chip.end_of_interrupt(0x39)
    assert len(bench.messages) == 2
    assert not bench.low(9) & REMOTE_IRR


def test_a_level_that_is_there_is_sent_when_the_pin_is_unmasked(bench: Bench) -> None:
    bench.route(9, MASKED | LEVEL | 0x39)
    bench.chip.set_irq(9, True)
    assert bench.messages == []
    bench.route(9, LEVEL | 0x39)
    assert bench.vectors() == [0x39]


def test_masking_a_pin_keeps_what_is_in_service(bench: Bench) -> None:
    bench.route(9, LEVEL | 0x39)
    bench.chip.set_irq(9, True)
    bench.route(9, MASKED | LEVEL | 0x39)
    assert bench.low(9) & REMOTE_IRR
    bench.chip.end_of_interrupt(0x39)
    assert bench.messages == [(0, False, 0, 0x39, True)]


def test_remote_irr_is_cleared_by_a_way_through_edge_mode(bench: Bench) -> None:
    bench.route(9, LEVEL | 0x39)
    bench.chip.set_irq(9, True)
    bench.route(9, MASKED | 0x39)
    assert not bench.low(9) & REMOTE_IRR
    bench.route(9, MASKED | LEVEL | 0x39)
    assert not bench.low(9) & REMOTE_IRR


def test_a_level_that_nobody_accepts_is_not_in_service(bench: Bench) -> None:
    bench.accepts = False
    bench.route(9, LEVEL | 0x39)
    bench.chip.set_irq(9, True)
    assert not bench.low(9) & REMOTE_IRR


def test_two_pins_may_share_a_vector(bench: Bench) -> None:
    bench.route(9, LEVEL | 0x39)
    bench.route(10, LEVEL | 0x39)
    bench.chip.set_irq(9, True)
    bench.chip.set_irq(10, True)
    bench.chip.end_of_interrupt(0x39)
    assert bench.vectors() == 4 * [0x39]


def test_what_can_reach_the_cpu_can_be_asked_for(bench: Bench) -> None:
    assert not bench.chip.nmi_possible() and not bench.chip.passes_external()
    bench.route(2, 0x400)
    bench.route(0, 0x700)
    assert bench.chip.nmi_possible() and bench.chip.passes_external()
    assert [pin for pin in range(24) if not bench.chip.is_masked(pin)] == [0, 2]
    bench.chip.set_irq(2, True)
    bench.chip.set_irq(0, True)
    assert [message[2] for message in bench.messages] == [4, 7]

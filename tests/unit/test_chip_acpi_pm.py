"""ACPI fixed hardware."""

import pytest

from ftvm.module.chips.acpi_pm import CONTROL, ENABLE, GPE_ENABLE, GPE_STATUS, SMI_COMMAND, STATUS, TIMER, AcpiPm
from ftvm.platform_ports import ACPI_DISABLE, ACPI_ENABLE, S5_SLEEP_TYPE

HZ = 3_579_545
S = 1_000_000_000
HALF = 1 << 23
SLEEP_ENABLE = 0x2000


class Bench:
    def __init__(self) -> None:
        self.now_ns = 0
        self.sci: list[bool] = []
        self.power_offs = 0
        self.chip = AcpiPm(lambda: self.now_ns, self.sci.append, self._power_off, lambda: None)

    def _power_off(self) -> None:
        self.power_offs += 1

    def read(self, offset: int, size: int = 2) -> int:
        return self.chip.read(offset, size)

    def write(self, offset: int, value: int, size: int = 2) -> None:
        self.chip.write(offset, size, value)

    def acpi_mode(self) -> None:
        self.write(SMI_COMMAND, ACPI_ENABLE, 1)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_the_smi_command_port_switches_acpi_mode(bench: Bench) -> None:
    assert bench.read(CONTROL) == 0
    bench.acpi_mode()
    assert bench.read(CONTROL) == 1
    bench.write(SMI_COMMAND, 0x12, 1)
    assert bench.read(CONTROL) == 1
    assert bench.read(SMI_COMMAND, 1) == 0x12
    bench.write(SMI_COMMAND, ACPI_DISABLE, 1)
    assert bench.read(CONTROL) == 0


def test_the_timer_counts_24_bits_at_its_frequency(bench: Bench) -> None:
    bench.now_ns = S
    assert bench.read(TIMER, 4) == HZ
    bench.now_ns = 100 * S
    assert bench.read(TIMER, 4) == 100 * HZ % (1 << 24)
    assert bench.read(TIMER + 1, 1) == 100 * HZ >> 8 & 0xFF
    bench.write(TIMER, 0, 4)
    assert bench.read(TIMER, 4) == 100 * HZ % (1 << 24)


def test_the_timer_status_is_set_when_the_top_bit_changes_and_cleared_by_a_one(bench: Bench) -> None:
    before = (HALF * S - 1) // HZ
    bench.now_ns = before
    assert bench.read(STATUS) == 0
    bench.now_ns = before + 1
    assert bench.read(STATUS) == 1
    bench.write(STATUS, 0xFFFE)
    assert bench.read(STATUS) == 1
    bench.write(STATUS, 0x0001)
    assert bench.read(STATUS) == 0


def test_the_timer_interrupts_when_it_is_enabled_in_acpi_mode(bench: Bench) -> None:
    bench.write(ENABLE, 0x0001)
    assert bench.chip.next_event_ns() is None
    bench.acpi_mode()
    event = bench.chip.next_event_ns()
    assert event == -(-HALF * S // HZ)
    bench.now_ns = event
    bench.chip.advance(event)
    assert bench.sci == [True]
    assert bench.chip.next_event_ns() is None, "the status must be cleared first"
    bench.write(STATUS, 0x0001)
    assert bench.sci == [True, False]
    assert bench.chip.next_event_ns() == -(-2 * HALF * S // HZ)


def test_a_late_look_still_raises_the_interrupt(bench: Bench) -> None:
    bench.acpi_mode()
    bench.write(ENABLE, 0x0001)
    bench.now_ns = -(-HALF * S // HZ)
    assert bench.read(STATUS) == 1
    assert bench.sci == [True]


def test_enable_keeps_the_bits_that_exist(bench: Bench) -> None:
    bench.write(STATUS, 0xFFFF0000, 4)
    assert bench.read(STATUS, 4) == 0x07210000
    assert bench.read(ENABLE) == 0x0721
    bench.write(ENABLE + 1, 0, 1)
    assert bench.read(ENABLE) == 0x0021


def test_soft_off_needs_its_sleep_type_and_the_enable_bit(bench: Bench) -> None:
    bench.write(CONTROL, S5_SLEEP_TYPE << 10)
    assert bench.power_offs == 0
    bench.write(CONTROL, 1 << 10 | SLEEP_ENABLE)
    assert bench.power_offs == 0
    bench.write(CONTROL, S5_SLEEP_TYPE << 10 | SLEEP_ENABLE)
    assert bench.power_offs == 1
    assert not bench.read(CONTROL) & SLEEP_ENABLE, "write only"


def test_soft_off_works_in_bytes_too(bench: Bench) -> None:
    bench.write(CONTROL + 1, (S5_SLEEP_TYPE << 10 | SLEEP_ENABLE) >> 8, 1)
    assert bench.power_offs == 1


def test_general_purpose_events_never_happen_but_have_registers(bench: Bench) -> None:
    bench.write(GPE_ENABLE, 0xA55A)
    bench.write(GPE_STATUS, 0xFFFF)
    assert bench.read(GPE_STATUS, 4) == 0xA55A0000
    assert bench.sci == []

"""The keyboard controller and its keyboard; the reset ports beside it."""

from collections.abc import Callable

import pytest

from ftvm.module.chips.i8042 import COMMAND, DATA, I8042
from ftvm.module.chips.port92 import Port92
from ftvm.module.chips.portcf9 import PortCf9

ACK = 0xFA


class Bench:
    def __init__(self) -> None:
        self.keyboard: list[bool] = []
        self.mouse: list[bool] = []
        self.resets = 0
        self.chip = I8042(self.keyboard.append, self.mouse.append, self._reset)

    def _reset(self) -> None:
        self.resets += 1

    def command(self, *words: int) -> None:
        self.chip.write(COMMAND, 1, words[0])
        for word in words[1:]:
            self.chip.write(DATA, 1, word)

    def send(self, *words: int) -> None:
        """To the keyboard."""
        for word in words:
            self.chip.write(DATA, 1, word)

    @property
    def status(self) -> int:
        return self.chip.read(COMMAND, 1)

    def read(self) -> list[int]:
        """All there is to read."""
        data = []
        while self.status & 1:
            data.append(self.chip.read(DATA, 1))
        return data


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_the_self_tests_pass(bench: Bench) -> None:
    bench.command(0xAA)
    assert bench.read() == [0x55]
    assert bench.status & 0x04
    bench.command(0xAB)
    bench.command(0xA9)
    assert bench.read() == [0x00, 0x00]


def test_the_command_byte_and_the_rest_of_ram_can_be_read_and_written(bench: Bench) -> None:
    bench.command(0x20)
    assert bench.read() == [0x64]
    bench.command(0x60, 0x45)
    bench.command(0x7F, 0x99)
    bench.command(0x20)
    bench.command(0x3F)
    assert bench.read() == [0x45, 0x99]


def test_status_tells_which_port_was_written_last(bench: Bench) -> None:
    bench.command(0xAE)
    assert bench.status & 0x08
    bench.send(0xEE)
    assert not bench.status & 0x08
    assert bench.status & 0x10, "not locked"


@pytest.mark.parametrize(("off", "on", "bit"), [(0xAD, 0xAE, 0x10), (0xA7, 0xA8, 0x20)])
def test_ports_are_disabled_and_enabled_by_command(bench: Bench, off: int, on: int, bit: int) -> None:
    bench.command(off)
    bench.command(0x20)
    bench.command(on)
    bench.command(0x20)
    disabled, enabled = bench.read()
    assert disabled & bit and not enabled & bit


def test_a_disabled_keyboard_keeps_its_keys_until_it_is_enabled(bench: Bench) -> None:
    bench.command(0xAD)
    bench.chip.press(b"\x1e\x9e")
    assert bench.read() == []
    bench.command(0xAE)
    assert bench.read() == [0x1E, 0x9E]


def test_each_byte_raises_irq_1_once(bench: Bench) -> None:
    bench.command(0x60, 0x45)
    bench.chip.press(b"\x1e\x9e")
    assert bench.keyboard == [True]
    bench.chip.read(DATA, 1)
    assert bench.keyboard == [True, False, True]
    bench.chip.read(DATA, 1)
    assert bench.keyboard == [True, False, True, False]


def test_no_interrupt_without_its_enable_bit(bench: Bench) -> None:
    bench.chip.press(b"\x1e")
    assert bench.keyboard == []
    bench.command(0x60, 0x45)
    assert bench.keyboard == [True]


def test_the_last_byte_can_be_read_again(bench: Bench) -> None:
    bench.chip.press(b"\x1e")
    assert [bench.chip.read(DATA, 1), bench.chip.read(DATA, 1)] == [0x1E, 0x1E]


@pytest.mark.parametrize(
    "codes", [b"\x01\x81", b"\xe0\x48\xe0\xc8", b"\x1e\x9e\x30\xb0", b"\xe1\x1d\x45\xe1\x9d\xc5", b"\x41\xc1\x54\xd4"]
)
def test_keys_arrive_in_set_1_through_translation(bench: Bench, codes: bytes) -> None:
    bench.chip.press(codes)
    assert bytes(bench.read()) == codes


def test_all_codes_of_set_1_survive_translation(bench: Bench) -> None:
    codes = bytes([*range(1, 0x60), *range(0x81, 0xE0)])
    bench.chip.press(codes)
    assert bytes(bench.read()) == codes


def test_without_translation_the_keyboard_speaks_set_2(bench: Bench) -> None:
    bench.command(0x60, 0x04)
    bench.chip.press(b"\x1e\x9e\xe0\x48\xe0\xc8\x41")
    assert bench.read() == [0x1C, 0xF0, 0x1C, 0xE0, 0x75, 0xE0, 0xF0, 0x75, 0x83]


def test_without_translation_the_keyboard_can_be_told_to_speak_set_1(bench: Bench) -> None:
    bench.command(0x60, 0x04)
    bench.send(0xF0, 0x01)
    assert bench.read() == [ACK, ACK]
    bench.chip.press(b"\x1e\x9e")
    assert bench.read() == [0x1E, 0x9E]
    bench.send(0xF0, 0x00)
    assert bench.read() == [ACK, ACK, 0x01]


def test_there_is_no_scan_code_set_3(bench: Bench) -> None:
    bench.send(0xF0, 0x03)
    assert bench.read() == [ACK, 0xFE]


@pytest.mark.parametrize(("mode", "identity"), [(0x04, [0xAB, 0x83]), (0x44, [0xAB, 0x41])])
def test_the_keyboard_identifies_itself_and_translation_spoils_it(bench: Bench, mode: int, identity: list[int]) -> None:
    bench.command(0x60, mode)
    bench.send(0xF2)
    assert bench.read() == [ACK, *identity]


def test_reset_answers_with_the_self_test_and_forgets_keys(bench: Bench) -> None:
    bench.command(0xAD)
    bench.chip.press(b"\x1e")
    bench.send(0xFF)
    assert bench.read() == [ACK, 0xAA]


@pytest.mark.parametrize("words", [(0xED, 0x07), (0xF3, 0x20)])
def test_commands_with_an_argument_acknowledge_both(bench: Bench, words: tuple[int, int]) -> None:
    bench.send(*words)
    assert bench.read() == [ACK, ACK]


def test_a_command_in_place_of_an_argument_is_a_command(bench: Bench) -> None:
    bench.send(0xED, 0xEE)
    assert bench.read() == [ACK, 0xEE]


def test_a_keyboard_that_is_switched_off_sends_no_keys(bench: Bench) -> None:
    bench.send(0xF5)
    bench.chip.press(b"\x1e")
    bench.send(0xF4)
    bench.chip.press(b"\x30")
    assert bench.read() == [ACK, ACK, 0x30]


def test_the_keyboard_repeats_its_last_byte(bench: Bench) -> None:
    bench.command(0x60, 0x04)
    bench.chip.press(b"\x1e")
    bench.read()
    bench.send(0xFE)
    assert bench.read() == [0x1C]


def test_an_unknown_keyboard_command_is_refused(bench: Bench) -> None:
    bench.send(0xEF)
    assert bench.read() == [0xFE]


def test_a_byte_for_the_keyboard_enables_it(bench: Bench) -> None:
    bench.command(0xAD)
    bench.send(0xEE)
    assert bench.read() == [0xEE]


def test_answers_go_before_keys(bench: Bench) -> None:
    bench.command(0xAD)
    bench.chip.press(b"\x1e")
    bench.command(0x20)
    bench.send(0xEE)
    assert bench.read() == [0x74, 0xEE, 0x1E]


def test_written_output_looks_as_if_the_device_had_sent_it(bench: Bench) -> None:
    bench.command(0x60, 0x47)
    bench.command(0xD2, 0x12)
    assert bench.status & 0x21 == 0x01
    assert bench.keyboard == [True]
    assert bench.read() == [0x12]
    bench.command(0xD3, 0x34)
    assert bench.status & 0x21 == 0x21
    assert bench.mouse == [True]
    assert bench.read() == [0x34]
    assert bench.mouse == [True, False]


def test_a_byte_for_the_absent_mouse_times_out_at_once(bench: Bench) -> None:
    bench.command(0xD4, 0xF2)
    assert bench.status & 0x61 == 0x61
    assert bench.read() == [0xFE]


def test_the_output_port_shows_a20_and_what_waits(bench: Bench) -> None:
    bench.command(0xD0)
    assert bench.read() == [0xC3]
    bench.command(0xD1, 0x01)
    bench.chip.press(b"\x1e")
    bench.command(0xD0)
    assert bench.read() == [0x1E, 0xD1]
    bench.command(0xDF)
    bench.command(0xD0)
    assert bench.read() == [0xC3]
    bench.command(0xDD)
    bench.command(0xD0)
    assert bench.read() == [0xC1]


def test_other_questions_have_answers(bench: Bench) -> None:
    for word in (0xA4, 0xC0, 0xE0):
        bench.command(word)
    assert bench.read() == [0xF1, 0x80, 0x00]


@pytest.mark.parametrize(
    ("words", "resets"), [((0xFE,), 1), ((0xF0,), 1), ((0xFF,), 0), ((0xD1, 0x02), 1), ((0xD1, 0x03), 0)]
)
def test_pulling_bit_0_of_the_output_port_resets(bench: Bench, words: tuple[int, ...], resets: int) -> None:
    bench.command(*words)
    assert bench.resets == resets


@pytest.mark.parametrize(("make", "bit"), [(Port92, 0x01), (PortCf9, 0x04)])
def test_reset_ports_act_on_the_rising_bit(make: Callable[[Callable[[], None]], Port92 | PortCf9], bit: int) -> None:
    resets: list[None] = []
    port = make(lambda: resets.append(None))
    port.write(0, 1, 0x02)
    assert (port.read(0, 1), resets) == (0x02, [])
    port.write(0, 1, bit | 0x02)
    assert len(resets) == 1
    port.write(0, 1, bit)
    assert len(resets) == 1
    port.write(0, 1, 0xFF)
    port.write(0, 1, 0x00)
    port.write(0, 1, 0xFF)
    assert len(resets) == 2

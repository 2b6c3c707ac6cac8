"""The VGA's registers."""

import pytest

from ftvm.module.chips.vga import Vga


class Bench:
    def __init__(self) -> None:
        self.now_ns = 0
        self.vga = Vga(lambda: self.now_ns)

    def read(self, port: int) -> int:
        return self.vga.read(port - 0x3B0, 1)

    def write(self, port: int, *values: int) -> None:
        for value in values:
            self.vga.write(port - 0x3B0, 1, value)

    def indexed(self, port: int, index: int) -> int:
        self.write(port, index)
        return self.read(port + 1)


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize(("port", "index", "last"), [(0x3D4, 0x0A, 0x18), (0x3C4, 1, 4), (0x3CE, 3, 8)])
def test_indexed_registers_keep_what_is_written(bench: Bench, port: int, index: int, last: int) -> None:
    bench.write(port, index)
    bench.write(port + 1, 0x5A)
    assert bench.read(port) == index
    assert bench.indexed(port, index + 1) != 0x5A
    assert bench.indexed(port, index) == 0x5A
    bench.write(port, last + 1)
    bench.write(port + 1, 0x77)
    assert bench.indexed(port, last + 1) == 0, "there is no such register"


def test_it_starts_in_80_by_25_colour_text(bench: Bench) -> None:
    assert bench.indexed(0x3D4, 0x01) == 79
    assert bench.indexed(0x3D4, 0x09) & 0x1F == 15, "16 lines to a row"
    shown = bench.indexed(0x3D4, 0x12) | (bench.indexed(0x3D4, 0x07) & 0x02) << 7
    assert shown + 1 == 400
    assert bench.indexed(0x3CE, 0x06) & 0x0D == 0x0C, "text at B8000"
    assert bench.read(0x3CC) & 0x01


def test_cursor_and_start_are_cells(bench: Bench) -> None:
    for index, value in ((0x0C, 0x01), (0x0D, 0x40), (0x0E, 0x02), (0x0F, 0x13)):
        bench.write(0x3D4, index)
        bench.write(0x3D5, value)
    assert bench.vga.state.start() == 0x140
    assert bench.vga.state.cursor() == 0x213
    bench.write(0x3D4, 0x0A)
    bench.write(0x3D5, 0x20)
    assert bench.vga.state.cursor() is None


def test_timing_registers_are_protected_but_for_one_bit(bench: Bench) -> None:
    before = bench.indexed(0x3D4, 0x00)
    bench.write(0x3D5, 0x00)
    assert bench.read(0x3D5) == before
    seven = bench.indexed(0x3D4, 0x07)
    bench.write(0x3D5, seven ^ 0xFF)
    assert bench.read(0x3D5) == seven ^ 0x10
    bench.write(0x3D4, 0x11)
    bench.write(0x3D5, 0x0E)
    bench.write(0x3D4, 0x00)
    bench.write(0x3D5, 0x11)
    assert bench.read(0x3D5) == 0x11


def test_the_attribute_port_takes_index_and_data_in_turn(bench: Bench) -> None:
    bench.read(0x3DA)
    bench.write(0x3C0, 0x10, 0x55, 0x11, 0x66)
    bench.write(0x3C0, 0x10)
    assert bench.read(0x3C1) == 0x55
    bench.read(0x3DA)  # the flip-flop: index next
    bench.write(0x3C0, 0x11)
    assert bench.read(0x3C0) == 0x11
    assert bench.read(0x3C1) == 0x66


def test_the_palette_is_read_and_written_in_threes(bench: Bench) -> None:
    bench.write(0x3C8, 0x40)
    bench.write(0x3C9, 1, 2, 0xFF, 4, 5, 6)
    assert bench.read(0x3C8) == 0x42
    bench.write(0x3C7, 0x40)
    assert bench.read(0x3C7) == 0x03
    assert [bench.read(0x3C9) for _ in range(6)] == [1, 2, 0x3F, 4, 5, 6]
    bench.write(0x3C8, 0xFF)
    assert bench.read(0x3C7) == 0x00
    bench.write(0x3C9, 7, 8, 9, 10)
    bench.write(0x3C7, 0x00)
    assert bench.read(0x3C9) == 10, "behind the last colour comes the first"


@pytest.mark.parametrize(
    ("attribute", "colour"),
    [(0, (0, 0, 0)), (6, (42, 21, 0)), (7, (42, 42, 42)), (9, (21, 21, 63)), (15, (63, 63, 63))],
)
def test_the_sixteen_colours_are_those_of_a_pc(bench: Bench, attribute: int, colour: tuple[int, int, int]) -> None:
    bench.read(0x3DA)
    bench.write(0x3C0, attribute)
    bench.write(0x3C7, bench.read(0x3C1))
    assert tuple(bench.read(0x3C9) for _ in range(3)) == colour


def test_the_dac_mask_is_storage(bench: Bench) -> None:
    assert bench.read(0x3C6) == 0xFF
    bench.write(0x3C6, 0x0F)
    assert bench.read(0x3C6) == 0x0F


def test_the_crtc_answers_at_one_of_two_places(bench: Bench) -> None:
    bench.write(0x3B4, 0x0E)
    assert (bench.read(0x3B4), bench.read(0x3B5), bench.read(0x3BA)) == (0xFF, 0xFF, 0xFF)
    bench.write(0x3C2, 0x66)
    bench.write(0x3B4, 0x0F)
    bench.write(0x3B5, 0x12)
    assert (bench.read(0x3B4), bench.read(0x3B5), bench.read(0x3D5)) == (0x0F, 0x12, 0xFF)
    assert bench.read(0x3BA) != 0xFF


def test_ports_that_are_no_register_read_as_ones(bench: Bench) -> None:
    assert (bench.read(0x3B0), bench.read(0x3BC)) == (0xFF, 0xFF)
    assert bench.read(0x3CA) == 0x00
    assert bench.read(0x3C2) == 0x10


def test_the_retrace_comes_70_times_a_second(bench: Bench) -> None:
    starts, retrace, blanked = 0, False, 0
    samples = range(0, 1_000_000_000, 20_000)
    for bench.now_ns in samples:
        status = bench.read(0x3DA)
        blanked += status & 1
        starts += bool(status & 8) and not retrace
        retrace = bool(status & 8)
        assert not retrace or status & 1
    assert starts == 70
    assert 0.25 < blanked / len(samples) < 0.35

"""PCI configuration space, BARs, capabilities and interrupt routing."""

import pytest

from ftvm.module.chips.pci import ADDRESS, DATA, Bar, HostBridge, IsaBridge, PciBus, PciFunction

COMMAND, STATUS, BAR0, INTERRUPT_LINE = 0x04, 0x06, 0x10, 0x3C
IO, MEMORY, BUS_MASTER, INTX_DISABLE = 0x1, 0x2, 0x4, 0x400


class Bench:
    def __init__(self) -> None:
        self.pirqs: list[tuple[int, bool]] = []
        self.isa: list[tuple[int, bool]] = []
        self.moves = 0
        self.bridge = IsaBridge(lambda irq, level: self.isa.append((irq, level)))
        self.bus = PciBus(tuple(self._line(pirq) for pirq in range(4)), self._moved)
        self.bus.plug(0, 0, HostBridge())
        self.bus.plug(1, 0, self.bridge)

    def _line(self, pirq: int):  # type: ignore[no-untyped-def]
        def line(level: bool) -> None:
            self.pirqs.append((pirq, level))
            self.bridge.set_pirq(pirq, level)

        return line

    def _moved(self) -> None:
        self.moves += 1

    def select(self, slot: int, register: int, function: int = 0, bus: int = 0) -> None:
        self.bus.write(ADDRESS, 4, 1 << 31 | bus << 16 | slot << 11 | function << 8 | register & 0xFC)

    def read(self, slot: int, register: int, size: int = 4, function: int = 0, bus: int = 0) -> int:
        self.select(slot, register, function, bus)
        return self.bus.read(DATA + (register & 3), size)

    def write(self, slot: int, register: int, value: int, size: int = 4) -> None:
        self.select(slot, register)
        self.bus.write(DATA + (register & 3), size, value)


def device(pin: int = 1, bars: tuple[Bar, ...] = ()) -> PciFunction:
    return PciFunction(0x1AF4, 0x1042, 0x018000, revision=1, subsystem=(0x1AF4, 0x0002), bars=bars, interrupt_pin=pin)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_the_chipset_is_what_firmware_and_kernels_know(bench: Bench) -> None:
    assert bench.read(0, 0x00) == 0x12378086
    assert bench.read(0, 0x08) == 0x06000002
    assert bench.read(0, 0x2C) == 0x11001AF4
    assert bench.read(1, 0x00) == 0x70008086
    assert bench.read(1, 0x0A, 2) == 0x0601
    assert bench.read(1, 0x0E, 1) == 0x80


def test_absent_functions_and_buses_read_as_ones(bench: Bench) -> None:
    assert bench.read(2, 0) == 0xFFFFFFFF
    assert bench.read(0, 0, function=1) == 0xFFFFFFFF
    assert bench.read(0, 0, bus=1) == 0xFFFFFFFF
    assert bench.read(2, 2, 2) == 0xFFFF
    bench.write(2, COMMAND, 0xFFFF)


def test_the_address_register_takes_whole_dwords_only(bench: Bench) -> None:
    bench.bus.write(ADDRESS, 4, 0xFFFFFFFF)
    assert bench.bus.read(ADDRESS, 4) == 0x80FFFFFC
    bench.bus.write(ADDRESS, 2, 0)
    assert bench.bus.read(ADDRESS, 4) == 0x80FFFFFC
    assert bench.bus.read(ADDRESS, 2) == 0xFFFF


def test_without_the_enable_bit_nobody_answers(bench: Bench) -> None:
    bench.bus.write(ADDRESS, 4, 0)
    assert bench.bus.read(DATA, 4) == 0xFFFFFFFF


def test_an_access_must_stay_inside_the_data_register(bench: Bench) -> None:
    bench.select(0, 0)
    assert bench.bus.read(DATA + 2, 4) == 0xFFFFFFFF
    assert bench.bus.read(DATA + 2, 2) == 0x1237
    assert bench.bus.read(DATA + 1, 1) == 0x80


def test_identity_and_class_are_read_only(bench: Bench) -> None:
    for register in (0x00, 0x08, 0x2C):
        before = bench.read(0, register)
        bench.write(0, register, 0)
        assert bench.read(0, register) == before


def test_the_host_bridges_own_registers_are_storage(bench: Bench) -> None:
    bench.write(0, 0x59, 0x30, 1)
    bench.write(0, 0x5A, 0x3333, 2)
    assert bench.read(0, 0x58) == 0x33333000


def test_a_bar_tells_its_size_when_ones_are_written(bench: Bench) -> None:
    bench.bus.plug(3, 0, device(bars=(Bar(0, 64, io=True), Bar(2, 0x4000, io=False))))
    bench.write(3, BAR0, 0xFFFFFFFF)
    bench.write(3, BAR0 + 4, 0xFFFFFFFF)
    bench.write(3, BAR0 + 8, 0xFFFFFFFF)
    assert bench.read(3, BAR0) == 0xFFFFFFC1
    assert bench.read(3, BAR0 + 4) == 0
    assert bench.read(3, BAR0 + 8) == 0xFFFFC000


def test_bars_are_decoded_when_the_command_register_says_so(bench: Bench) -> None:
    bars = (Bar(0, 64, io=True), Bar(2, 0x4000, io=False))
    card = device(bars=bars)
    bench.bus.plug(3, 0, card)
    bench.write(3, BAR0, 0xC001)
    bench.write(3, BAR0 + 8, 0xE0004000)
    assert list(card.mappings()) == []
    bench.write(3, COMMAND, IO, 2)
    assert list(card.mappings()) == [(bars[0], 0xC000)]
    bench.write(3, COMMAND, 0xFFFF, 2)
    assert bench.read(3, COMMAND, 2) == IO | MEMORY | BUS_MASTER | INTX_DISABLE
    assert list(card.mappings()) == [(bars[0], 0xC000), (bars[1], 0xE0004000)]
    assert bench.moves == 4


def test_a_function_without_bars_of_a_kind_cannot_decode_that_kind(bench: Bench) -> None:
    bench.bus.plug(3, 0, device())
    bench.write(3, COMMAND, 0xFFFF, 2)
    assert bench.read(3, COMMAND, 2) == BUS_MASTER | INTX_DISABLE


def test_capabilities_form_a_list(bench: Bench) -> None:
    card = device()
    bench.bus.plug(3, 0, card)
    assert not bench.read(3, STATUS, 2) & 0x10
    first = card.add_capability(0x09, bytes(range(14)), writable=b"\x00\x0f")
    second = card.add_capability(0x11, b"\x01\x02\x03")
    third = card.add_capability(0x05, b"")
    assert bench.read(3, STATUS, 2) & 0x10
    assert bench.read(3, 0x34, 1) == first == 0x40
    assert bench.read(3, first, 2) == second << 8 | 0x09
    assert bench.read(3, second) == 0x02010000 | third << 8 | 0x11
    assert bench.read(3, third, 2) == 0x0005
    assert all(offset % 4 == 0 for offset in (first, second, third))
    bench.write(3, first + 2, 0xFFFF, 2)
    assert bench.read(3, first + 2, 2) == 0x0F00 | bytes(range(14))[0] | bytes(range(14))[1] & 0xF0


@pytest.mark.parametrize(("slot", "pin", "pirq"), [(0, 1, 0), (1, 1, 1), (3, 1, 3), (4, 1, 0), (3, 2, 0), (2, 4, 1)])
def test_pins_are_swapped_round_by_slot(bench: Bench, slot: int, pin: int, pirq: int) -> None:
    card = device(pin)
    bench.bus.plug(slot, 7, card)
    card.set_interrupt(True)
    card.set_interrupt(True)
    assert bench.pirqs == [(pirq, True)]
    assert bench.read(slot, STATUS, 2, function=7) & 0x08
    card.set_interrupt(False)
    assert bench.pirqs == [(pirq, True), (pirq, False)]


def test_functions_that_share_a_line_are_wired_together(bench: Bench) -> None:
    cards = [device(), device()]
    bench.bus.plug(4, 0, cards[0])
    bench.bus.plug(8, 0, cards[1])
    cards[0].set_interrupt(True)
    cards[1].set_interrupt(True)
    cards[0].set_interrupt(False)
    assert bench.pirqs == [(0, True)]
    cards[1].set_interrupt(False)
    assert bench.pirqs == [(0, True), (0, False)]


def test_interrupts_can_be_disabled_at_the_function(bench: Bench) -> None:
    card = device()
    bench.bus.plug(4, 0, card)
    bench.write(4, COMMAND, INTX_DISABLE, 2)
    card.set_interrupt(True)
    assert bench.pirqs == []
    bench.write(4, COMMAND, 0, 2)
    assert bench.pirqs == [(0, True)]


def test_the_isa_bridge_routes_lines_to_isa_interrupts(bench: Bench) -> None:
    assert bench.read(1, 0x60) == 0x0B0B0A0A
    card = device()
    bench.bus.plug(4, 0, card)
    card.set_interrupt(True)
    assert bench.isa == [(10, True)]
    bench.write(1, 0x60, 0x05, 1)
    assert bench.isa[1:] == [(5, True), (10, False)]
    bench.write(1, 0x60, 0x85, 1)
    assert bench.isa[3:] == [(5, False)]
    bench.write(1, 0x60, 0x02, 1)
    assert len(bench.isa) == 4, "reserved: IRQ 2 is the cascade"


def test_two_lines_may_be_routed_to_one_interrupt(bench: Bench) -> None:
    bench.bridge.set_pirq(0, True)
    bench.bridge.set_pirq(1, True)
    bench.bridge.set_pirq(0, False)
    assert bench.isa == [(10, True)]
    bench.bridge.set_pirq(1, False)
    assert bench.isa == [(10, True), (10, False)]


def test_the_interrupt_line_register_is_the_firmwares(bench: Bench) -> None:
    bench.bus.plug(4, 0, device(pin=2))
    bench.write(4, INTERRUPT_LINE, 0xFF0A, 2)
    assert bench.read(4, INTERRUPT_LINE, 2) == 0x020A


def test_a_bar_without_a_device_behind_it_reads_as_ones() -> None:
    card = device()
    card.write_bar(0, 0, 4, 0)
    assert card.read_bar(0, 0, 2) == 0xFFFF

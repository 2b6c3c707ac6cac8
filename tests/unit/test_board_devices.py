"""Devices whose other half is in the monitor, on the board: where they are, how they end an epoch and take inputs."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.memory_map import PCI_WINDOW, PCI_WINDOW_END
from ftvm.module.board import FIRST_DISK_SLOT, Board, BoardConfig, DiskConfig, Stop, StopKind
from ftvm.module.chips import virtio_pci as v
from ftvm.module.chips.pci import BAR0, COMMAND, COMMAND_BUS_MASTER, INTERRUPT_LINE
from ftvm.module.events import (
    Bulk,
    ConsoleIn,
    DeviceBroken,
    DeviceIn,
    DriverFault,
    Input,
    KeyboardIn,
    Placed,
    QueueKick,
    QueueProgress,
    TimePassed,
)
from ftvm.units import MIB
from tests.unit.test_board import HLT, LAPIC, Action, FakeCpu, configure, pause, store

DISKS = (DiskConfig(8 * MIB), DiskConfig(4 * MIB, read_only=True))


class MemoryCpu(FakeCpu):
    def __init__(self, actions: list[Action]) -> None:
        super().__init__(actions)
        self.written: dict[int, bytes] = {}

    def write_ram(self, offset: int, data: bytes) -> None:
        self.written[offset] = data


def build(*actions: Action, **config: Any) -> tuple[Board, MemoryCpu]:
    cpu = MemoryCpu([*actions])
    return Board(BoardConfig(ram_bytes=64 * MIB, disks=DISKS, **config), cpu), cpu


def place(board: Board, bay: int, bar: int = 0) -> int:
    return board.pci.functions[FIRST_DISK_SLOT + bay, 0].get(BAR0 + 4 * bar, 4)


def bring_up(board: Board, bay: int = 0) -> None:
    """What a driver does, in short."""
    slot, at = FIRST_DISK_SLOT + bay, place(board, bay)
    configure(board, slot, COMMAND, board.pci.functions[slot, 0].get(COMMAND, 2) | COMMAND_BUS_MASTER, 2)
    board.mmio_write(at + v.DRIVER_FEATURE_SELECT, 4, 1)
    board.mmio_write(at + v.DRIVER_FEATURE, 4, v.VERSION_1 >> 32)
    board.mmio_write(at + v.DEVICE_STATUS, 1, v.ACKNOWLEDGE | v.DRIVER | v.FEATURES_OK)
    board.mmio_write(at + v.QUEUE_ENABLE, 2, 1)
    board.mmio_write(at + v.DEVICE_STATUS, 1, v.ACKNOWLEDGE | v.DRIVER | v.FEATURES_OK | v.DRIVER_OK)


def test_firmware_has_given_every_device_its_addresses() -> None:
    board, _ = build()
    places = {place(board, bay, bar) for bay in (0, 1) for bar in (0, 1)}
    assert len(places) == 4
    assert all(PCI_WINDOW <= at < PCI_WINDOW_END for at in places)
    assert [board.mmio_read(place(board, bay) + v.NUM_QUEUES, 2) for bay in (0, 1)] == [1, 1]
    assert board.pci.functions[FIRST_DISK_SLOT, 0].get(INTERRUPT_LINE, 1) == 10


def test_each_bay_shows_its_disk() -> None:
    board, _ = build()
    at = place(board, 0) + v.DEVICE
    assert board.mmio_read(at, 8) == 8 * MIB // 512
    assert board.mmio_read(place(board, 1) + v.DEVICE, 8) == 4 * MIB // 512
    features = [board.mmio_read(place(board, bay) + v.DEVICE_FEATURE, 4) for bay in (0, 1)]
    assert [bool(each & 1 << 5) for each in features] == [False, True]  # VIRTIO_BLK_F_RO


def test_a_kick_ends_the_epoch_at_the_next_block_and_is_said_once() -> None:
    board, cpu = build()
    bring_up(board)
    notify = store(place(board, 0) + v.NOTIFY, 0)
    cpu.actions = [*pause(3), notify, *pause(100)]
    assert board.run(1000) == Stop(StopKind.OUTPUT)
    assert cpu.position() == 4
    assert board.take_outputs() == [QueueKick("disk0", 0)]
    cpu.actions = [lambda cpu: [cpu.board.mmio_write(place(board, 0) + v.NOTIFY, 2, 0) for _ in range(3)]]
    assert board.run(1000) == Stop(StopKind.OUTPUT)
    assert board.take_outputs() == [QueueKick("disk0", 0)]
    cpu.actions = pause(1)
    assert board.run(1000) == Stop(StopKind.POSITION)


def test_a_kick_in_the_block_that_halts_comes_before_the_halt() -> None:
    board, cpu = build()
    bring_up(board)

    def kick_and_halt(cpu: FakeCpu) -> None:
        cpu.board.mmio_write(place(board, 0) + v.NOTIFY, 2, 0)
        cpu.halted = True

    cpu.actions = [kick_and_halt]
    assert board.run(1000) == Stop(StopKind.OUTPUT)
    assert board.take_outputs() == [QueueKick("disk0", 0)]


def test_what_a_device_did_is_in_memory_before_its_interrupt() -> None:
    board, cpu = build()
    bring_up(board)
    msix = place(board, 0, 1)
    for offset, value in ((0, LAPIC), (8, 0x51), (12, 0)):
        board.mmio_write(msix + offset, 4, value)
    device = board.devices["disk0"]
    device.write(device.msix_capability + 2, 2, v.MSIX_ENABLE)
    board.mmio_write(place(board, 0) + v.QUEUE_MSIX_VECTOR, 2, 0)
    bulk = Bulk([(0x3000, 3), (0x4000, 1)], b"data")
    board.put([DeviceIn("disk0", [(0x1000, b"\0"), (0x2000, b"used")], [QueueProgress(0, 3, 2, True)], [bulk])])
    assert [*cpu.written.items()] == [(0x3000, b"dat"), (0x4000, b"a"), (0x1000, b"\0"), (0x2000, b"used")]
    assert cpu.line
    assert board.interrupt_ack() == 0x51
    assert (device.state.queues[0].next_avail, device.state.queues[0].next_used) == (3, 2)


def test_a_device_that_is_broken_waits_for_its_reset() -> None:
    board, _ = build()
    bring_up(board, 1)
    board.put([DeviceBroken("disk1")])
    status = place(board, 1) + v.DEVICE_STATUS
    assert board.mmio_read(status, 1) & v.NEEDS_RESET
    board.mmio_write(status, 1, 0)
    assert board.mmio_read(status, 1) == 0


def test_a_driver_that_moves_a_queue_in_use_is_reported() -> None:
    board, _ = build()
    bring_up(board)
    board.mmio_write(place(board, 0) + v.QUEUE_DRIVER, 4, 0x5000)
    assert board.take_outputs() == [DriverFault("disk0", "queue 0 was changed while in use")]


def test_a_driver_that_breaks_the_rules_again_and_again_is_reported_once_in_an_epoch() -> None:
    board, cpu = build()

    def break_the_rules(cpu: FakeCpu) -> None:
        bring_up(board)
        for address in (0x5000, 0x6000):
            board.mmio_write(place(board, 0) + v.QUEUE_DRIVER, 4, address)
        board.mmio_write(place(board, 0) + v.DEVICE_STATUS, 1, 0)

    cpu.actions = [break_the_rules for _ in range(100)]
    assert board.run(1000) == Stop(StopKind.OUTPUT)
    assert cpu.position() == 1 and len(board.take_outputs()) == 1


@pytest.mark.parametrize("queues", [0, 2])
def test_a_saved_device_with_another_number_of_queues_is_refused(queues: int) -> None:
    board, _ = build()
    state = board.devices["disk0"].state
    state.queues = [v.QueueState(256) for _ in range(queues)]
    state.msix_table = 4 * (queues + 1) * [0]
    saved = board.save()
    other, _ = build()
    with pytest.raises(ValueError, match="disk0 has 1 queues"):
        other.load(saved)


@pytest.mark.parametrize("of", ["disk0", "ioapic", "lapic", "pit", "rtc", "vga", "board"])
def test_a_saved_chip_with_too_few_registers_is_refused(of: str) -> None:
    saved = msgspec.msgpack.decode(build()[0].save())
    name = next(name for name, value in saved[of].items() if isinstance(value, list | bytes) and value)
    saved[of][name] = saved[of][name][:-1]
    with pytest.raises((ValueError, msgspec.ValidationError)):
        build()[0].load(msgspec.msgpack.encode(saved))


def test_devices_are_saved_and_loaded() -> None:
    board, _ = build()
    bring_up(board)
    board.put([DeviceIn("disk0", [], [QueueProgress(0, 3, 2, True)])])
    other, _ = build()
    other.load(board.save())
    assert other.save() == board.save()
    assert other.mmio_read(place(other, 0) + v.ISR, 1) == v.ISR_QUEUE


PLACES = st.one_of(
    st.sampled_from([LAPIC + at for at in (0x80, 0xB0, 0xF0, 0x300, 0x320, 0x350, 0x380, 0x3E0)]),
    st.sampled_from([0xFEC0_0000, 0xFEC0_0010]),
    st.builds(lambda slot, bar, at: (slot, bar, at), st.integers(0, 1), st.integers(0, 1), st.integers(0, 0x3FF)),
    st.builds(lambda slot, at: (slot, 0, v.NOTIFY + at), st.integers(0, 1), st.integers(0, 8)),
)
PORTS = st.sampled_from([0x20, 0x21, 0x40, 0x43, 0x60, 0x61, 0x64, 0x70, 0x71, 0xA1, 0x3F8, 0x3F9, 0x3FA, 0x3FC, 0x604])
STEPS = st.one_of(
    st.tuples(st.just("port"), PORTS, st.integers(0, 0xFF), st.booleans()),
    st.tuples(st.just("memory"), PLACES, st.integers(0, 0xFFFF_FFFF), st.booleans()),
    st.tuples(st.just("run"), st.integers(1, 5_000)),
    st.tuples(st.just("served"), st.integers(0, 1), st.integers(0, 0xFFFF), st.booleans()),
    st.tuples(
        st.just("input"),
        st.sampled_from([ConsoleIn(b"x"), KeyboardIn(b"\x1c"), DeviceBroken("disk0"), TimePassed(1), TimePassed(2)]),
    ),
    st.tuples(st.just("deadline"), st.integers(0, 100_000)),
    st.tuples(st.just("acknowledge")),
    st.tuples(st.just("messages"), st.integers(0, 1)),
)


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(STEPS, max_size=40))
def test_what_is_saved_is_what_there_is_whatever_happened_since_the_last_time(steps: list[tuple[Any, ...]]) -> None:
    board, cpu = build(*pause(7), real_time=True)
    bring_up(board)
    twin, _ = build()
    for step in steps:
        match step:
            case ("port", port, value, write):
                board.port_write(port, 1, value) if write else board.port_read(port, 1)
            case ("memory", at, value, write):
                address = at if isinstance(at, int) else place(board, at[0], at[1]) + at[2]
                board.mmio_write(address & ~3, 4, value) if write else board.mmio_read(address & ~3, 4)
            case ("run", blocks):
                board.run(cpu.position() + blocks)
            case ("served", bay, index, interrupt):
                board.put([DeviceIn(f"disk{bay}", [], [QueueProgress(0, index, index, interrupt)])])
            case ("input", event):
                board.put([event])
            case ("deadline", ns):
                board.mmio_write(LAPIC + 0x320, 4, 0x4_0033)
                board.msr_write(0x6E0, ns)
            case ("acknowledge",):
                board.interrupt_ack()
            case ("messages", bay):
                device = board.devices[f"disk{bay}"]
                configure(board, FIRST_DISK_SLOT + bay, device.msix_capability, v.MSIX_ENABLE << 16, 4)
        board.take_outputs()
        saved = board.save()
        parts = {name: chip.state for name, chip in board.chips.items()}
        assert saved == msgspec.msgpack.encode(msgspec.msgpack.decode(saved))
        states = msgspec.msgpack.decode(saved)
        parts["board"] = board.state
        assert states | msgspec.to_builtins(parts, builtin_types=(bytes, bytearray)) == states
    twin.load(board.save())
    assert twin.save() == board.save()


def test_a_guest_that_halts_is_over_unless_a_device_may_still_answer() -> None:
    for real_time, stop in ((False, StopKind.HALTED), (True, StopKind.IDLE)):
        board, _ = build(HLT, real_time=real_time)
        assert board.run(1000) == Stop(stop)


@pytest.mark.parametrize(
    "impossible",
    [
        DeviceIn("disk2"),
        DeviceIn("disk0", [(64 * MIB - 1, b"xx")]),
        DeviceIn("disk0", bulk=[Bulk([(0, 1), (64 * MIB - 1, 2)], b"xxx")]),
        DeviceIn("disk0", bulk=[Bulk([(0, 1), (8, 2)], b"xx")]),
        Placed(bytes(16)),
        DeviceIn("disk0", [], [QueueProgress(1, 0, 0, False)]),
        DeviceBroken("nic7"),
    ],
)
def test_inputs_that_no_monitor_makes_are_told_from_others(impossible: Input) -> None:
    board, _ = build()
    board.check([DeviceIn("disk0", [(64 * MIB - 2, b"xx")], [QueueProgress(0, 0, 0, False)])])
    with pytest.raises((LookupError, ValueError)):
        board.check([impossible])

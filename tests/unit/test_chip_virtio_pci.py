"""The registers of a virtio device: what a driver sees on PCI, and how it is interrupted."""

import msgspec
import pytest

from ftvm.module.chips import virtio_pci as v
from ftvm.module.chips.pci import BAR0, CAPABILITIES, COMMAND, COMMAND_BUS_MASTER, COMMAND_MEMORY, PciBus
from ftvm.module.chips.virtio_pci import VirtioPci, VirtioState, Wires

FEATURE = 1 << 3
QUEUES = (256, 64)
OK = v.ACKNOWLEDGE | v.DRIVER | v.FEATURES_OK | v.DRIVER_OK
MESSAGE = 0xFEE0_0000 | 5 << 12
Message = tuple[int, bool, int, int, bool]


class Example(VirtioPci):
    def __init__(self, wires: Wires) -> None:
        super().__init__(2, 0x010000, FEATURE, QUEUES, wires)
        self.forgotten = 0

    def read_config(self, offset: int, size: int) -> int:
        return int.from_bytes(bytes(range(offset, offset + size)), "little")

    def was_reset(self) -> None:
        self.forgotten += 1


class Bench:
    """A device in slot 4 of a bus, and what came out of it."""

    def __init__(self) -> None:
        self.kicks: list[int] = []
        self.faults: list[str] = []
        self.messages: list[Message] = []
        self.intx: list[bool] = []
        self.device = Example(Wires(self.kicks.append, self.faults.append, self._message))
        self.bus = PciBus((self._level, *(3 * [lambda level: None])), lambda: None)  # slot 4, INTA: PIRQA
        self.bus.plug(4, 0, self.device)
        self.device.write(COMMAND, 2, COMMAND_MEMORY | COMMAND_BUS_MASTER)

    def _level(self, level: bool) -> None:
        self.intx.append(level)

    def _message(self, *message: int) -> bool:
        self.messages.append(message)  # type: ignore[arg-type]
        return True

    def get(self, register: int, size: int) -> int:
        return self.device.read_bar(0, register, size)

    def put(self, register: int, size: int, value: int) -> None:
        self.device.write_bar(0, register, size, value)

    def negotiate(self, features: int = v.VERSION_1, status: int = OK) -> int:
        for half in (0, 1):
            self.put(v.DRIVER_FEATURE_SELECT, 4, half)
            self.put(v.DRIVER_FEATURE, 4, features >> 32 * half & 0xFFFF_FFFF)
        self.put(v.DEVICE_STATUS, 1, v.ACKNOWLEDGE | v.DRIVER)
        self.put(v.DEVICE_STATUS, 1, v.ACKNOWLEDGE | v.DRIVER | v.FEATURES_OK)
        self.put(v.DEVICE_STATUS, 1, status)
        return self.get(v.DEVICE_STATUS, 1)

    def enable(self, queue: int) -> None:
        self.put(v.QUEUE_SELECT, 2, queue)
        self.put(v.QUEUE_ENABLE, 2, 1)

    def notify(self, queue: int) -> None:
        self.put(v.NOTIFY + v.NOTIFY_MULTIPLIER * queue, 2, queue)

    def set_msix(self, control: int) -> None:
        self.device.write(self.capability(v.CAPABILITY_MSIX) + 2, 2, control)

    def set_vector(self, vector: int, address: int = MESSAGE, data: int = 0x41, control: int = 0) -> None:
        for at, value in enumerate((address, 0, data, control)):
            self.device.write_bar(1, 16 * vector + 4 * at, 4, value)

    def capability(self, identity: int, kind: int | None = None) -> int:
        at = self.device.read(CAPABILITIES, 1)
        while at:
            if self.device.read(at, 1) == identity and kind in (None, self.device.read(at + 3, 1)):
                return at
            at = self.device.read(at + 1, 1)
        raise LookupError(identity)


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def running(bench: Bench) -> Bench:
    bench.negotiate()
    bench.enable(0)
    bench.enable(1)
    return bench


def test_a_driver_finds_the_device_and_its_structures(bench: Bench) -> None:
    device = bench.device
    assert device.read(0, 4) == 0x1042_1AF4
    assert device.read(0x08, 1) == 1
    places = {}
    for kind in (v.CFG_COMMON, v.CFG_NOTIFY, v.CFG_ISR, v.CFG_DEVICE, v.CFG_PCI):
        at = bench.capability(v.CAPABILITY_VENDOR, kind)
        places[kind] = device.read(at + 4, 1), device.read(at + 8, 4), device.read(at + 2, 1)
    assert places == {
        v.CFG_COMMON: (0, v.COMMON, 16),
        v.CFG_NOTIFY: (0, v.NOTIFY, 20),
        v.CFG_ISR: (0, v.ISR, 16),
        v.CFG_DEVICE: (0, v.DEVICE, 16),
        v.CFG_PCI: (0, 0, 20),
    }
    assert device.read(bench.capability(v.CAPABILITY_VENDOR, v.CFG_NOTIFY) + 16, 4) == v.NOTIFY_MULTIPLIER
    msix = bench.capability(v.CAPABILITY_MSIX)
    assert device.read(msix + 2, 2) == len(QUEUES)  # vectors - 1
    assert (device.read(msix + 4, 4), device.read(msix + 8, 4)) == (v.MSIX_TABLE | 1, v.MSIX_PENDING | 1)


def test_bars_have_the_size_that_their_bits_say(bench: Bench) -> None:
    for bar, size in ((0, 0x4000), (1, 0x1000)):
        bench.device.write(BAR0 + 4 * bar, 4, 0xFFFF_FFFF)
        assert -bench.device.read(BAR0 + 4 * bar, 4) & 0xFFFF_FFFF == size


def test_features_are_offered_in_halves(bench: Bench) -> None:
    halves = []
    for half in (0, 1, 2):
        bench.put(v.DEVICE_FEATURE_SELECT, 4, half)
        halves.append(bench.get(v.DEVICE_FEATURE, 4))
    assert halves == [FEATURE | v.INDIRECT_DESCRIPTORS | v.EVENT_INDEX, 1, 0]


def test_features_that_fit_are_accepted(bench: Bench) -> None:
    assert bench.negotiate(v.VERSION_1 | FEATURE) == OK


@pytest.mark.parametrize("features", [0, FEATURE, v.VERSION_1 | 1 << 40, v.VERSION_1 | 1])
def test_nonsense_is_refused_and_the_driver_cannot_go_on(bench: Bench, features: int) -> None:
    assert bench.negotiate(features) == v.ACKNOWLEDGE | v.DRIVER
    bench.enable(0)
    bench.notify(0)
    assert bench.kicks == []


def test_accepted_features_stay(bench: Bench) -> None:
    bench.negotiate(v.VERSION_1)
    bench.put(v.DRIVER_FEATURE_SELECT, 4, 0)
    bench.put(v.DRIVER_FEATURE, 4, FEATURE)
    assert bench.get(v.DRIVER_FEATURE, 4) == 0


def test_registers_have_one_width(bench: Bench) -> None:
    bench.put(v.DEVICE_STATUS, 4, v.ACKNOWLEDGE)
    assert bench.get(v.DEVICE_STATUS, 1) == 0
    assert bench.get(v.QUEUE_SIZE, 1) == 0
    assert bench.get(v.QUEUE_SIZE, 2) == 256


def test_a_queue_has_a_place_of_64_bits(bench: Bench) -> None:
    bench.put(v.QUEUE_SELECT, 2, 1)
    for area, value in (
        (v.QUEUE_DESCRIPTORS, 0x1_2345_6000),
        (v.QUEUE_DRIVER, 0x2_0000_0002),
        (v.QUEUE_DEVICE, 0xFFFF_FFFF_FFFF_FFFC),
    ):
        bench.put(area, 4, value & 0xFFFF_FFFF)
        bench.put(area + 4, 4, value >> 32)
        assert bench.get(area, 4) | bench.get(area + 4, 4) << 32 == value
    queue = bench.device.state.queues[1]
    assert (queue.descriptors, queue.driver_area, queue.device_area) == (
        0x1_2345_6000,
        0x2_0000_0002,
        0xFFFF_FFFF_FFFF_FFFC,
    )
    bench.put(v.QUEUE_SELECT, 2, 0)
    assert bench.get(v.QUEUE_DRIVER, 4) == 0


def test_queues_that_are_not_there_read_as_zero(bench: Bench) -> None:
    assert bench.get(v.NUM_QUEUES, 2) == len(QUEUES)
    bench.put(v.QUEUE_SELECT, 2, len(QUEUES))
    assert bench.get(v.QUEUE_SIZE, 2) == 0
    bench.put(v.QUEUE_SIZE, 2, 8)
    bench.put(v.QUEUE_DESCRIPTORS, 4, 0x1000)
    bench.put(v.QUEUE_MSIX_VECTOR, 2, 0)
    bench.put(v.QUEUE_ENABLE, 2, 1)
    assert [queue.size for queue in bench.device.state.queues] == [*QUEUES]
    assert bench.faults == []


@pytest.mark.parametrize(("asked", "got"), [(128, 128), (1, 1), (0, 256), (100, 256), (512, 256), (0xFFFF, 256)])
def test_a_queue_can_be_made_smaller_by_powers_of_two(bench: Bench, asked: int, got: int) -> None:
    bench.put(v.QUEUE_SIZE, 2, asked)
    assert bench.get(v.QUEUE_SIZE, 2) == got


def test_a_notification_is_a_kick_when_driver_and_queue_are_ready(bench: Bench) -> None:
    bench.notify(0)
    bench.negotiate(status=v.ACKNOWLEDGE | v.DRIVER | v.FEATURES_OK)
    bench.enable(0)
    bench.notify(0)
    assert bench.kicks == []
    bench.put(v.DEVICE_STATUS, 1, OK)
    bench.notify(0)
    bench.notify(1)  # not enabled
    bench.put(v.NOTIFY + 0xFFC, 4, 0)  # no such queue
    assert bench.kicks == [0]


def test_no_kick_without_the_right_to_touch_memory(running: Bench) -> None:
    running.device.write(COMMAND, 2, COMMAND_MEMORY)
    running.notify(0)
    assert running.kicks == []


@pytest.mark.parametrize(
    ("register", "size", "value"), [(v.QUEUE_DESCRIPTORS, 4, 0x5000), (v.QUEUE_DEVICE + 4, 4, 1), (v.QUEUE_SIZE, 2, 16)]
)
def test_a_queue_that_moves_while_in_use_breaks_the_device(
    running: Bench, register: int, size: int, value: int
) -> None:
    running.put(register, size, value)
    assert running.faults == ["queue 1 was changed while in use"]
    assert running.get(v.DEVICE_STATUS, 1) == OK | v.NEEDS_RESET
    assert running.get(v.ISR, 1) == v.ISR_CONFIG
    running.notify(0)
    assert running.kicks == []
    running.put(register, size, value)
    assert len(running.faults) == 1


def test_the_same_place_again_is_no_move(running: Bench) -> None:
    running.put(v.QUEUE_DESCRIPTORS, 4, 0)
    running.put(v.QUEUE_SIZE, 2, 64)
    assert running.faults == []


def test_a_reset_undoes_everything_but_pci(running: Bench) -> None:
    running.set_vector(1)
    running.put(v.QUEUE_MSIX_VECTOR, 2, 1)
    running.device.complete(0, 1, 1, interrupt=True)
    running.device.fail()
    running.put(v.DEVICE_STATUS, 1, 0)
    fresh = Bench()
    state = running.device.state
    assert (state.resets, running.device.forgotten, running.intx[-1]) == (1, 1, False)
    state.resets = 0
    state.msix_table = fresh.device.state.msix_table
    assert state == fresh.device.state
    assert running.negotiate() == OK


def test_completions_move_the_queue_and_raise_intx_when_asked(running: Bench) -> None:
    running.device.complete(1, 7, 5, interrupt=False)
    assert running.intx == []
    queue = running.device.state.queues[1]
    assert (queue.next_avail, queue.next_used) == (7, 5)
    running.device.complete(1, 9, 6, interrupt=True)
    assert running.intx == [True]
    assert running.get(v.ISR, 1) == v.ISR_QUEUE
    assert running.intx == [True, False]
    assert running.get(v.ISR, 1) == 0


def test_with_msix_each_queue_has_a_message_and_the_pin_is_quiet(running: Bench) -> None:
    running.set_msix(v.MSIX_ENABLE)
    running.set_vector(2)
    running.put(v.QUEUE_SELECT, 2, 0)
    running.put(v.QUEUE_MSIX_VECTOR, 2, 2)
    assert running.get(v.QUEUE_MSIX_VECTOR, 2) == 2
    running.device.complete(0, 1, 1, interrupt=True)
    running.device.complete(1, 1, 1, interrupt=True)  # has no vector
    assert running.messages == [(5, False, 0, 0x41, False)]
    assert running.intx == []
    assert running.get(v.ISR, 1) == 0


def test_a_masked_message_is_pending_until_it_is_unmasked(running: Bench) -> None:
    running.set_msix(v.MSIX_ENABLE)
    running.set_vector(0, control=v.VECTOR_MASKED)
    running.put(v.QUEUE_MSIX_VECTOR, 2, 0)
    running.device.complete(1, 1, 1, interrupt=True)
    assert running.messages == []
    assert running.device.read_bar(1, v.MSIX_PENDING, 4) == 1
    running.set_vector(0)
    assert len(running.messages) == 1
    assert running.device.read_bar(1, v.MSIX_PENDING, 4) == 0
    running.set_msix(v.MSIX_ENABLE | v.MSIX_FUNCTION_MASK)
    running.device.complete(1, 2, 2, interrupt=True)
    assert len(running.messages) == 1
    running.set_msix(v.MSIX_ENABLE)
    assert len(running.messages) == 2


def test_a_message_goes_to_local_apics_only(running: Bench) -> None:
    running.set_msix(v.MSIX_ENABLE)
    running.set_vector(0, address=0x0010_0000)
    running.put(v.QUEUE_MSIX_VECTOR, 2, 0)
    running.device.complete(1, 1, 1, interrupt=True)
    assert running.messages == []


def test_vectors_that_are_not_there_read_back_as_none(bench: Bench) -> None:
    bench.put(v.QUEUE_MSIX_VECTOR, 2, 3)
    bench.put(v.CONFIG_MSIX_VECTOR, 2, 3)
    assert bench.get(v.QUEUE_MSIX_VECTOR, 2) == bench.get(v.CONFIG_MSIX_VECTOR, 2) == v.NO_VECTOR


def test_a_change_of_the_configuration_is_told(running: Bench) -> None:
    running.set_msix(v.MSIX_ENABLE)
    running.set_vector(1)
    running.put(v.CONFIG_MSIX_VECTOR, 2, 1)
    running.device.config_changed()
    assert running.get(v.CONFIG_GENERATION, 1) == 1
    assert len(running.messages) == 1


def test_a_disabled_pin_stays_low_but_the_status_bit_shows(running: Bench) -> None:
    running.device.write(COMMAND, 2, COMMAND_MEMORY | COMMAND_BUS_MASTER | 0x400)
    running.device.complete(0, 1, 1, interrupt=True)
    assert running.intx == []
    assert running.device.read(0x06, 2) & 8


def test_configuration_space_is_a_window_to_the_registers(bench: Bench) -> None:
    window = bench.capability(v.CAPABILITY_VENDOR, v.CFG_PCI)
    bench.device.write(window + 8, 4, v.DEVICE + 4)
    bench.device.write(window + 12, 4, 4)
    assert bench.device.read(window + 16, 4) == 0x07060504
    bench.device.write(window + 8, 4, v.DEVICE_STATUS)
    bench.device.write(window + 12, 4, 1)
    bench.device.write(window + 16, 1, v.ACKNOWLEDGE)
    assert bench.get(v.DEVICE_STATUS, 1) == v.ACKNOWLEDGE
    for bar, offset, length in ((0, 0x4000, 4), (0, 2, 4), (3, 0, 4), (0, 0, 8)):
        bench.device.write(window + 4, 1, bar)
        bench.device.write(window + 8, 4, offset)
        bench.device.write(window + 12, 4, length)
        assert bench.device.read(window + 16, 4) == 0


def test_the_state_is_a_value_that_can_be_saved(running: Bench) -> None:
    running.set_vector(1)
    running.device.complete(0, 1, 1, interrupt=True)
    saved = msgspec.msgpack.encode(running.device.state)
    assert msgspec.msgpack.decode(saved, type=VirtioState) == running.device.state


def test_a_saved_state_with_a_vector_too_few_is_refused(running: Bench) -> None:
    running.device.state.msix_table.pop()
    saved = msgspec.msgpack.encode(running.device.state)
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(saved, type=VirtioState)

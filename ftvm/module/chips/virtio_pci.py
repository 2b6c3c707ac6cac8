"""A virtio device behind PCI: its registers, and how it interrupts. Devices derive from VirtioPci.

Sources: Virtual I/O Device (VIRTIO) 1.2, chapters 2, 3 and 4.1; PCI Local Bus Specification 3.0, 6.8.2 (MSI-X).

There is nothing here of what lies in memory: when the driver notifies a queue, ``kick`` says so, and whoever serves it
(the monitor, in verified memory) comes back with ``complete``. All that it has to know is in the state.
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated

import msgspec
from msgspec import Meta

from ftvm.module.chips.pci import COMMAND, COMMAND_BUS_MASTER, Bar, PciFunction, PciFunctionState

VENDOR_ID = 0x1AF4
FIRST_DEVICE_ID = 0x1040  # + device type: no legacy interface
REVISION_ID = 1

# Feature bits of every device (6)
INDIRECT_DESCRIPTORS = 1 << 28
EVENT_INDEX = 1 << 29
VERSION_1 = 1 << 32
COMMON_FEATURES = INDIRECT_DESCRIPTORS | EVENT_INDEX | VERSION_1

# Device status (2.1)
ACKNOWLEDGE = 0x01
DRIVER = 0x02
DRIVER_OK = 0x04
FEATURES_OK = 0x08
NEEDS_RESET = 0x40
FAILED = 0x80
_DRIVER_SETS = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED

# Offsets in REGISTERS, a page each
COMMON = 0x0000
ISR = 0x1000
DEVICE = 0x2000
NOTIFY = 0x3000
_PART = 0x1000

# Memory BARs
REGISTERS = Bar(0, 0x4000, io=False, signals=range(NOTIFY, NOTIFY + _PART))
MSIX = Bar(1, 0x1000, io=False)
NOTIFY_MULTIPLIER = 4

# Offsets in MSIX
MSIX_TABLE = 0x000
MSIX_PENDING = 0x800
_VECTOR_BYTES = 16

# Common configuration (4.1.4.3)
DEVICE_FEATURE_SELECT = 0x00
DEVICE_FEATURE = 0x04
DRIVER_FEATURE_SELECT = 0x08
DRIVER_FEATURE = 0x0C
CONFIG_MSIX_VECTOR = 0x10
NUM_QUEUES = 0x12
DEVICE_STATUS = 0x14
CONFIG_GENERATION = 0x15
QUEUE_SELECT = 0x16
QUEUE_SIZE = 0x18
QUEUE_MSIX_VECTOR = 0x1A
QUEUE_ENABLE = 0x1C
QUEUE_NOTIFY_OFF = 0x1E
QUEUE_DESCRIPTORS = 0x20
QUEUE_DRIVER = 0x28
QUEUE_DEVICE = 0x30

ISR_QUEUE = 1
ISR_CONFIG = 2
NO_VECTOR = 0xFFFF

# Capabilities (PCI, and 4.1.4)
CAPABILITY_VENDOR = 0x09
CAPABILITY_MSIX = 0x11
CFG_COMMON, CFG_NOTIFY, CFG_ISR, CFG_DEVICE, CFG_PCI = 1, 2, 3, 4, 5
MSIX_ENABLE = 0x8000
MSIX_FUNCTION_MASK = 0x4000
VECTOR_MASKED = 1

_MESSAGE_BASE = 0xFEE

U16 = Annotated[int, Meta(ge=0, le=0xFFFF)]
U32 = Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]
U64 = Annotated[int, Meta(ge=0)]


class QueueState(msgspec.Struct):
    """One virtqueue: where it is (guest physical), and how far the device is in its two rings (2.7)."""

    size: U16
    msix_vector: U16 = NO_VECTOR
    enabled: bool = False
    descriptors: U64 = 0
    driver_area: U64 = 0
    device_area: U64 = 0
    next_avail: U16 = 0
    """Of the available ring: the index that the device takes next."""
    next_used: U16 = 0


class VirtioState(PciFunctionState):
    status: U16 = 0
    resets: U64 = 0
    """How often the driver has reset the device: what was begun before the last one is void."""
    device_feature_select: U32 = 0
    driver_feature_select: U32 = 0
    driver_features: U64 = 0
    config_vector: U16 = NO_VECTOR
    config_generation: U16 = 0
    queue_select: U16 = 0
    isr: U16 = 0
    queues: list[QueueState] = msgspec.field(default_factory=list)
    msix_table: list[U32] = msgspec.field(default_factory=list)
    """Four registers for each vector: address low and high, data, control."""
    msix_pending: U64 = 0
    """Vectors that are due but masked, as bits."""

    def __post_init__(self) -> None:
        """What was saved may have been written by anybody."""
        if len(self.msix_table) != 4 * (len(self.queues) + 1):
            raise ValueError("a virtio device has one MSI-X vector for each queue and one for its configuration")

    @property
    def live(self) -> bool:
        """The driver is at work, and the device may touch memory."""
        bus_master = self.config[COMMAND] & COMMAND_BUS_MASTER
        return bool(bus_master) and self.status & (DRIVER_OK | NEEDS_RESET | FAILED) == DRIVER_OK


Message = tuple[int, bool, int, int, bool]
"""Destination, logical, delivery mode, vector, level-triggered."""


class Wires(msgspec.Struct, frozen=True):
    """What a device has to do with the rest of the machine.

    ``kick(queue)``: the driver has put something into a queue of a live device. ``broken(reason)``: the driver did what
    no driver may do, and the device waits for its reset. ``message(destination, logical, delivery, vector, level)``: an
    interrupt message on the bus.
    """

    kick: Callable[[int], None]
    broken: Callable[[str], None]
    message: Callable[[int, bool, int, int, bool], object]


class VirtioPci(PciFunction):
    """One function of the bus. ``features`` are those of the device type; every device has COMMON_FEATURES too."""

    state: VirtioState

    def __init__(
        self,
        device_type: int,
        class_code: int,
        features: int,
        queue_sizes: tuple[int, ...],
        wires: Wires,
    ) -> None:
        super().__init__(
            VENDOR_ID,
            FIRST_DEVICE_ID + device_type,
            class_code,
            revision=REVISION_ID,
            subsystem=(VENDOR_ID, FIRST_DEVICE_ID + device_type),
            bars=(REGISTERS, MSIX),
            interrupt_pin=1,
        )
        self.features = features | COMMON_FEATURES
        self._queue_sizes = queue_sizes
        self._vectors = len(queue_sizes) + 1
        self._wires = wires
        self.state = VirtioState(
            config=self.state.config,
            queues=[QueueState(size) for size in queue_sizes],
            msix_table=self._vectors * [0, 0, 0, VECTOR_MASKED],
        )
        self._add_capabilities()
        self._readers: dict[tuple[int, int], Callable[[], int]] = {
            (DEVICE_FEATURE_SELECT, 4): lambda: self.state.device_feature_select,
            (DEVICE_FEATURE, 4): lambda: _word(self.features, self.state.device_feature_select),
            (DRIVER_FEATURE_SELECT, 4): lambda: self.state.driver_feature_select,
            (DRIVER_FEATURE, 4): lambda: _word(self.state.driver_features, self.state.driver_feature_select),
            (CONFIG_MSIX_VECTOR, 2): lambda: self.state.config_vector,
            (NUM_QUEUES, 2): lambda: len(self._queue_sizes),
            (DEVICE_STATUS, 1): lambda: self.state.status,
            (CONFIG_GENERATION, 1): lambda: self.state.config_generation,
            (QUEUE_SELECT, 2): lambda: self.state.queue_select,
            (QUEUE_SIZE, 2): lambda: self._selected("size"),
            (QUEUE_MSIX_VECTOR, 2): lambda: self._selected("msix_vector"),
            (QUEUE_ENABLE, 2): lambda: self._selected("enabled"),
            (QUEUE_NOTIFY_OFF, 2): lambda: self.state.queue_select,
        }
        self._writers: dict[tuple[int, int], Callable[[int], None]] = {
            (DEVICE_FEATURE_SELECT, 4): self._select_device_features,
            (DRIVER_FEATURE_SELECT, 4): self._select_driver_features,
            (DRIVER_FEATURE, 4): self._write_driver_features,
            (CONFIG_MSIX_VECTOR, 2): self._write_config_vector,
            (DEVICE_STATUS, 1): self._write_status,
            (QUEUE_SELECT, 2): self._select_queue,
            (QUEUE_SIZE, 2): self._write_queue_size,
            (QUEUE_MSIX_VECTOR, 2): self._write_queue_vector,
            (QUEUE_ENABLE, 2): self._enable_queue,
        }
        for offset, area in _AREAS.items():
            for shift in (0, 32):
                self._readers[offset + shift // 8, 4] = partial(self._read_area, area, shift)
                self._writers[offset + shift // 8, 4] = partial(self._place_queue, area, shift)

    def _add_capabilities(self) -> None:
        def structure(kind: int, offset: int, size: int, extra: bytes = b"", writable: bytes = b"") -> int:
            body = bytes((16 + len(extra), kind, REGISTERS.index, 0, 0, 0))
            body += offset.to_bytes(4, "little") + size.to_bytes(4, "little") + extra
            return self.add_capability(CAPABILITY_VENDOR, body, writable)

        structure(CFG_COMMON, COMMON, 0x38)
        structure(
            CFG_NOTIFY,
            NOTIFY,
            NOTIFY_MULTIPLIER * len(self._queue_sizes),
            NOTIFY_MULTIPLIER.to_bytes(4, "little"),
        )
        structure(CFG_ISR, ISR, 1)
        structure(CFG_DEVICE, DEVICE, _PART)
        # 4.1.4.9: a window into the BARs; the driver chooses BAR, offset and length.
        self._window = structure(CFG_PCI, 0, 0, bytes(4), bytes((0, 0, 0xFF, 0, 0, 0)) + b"\xff" * 8)
        control = self._vectors - 1
        table, pending = MSIX_TABLE | MSIX.index, MSIX_PENDING | MSIX.index
        body = control.to_bytes(2, "little") + table.to_bytes(4, "little") + pending.to_bytes(4, "little")
        writable = (MSIX_ENABLE | MSIX_FUNCTION_MASK).to_bytes(2, "little")
        self.msix_capability = self.add_capability(CAPABILITY_MSIX, body, writable)

    # ---- for the device that derives from this ----

    def read_config(self, offset: int, size: int) -> int:
        """A register of the device's own configuration."""
        raise NotImplementedError

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Nothing in it can be written, unless the device says so."""

    def goes_together(self, features: int) -> bool:
        """Whether a driver may accept just these of the features offered: some need others (2.2)."""
        return True

    def was_reset(self) -> None:
        """The driver reset the device: forget what it negotiated."""

    def config_changed(self) -> None:
        """The device's configuration is another one now."""
        self.state.config_generation = self.state.config_generation + 1 & 0xFF
        if self.state.status & DRIVER_OK:
            self._notify_config()

    # ---- for the board ----

    @property
    def sends_messages(self) -> bool:
        """Its interrupts are messages (MSI-X), not a level on a pin."""
        return bool(self.state.config[self.msix_capability + 3] & MSIX_ENABLE >> 8)

    def notify_address(self) -> int | None:
        """Guest physical, for queue 0; None while nothing is decoded."""
        return next((address + NOTIFY for bar, address in self.mappings() if bar == REGISTERS), None)

    def message_of(self, queue: int) -> Message | None:
        """The message that ``complete`` sends for the queue. None: it does something else."""
        vector = self.state.queues[queue].msix_vector
        if not self.sends_messages or vector >= self._vectors or self._is_masked(vector):
            return None
        return self._message(vector)

    def complete(self, queue: int, next_avail: int, next_used: int, interrupt: bool) -> None:
        """The device has got so far in both rings of a queue; ``interrupt``: and the driver wants to know."""
        progress = self.state.queues[queue]
        progress.next_avail, progress.next_used = next_avail, next_used
        if not interrupt:
            return
        if self.sends_messages:
            self._fire(progress.msix_vector)
        else:
            self._set_isr(self.state.isr | ISR_QUEUE)

    def fail(self) -> None:
        """The device cannot go on: it wants to be reset (2.1.2)."""
        state = self.state
        if not state.status & NEEDS_RESET:
            state.status |= NEEDS_RESET
            if state.status & DRIVER_OK:
                self._notify_config()

    # ---- PCI ----

    @property
    def intx(self) -> bool:
        return super().intx and not self.sends_messages

    def read(self, offset: int, size: int) -> int:
        if offset & ~3 == self._window + 16:
            target = self._window_target(size)
            return 0 if target is None else self.read_bar(target[0], target[1] + (offset & 3), size)
        return super().read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        if offset & ~3 == self._window + 16:
            target = self._window_target(size)
            if target is not None:
                self.write_bar(target[0], target[1] + (offset & 3), size, value)
            return
        super().write(offset, size, value)
        if offset < self.msix_capability + 4 and offset + size > self.msix_capability:
            self._interrupt_changed()
            self._fire_pending()

    def _window_target(self, size: int) -> tuple[int, int] | None:
        """(BAR, offset) that an access through the PCI configuration capability means."""
        index = self.get(self._window + 4, 1)
        offset, length = self.get(self._window + 8, 4), self.get(self._window + 12, 4)
        bar = next((bar for bar in self.bars if bar.index == index), None)
        if bar is None or length != size or offset % size or offset + size > bar.size:
            return None
        return index, offset

    def read_bar(self, index: int, offset: int, size: int) -> int:
        if index == MSIX.index:
            return self._read_msix(offset, size)
        part = offset & -_PART
        if part == COMMON:
            reader = self._readers.get((offset, size))
            return 0 if reader is None else reader()
        if part == DEVICE:
            return self.read_config(offset - DEVICE, size)
        if offset == ISR:
            isr = self.state.isr
            self._set_isr(0)
            return isr
        return 0

    def write_bar(self, index: int, offset: int, size: int, value: int) -> None:
        if index == MSIX.index:
            self._write_msix(offset, size, value)
            return
        part = offset & -_PART
        if part == NOTIFY:
            queue = (offset - NOTIFY) // NOTIFY_MULTIPLIER
            if self.state.live and queue < len(self._queue_sizes) and self.state.queues[queue].enabled:
                self._wires.kick(queue)
        elif part == COMMON:
            writer = self._writers.get((offset, size))
            if writer is not None:
                writer(value)
        elif part == DEVICE:
            self.write_config(offset - DEVICE, size, value)

    # ---- common configuration ----

    def _selected(self, name: str) -> int:
        """A field of the selected queue; a queue that does not exist reads as 0."""
        index = self.state.queue_select
        return int(getattr(self.state.queues[index], name)) if index < len(self._queue_sizes) else 0

    def _read_area(self, area: str, shift: int) -> int:
        return self._selected(area) >> shift & 0xFFFF_FFFF

    def _select_device_features(self, value: int) -> None:
        self.state.device_feature_select = value

    def _select_driver_features(self, value: int) -> None:
        self.state.driver_feature_select = value

    def _select_queue(self, value: int) -> None:
        self.state.queue_select = value

    def _write_driver_features(self, value: int) -> None:
        state = self.state
        if state.driver_feature_select < 2 and not state.status & FEATURES_OK:
            shift = 32 * state.driver_feature_select
            state.driver_features = state.driver_features & ~(0xFFFF_FFFF << shift) | value << shift

    def _write_config_vector(self, value: int) -> None:
        self.state.config_vector = value if value < self._vectors else NO_VECTOR

    def _write_status(self, value: int) -> None:
        """0 is a reset; else bits are added: a driver cannot take back what it said (2.1.1)."""
        state = self.state
        if value == 0:
            self._reset()
            return
        new = value & _DRIVER_SETS
        features = state.driver_features
        if features & ~self.features or not features & VERSION_1 or not self.goes_together(features):
            new &= ~FEATURES_OK
        if not (state.status | new) & FEATURES_OK:
            new &= ~DRIVER_OK
        state.status |= new

    def _reset(self) -> None:
        state = self.state
        state.status = 0
        state.resets += 1
        state.device_feature_select = state.driver_feature_select = state.driver_features = 0
        state.config_vector = NO_VECTOR
        state.queue_select = 0
        state.queues = [QueueState(size) for size in self._queue_sizes]
        state.msix_pending = 0
        self._set_isr(0)
        self.was_reset()

    def _stopped_queue(self) -> QueueState | None:
        """The selected queue, if there is one that may be changed."""
        index = self.state.queue_select
        if index >= len(self._queue_sizes):
            return None
        queue = self.state.queues[index]
        if queue.enabled:
            self._break(f"queue {index} was changed while in use")
            return None
        return queue

    def _write_queue_size(self, value: int) -> None:
        """A size that cannot be leaves the old one, which the driver reads back."""
        if value == self._selected("size") or value == 0 or value & value - 1:
            return
        queue = self._stopped_queue()
        if queue is not None and value <= self._queue_sizes[self.state.queue_select]:
            queue.size = value

    def _place_queue(self, area: str, shift: int, value: int) -> None:
        old = self._selected(area)
        new = old & ~(0xFFFF_FFFF << shift) | value << shift
        if new != old:
            queue = self._stopped_queue()
            if queue is not None:
                setattr(queue, area, new)

    def _write_queue_vector(self, value: int) -> None:
        index = self.state.queue_select
        if index < len(self._queue_sizes):
            self.state.queues[index].msix_vector = value if value < self._vectors else NO_VECTOR

    def _enable_queue(self, value: int) -> None:
        index = self.state.queue_select
        if value == 1 and index < len(self._queue_sizes):
            self.state.queues[index].enabled = True

    def _break(self, reason: str) -> None:
        if not self.state.status & NEEDS_RESET:
            self._wires.broken(reason)
            self.fail()

    # ---- interrupts ----

    def _set_isr(self, isr: int) -> None:
        self.state.isr = isr
        self.set_interrupt(isr != 0)

    def _notify_config(self) -> None:
        self._set_isr(self.state.isr | ISR_CONFIG)
        if self.sends_messages:
            self._fire(self.state.config_vector)

    def _fire(self, vector: int) -> None:
        """Send the message of a vector, or keep it until it is unmasked."""
        if vector >= self._vectors:
            return
        if self._is_masked(vector):
            self.state.msix_pending |= 1 << vector
        elif (message := self._message(vector)) is not None:
            self._wires.message(*message)

    def _is_masked(self, vector: int) -> bool:
        state = self.state
        masked = state.msix_table[4 * vector + 3] & VECTOR_MASKED
        return bool(masked or state.config[self.msix_capability + 3] & MSIX_FUNCTION_MASK >> 8)

    def _message(self, vector: int) -> Message | None:
        """What it says, if that reaches the bus as an interrupt."""
        low, high, data = self.state.msix_table[4 * vector : 4 * vector + 3]
        if high != 0 or low >> 20 != _MESSAGE_BASE or not self.state.config[COMMAND] & COMMAND_BUS_MASTER:
            return None
        # SDM vol. 3A, 11.11: destination in bits 19:12, logical mode in bit 2; data as in the local APIC's LVT.
        return low >> 12 & 0xFF, bool(low & 4), data >> 8 & 7, data & 0xFF, bool(data & 0x8000)

    def _fire_pending(self) -> None:
        """Something may have been unmasked."""
        pending = self.state.msix_pending
        if pending and self.sends_messages:
            self.state.msix_pending = 0
            for vector in range(self._vectors):
                if pending >> vector & 1:
                    self._fire(vector)

    def _read_msix(self, offset: int, size: int) -> int:
        if size != 4 or offset & 3:
            return 0
        if offset < _VECTOR_BYTES * self._vectors:
            return self.state.msix_table[offset >> 2]
        if offset in (MSIX_PENDING, MSIX_PENDING + 4):
            return self.state.msix_pending >> 8 * (offset - MSIX_PENDING) & 0xFFFF_FFFF
        return 0

    def _write_msix(self, offset: int, size: int, value: int) -> None:
        """Whole registers only (6.8.2): others are undefined, and ignored."""
        if size != 4 or offset & 3 or offset >= _VECTOR_BYTES * self._vectors:
            return
        at = offset >> 2
        self.state.msix_table[at] = value & VECTOR_MASKED if at & 3 == 3 else value
        if at & 3 == 3:
            self._fire_pending()


_AREAS = {QUEUE_DESCRIPTORS: "descriptors", QUEUE_DRIVER: "driver_area", QUEUE_DEVICE: "device_area"}


def _word(value: int, select: int) -> int:
    """32 bits of a set of features."""
    return value >> 32 * select & 0xFFFF_FFFF if select < 2 else 0

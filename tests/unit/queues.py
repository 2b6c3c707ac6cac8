"""A driver's side of a split virtqueue in plain memory, for tests of the device's side."""

import struct
from dataclasses import dataclass, field
from typing import Any

from ftvm.module.chips.virtio_pci import EVENT_INDEX, QueueState
from ftvm.monitor.virtqueue import INDIRECT, NEXT, WRITE

DESCRIPTORS, DRIVER, DEVICE = 0x1000, 0x3000, 0x4000


@dataclass
class Rings:
    """The rings of one queue at fixed places, in ``ram``, and what the driver has done so far."""

    ram: Any
    size: int = 8
    features: int = 0
    avail_index: int = 0
    _next_descriptor: int = field(default=0)

    @property
    def state(self) -> QueueState:
        return QueueState(self.size, enabled=True, descriptors=DESCRIPTORS, driver_area=DRIVER, device_area=DEVICE)

    def descriptor(self, at: int, address: int, length: int, flags: int = 0, following: int = 0) -> None:
        struct.pack_into("<QIHH", self.ram, DESCRIPTORS + 16 * at, address, length, flags, following)

    def chain(self, *buffers: tuple[int, int, int]) -> int:
        """Descriptors for (address, length, flags), linked; the head."""
        head = self._next_descriptor % self.size
        for at, (address, length, flags) in enumerate(buffers):
            last = at == len(buffers) - 1
            here = (head + at) % self.size
            self.descriptor(here, address, length, flags | (0 if last else NEXT), (here + 1) % self.size)
        self._next_descriptor += len(buffers)
        return head

    def table(self, at: int, *buffers: tuple[int, int, int]) -> int:
        """An indirect table at ``at``, and a descriptor for it; the head."""
        for number, (address, length, flags) in enumerate(buffers):
            last = number == len(buffers) - 1
            struct.pack_into(
                "<QIHH", self.ram, at + 16 * number, address, length, flags | (0 if last else NEXT), number + 1
            )
        return self.chain((at, 16 * len(buffers), INDIRECT))

    def offer(self, head: int) -> None:
        """Make a chain available."""
        struct.pack_into("<H", self.ram, DRIVER + 4 + 2 * (self.avail_index % self.size), head)
        self.avail_index = self.avail_index + 1 & 0xFFFF
        struct.pack_into("<H", self.ram, DRIVER + 2, self.avail_index)

    def used(self) -> tuple[int, list[tuple[int, int]]]:
        """(index, the entries of the whole ring)."""
        index: int = struct.unpack_from("<H", self.ram, DEVICE + 2)[0]
        return index, list(struct.iter_unpack("<II", self.ram[DEVICE + 4 : DEVICE + 4 + 8 * self.size]))

    def suppress(self, value: int) -> None:
        """The flag, or with EVENT_INDEX the index, that says which interrupts are wanted."""
        at = DRIVER + 4 + 2 * self.size if self.features & EVENT_INDEX else DRIVER
        struct.pack_into("<H", self.ram, at, value)

    def avail_event(self) -> int:
        event: int = struct.unpack_from("<H", self.ram, DEVICE + 4 + 8 * self.size)[0]
        return event


__all__ = ["DESCRIPTORS", "DEVICE", "DRIVER", "INDIRECT", "NEXT", "WRITE", "Rings"]

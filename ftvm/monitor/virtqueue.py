"""Split virtqueues in verified memory. Source: Virtual I/O Device (VIRTIO) 1.2, 2.7.

Whatever the guest wrote there is a claim, not a fact: every address, length, index and chain is checked before it is
used, and QueueBroken says what is wrong. Nothing here writes memory: what is to be written are values, for an input.
"""

import struct
from collections.abc import Sequence
from typing import Any, cast

import msgspec

from ftvm.memory_map import HIGH_RAM, LOW_RAM_LIMIT
from ftvm.module.chips.virtio_pci import EVENT_INDEX, INDIRECT_DESCRIPTORS, QueueState
from ftvm.module.events import QueueProgress

# Descriptor flags
NEXT = 1
WRITE = 2
INDIRECT = 4

NO_INTERRUPT = 1
"""Flag of the available ring."""
NO_NOTIFY = 1
"""Flag of the used ring."""

_DESCRIPTOR = struct.Struct("<QIHH")  # address, length, flags, next
_USED = struct.Struct("<II")  # head, length
_U16 = struct.Struct("<H")
_RING_HEAD_BYTES = 4  # flags, index

Segment = tuple[int, int]
"""(offset in RAM, bytes), all of it inside RAM."""
Write = tuple[int, bytes]
"""What is to be written at an offset in RAM."""


class QueueBroken(Exception):
    """What the driver put there is against the rules; the message says what."""


class Chain(msgspec.Struct):
    """One request: what the device may read, then what it may write. ``head`` is how the driver calls it."""

    head: int
    readable: list[Segment]
    writable: list[Segment]


class Virtqueue:
    """Queue ``index`` of a live device. ``ram``: the verified image's, a buffer of the whole RAM.

    ``next_avail`` and ``next_used`` go on as chains are taken and as completions are made. Raises QueueBroken for rings
    that are not in RAM.
    """

    def __init__(self, ram: Any, index: int, state: QueueState, features: int) -> None:
        self._ram = ram
        self._ram_bytes = len(ram)
        self._low = min(self._ram_bytes, int(LOW_RAM_LIMIT))
        self.index = index
        self.size = size = state.size
        self._mask = size - 1
        self._event_index = bool(features & EVENT_INDEX)
        self._indirect = bool(features & INDIRECT_DESCRIPTORS)
        if not state.enabled or not 0 < size <= 1 << 15 or size & self._mask:
            raise QueueBroken(f"queue {index} with {size} entries is not one")
        self._descriptors = self._ring("descriptor table", state.descriptors, 16 * size, 16)
        self._driver = self._ring("available ring", state.driver_area, 6 + 2 * size, 2)
        self._device = self._ring("used ring", state.device_area, 6 + 8 * size, 4)
        self.next_avail = state.next_avail
        self.next_used = state.next_used

    def _ring(self, name: str, gpa: int, size: int, alignment: int) -> int:
        if gpa % alignment:
            raise QueueBroken(f"the {name} of queue {self.index} at {gpa:#x} is not aligned")
        return self._offset(gpa, size, name)

    def _offset(self, gpa: int, size: int, what: str = "buffer") -> int:
        """Of ``size`` bytes that must all be inside one part of RAM."""
        if gpa + size <= self._low:
            return gpa
        if gpa >= HIGH_RAM and gpa + size <= HIGH_RAM - LOW_RAM_LIMIT + self._ram_bytes:
            return gpa - HIGH_RAM + LOW_RAM_LIMIT
        raise QueueBroken(f"a {what} of {size} bytes at {gpa:#x} is not inside RAM")

    # ---- taking ----

    def waiting(self) -> int:
        """How many chains there are to take. Raises QueueBroken."""
        ahead: int = (_U16.unpack_from(self._ram, self._driver + 2)[0] - self.next_avail) & 0xFFFF
        if ahead > self.size:
            raise QueueBroken(f"the available ring of queue {self.index} is {ahead} entries ahead of {self.size}")
        return ahead

    def take(self) -> Chain:
        """The next chain; there must be one. Raises QueueBroken."""
        at = self._driver + _RING_HEAD_BYTES + 2 * (self.next_avail & self._mask)
        head: int = _U16.unpack_from(self._ram, at)[0]
        if head >= self.size:
            raise QueueBroken(f"descriptor {head} of {self.size}")
        self.next_avail = self.next_avail + 1 & 0xFFFF
        chain = Chain(head, [], [])
        self._follow(chain, self._descriptors, self.size, head, self._indirect)
        return chain

    def _follow(self, chain: Chain, table: int, count: int, at: int, indirect: bool) -> None:
        """Add the descriptors from ``at`` in a table of ``count``. A chain is never longer than the queue."""
        ram, low, readable, writable = self._ram, self._low, chain.readable, chain.writable
        room = self.size - len(readable) - len(writable)
        while True:
            if room <= 0:
                raise QueueBroken(f"a chain of more than {self.size} descriptors")
            room -= 1
            address, length, flags, following = _DESCRIPTOR.unpack_from(ram, table + 16 * at)
            if length == 0:
                raise QueueBroken("a buffer of no bytes")
            if flags & INDIRECT:
                if not indirect:
                    raise QueueBroken("an indirect table where there can be none")
                # Whether the table may be written is to be ignored (2.7.5.3.2).
                if flags & NEXT or length % 16:
                    raise QueueBroken(f"an indirect table of {length} bytes with flags {flags:#x}")
                self._follow(chain, self._offset(address, length, "table"), length // 16, 0, False)
                return
            offset = address if address + length <= low else self._offset(address, length)
            if flags & WRITE:
                writable.append((offset, length))
            elif writable:
                raise QueueBroken("a buffer to read behind one to write")
            else:
                readable.append((offset, length))
            if not flags & NEXT:
                return
            if following >= count:
                raise QueueBroken(f"descriptor {following} of {count}")
            at = following

    # ---- giving back ----

    def complete(self, used: Sequence[tuple[int, int]], notify: bool = True) -> tuple[list[Write], QueueProgress]:
        """Give chains back, (head, bytes written to it) each, and tell how far the device has come: what to write
        after the data, and the progress.

        ``notify``: the driver is to say when it makes more available (2.7.7, 2.7.10).
        """
        writes: list[Write] = []
        before = self.next_used
        if used:
            entries = b"".join([_USED.pack(head, written) for head, written in used])
            first = before & self._mask
            until_wrap = 8 * (self.size - first)
            ring = self._device + _RING_HEAD_BYTES
            writes.append((ring + 8 * first, entries[:until_wrap]))
            if len(entries) > until_wrap:
                writes.append((ring, entries[until_wrap:]))
            self.next_used = before + len(used) & 0xFFFF
            writes.append((self._device + 2, _U16.pack(self.next_used)))
        if self._event_index:  # behind the used ring: notify when this one is made available; one behind is never next
            event = self.next_avail if notify else self.next_avail - 1 & 0xFFFF
            writes.append((self._device + _RING_HEAD_BYTES + 8 * self.size, _U16.pack(event)))
        elif _U16.unpack_from(self._ram, self._device)[0] != (0 if notify else NO_NOTIFY):
            writes.append((self._device, _U16.pack(0 if notify else NO_NOTIFY)))
        interrupt = bool(used) and self._wanted(before)
        return writes, QueueProgress(self.index, self.next_avail, self.next_used, interrupt)

    def _wanted(self, before: int) -> bool:
        """Whether the driver wants an interrupt for what was used since (2.7.7, 2.7.10)."""
        if not self._event_index:
            return not _U16.unpack_from(self._ram, self._driver)[0] & NO_INTERRUPT
        event: int = _U16.unpack_from(self._ram, self._driver + _RING_HEAD_BYTES + 2 * self.size)[0]
        return (self.next_used - event - 1) & 0xFFFF < (self.next_used - before) & 0xFFFF


def gather(ram: Any, segments: Sequence[Segment]) -> bytes:
    """What stands in ``segments``, one after the other."""
    return b"".join([ram[offset : offset + size] for offset, size in segments])


def size_of(segments: Sequence[Segment]) -> int:
    return sum([size for _, size in segments])


def without_front(segments: Sequence[Segment], size: int) -> list[Segment]:
    """What is left behind the first ``size`` bytes, of which there must be as many."""
    for index, (offset, length) in enumerate(segments):
        if length > size:
            return [(offset + size, length - size), *segments[index + 1 :]]
        size -= length
    return []


def front(segments: Sequence[Segment], size: int) -> list[Segment]:
    """The first ``size`` bytes, of which there must be as many."""
    taken = []
    for offset, length in segments:
        if size <= 0:
            break
        taken.append((offset, min(length, size)))
        size -= length
    return taken


def scatter(segments: Sequence[Segment], data: bytes | bytearray | memoryview) -> list[Write]:
    """``data``, no longer than ``segments`` and never changed again, as writes to them: views of it."""
    view = memoryview(data)
    writes, at = [], 0
    for offset, length in segments:
        if at >= len(view):
            break
        writes.append((offset, view[at : at + length]))
        at += length
    return cast(list[Write], writes)  # a view is encoded as the bytes that it shows

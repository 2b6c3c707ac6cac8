"""Split virtqueues in verified memory: native/virtqueue.c as the halves use it, and segments of memory.

Source: Virtual I/O Device (VIRTIO) 1.2, 2.7. Whatever the guest wrote there is a claim, not a fact: it is checked
before it is used, and QueueBroken says what is wrong. Nothing here writes memory: what is to be written are values, for
an input.
"""

import struct
from collections.abc import Sequence
from typing import Any, cast

import msgspec

from ftvm._native import ffi, lib
from ftvm.module.chips.virtio_pci import EVENT_INDEX, INDIRECT_DESCRIPTORS, QueueState
from ftvm.module.events import Bulk, QueueProgress

# Descriptor flags
NEXT = 1
WRITE = 2
INDIRECT = 4

_SPAN = struct.Struct("=QQ")  # ft_extent
_USED = struct.Struct("=II")  # ft_used

_uncleared = ffi.new_allocator(should_clear_after_alloc=False)

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
        self.size = size = state.size if state.enabled else 0
        self._ram = memory = ffi.from_buffer(ram)
        self._queue = queue = ffi.new("ft_queue *")
        areas = state.descriptors, state.driver_area, state.device_area
        if lib.ft_queue_open(queue, memory, len(memory), index, size, *areas) != 0:
            raise self._broken()
        queue.next_avail, queue.next_used = state.next_avail, state.next_used
        queue.event_index = bool(features & EVENT_INDEX)
        queue.indirect = bool(features & INDIRECT_DESCRIPTORS)
        self._spans = ffi.new("ft_extent[]", size)

    def _broken(self) -> QueueBroken:
        return QueueBroken(ffi.string(self._queue.error).decode())

    @property
    def native(self) -> Any:
        """The ``ft_queue *``."""
        return self._queue

    @property
    def next_avail(self) -> int:
        return int(self._queue.next_avail)

    @next_avail.setter
    def next_avail(self, index: int) -> None:
        self._queue.next_avail = index

    @property
    def next_used(self) -> int:
        return int(self._queue.next_used)

    def waiting(self) -> int:
        """How many chains there are to take. Raises QueueBroken."""
        waiting: int = lib.ft_queue_waiting(self._queue)
        if waiting < 0:
            raise self._broken()
        return waiting

    def take(self) -> Chain:
        """The next chain; there must be one. Raises QueueBroken."""
        queue = self._queue
        if lib.ft_queue_take(queue, self._spans) != 0:
            raise self._broken()
        readable = queue.readable
        spans = list(_SPAN.iter_unpack(ffi.buffer(self._spans, _SPAN.size * (readable + queue.writable))))
        return Chain(queue.head, spans[:readable], spans[readable:])

    def take_room(self, size: int, least: int, limit: int, spans: Any) -> tuple[list[tuple[int, int]], list[Segment]]:
        """Chains to write ``size`` bytes into, at most ``limit`` of those that wait, each with room for ``least``: what
        is used of each, (head, bytes), and where the bytes go; none when they are too few. ``spans``: see ``room_for``.
        Raises QueueBroken."""
        used, count = ffi.new("ft_used[]", limit), ffi.new("uint32_t *")
        taken: int = lib.ft_queue_take_room(self._queue, size, least, limit, used, spans, count)
        if taken < 0:
            raise self._broken()
        segments = list(_SPAN.iter_unpack(ffi.buffer(spans, _SPAN.size * count[0]))) if taken else []
        return list(_USED.iter_unpack(ffi.buffer(used, _USED.size * taken))), segments

    def complete(self, used: Sequence[tuple[int, int]], notify: bool = True) -> tuple[list[Write], QueueProgress]:
        """Give chains back, (head, bytes written to it) each, and tell how far the device has come: what to write
        after the data, and the progress.

        ``notify``: the driver is to say when it makes more available (2.7.7, 2.7.10).
        """
        queue = self._queue
        entries = ffi.new("ft_used[]", used)
        lib.ft_queue_complete(queue, entries, len(used), notify)
        writes = [(w.offset, ffi.buffer(w.data, w.bytes)[:]) for w in queue.writes[0 : queue.write_count]]
        return writes, QueueProgress(queue.index, queue.next_avail, queue.next_used, bool(queue.interrupt))


def room_for(size: int) -> Any:
    """For the places of so many bytes in memory, however small the pieces are; memory is taken where it is used."""
    return _uncleared("ft_extent[]", size + lib.FT_QUEUE_MAX)


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


def bulk_in(segments: Sequence[Segment], data: bytes | bytearray | memoryview) -> Bulk:
    """``data``, no longer than ``segments`` and never changed again, into them."""
    return Bulk(front(segments, len(data)), cast(bytes, data))  # a view is encoded as the bytes that it shows

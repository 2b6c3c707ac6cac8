"""What a disk is asked, and what it answers. The I/O half of virtio-blk speaks this."""

from collections.abc import Callable, Sequence
from enum import Enum

import msgspec

from ftvm.storage.host import Buffer

SECTOR_BYTES = 512
"""Offsets and sizes are multiples of this."""


class Operation(Enum):
    """What a request asks for."""

    READ = "read"
    WRITE = "write"
    FLUSH = "flush"
    DISCARD = "discard"
    """The range reads as zeroes afterwards, on every leg, and its space goes back to the host."""
    WRITE_ZEROES = "write-zeroes"
    """The range reads as zeroes afterwards, and keeps its space."""


class DiskError(Exception):
    """No leg could do it; the guest is to see an I/O error."""


class Completion(msgspec.Struct, frozen=True):
    """``data`` is what was read, else empty. With an ``error`` the request was not done, or only in part."""

    data: Buffer
    error: DiskError | None


class Request(msgspec.Struct, frozen=True):
    """``offset`` and ``size`` in bytes, 0 for a flush. ``buffers`` are the data of a write, ``size`` bytes in all;
    they are copied when the request is submitted. ``on_done`` is called once, from within ``Mirror.poll``. ``stable``:
    it is done when it would survive a loss of power, as if a flush had followed.
    """

    operation: Operation
    on_done: Callable[[Completion], None]
    offset: int = 0
    size: int = 0
    buffers: Sequence[Buffer] = ()
    stable: bool = False

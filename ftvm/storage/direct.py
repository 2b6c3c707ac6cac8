"""Writes that the threads of the legs do without a job, and so without the interpreter: native/legs.c."""

from collections.abc import Sequence
from typing import Any

import msgspec

from ftvm._native import ffi, lib
from ftvm.storage.host import Buffer
from ftvm.storage.leg import LegFailed, write_failure

Route = tuple[Any, int]
"""Of a leg: its ft_leg_queue, and the descriptor of its image."""


class Shortcut(msgspec.Struct, frozen=True):
    """What native code may do with a disk by itself, as long as nobody else asks anything of it: read what the host has
    in memory from the descriptor ``fd``, and write to the legs of ``direct``, unless that is None, in ``marked``: an
    array of ``ft_extent``, bytes of the disk, ascending. Then ``Mirror.wrote`` is to be told."""

    fd: int
    direct: "Direct | None"
    marked: Any


class LateWrite:
    """A write that some leg has not ended, or could not do. Legs are numbered as in the ``Direct`` that began it."""

    def __init__(self, handle: Any, offset: int, size: int) -> None:
        self._handle = ffi.gc(handle, lib.ft_leg_write_close)
        self._offset = offset
        self._size = size
        self._done_bytes = ffi.new("uint64_t *")

    def ended(self, leg: int) -> bool:
        return bool(self._outcome(leg) != lib.FT_LEG_RUNNING)

    def failure(self, leg: int) -> LegFailed | None:
        """Of one that has ended."""
        outcome = self._outcome(leg)
        return write_failure(self._offset, self._size, outcome, self._done_bytes[0]) if outcome else None

    def _outcome(self, leg: int) -> int:
        outcome: int = lib.ft_leg_write_outcome(self._handle, leg, self._done_bytes)
        return outcome


class Direct:
    """Legs that can be written to so."""

    def __init__(self, routes: Sequence[Route], event_fd: int) -> None:
        self._queues = [queue for queue, _ in routes]
        self.native: Any = ffi.new("ft_legs *", (self._queues, [fd for _, fd in routes], len(routes), event_fd))
        self._piece = ffi.new("ft_piece *")
        self._late = ffi.new("ft_leg_write **")

    def write(self, offset: int, data: Buffer, patience_us: int) -> LateWrite | None:
        """None: all legs have all of it."""
        size = len(data)
        source = ffi.from_buffer(data)
        self._piece.data, self._piece.bytes = source, size
        done = lib.ft_legs_write(self.native, offset, self._piece, 1, patience_us, self._late)
        if done < 0:
            raise MemoryError
        return None if done else LateWrite(self._late[0], offset, size)

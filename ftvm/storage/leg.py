"""One half of a mirrored disk: a raw image file, its metadata and, with integrity on, its checksums.

Everything here may block and runs on the leg's own worker thread (but ``read_cached``, which does not block). Whatever
goes wrong is a LegFailed with a reason: what it means for the disk is the mirror's business.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from enum import StrEnum

from ftvm._native import lib
from ftvm.storage import integrity
from ftvm.storage.host import Buffer, File
from ftvm.storage.integrity import Sums
from ftvm.storage.metadata import Sidecar, Superblock
from ftvm.units import MIB

_ZEROES = bytes(MIB)


class Reason(StrEnum):
    """Why a leg failed an operation, or left service."""

    IO_ERROR = "I/O error"
    FULL = "no space"
    SHORT_WRITE = "short write"
    TIMEOUT = "timeout"
    SIZE_CHANGED = "size changed"
    CHECKSUM = "wrong checksum"
    GONE = "file gone"
    PULLED = "pulled"


class LegFailed(Exception):
    """``detail`` is one line. ``charged``: the leg left service for it already."""

    def __init__(self, reason: Reason, detail: str, *, charged: bool = False) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.charged = charged


_REASONS = {
    errno.ENOSPC: Reason.FULL,
    errno.EDQUOT: Reason.FULL,
    errno.ENODEV: Reason.GONE,
    errno.ENXIO: Reason.GONE,
    errno.ENOENT: Reason.GONE,
    errno.ESTALE: Reason.GONE,
}

# What fallocate(2) says where a file system cannot do it.
_NOT_SUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS)


def _failure(what: str, error: OSError) -> LegFailed:
    return LegFailed(_REASONS.get(error.errno or 0, Reason.IO_ERROR), f"{what}: {error.strerror or error}")


@contextlib.contextmanager
def _as_leg_failure(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _failure(what, error) from error


def _short_write(offset: int) -> LegFailed:
    return LegFailed(Reason.SHORT_WRITE, f"nothing more is taken at {offset}")


def _writing(offset: int, size: int) -> str:
    return f"writing {size} bytes at {offset}"


def write_failure(offset: int, size: int, outcome: int, done_bytes: int) -> LegFailed:
    """What a write came to that did not go through ``Leg.write``, if it is not done: see ft_leg_write_outcome()."""
    if outcome == lib.FT_LEG_SHORT:
        return _short_write(offset + done_bytes)
    return _failure(_writing(offset, size), OSError(outcome, os.strerror(outcome)))


class Leg:
    """The files of one leg, open and locked. Offsets and sizes are bytes of the disk; whole blocks with integrity."""

    def __init__(self, image: File, size_bytes: int, sidecar: Sidecar | None, sums: Sums | None) -> None:
        self._image = image
        self._size_bytes = size_bytes
        self._sidecar = sidecar
        self._sums = sums

    def interpose(self, wrap: Callable[[File], File]) -> None:
        """Put something between the leg and its image file: fault injection."""
        self._image = wrap(self._image)

    def read(self, offset: int, size: int, *, verify: bool = True) -> Buffer:
        with _as_leg_failure(f"reading {size} bytes at {offset}"):
            data = self._image.read(offset, size)
            sums = self._sums.read(offset, size) if self._sums is not None and verify else None
        if len(data) != size:
            raise LegFailed(Reason.SIZE_CHANGED, f"the file ends at {offset + len(data)} of {self._size_bytes} bytes")
        self._check(offset, data, sums)
        return data

    def read_cached(self, offset: int, size: int, *, verify: bool = True) -> Buffer | None:
        """As ``read``, when the host has it in memory; else None. Never waits for a medium."""
        with _as_leg_failure(f"reading {size} bytes at {offset}"):
            data = self._image.read_cached(offset, size)
            if data is None or self._sums is None or not verify:
                return data
            sums = self._sums.read_cached(offset, size)
        if sums is None:
            return None
        self._check(offset, data, sums)
        return data

    def write(self, offset: int, data: Buffer, sums: bytes | None) -> None:
        """``sums`` are the checksums of ``data``, with integrity."""
        with _as_leg_failure(_writing(offset, len(data))):
            _write(self._image, offset, data)
            if self._sums is not None and sums is not None and self._sums.write(offset, sums) != len(sums):
                raise LegFailed(Reason.SHORT_WRITE, f"checksums at {offset}")

    def descriptor(self) -> int | None:
        """Of a file to write to instead of calling ``write``; None where that does more."""
        return self._image.descriptor() if self._sums is None else None

    def write_sums(self, offset: int, sums: bytes) -> None:
        """Take the data as they are: give them these checksums."""
        with _as_leg_failure(f"writing checksums at {offset}"):
            if self._sums is not None and self._sums.write(offset, sums) != len(sums):
                raise LegFailed(Reason.SHORT_WRITE, f"checksums at {offset}")

    def zero(self, offset: int, size: int, *, punch: bool) -> None:
        """Make a range read as zeroes, and free its space with ``punch``."""
        with _as_leg_failure(f"zeroing {size} bytes at {offset}"):
            try:
                self._image.zero(offset, size, punch=punch)
            except OSError as error:
                if error.errno not in _NOT_SUPPORTED:
                    raise
                for start in range(offset, offset + size, len(_ZEROES)):
                    _write(self._image, start, memoryview(_ZEROES)[: offset + size - start])
            if self._sums is not None:
                try:
                    self._sums.clear(offset, size)
                except OSError as error:
                    if error.errno not in _NOT_SUPPORTED:
                        raise
                    self.write_sums(offset, integrity.checksums_of_zeroes(size))

    def mend(self, offset: int, data: Buffer, sums: bytes | None) -> None:
        """Write what a peer has right, and see whether it stays."""
        self.write(offset, data, sums)
        self.sync()
        if self.read(offset, len(data)) != data:
            raise LegFailed(Reason.IO_ERROR, f"{len(data)} bytes at {offset} do not keep what is written")

    def sync(self) -> None:
        """Everything written is on the medium on return."""
        with _as_leg_failure("syncing"):
            self._image.sync()
            if self._sums is not None:
                self._sums.sync()
            size = self._image.size()
        if size != self._size_bytes:
            raise LegFailed(Reason.SIZE_CHANGED, f"the file has {size} bytes, the disk {self._size_bytes}")

    def changed_ns(self) -> int:
        """When the image was changed last."""
        with _as_leg_failure("asking for the time of the last change"):
            return self._image.mtime_ns()

    def mark(self, masks: dict[int, int]) -> None:
        """Write sectors of the dirty bitmap; durable on return."""
        if self._sidecar is not None:
            with _as_leg_failure("marking regions"):
                self._sidecar.mark(masks)

    def record(self, superblock: Superblock, *, closing: bool = False) -> None:
        """Write what the disk is now; durable on return. ``closing`` also says that the leg is left in good order."""
        if self._sidecar is not None:
            with _as_leg_failure("recording the state of the disk"):
                self._sidecar.record(superblock, self._image.mtime_ns() if closing else None)

    def retire(self, masks: dict[int, int]) -> None:
        """Out of service: leave what it may lack, and the time of its last change, so that a later one is noticed."""
        with contextlib.suppress(LegFailed):
            if self._sidecar is not None:
                self.mark(masks)
                self.record(self._sidecar.slot.superblock, closing=True)
        self.close()

    def close(self) -> None:
        for file in (self._image, self._sums, self._sidecar):
            if file is not None:
                with contextlib.suppress(OSError):  # the data are synced, and a failed leg has nothing more to say
                    file.close()

    @staticmethod
    def _check(offset: int, data: Buffer, sums: Buffer | None) -> None:
        wrong = None if sums is None else integrity.first_wrong(data, sums)
        if wrong is not None:
            raise LegFailed(Reason.CHECKSUM, f"block at {offset + wrong}")


def _write(file: File, offset: int, data: Buffer) -> None:
    """A write may be cut short; the next one then says why."""
    rest = memoryview(data)
    while rest:
        written = file.write(offset, rest)
        if written == 0:
            raise _short_write(offset)
        offset += written
        rest = rest[written:]

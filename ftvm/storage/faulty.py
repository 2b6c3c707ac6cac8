"""A file that goes wrong on purpose: what fault injection, and the tests, put between a leg and its image."""

import errno
import os
import time
from enum import StrEnum
from pathlib import Path

import msgspec

from ftvm.storage.host import Buffer, File

SECTOR_BYTES = 512


class FaultModel(StrEnum):
    """What goes wrong."""

    BIT_ROT = "bit-rot"  # a bit changes on the medium, and nobody says so
    IO_ERROR = "io-error"  # reads, writes and syncs that touch the range fail
    FULL = "full"  # writes find no space
    SHORT = "short"  # a write takes nothing, and no error is given
    LOST = "lost-write"  # a write is reported as done, and is not
    TORN = "torn-write"  # only the first half of a write is done, in whole sectors
    MISDIRECTED = "misdirected-write"  # a write lands ``displacement`` bytes from where it belongs
    SLOW = "slow"  # everything takes ``seconds`` longer


class Fault(msgspec.Struct, frozen=True):
    """``offset`` and ``size`` say which bytes of the image are concerned; size 0: all. ``bit`` is that of the byte at
    ``offset`` for bit rot. ``count``: how often it happens, 0 for always."""

    model: FaultModel
    offset: int = 0
    size: int = 0
    count: int = 0
    bit: int = 0
    displacement: int = 0
    seconds: float = 0.0


class FaultyFile:
    """``file`` with one fault; wrap again for more."""

    def __init__(self, file: File, fault: Fault) -> None:
        self.path: Path = file.path
        self._file = file
        self._fault = fault
        self._left = fault.count or None
        if fault.model is FaultModel.BIT_ROT:
            byte = bytes(file.read(fault.offset, 1))
            file.write(fault.offset, bytes([byte[0] ^ 1 << fault.bit]))

    def size(self) -> int:
        return self._file.size()

    def mtime_ns(self) -> int:
        return self._file.mtime_ns()

    def read(self, offset: int, size: int) -> Buffer:
        self._slow_down()
        if self._strikes(offset, size, FaultModel.IO_ERROR):
            raise self._error(errno.EIO)
        return self._file.read(offset, size)

    def read_cached(self, offset: int, size: int) -> Buffer | None:
        quiet = self._fault.model is FaultModel.BIT_ROT
        return self._file.read_cached(offset, size) if quiet else None

    def write(self, offset: int, data: Buffer) -> int:
        self._slow_down()
        size = len(data)
        if self._strikes(offset, size, FaultModel.IO_ERROR):
            raise self._error(errno.EIO)
        if self._strikes(offset, size, FaultModel.FULL):
            raise self._error(errno.ENOSPC)
        if self._strikes(offset, size, FaultModel.SHORT):
            return 0
        if self._strikes(offset, size, FaultModel.LOST):
            return size
        if self._strikes(offset, size, FaultModel.TORN):
            self._file.write(offset, memoryview(data)[: size // 2 // SECTOR_BYTES * SECTOR_BYTES])
            return size
        if self._strikes(offset, size, FaultModel.MISDIRECTED):
            self._file.write(max(0, min(offset + self._fault.displacement, self.size() - size)), data)
            return size
        return self._file.write(offset, data)

    def descriptor(self) -> int | None:
        quiet = self._fault.model is FaultModel.BIT_ROT
        return self._file.descriptor() if quiet else None

    def zero(self, offset: int, size: int, *, punch: bool) -> None:
        self._slow_down()
        if self._strikes(offset, size, FaultModel.IO_ERROR):
            raise self._error(errno.EIO)
        if self._strikes(offset, size, FaultModel.LOST):
            return
        self._file.zero(offset, size, punch=punch)

    def sync(self) -> None:
        self._slow_down()
        if self._fault.size == 0 and self._strikes(0, 0, FaultModel.IO_ERROR):
            raise self._error(errno.EIO)
        self._file.sync()

    def next_data(self, offset: int) -> tuple[int, int] | None:
        return self._file.next_data(offset)

    def close(self) -> None:
        self._file.close()

    def _strikes(self, offset: int, size: int, model: FaultModel) -> bool:
        fault = self._fault
        if fault.model is not model:
            return False
        if fault.size and not (offset < fault.offset + fault.size and fault.offset < offset + size):
            return False
        if self._left is None:
            return True
        self._left -= 1
        return self._left >= 0

    def _slow_down(self) -> None:
        if self._fault.model is FaultModel.SLOW:
            time.sleep(self._fault.seconds)

    def _error(self, number: int) -> OSError:
        return OSError(number, os.strerror(number), str(self.path))

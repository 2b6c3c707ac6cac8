"""What this room asks of the host's files, behind interfaces: tests record them, fault injection wraps them."""

import ctypes
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Protocol

from ftvm.errors import UnusableFile

Buffer = bytes | bytearray | memoryview


class File(Protocol):
    """One open file. Every operation may raise OSError, as the host has it."""

    path: Path

    def size(self) -> int: ...

    def mtime_ns(self) -> int:
        """Time of the last change of the content."""
        ...

    def read(self, offset: int, size: int) -> Buffer:
        """Fewer than ``size`` bytes only at the end of the file."""
        ...

    def read_cached(self, offset: int, size: int) -> Buffer | None:
        """As ``read``, when it is done without waiting for a medium; else None."""
        ...

    def write(self, offset: int, data: Buffer) -> int:
        """How many bytes were written; fewer than all is possible."""
        ...

    def zero(self, offset: int, size: int, *, punch: bool) -> None:
        """Make a range read as zeroes without writing them; ``punch`` gives its space back to the host."""
        ...

    def descriptor(self) -> int | None:
        """Of a file on which pread(2) and pwrite(2) do what ``read`` and ``write`` do, until ``close``; else None."""
        ...

    def sync(self) -> None:
        """Return when everything written before is on the medium."""
        ...

    def next_data(self, offset: int) -> tuple[int, int] | None:
        """The next range (start, end) at or after ``offset`` that is not a hole."""
        ...

    def close(self) -> None:
        """Also gives the lock back. Harmless when it is closed already."""
        ...


class Access(Enum):
    """How a file is opened."""

    EXCLUSIVE = "to read and write; nobody else may use it"
    SHARED = "to read; nobody may write it"
    PEEK = "to read, whoever uses it"


class Host(Protocol):
    """A file system. Operations may raise OSError."""

    def open(self, path: Path, access: Access) -> File:
        """Raises FileNotFoundError, and InUse when the lock is somebody else's."""
        ...

    def create(self, path: Path, size: int) -> File:
        """A new file of zeroes, opened EXCLUSIVE. Raises FileExistsError."""
        ...

    def exists(self, path: Path) -> bool: ...

    def same(self, one: Path, other: Path) -> bool:
        """Whether two paths name one file."""
        ...

    def replace(self, source: Path, target: Path) -> None:
        """Rename; atomic."""
        ...

    def remove(self, path: Path) -> None: ...

    def sync_folder(self, path: Path) -> None:
        """Return when files created, renamed and removed in the folder of ``path`` are so on the medium."""
        ...


def beside(image: Path, suffix: str) -> Path:
    """The file that belongs to ``image``: beside that itself, whatever links lead there."""
    if image.is_symlink():
        image = image.resolve()
    return image.with_name(image.name + suffix)


def create_file(host: Host, path: Path, size: int, fill: Callable[[File], None] = lambda file: None) -> File:
    """A new file that ``fill`` has written to, in place of one that may be there: whole or not at all, whatever
    happens. Durable on return."""
    temporary = path.with_name(path.name + ".new")
    if host.exists(temporary):
        host.remove(temporary)
    file = host.create(temporary, size)
    try:
        fill(file)
        file.sync()
        host.replace(temporary, path)
        host.sync_folder(path)
    except BaseException:
        file.close()
        raise
    file.path = path
    return file


class InUse(UnusableFile):
    """Another process works with the file."""


# linux/falloc.h
_KEEP_SIZE = 0x01
_PUNCH_HOLE = 0x02
_ZERO_RANGE = 0x10


def _load_fallocate() -> Callable[[int, int, int, int], int]:
    """fallocate(2), which Python offers without its modes."""
    function = ctypes.CDLL(None, use_errno=True).fallocate64
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    function.restype = ctypes.c_int
    call: Callable[[int, int, int, int], int] = function
    return call


_fallocate = _load_fallocate()


class LocalFile:
    """A regular file of this host."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self._nowait = True

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def mtime_ns(self) -> int:
        return os.fstat(self._fd).st_mtime_ns

    def read(self, offset: int, size: int) -> Buffer:
        data = os.pread(self._fd, size, offset)
        if len(data) == size or not data:
            return data
        parts = [data]
        got = len(data)
        while got < size and (data := os.pread(self._fd, size - got, offset + got)):
            parts.append(data)
            got += len(data)
        return b"".join(parts)

    def read_cached(self, offset: int, size: int) -> Buffer | None:
        if not self._nowait:
            return None
        data = bytearray(size)
        try:
            got = os.preadv(self._fd, [data], offset, os.RWF_NOWAIT)
        except OSError as error:
            self._nowait = error.errno == errno.EAGAIN  # what else it says, `read` will say too
            return None
        return data if got == size else None

    def write(self, offset: int, data: Buffer) -> int:
        return os.pwrite(self._fd, data, offset)

    def descriptor(self) -> int | None:
        return self._fd

    def zero(self, offset: int, size: int, *, punch: bool) -> None:
        mode = _KEEP_SIZE | (_PUNCH_HOLE if punch else _ZERO_RANGE)
        if _fallocate(self._fd, mode, offset, size) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(self.path))

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def next_data(self, offset: int) -> tuple[int, int] | None:
        try:
            start = os.lseek(self._fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return None
            raise
        return start, os.lseek(self._fd, start, os.SEEK_HOLE)

    def close(self) -> None:
        # Once only: the number may be another file's by now.
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class LocalHost:
    """The files of this host.

    Locks are open file description locks (fcntl(2), F_OFD_SETLK) on the whole file: QEMU takes the same kind, so it
    refuses a leg that ftvm has open, and ftvm refuses a leg that QEMU has open.
    """

    def open(self, path: Path, access: Access) -> File:
        flags = os.O_RDWR if access is Access.EXCLUSIVE else os.O_RDONLY
        # A FIFO must be refused, and not waited for.
        return self._locked(path, os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK), access)

    def create(self, path: Path, size: int) -> File:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        file = self._locked(path, fd, Access.EXCLUSIVE)
        os.ftruncate(fd, size)
        return file

    def exists(self, path: Path) -> bool:
        return path.exists()

    def same(self, one: Path, other: Path) -> bool:
        return one.exists() and other.exists() and one.samefile(other)

    def replace(self, source: Path, target: Path) -> None:
        source.replace(target)

    def remove(self, path: Path) -> None:
        path.unlink()

    def sync_folder(self, path: Path) -> None:
        fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    @staticmethod
    def _locked(path: Path, fd: int, access: Access) -> File:
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise UnusableFile(f"{path} is not a regular file", "a leg of a disk is a raw image file")
            if access is not Access.PEEK:
                kind = fcntl.F_WRLCK if access is Access.EXCLUSIVE else fcntl.F_RDLCK
                # struct flock: type, whence, start, length (0: to the end, however far), pid (0 for this kind)
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0))
        except OSError as error:
            os.close(fd)
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise InUse(f"{path} is in use by another process", "end the other ftvm or QEMU first") from None
            raise
        except UnusableFile:
            os.close(fd)
            raise
        return LocalFile(path, fd)

"""A machine at rest, in a file: its verified state, and the input that was on its way into it.

docs/save-format.md describes the format. A file is written beside its target and then renamed, so that what has the
name of a saved machine is a complete one; on loading, all of it is checked before any of it is believed.
"""

import contextlib
import os
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
import xxhash

import ftvm
from ftvm.errors import HostError, UnusableFile
from ftvm.memory_map import MAX_RAM_BYTES, MIN_RAM_BYTES
from ftvm.module import events
from ftvm.module.board import BoardConfig, unplugged
from ftvm.module.link import BOARD_BYTES, COMMAND_BYTES, Snapshot
from ftvm.module.registers import ARCH_BYTES
from ftvm.monitor.build_id import build_id
from ftvm.monitor.image import VerifiedImage
from ftvm.units import MIB, PAGE_BYTES

MAGIC = b"FTVMSAVE"
VERSION = 1

HEAD = struct.Struct("<8sII")
"""Magic, version, bytes of the header that follows."""
RUN = struct.Struct("<QQ")
"""First page, pages. A run of no pages ends the memory."""
DIGEST_BYTES = 16

MAX_HEADER_BYTES = 128 * MIB
"""Chips and input: what was read from disks and is on its way into memory is part of it (FLIGHT_BYTES in block.py)."""
PIECE_BYTES = MIB
"""Of memory, read or written at a time."""

_UNDECODABLE = (msgspec.DecodeError, ValueError, RecursionError)
_WRITABLE = "give the name of a file that can be written"


class MachineState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A machine at a sync point, without its RAM.

    ``guest`` says for people what it runs. ``inputs`` (encoded events) were given to the modules at this position in an
    epoch that was never committed; ``typed`` was offered to the console and is to follow them; then the devices
    ``kicked`` are to be served.
    """

    guest: str
    board: BoardConfig
    snapshot: Snapshot
    inputs: bytes = b""
    typed: bytes = b""
    kicked: list[str] = []


class _Header(msgspec.Struct, frozen=True):
    """What is needed to tell whether the rest can be understood."""

    ftvm: Annotated[str, msgspec.Meta(max_length=64)]
    build: Annotated[str, msgspec.Meta(max_length=64)]
    machine: msgspec.Raw


@dataclass(frozen=True)
class SavedMachine:
    """A file that was found sound. ``digest`` identifies its contents."""

    path: Path
    state: MachineState
    digest: bytes

    def fill(self, image: VerifiedImage) -> None:
        """Put the machine's RAM into ``image``, which is all zero. Raises UnusableFile if the file has changed."""
        if _read(self.path, image.put_pages).digest != self.digest:
            raise UnusableFile(f"{self.path} was written to while the machine started", "try again")


# ---- writing ----


def check_target(path: Path) -> Path:
    """The file that is going to be written under this name. Raises HostError where there can be none."""
    try:
        target = Path(os.path.realpath(path))
        if os.path.exists(target) and not os.path.isfile(target):
            raise HostError(f"{path} is no regular file", _WRITABLE)
        if not os.access(target.parent, os.W_OK | os.X_OK):
            raise HostError(f"{path} cannot be written: its folder is not there, or not for us to write", _WRITABLE)
    except ValueError:  # a NUL, or what the file system's encoding cannot express
        raise HostError(f"{str(path)!r} cannot be the name of a file", _WRITABLE) from None
    return target


def save(path: Path, state: MachineState, image: VerifiedImage) -> None:
    """Write a machine whose verified state is in ``image``. Raises HostError, and leaves nothing behind then."""
    target = check_target(path)
    machine = msgspec.Raw(msgspec.msgpack.encode(state))
    header = msgspec.msgpack.encode(_Header(ftvm.__version__, build_id(), machine))
    if len(header) > MAX_HEADER_BYTES:
        raise HostError(f"{path}: too much input waits for the guest, {len(header)} bytes")
    try:
        with contextlib.ExitStack() as on_failure:
            # Only its owner may read it: a guest's memory holds secrets.
            fd, temporary = tempfile.mkstemp(prefix=".ftvm-save-", dir=target.parent)
            on_failure.callback(os.unlink, temporary)
            with open(fd, "wb") as file:
                _write(file, header, image)
                file.flush()
                os.fsync(fd)
            os.replace(temporary, target)
            on_failure.pop_all()
        _sync_folder(target.parent)
    except OSError as error:
        raise HostError(f"{path} cannot be written: {error.strerror}", _WRITABLE) from None


def _write(file: BinaryIO, header: bytes, image: VerifiedImage) -> None:
    digest = xxhash.xxh3_128()

    def put(data: bytes | memoryview) -> None:
        digest.update(data)
        file.write(data)

    put(HEAD.pack(MAGIC, VERSION, len(header)))
    put(header)
    with memoryview(image.ram) as ram:
        for page, count in image.contents():
            put(RUN.pack(page, count))
            end = (page + count) * PAGE_BYTES
            for offset in range(page * PAGE_BYTES, end, PIECE_BYTES):
                with ram[offset : min(offset + PIECE_BYTES, end)] as piece:
                    put(piece)
    put(RUN.pack(image.ram_bytes // PAGE_BYTES, 0))
    file.write(digest.digest())


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# ---- reading ----


def load(path: Path) -> SavedMachine:
    """The machine that was saved to ``path``. Raises UnusableFile unless this build can go on with all of it."""
    return _read(path, lambda page, data: None)


def _read(path: Path, put_pages: Callable[[int, bytes], None]) -> SavedMachine:
    """Check a file from its beginning to its end; meanwhile, hand on (first page, memory) in pieces."""
    try:
        # Not blocking: the name may be that of a pipe.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            return _Reader(path, file).machine(put_pages)
    except OSError as error:
        raise UnusableFile(f"{path} cannot be read: {error.strerror}", "give a file that 'ftvm' saved") from None


class _Reader:
    """Reads a file piece by piece; nothing is taken that does not lie inside it."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._digest = xxhash.xxh3_128()
        self._left = os.fstat(file.fileno()).st_size - DIGEST_BYTES

    def machine(self, put_pages: Callable[[int, bytes], None]) -> SavedMachine:
        state = self._header()
        self._memory(state.board.ram_bytes // PAGE_BYTES, put_pages)
        digest = self._digest.digest()
        if self._left != 0 or self._file.read(DIGEST_BYTES) != digest:
            raise self._damaged()
        return SavedMachine(self._path, state, digest)

    def _header(self) -> MachineState:
        if self._left < HEAD.size:
            raise self._foreign()
        magic, version, header_bytes = HEAD.unpack(self._take(HEAD.size))
        if magic != MAGIC:
            raise self._foreign()
        if version != VERSION:
            raise UnusableFile(
                f"{self._path} is a saved machine of format {version}, not {VERSION}",
                "resume it with the ftvm that saved it",
            )
        if header_bytes > MAX_HEADER_BYTES:
            raise self._damaged()
        try:
            header = msgspec.msgpack.decode(self._take(header_bytes), type=_Header)
        except _UNDECODABLE:
            raise self._damaged() from None
        if header.build != build_id():
            raise UnusableFile(
                f"{self._path} was saved by ftvm {header.ftvm!r} build {header.build!r},"
                f" this is {ftvm.__version__!r} build {build_id()!r}",
                "resume it with the ftvm that saved it",
            )
        try:
            state = msgspec.msgpack.decode(header.machine, type=MachineState)
            board = unplugged(state.board)
            board.load(state.snapshot.board)
            board.check(events.decode_inputs(state.inputs or events.encode([])))
        except (*_UNDECODABLE, LookupError, ArithmeticError):
            raise self._damaged() from None
        ram_bytes = state.board.ram_bytes
        if not MIN_RAM_BYTES <= ram_bytes <= MAX_RAM_BYTES or ram_bytes % PAGE_BYTES:
            raise self._damaged()
        if len(state.snapshot.arch) != ARCH_BYTES or len(state.snapshot.board) > BOARD_BYTES:
            raise self._damaged()
        if len(state.inputs) > COMMAND_BYTES:
            raise self._damaged()
        return state

    def _memory(self, pages: int, put_pages: Callable[[int, bytes], None]) -> None:
        at = 0
        while True:
            page, count = RUN.unpack(self._take(RUN.size))
            if not at <= page <= pages or count > pages - page or (count == 0) != (page == pages):
                raise self._damaged()
            if count == 0:
                return
            at = page + count
            while page < at:
                data = self._take(min(PIECE_BYTES, (at - page) * PAGE_BYTES))
                put_pages(page, data)
                page += len(data) // PAGE_BYTES

    def _take(self, size: int) -> bytes:
        if size > self._left:
            raise self._damaged()
        data = self._file.read(size)
        if len(data) != size:
            raise self._damaged()
        self._left -= size
        self._digest.update(data)
        return data

    def _foreign(self) -> UnusableFile:
        return UnusableFile(f"{self._path} is not a saved machine", "give a file that 'ftvm run' or 'ftvm ctl' saved")

    def _damaged(self) -> UnusableFile:
        return UnusableFile(f"{self._path} is damaged: it was truncated or altered", "only an intact file can be used")

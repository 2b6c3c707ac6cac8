"""A machine at rest, in a file: its verified state, and the input that was on its way into it.

docs/save-format.md describes the format. A file is written beside its target and then renamed, so that what has the
name of a saved machine is a complete one; on loading, all of it is checked before any of it is believed.
"""

import contextlib
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
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
from ftvm.storage.stamp import LegStamp
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

UNDECODABLE = (msgspec.DecodeError, ValueError, RecursionError)
_WRITABLE = "give the name of a file that can be written"


class MachineState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A machine at a sync point, without its RAM.

    ``guest`` says for people what it runs. ``inputs`` (encoded events) were given to the modules at this position in an
    epoch that was never committed; ``typed`` was offered to the console and is to follow them; then the devices
    ``kicked`` are to be served. ``disks``: by bay, the legs that were in sync.
    """

    guest: str
    board: BoardConfig
    snapshot: Snapshot
    inputs: bytes = b""
    typed: bytes = b""
    kicked: list[str] = []
    disks: list[list[LegStamp]] = []


class _Header(msgspec.Struct, frozen=True):
    """What is needed to tell whether the rest can be understood."""

    ftvm: Annotated[str, msgspec.Meta(max_length=64)]
    build: Annotated[str, msgspec.Meta(max_length=64)]
    machine: msgspec.Raw


class SavedMachine(msgspec.Struct, frozen=True):
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
    header = encoded_header(state)
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


def encoded_header(state: MachineState) -> bytes:
    """What follows the head of a file."""
    machine = msgspec.Raw(msgspec.msgpack.encode(state))
    return msgspec.msgpack.encode(_Header(ftvm.__version__, build_id(), machine))


def _write(file: BinaryIO, header: bytes, image: VerifiedImage) -> None:
    digest = xxhash.xxh3_128()

    def put(data: bytes | memoryview) -> None:
        digest.update(data)
        file.write(data)

    put(HEAD.pack(MAGIC, VERSION, len(header)))
    put(header)
    put_memory(put, image)
    file.write(digest.digest())


def put_memory(put: Callable[[bytes | memoryview], None], image: VerifiedImage) -> None:
    """The RAM of a machine, in pieces."""
    with memoryview(image.ram) as ram:
        for page, count in image.contents():
            put(RUN.pack(page, count))
            end = (page + count) * PAGE_BYTES
            for offset in range(page * PAGE_BYTES, end, PIECE_BYTES):
                with ram[offset : min(offset + PIECE_BYTES, end)] as piece:
                    put(piece)
    put(RUN.pack(image.ram_bytes // PAGE_BYTES, 0))


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
    with opened(path, SAVED) as reader:
        state = reader.machine(put_pages)
        digest = reader.digest()
        if reader.left:
            raise reader.damaged()
        return SavedMachine(path, state, digest)


class FileKind(msgspec.Struct, frozen=True):
    """Of files that begin with a machine. For people: what it is, what to give, what to do with it."""

    magic: bytes
    version: int
    noun: str
    maker: str
    use: str


SAVED = FileKind(MAGIC, VERSION, "saved machine", "give a file that 'ftvm run' or 'ftvm ctl' saved", "resume")


@contextlib.contextmanager
def opened(path: Path, kind: FileKind) -> Iterator["Reader"]:
    """Raises UnusableFile for a file that cannot be read, now or while it is."""
    try:
        # Not blocking: the name may be that of a pipe.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            yield Reader(path, file, kind)
    except OSError as error:
        raise UnusableFile(f"{path} cannot be read: {error.strerror}", kind.maker) from None


class Reader:
    """Reads a file piece by piece; nothing is taken that does not lie inside it. Raises UnusableFile."""

    def __init__(self, path: Path, file: BinaryIO, kind: FileKind) -> None:
        self._path = path
        self._file = file
        self._kind = kind
        self._digest = xxhash.xxh3_128()
        self.left = os.fstat(file.fileno()).st_size
        """Bytes that were not taken yet."""

    def machine(self, put_pages: Callable[[int, bytes], None]) -> MachineState:
        """What a file begins with. What is handed on is to be believed when the ``digest`` was taken."""
        state = self._header()
        self._memory(state.board.ram_bytes // PAGE_BYTES, put_pages)
        return state

    def digest(self) -> bytes:
        """Take a checksum, which must be that of everything before."""
        expected = self._digest.digest()
        if self.take(DIGEST_BYTES) != expected:
            raise self.damaged()
        return expected

    def _header(self) -> MachineState:
        kind = self._kind
        if self.left < HEAD.size:
            raise self._foreign()
        magic, version, header_bytes = HEAD.unpack(self.take(HEAD.size))
        if magic != kind.magic:
            raise self._foreign()
        if version != kind.version:
            raise UnusableFile(
                f"{self._path} is a {kind.noun} of format {version}, not {kind.version}",
                f"{kind.use} it with the ftvm that wrote it",
            )
        if header_bytes > MAX_HEADER_BYTES:
            raise self.damaged()
        try:
            header = msgspec.msgpack.decode(self.take(header_bytes), type=_Header)
        except UNDECODABLE:
            raise self.damaged() from None
        if header.build != build_id():
            raise UnusableFile(
                f"{self._path} was written by ftvm {header.ftvm!r} build {header.build!r},"
                f" this is {ftvm.__version__!r} build {build_id()!r}",
                f"{kind.use} it with the ftvm that wrote it",
            )
        try:
            state = msgspec.msgpack.decode(header.machine, type=MachineState)
            board = unplugged(state.board)
            board.load(state.snapshot.board)
            board.check(events.decode_inputs(state.inputs or events.encode([])))
        except (*UNDECODABLE, LookupError, ArithmeticError):
            raise self.damaged() from None
        ram_bytes = state.board.ram_bytes
        if not MIN_RAM_BYTES <= ram_bytes <= MAX_RAM_BYTES or ram_bytes % PAGE_BYTES:
            raise self.damaged()
        if len(state.snapshot.arch) != ARCH_BYTES or len(state.snapshot.board) > BOARD_BYTES:
            raise self.damaged()
        if len(state.inputs) > COMMAND_BYTES:
            raise self.damaged()
        return state

    def _memory(self, pages: int, put_pages: Callable[[int, bytes], None]) -> None:
        at = 0
        while True:
            page, count = RUN.unpack(self.take(RUN.size))
            if not at <= page <= pages or count > pages - page or (count == 0) != (page == pages):
                raise self.damaged()
            if count == 0:
                return
            at = page + count
            while page < at:
                data = self.take(min(PIECE_BYTES, (at - page) * PAGE_BYTES))
                put_pages(page, data)
                page += len(data) // PAGE_BYTES

    def take(self, size: int) -> bytes:
        """The next bytes."""
        if size > self.left:
            raise self.damaged()
        data = self._file.read(size)
        if len(data) != size:
            raise self.damaged()
        self.left -= size
        self._digest.update(data)
        return data

    def _foreign(self) -> UnusableFile:
        return UnusableFile(f"{self._path} is not a {self._kind.noun}", self._kind.maker)

    def damaged(self) -> UnusableFile:
        """What to raise for a file that is not what was written."""
        return UnusableFile(f"{self._path} is damaged: it was truncated or altered", "only an intact file can be used")

"""A host whose files are in memory and whose every operation is recorded, and workers that a test drives step by step.

The model of a medium after a power loss: what was synced is there; of what was written since, each sector of 512 bytes
of each file holds any of the versions it has had, independently of all others. Changes of a folder survive in order.
"""

import errno
import itertools
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ftvm.storage.host import Access, Buffer, File, InUse
from ftvm.storage.opening import Surroundings
from ftvm.storage.worker import Job, perform

SECTOR = 512

_NUMBERS = itertools.count(1)
"""Identities never repeat, not even after a power loss."""


@dataclass(eq=False)
class Inode:
    content: bytearray
    mtime_ns: int = 0
    locked: bool = False


@dataclass(frozen=True)
class Written:
    inode: Inode
    offset: int
    data: bytes
    mtime_ns: int


@dataclass(frozen=True)
class Synced:
    inode: Inode


@dataclass(frozen=True)
class FolderChanged:
    """``inode`` is None for a file that is no longer there."""

    path: Path
    inode: Inode | None


@dataclass(frozen=True)
class FolderSynced:
    pass


@dataclass(frozen=True)
class Note:
    """Something that the test did or saw at this point."""

    what: str
    number: int


Operation = Written | Synced | FolderChanged | FolderSynced | Note


class SimulatedFile:
    def __init__(self, host: "SimulatedHost", path: Path, inode: Inode, access: Access) -> None:
        self.path = path
        self._host = host
        self._inode = inode
        self._exclusive = access is Access.EXCLUSIVE
        self._open = True

    def size(self) -> int:
        return len(self._inode.content)

    def mtime_ns(self) -> int:
        return self._inode.mtime_ns

    def read(self, offset: int, size: int) -> Buffer:
        self._host.meet_fault(self.path)
        return bytes(self._inode.content[offset : offset + size])

    def read_cached(self, offset: int, size: int) -> Buffer | None:
        cached = self.path not in self._host.broken and self._host.random.random() < 0.5
        return self.read(offset, size) if cached else None

    def write(self, offset: int, data: Buffer) -> int:
        self._host.meet_fault(self.path)
        assert self._open and self._exclusive
        assert offset + len(data) <= len(self._inode.content), "a write beyond the end"
        self._host.clock += 1
        self._inode.content[offset : offset + len(data)] = data
        self._inode.mtime_ns = self._host.clock
        self._host.log.append(Written(self._inode, offset, bytes(data), self._host.clock))
        return len(data)

    def descriptor(self) -> None:
        return None

    def zero(self, offset: int, size: int, *, punch: bool) -> None:
        self.write(offset, bytes(size))

    def sync(self) -> None:
        self._host.meet_fault(self.path)
        self._host.log.append(Synced(self._inode))

    def next_data(self, offset: int) -> tuple[int, int] | None:
        return (offset, self.size()) if offset < self.size() else None

    def close(self) -> None:
        if self._open and self._exclusive:
            self._inode.locked = False
        self._open = False


class SimulatedHost:
    """``broken`` files answer with an I/O error. ``log`` has everything that reached a file, in order."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.files: dict[Path, Inode] = {}
        self.broken: set[Path] = set()
        self.log: list[Operation] = []
        self.clock = 1

    def meet_fault(self, path: Path) -> None:
        if path in self.broken:
            raise OSError(errno.EIO, "simulated", str(path))

    def open(self, path: Path, access: Access) -> File:
        inode = self.files.get(path)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        if access is not Access.PEEK:
            if inode.locked:
                raise InUse(f"{path} is in use")
            inode.locked = access is Access.EXCLUSIVE
        return SimulatedFile(self, path, inode, access)

    def create(self, path: Path, size: int) -> File:
        assert path not in self.files
        inode = Inode(bytearray(size), mtime_ns=self.clock, locked=True)
        self._change(path, inode)
        return SimulatedFile(self, path, inode, Access.EXCLUSIVE)

    def exists(self, path: Path) -> bool:
        return path in self.files

    def same(self, one: Path, other: Path) -> bool:
        return one in self.files and self.files[one] is self.files.get(other)

    def replace(self, source: Path, target: Path) -> None:
        inode = self.files[source]
        # One change of the folder, and atomic: the old name goes with it.
        self._change(target, inode)
        self._change(source, None)

    def remove(self, path: Path) -> None:
        self._change(path, None)

    def sync_folder(self, path: Path) -> None:
        self.log.append(FolderSynced())

    def _change(self, path: Path, inode: Inode | None) -> None:
        if inode is None:
            del self.files[path]
        else:
            self.files[path] = inode
        self.log.append(FolderChanged(path, inode))

    def start(self) -> "Start":
        """What the files hold now, taken for what is on the medium: right after a power loss it is."""
        return Start(
            dict(self.files),
            {inode: bytes(inode.content) for inode in self.files.values()},
            {inode: inode.mtime_ns for inode in self.files.values()},
        )

    def note(self, what: str, number: int = 0) -> None:
        self.log.append(Note(what, number))


@dataclass(frozen=True)
class Start:
    """The medium before the first operation of a log."""

    files: dict[Path, Inode]
    contents: dict[Inode, bytes]
    mtimes: dict[Inode, int]


def after_power_loss(start: Start, log: list[Operation], seed: int) -> SimulatedHost:
    """A host that finds on its medium what may be left after exactly these operations."""
    host = SimulatedHost(seed)
    durable: dict[Inode, bytearray] = {inode: bytearray(start.contents[inode]) for inode in start.files.values()}
    mtimes = dict(start.mtimes)
    pending: dict[Inode, list[Written]] = {}
    folder = dict(start.files)
    folder_pending: list[FolderChanged] = []
    for operation in log:
        match operation:
            case Written(inode=inode):
                pending.setdefault(inode, []).append(operation)
                mtimes[inode] = operation.mtime_ns
            case Synced(inode=inode):
                for written in pending.pop(inode, []):
                    durable[inode][written.offset : written.offset + len(written.data)] = written.data
            case FolderChanged(inode=inode):
                folder_pending.append(operation)
                if inode is not None:
                    durable.setdefault(inode, bytearray(len(inode.content)))
            case FolderSynced():
                _apply(folder, folder_pending)
                folder_pending = []
    _apply(folder, folder_pending[: host.random.randint(0, len(folder_pending))])
    for inode, writes in pending.items():
        _tear(durable[inode], writes, host.random)
    for path, inode in folder.items():
        host.files[path] = Inode(durable[inode], mtimes.setdefault(inode, 0))
    host.clock = max(mtimes.values(), default=0) + 1
    return host


def _apply(folder: dict[Path, Inode], changes: list[FolderChanged]) -> None:
    for change in changes:
        if change.inode is None:
            folder.pop(change.path, None)
        else:
            folder[change.path] = change.inode


def _tear(content: bytearray, writes: list[Written], chance: random.Random) -> None:
    """Each sector that was written gets one of its versions; the last one or none of them more often than by chance."""
    versions: dict[int, list[bytes]] = {}
    for written in writes:
        end = written.offset + len(written.data)
        for sector in range(written.offset // SECTOR, -(-end // SECTOR)):
            start, stop = sector * SECTOR, (sector + 1) * SECTOR
            had = versions.setdefault(sector, [bytes(content[start:stop])])
            version = bytearray(had[-1])
            first, last = max(start, written.offset), min(stop, end)
            version[first - start : last - start] = written.data[first - written.offset : last - written.offset]
            had.append(bytes(version))
    mood = chance.choice(["nothing", "everything", "anything"])
    for sector, had in versions.items():
        kept = {"nothing": had[0], "everything": had[-1], "anything": chance.choice(had)}[mood]
        content[sector * SECTOR : sector * SECTOR + len(kept)] = kept


@dataclass(eq=False)
class StepWorker:
    """Does a job when the test says so."""

    done: Callable[[Job], None]
    queue: None = None
    jobs: deque[Job] = field(default_factory=deque)
    last: Callable[[], None] | None = None
    over: bool = False

    def post(self, job: Job) -> None:
        assert self.last is None
        self.jobs.append(job)

    def abandon(self, last: Callable[[], None]) -> None:
        self.last = last
        # What it is doing goes on; what it has not begun never begins.
        while len(self.jobs) > 1:
            self.jobs.pop()

    def join(self, timeout_s: float | None) -> None:
        while not self.over:
            self.step()

    def idle(self) -> bool:
        return not self.jobs and (self.last is None or self.over)

    def step(self) -> None:
        if self.jobs:
            job = self.jobs.popleft()
            perform(job)
            self.done(job)
        elif self.last is not None:
            self.over = True
            self.last()


class Stage:
    """A simulated host with everything a disk needs around it."""

    def __init__(self, host: SimulatedHost) -> None:
        self.host = host
        self.workers: list[StepWorker] = []
        self.hanging: set[StepWorker] = set()
        self.now_s = 0.0
        self.surroundings = Surroundings(
            host=host,
            start_worker=self._start_worker,
            sleep=self._sleep,
            clock=lambda: self.now_s,
            random_bytes=lambda size: next(_NUMBERS).to_bytes(size, "big"),
        )

    def step(self) -> bool:
        """Let one worker that can do something do it; False when none can."""
        ready = [worker for worker in self.workers if not worker.idle() and worker not in self.hanging]
        if not ready:
            return False
        self.host.random.choice(ready).step()
        self.workers = [worker for worker in self.workers if not worker.over]
        return True

    def _start_worker(self, done: Callable[[Job], None]) -> StepWorker:
        worker = StepWorker(done)
        self.workers.append(worker)
        return worker

    def _sleep(self, timeout_s: float | None) -> None:
        if not self.step():
            assert timeout_s is not None, "everybody waits, and nobody works"
            self.now_s += timeout_s + 0.001

"""Disks on real files, for tests."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from ftvm.storage import admin
from ftvm.storage.blocking import BlockingDisk
from ftvm.storage.events import Event
from ftvm.storage.host import Access, Buffer, File, Host, LocalHost
from ftvm.storage.opening import Surroundings, open_disk
from ftvm.storage.regions import REGION_BYTES
from ftvm.units import MIB

SIZE = 4 * MIB


def legs_in(folder: Path, count: int = 2) -> list[Path]:
    return [folder / f"{name}.img" for name in "abc"[:count]]


def make(folder: Path, count: int = 2, *, integrity: bool = False, size: int = SIZE) -> list[Path]:
    paths = legs_in(folder, count)
    admin.create(paths, size, with_integrity=integrity)
    return paths


class TestedDisk(BlockingDisk):
    """Keeps the events."""

    __test__ = False

    def __init__(self, paths: list[Path], surroundings: Surroundings) -> None:
        self.events: list[Event] = []
        super().__init__(open_disk(paths, self.events.append, surroundings=surroundings))

    def states(self) -> list[str]:
        return [leg.state.value for leg in self.mirror.status().legs]


@contextmanager
def opened(
    paths: list[Path], *, host: Host | None = None, clock: Callable[[], float] = time.monotonic
) -> Iterator[TestedDisk]:
    disk = TestedDisk(paths, Surroundings(host=host or LocalHost(), clock=clock))
    try:
        yield disk
    finally:
        disk.close()


class FakeClock:
    """Time passes when a test says so."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Gate:
    """While it is closed, operations on the files behind it wait; ``met`` is set when one does."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self.met = threading.Event()

    def shut(self) -> None:
        self.met.clear()
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def pass_through(self) -> None:
        if not self._open.is_set():
            self.met.set()
            self._open.wait()


class GatedFile:
    """An image file that can be made to hang, as one on a server that does not answer."""

    def __init__(self, file: File, gate: Gate, direct: bool) -> None:
        self.path = file.path
        self._file = file
        self._gate = gate
        self._direct = direct

    def read_cached(self, offset: int, size: int) -> Buffer | None:
        return None

    def read(self, offset: int, size: int) -> Buffer:
        self._gate.pass_through()
        return self._file.read(offset, size)

    def write(self, offset: int, data: Buffer) -> int:
        self._gate.pass_through()
        return self._file.write(offset, data)

    def descriptor(self) -> int | None:
        return self._file.descriptor() if self._direct else None

    def sync(self) -> None:
        self._gate.pass_through()
        self._file.sync()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class GatedHost(LocalHost):
    """Images at ``paths`` are behind ``gate``; ``direct``: but for writes that need no job."""

    def __init__(self, paths: list[Path], *, direct: bool = False) -> None:
        self.gate = Gate()
        self._paths = paths
        self._direct = direct

    def open(self, path: Path, access: Access) -> File:
        file = super().open(path, access)
        return cast(File, GatedFile(file, self.gate, self._direct)) if path in self._paths else file


def pattern(number: int, size: int = REGION_BYTES) -> bytes:
    return number.to_bytes(8, "little") * (size // 8)


def images_equal(paths: list[Path]) -> bool:
    return len({path.read_bytes() for path in paths}) == 1

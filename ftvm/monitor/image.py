"""The verified state: the newest state that all modules agreed on, and the only one that may reach the outside.

Its memory is private to the monitor. No module can map it, so no module can damage it.
"""

import contextlib
import mmap
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec
import xxhash

from ftvm._native import ffi, lib
from ftvm.errors import HostError
from ftvm.memory_map import ram_offset
from ftvm.module.agenda import without_faults
from ftvm.module.link import Report, Snapshot
from ftvm.module.registers import register
from ftvm.units import NS_PER_BLOCK, PAGE_BYTES, format_size

_POSITION, _SKIPPED = register("position"), register("skipped_ns")

MAX_MEMORIES = 32
"""That can be compared at once."""

MAX_RUNS = 64
"""Differing runs of bytes that a comparison names; the pages are all counted."""


class WrittenMemory(msgspec.Struct, frozen=True):
    """One module's memory at a sync point: a cffi pointer to its RAM, and its dirty log (page numbers)."""

    ram: Any
    pages: Any
    count: int

    def read(self, offset: int, size: int) -> bytes:
        """What the module's RAM holds now."""
        return bytes(ffi.buffer(self.ram + offset, size))

    def listed(self) -> list[int]:
        """The dirty log; a module may put anything there."""
        return list(self.pages[0 : self.count])


class ByteRun(msgspec.Struct, frozen=True):
    """``size`` bytes from ``offset`` in RAM, in which the modules of ``modules`` (indices) differ from the first."""

    offset: int
    size: int
    modules: tuple[int, ...]


class BadDirtyLog(Exception):
    """A dirty log names a page that does not exist: the module in ``args[0]`` is faulty."""


class PageList:
    """Numbers of pages, ascending: a cffi pointer (``uint32_t *``) and how many there are."""

    def __init__(self, pages: Any, count: int) -> None:
        self.pages = pages
        self.count = count

    @classmethod
    def of(cls, numbers: Iterable[int]) -> "PageList":
        ordered = sorted(set(numbers))
        return cls(ffi.new("uint32_t[]", ordered), len(ordered))

    def __iter__(self) -> Iterator[int]:
        return iter(self.pages[0 : self.count])

    def encode(self) -> bytes:
        """As ``uint32_t`` in native order."""
        return bytes(ffi.buffer(self.pages, 4 * self.count))


class KeptMemory:
    """What the image held once. Its memory is shared with other states, and is given back when nobody holds this."""

    def __init__(self, owner: "VerifiedImage", number: int, drop: Callable[[int], None]) -> None:
        self.owner = owner
        self.number = number
        weakref.finalize(self, drop, number).atexit = False


class _Snapshots:
    """The native keeper of earlier states, which outlives no image."""

    def __init__(self, image: Any, ram_bytes: int, changed: Any) -> None:
        self._store: Any = lib.ft_snapshots_open(image, ram_bytes, changed)
        if self._store == ffi.NULL:
            raise HostError("no memory for checkpoints")
        self._pages = ffi.new("uint32_t[]", ram_bytes // PAGE_BYTES)

    def keep(self) -> int:
        number = int(lib.ft_snapshots_keep(self._store))
        if number < 0:
            raise HostError("no memory for another checkpoint", "keep fewer of them")
        return number

    def restore(self, number: int) -> PageList:
        count = int(lib.ft_snapshots_restore(self._store, number, self._pages))
        return PageList(self._pages, count)  # valid until the next call

    def holds(self, number: int) -> bool:
        return bool(lib.ft_snapshots_holds(self._store, number))

    def drop(self, number: int) -> None:
        if self._store is not None:
            lib.ft_snapshots_drop(self._store, number)

    def bytes_used(self) -> int:
        return int(lib.ft_snapshots_bytes(self._store))

    def close(self) -> None:
        lib.ft_snapshots_close(self._store)
        self._store = None


def _close(voter: Any, snapshots: list[_Snapshots]) -> None:
    for each in snapshots:
        each.close()
    lib.ft_voter_close(voter)


class VerifiedImage:
    """RAM, architectural state and chips as of the last commit; ``position`` is where that was."""

    def __init__(self, ram_bytes: int, threads: int) -> None:
        try:
            self.ram = mmap.mmap(-1, ram_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise HostError(
                f"no address space for {format_size(ram_bytes)} of guest memory: {error.strerror}"
            ) from error
        with contextlib.suppress(OSError):  # a kernel without huge pages only makes first touches dearer
            self.ram.madvise(mmap.MADV_HUGEPAGE)
        self.ram_bytes = ram_bytes
        self.arch = b""
        self.board = b""
        self.position = 0
        self._address = ffi.from_buffer(self.ram)
        self._voter = lib.ft_voter_open(self._address, ram_bytes, threads)
        if self._voter == ffi.NULL:
            raise HostError("no memory or threads for the comparison of the modules")
        self._snapshots: list[_Snapshots] = []  # one, from the first that is kept on
        self.close = weakref.finalize(self, _close, self._voter, self._snapshots)
        """Give back threads and working memory. ``ram`` can still be read; nothing else can be used afterwards."""
        self._runs = ffi.new("ft_difference[]", MAX_RUNS)
        self._run_count = ffi.new("uint32_t *")
        self._memories = ffi.new("ft_memory[]", MAX_MEMORIES)
        self._arch_of_ns = self.arch
        self._virtual_ns = 0
        self._placed: Sequence[Any] = ()
        """What was placed, and is not committed."""

    @property
    def voter(self) -> Any:
        """The native ``ft_voter *``. Commits that it makes by itself are told with ``stand_at``."""
        return self._voter

    @property
    def ram_pages(self) -> int:
        return self.ram_bytes // PAGE_BYTES

    def write(self, gpa: int, data: bytes | memoryview) -> None:
        """Put part of the start image where it belongs. Raises ValueError outside RAM."""
        offset = ram_offset(gpa, self.ram_bytes)
        if offset is None or lib.ft_voter_write(self._voter, offset, ffi.from_buffer(data), len(data)) != 0:
            raise ValueError(f"{len(data)} bytes at {gpa:#x} are not inside RAM")

    def put_pages(self, page: int, data: bytes) -> None:
        """Put whole pages of a saved machine back. Raises ValueError outside RAM."""
        if lib.ft_voter_write(self._voter, page * PAGE_BYTES, data, len(data)) != 0:
            raise ValueError(f"{len(data)} bytes from page {page} on are not inside RAM")

    def stand_at(self, snapshot: Snapshot) -> None:
        """What the image holds in RAM is verified, and this is the rest of that state."""
        self.arch, self.board, self.position = snapshot.arch, snapshot.board, _POSITION.of(snapshot.arch)

    def contents(self) -> Iterator[tuple[int, int]]:
        """(first page, pages) of every stretch of RAM that is not all zero."""
        count = ffi.new("uint32_t *")
        page = lib.ft_voter_content(self._voter, 0, count)
        while count[0]:
            yield page, count[0]
            page = lib.ft_voter_content(self._voter, page + count[0], count)

    def fill(self, ram_fd: int) -> None:
        """Copy the image into a new module's RAM, a memory file of zeros: only content is touched.

        By system call: the first touch of a page through a mapping costs twice as much.
        """
        with memoryview(self.ram) as ram:
            for page, count in self.contents():
                offset, end = page * PAGE_BYTES, (page + count) * PAGE_BYTES
                while offset < end:
                    offset += os.pwrite(ram_fd, ram[offset:end], offset)

    def place(self, rams: Sequence[Any], bulks: Any, places: Any, data: Sequence[Any]) -> None:
        """Before an epoch, put the same data into modules' RAM (pointers), while they stand still: cffi arrays of
        ``ft_bulk`` and ``ft_extent``, see ft_voter_place(). ``data``, which nobody changes any more, is what they point
        to. Raises ValueError for a place that is not inside RAM."""
        self._placed = data
        into = ffi.new("void *[]", [*rams])
        if lib.ft_voter_place(self._voter, into, len(rams), bulks, len(bulks), places, len(places)) != 0:
            raise ValueError("data for a place that is not inside RAM")

    def place_nothing(self) -> None:
        """Instead of ``place``."""
        self._placed = ()
        lib.ft_voter_place(self._voter, ffi.NULL, 0, ffi.NULL, 0, ffi.NULL, 0)

    def compare(self, memories: Sequence[WrittenMemory]) -> tuple[int, list[ByteRun]]:
        """Compare every page that any module wrote: how many differ, and the first differing runs.

        Raises BadDirtyLog.
        """
        array = self._array(memories)
        differing = lib.ft_voter_compare(self._voter, array, len(memories), self._runs, MAX_RUNS, self._run_count)
        if differing < 0:
            raise BadDirtyLog(-1 - differing)
        return differing, self._found(len(memories)) if differing else []

    def scrub(self, memories: Sequence[WrittenMemory], first: int, pages: int) -> tuple[int, list[ByteRun]]:
        """Compare ``pages`` pages from ``first`` of every module with the image, whether they were written or not.

        It finds what no dirty log shows: a bit that flipped in a page nobody writes. ``ByteRun.modules`` are those that
        differ from the image.
        """
        array = self._array(memories)
        differing = lib.ft_voter_scrub(
            self._voter, array, len(memories), first, pages, self._runs, MAX_RUNS, self._run_count
        )
        return differing, self._found(len(memories))

    def _array(self, memories: Sequence[WrittenMemory]) -> Any:
        for index, memory in enumerate(memories):
            entry = self._memories[index]
            entry.ram, entry.written, entry.count = memory.ram, memory.pages, memory.count
        return self._memories

    def _found(self, modules: int) -> list[ByteRun]:
        return [
            ByteRun(run.offset, run.bytes, tuple(m for m in range(modules) if run.modules >> m & 1))
            for run in self._runs[0 : self._run_count[0]]
        ]

    def commit(self, report: Report) -> None:
        """After a comparison that found nothing: what it compared is the verified state from now on."""
        lib.ft_voter_commit(self._voter)
        self._placed = ()
        self.arch = report.arch
        self.board = report.board
        self.position = report.position

    def compared_pages(self) -> list[int]:
        """Numbers of the pages that the last comparison looked at."""
        pages = lib.ft_voter_pages(self._voter, self._run_count)
        return list(pages[0 : self._run_count[0]])

    def restore(self, ram: Any, everywhere: bool) -> None:
        """Put a module's RAM back to the image: the pages that the last comparison looked at, or all that differ."""
        if everywhere:
            lib.ft_voter_restore_all(self._voter, ram)
        else:
            lib.ft_voter_restore(self._voter, ram)

    def keep(self) -> KeptMemory:
        """Remember what RAM holds now. It costs what was written since the last call of this or of ``put_back``, and a
        page whose content some kept state has already costs nothing. Raises HostError."""
        if not self._snapshots:
            self._snapshots.append(_Snapshots(self._address, self.ram_bytes, lib.ft_voter_changed(self._voter)))
        return KeptMemory(self, self._snapshots[0].keep(), self._snapshots[0].drop)

    def put_back(self, memory: KeptMemory, also: Iterable[int]) -> PageList:
        """Let RAM hold what it held then; the pages that may have changed by it, and those of ``also``."""
        assert memory.owner is self
        pages = self._snapshots[0].restore(memory.number)
        return PageList.of([*pages, *also]) if also else pages

    def holds(self, memory: KeptMemory) -> bool:
        """Whether RAM is exactly what it was then."""
        assert memory.owner is self
        return self._snapshots[0].holds(memory.number)

    def kept_bytes(self) -> int:
        """What all kept states take."""
        return self._snapshots[0].bytes_used() if self._snapshots else 0

    def copy_pages(self, ram: Any, pages: PageList) -> None:
        """Copy these pages into a module's RAM."""
        lib.ft_voter_copy_pages(self._voter, ram, pages.pages, pages.count)

    def mark_content(self, pending: Any) -> None:
        """Set a byte (``uint8_t *``, one per page) for each page that holds more than zeros."""
        lib.ft_voter_mark_content(self._voter, pending)

    def mark_compared(self, pending: Any) -> None:
        """The same for each page that the last comparison looked at."""
        lib.ft_voter_mark_compared(self._voter, pending)

    def copy_pending(self, ram: Any, pending: Any, first: int, limit: int) -> int:
        """Copy up to ``limit`` marked pages from page ``first`` into a module's RAM; returns where to go on."""
        return int(lib.ft_voter_copy_pending(self._voter, ram, pending, first, limit))

    def virtual_ns(self) -> int:
        """Virtual time since reset."""
        if self.arch is not self._arch_of_ns:  # asked several times at each sync point
            self._arch_of_ns = self.arch
            self._virtual_ns = self.position * NS_PER_BLOCK + _SKIPPED.of(self.arch)
        return self._virtual_ns

    def digest(self) -> str:
        """Hash over the architectural state, the chips and RAM: XXH3, 128 bits, 32 hexadecimal digits.

        Faults that are still to be injected are nothing that the guest can see, and not in it.
        """
        board = without_faults(self.board)
        state = xxhash.xxh3_128(self.arch)
        state.update(len(board).to_bytes(8, "little"))
        state.update(board)
        with memoryview(self.ram) as ram:
            for page, count in self.contents():
                state.update(page.to_bytes(8, "little"))
                state.update(count.to_bytes(8, "little"))
                state.update(ram[page * PAGE_BYTES : (page + count) * PAGE_BYTES])
        return str(state.hexdigest())

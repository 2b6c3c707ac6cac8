"""One module as the monitor holds it: its process, its RAM, its mailbox, and how they all end."""

import contextlib
import math
import mmap
import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from ftvm._native import ffi, lib
from ftvm.errors import EngineError, HostError
from ftvm.module import jail
from ftvm.module.board import BoardConfig
from ftvm.module.link import (
    ANSWER_BYTES,
    LENGTH_BYTES,
    CommandKind,
    LinkFault,
    MonitorEnd,
    Report,
    Setup,
    SetupAnswer,
    Snapshot,
    mailbox_bytes,
)
from ftvm.monitor import nursery
from ftvm.monitor.image import PageList, VerifiedImage, WrittenMemory
from ftvm.monitor.nursery import LAST_WORDS_BYTES, memory_file
from ftvm.monitor.poller import Poller
from ftvm.units import PAGE_BYTES

SETUP_TIMEOUT_S = 60.0
SLICE_BYTES = 512 * PAGE_BYTES
"""Of a module's memory, freed at a time: some 0.5 ms."""

_encode = msgspec.msgpack.Encoder().encode
_decode_answer = msgspec.msgpack.Decoder(SetupAnswer).decode


class ModuleLost(Exception):
    """A module cannot be used any more. ``kind`` is death, hang or link; ``how`` is how it showed, in one line."""

    def __init__(self, module: "ModuleHandle", kind: str, how: str) -> None:
        super().__init__(how)
        self.module = module
        self.kind = kind
        self.how = how


@contextlib.contextmanager
def _refusals_of_the_host() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HostError(f"no more descriptors or memory for a module: {error.strerror}") from error


class ModuleHandle:
    """Takes a process at once, so that it comes up while the start image is made.

    Then ``set_up``, ``await_ready``, commands; ``close`` in any case. Raises HostError when the host refuses memory,
    descriptors or a process.
    """

    def __init__(self, index: int, ram_bytes: int, poller: Poller) -> None:
        self.index = index
        self.alive = True
        self.closed = False
        self.awaited = False
        """It was told something, and its report was not collected yet."""
        self.report: Report | None = None
        """The newest one: where it stands, if it stands still."""
        self._ready = False
        self._started_s = time.monotonic()
        with contextlib.ExitStack() as process, contextlib.ExitStack() as resources, _refusals_of_the_host():
            newborn = nursery.take()
            process.callback(newborn.close)

            def keep(fd: int) -> int:
                resources.callback(os.close, fd)
                return fd

            ram_fd = self._ram_fd = keep(memory_file(f"ftvm-ram-{index}", ram_bytes))
            mailbox_fd = keep(memory_file(f"ftvm-mailbox-{index}", mailbox_bytes(ram_bytes)))
            command_doorbell = keep(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
            self._report_doorbell = keep(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
            self._ram_map = resources.enter_context(mmap.mmap(ram_fd, ram_bytes))
            self._ram_left = ram_bytes
            # Aligned as the module's own mapping is, or huge pages there would be small ones here.
            ram = lib.ft_ram_map(ram_fd, ram_bytes)
            if ram == ffi.NULL:
                raise OSError(ffi.errno, os.strerror(ffi.errno))
            resources.callback(lib.ft_ram_unmap, ram, ram_bytes)
            self._ram = resources.enter_context(ffi.from_buffer(ffi.buffer(ram, ram_bytes)))
            mailbox = resources.enter_context(mmap.mmap(mailbox_fd, mailbox_bytes(ram_bytes)))
            self._link = MonitorEnd(mailbox, ram_bytes, command_doorbell, self._report_doorbell, newborn.process.pid)

            self._descriptors = (ram_fd, mailbox_fd, command_doorbell, self._report_doorbell)
            self._process, self._socket, self._last_words = newborn.process, newborn.socket, newborn.last_words
            self._pidfd = keep(os.pidfd_open(self._process.pid))
            poller.watch(self._socket.fileno(), self._answered)  # a monitor whose guest sleeps hears that it is ready
            resources.callback(poller.unwatch, self._socket.fileno())
            poller.watch(self._pidfd, self._died)
            resources.callback(poller.unwatch, self._pidfd)
            poller.watch(self._report_doorbell, self._rang)
            resources.callback(poller.unwatch, self._report_doorbell)
            self._poller = poller
            self._resources, self._process_end = resources.pop_all(), process.pop_all()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _rang(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._report_doorbell)

    def _answered(self) -> None:
        self._poller.unwatch(self._socket.fileno())

    def _died(self) -> None:
        self.alive = False
        self._poller.unwatch(self._pidfd)

    def let_go(self) -> None:
        """Kill the process, and give back all that is ours of what it shares: so its memory is freed in its end, which
        ``close`` waits for."""
        self.alive = False
        self.closed = True
        self._resources.close()
        self.kill()

    def close(self) -> None:
        """Kill the process if it lives, and give everything back."""
        self.let_go()
        self._process_end.close()

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def give_back_slice(self) -> bool:
        """Free a little of its memory, after its end; ``close`` would take 0.2 s for a GiB. False: it is all free."""
        size = min(SLICE_BYTES, self._ram_left)
        self._ram_left -= size
        if size:
            self._ram_map.madvise(mmap.MADV_REMOVE, self._ram_left, size)
        return size > 0

    def fill(self, image: VerifiedImage) -> None:
        """Copy the image into its RAM, which is all zero."""
        image.fill(self._ram_fd)

    def set_up(self, board: BoardConfig, start: Snapshot, spins: int) -> None:
        """Tell it what it is. ``spins``: see SPINS in ftvm/machine.py."""
        setup = _encode(Setup(self.index, len(self._ram), board, start, spins, jail.filter_program()))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # await_ready says what killed it
            socket.send_fds(self._socket, [len(setup).to_bytes(LENGTH_BYTES, "little")], self._descriptors)
            self._socket.sendall(setup)

    def is_ready(self) -> bool:
        """Whether it takes commands already. Raises as ``await_ready``."""
        if not self._ready and select.select([self._socket], [], [], 0)[0]:
            self.await_ready()
        return self._ready

    def starting_left_s(self) -> float:
        """Seconds that are left of all that a start can need; infinite when it takes commands already."""
        return math.inf if self._ready else self._started_s + SETUP_TIMEOUT_S - time.monotonic()

    def await_ready(self) -> None:
        """Wait until the module takes commands. Raises EngineError or HostError when it never will."""
        if self._ready:
            return
        self._socket.settimeout(SETUP_TIMEOUT_S)
        try:
            answer = self._socket.recv(ANSWER_BYTES)
        except TimeoutError:
            raise HostError(f"module {self.index} was not ready after {SETUP_TIMEOUT_S:.0f} s") from None
        except ConnectionResetError:  # killed before it had read all of its setup
            answer = b""
        if not answer:
            raise HostError(f"module {self.index} ended while starting: {self.cause_of_death()}")
        error = _decode_answer(answer).error
        if error is not None:
            raise EngineError(error)
        self._answered()
        self._ready = True

    @property
    def ram(self) -> Any:
        """A cffi pointer to its RAM."""
        return self._ram

    def memory(self) -> memoryview:
        """Its RAM, as it is now."""
        return memoryview(ffi.buffer(self._ram))

    def restore(self, image: VerifiedImage, everywhere: bool) -> None:
        """Put its RAM back to the verified state, while it stands still: see VerifiedImage.restore."""
        image.restore(self._ram, everywhere)

    def restore_pages(self, image: VerifiedImage, pages: PageList | None) -> None:
        """The same for these pages, or for all if that is None."""
        if pages is None:
            image.restore(self._ram, everywhere=True)
        else:
            image.copy_pages(self._ram, pages)

    def standing_memory(self) -> WrittenMemory:
        """Its RAM between two epochs, with nothing written."""
        return WrittenMemory(self._ram, self._link.written_pages, 0)

    def kill(self) -> None:
        """End its process; whoever waits for it finds it dead."""
        self._process.kill()

    def cause_of_death(self) -> str:
        """One line: how the process ended, and the last it said. Waits for its end."""
        status = self._process.wait()
        how = f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"
        if breach := jail.breach(status):
            how = f"{how}: it {breach}"
        words = os.pread(self._last_words, LAST_WORDS_BYTES, 0).rstrip(b"\0").decode(errors="replace").splitlines()
        return f"{how}: {words[-1]}" if words else how

    def post(self, kind: CommandKind, target: int = 0, payload: bytes = b"") -> None:
        self._link.post(kind, target, payload)
        self.awaited = True

    def reported(self) -> bool:
        """Whether the report to the newest command is there; if not, it ends the poller's wait when it comes."""
        return self._link.reported()

    def told(self) -> None:
        """Somebody has posted a command by himself."""
        self.awaited = True

    def has_reported(self, report: Report, written: int) -> WrittenMemory:
        """Somebody has collected this report by himself, and the number of pages written: what to compare."""
        self.awaited = False
        self.report = report
        return WrittenMemory(self._ram, self._link.written_pages, written)

    @property
    def link(self) -> Any:
        """A cffi pointer to the monitor's side of its mailbox."""
        return self._link.native

    def collect(self) -> tuple[Report, WrittenMemory]:
        """The report, and what to compare of its memory. Raises ModuleLost."""
        self.awaited = False
        try:
            report, written = self._link.collect()
        except LinkFault as fault:
            raise ModuleLost(self, "link", str(fault)) from fault
        return report, self.has_reported(report, written)

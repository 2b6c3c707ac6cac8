"""Sync points in native code, with modules that are threads: what they are told, and what makes it stop."""

import mmap
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ftvm._native import ffi
from ftvm.module.board import StopKind
from ftvm.module.chips.virtio_pci import EVENT_INDEX, QueueState
from ftvm.module.events import Bulk, DeviceIn, Placed, QueueKick, QueueProgress, decode_inputs, encode
from ftvm.module.link import CommandKind, ModuleEnd, MonitorEnd, mailbox_bytes
from ftvm.monitor.delivery import Delivery
from ftvm.monitor.image import VerifiedImage, WrittenMemory
from ftvm.monitor.turns import AGREED, APART, SILENT, Course, TurnDisk, Turns
from ftvm.monitor.virtqueue import Virtqueue
from ftvm.storage.direct import Direct, Shortcut
from ftvm.storage.worker import ThreadWorker
from ftvm.units import MIB
from tests.unit.queues import DRIVER, WRITE, Rings

RAM_BYTES = 2 * MIB
DISK_BYTES = 64 * 1024
HEADER, DATA, STATUS = 0x10000, 0x20000, 0x30000
KICK = encode([QueueKick("disk0", 0)])
KICKED = StopKind.OUTPUT


class Chip(msgspec.Struct):
    """A state like that of a virtio device."""

    config: bytes
    queues: list[QueueState]
    isr: int = 0


class Module:
    """The monitor's view, and a thread that is told what to do at each command: a function of this and the inputs."""

    def __init__(self) -> None:
        self.ram = mmap.mmap(-1, RAM_BYTES)
        self.rings = Rings(self.ram, size=16, features=EVENT_INDEX)
        self.chip = Chip(b"\x9d next_avail \xa9next_used" * 3, [self.rings.state, QueueState(256)])
        self.position = 100
        self.outputs = KICK
        self.received: list[bytes] = []
        self.touched: list[int] = []
        memory = mmap.mmap(-1, mailbox_bytes(RAM_BYTES))
        self._doorbells = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)]
        self._lifeline, self._other_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._monitor = MonitorEnd(memory, RAM_BYTES, *self._doorbells)
        self.end = ModuleEnd(memory, RAM_BYTES, *self._doorbells)
        self._ram_pointer: Any = ffi.from_buffer(self.ram)
        self.steps: list[Any] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def link(self) -> Any:
        return self._monitor.native

    def standing_memory(self) -> WrittenMemory:
        return WrittenMemory(self._ram_pointer, self._monitor.written_pages, 0)

    def _serve(self) -> None:
        while (command := self.end.await_command(0, self._lifeline.fileno())) is not None:
            payload = bytes(command[2])
            self.received.append(payload)
            step = self.steps.pop(0) if self.steps else None
            if step is not None:
                self.touched = []
                step(self, payload)
                self.report()

    def report(self) -> None:
        for index, page in enumerate(self.touched):
            self.end.written_pages[index] = page
        self.end.written_count[0] = len(self.touched)
        self.end.arch.position = self.position
        board = msgspec.msgpack.encode({"pic": [1, {"a": None}], "disk0": self.chip, "uart": 3.5})
        self.end.publish(KICKED, 0, board, self.outputs, b"")

    def close(self) -> None:
        self._other_end.close()
        self._thread.join()
        self._lifeline.close()
        for fd in self._doorbells:
            os.close(fd)


def take_in(module: Module, payload: bytes) -> None:
    """Believe what the device says."""
    for event in decode_inputs(payload) if payload else []:
        if isinstance(event, DeviceIn):
            assert not [*event.pieces()]  # it is placed
            for queue in event.queues:
                state = module.chip.queues[queue.index]
                state.next_avail, state.next_used = queue.next_avail, queue.next_used


def asks(*sectors: int, kind: int = 0) -> Any:
    """The driver wants blocks of 1024 bytes, in two pieces each."""

    def step(module: Module, payload: bytes) -> None:
        take_in(module, payload)
        module.position += 1000
        for number, sector in enumerate(sectors):
            header, data, status = HEADER + 16 * number, DATA + 4096 * number, STATUS + number
            struct.pack_into("<IIQ", module.ram, header, kind, 0, sector)
            module.rings.offer(
                module.rings.chain((header, 16, 0), (data, 24, WRITE), (data + 2048, 1000, WRITE), (status, 1, WRITE))
            )
        module.touched = sorted({*module.touched, 1, 3, HEADER >> 12})

    return step


def writes(*places: tuple[int, bytes]) -> Any:
    """The driver writes there, (sector, content), in two pieces each."""

    def step(module: Module, payload: bytes) -> None:
        take_in(module, payload)
        module.position += 1000
        for number, (sector, content) in enumerate(places):
            header, data, status = HEADER + 16 * number, DATA + 4096 * number, STATUS + number
            struct.pack_into("<IIQ", module.ram, header, 1, 0, sector)
            module.ram[data : data + len(content)] = content
            pieces = [(data, 100, 0), (data + 100, len(content) - 100, 0)]
            module.rings.offer(module.rings.chain((header, 16, 0), *pieces, (status, 1, WRITE)))
        module.touched = sorted({*module.touched, 1, 3, HEADER >> 12, *range(DATA >> 12, STATUS >> 12)})

    return step


class Bench:
    """Modules at their first sync point, at which they have kicked a disk."""

    def __init__(self, folder: Path, modules: int = 2) -> None:
        self.image = VerifiedImage(RAM_BYTES, threads=1)
        self.turns = Turns(self.image)
        self.modules = [Module() for _ in range(modules)]
        self.content = bytes(i * 7 & 0xFF for i in range(DISK_BYTES))
        self.fds = [self._leg(folder / name) for name in ("left", "right")]
        self.workers = [ThreadWorker(lambda job: None) for _ in self.fds]
        self.direct: Direct | None = None
        self.marked = [(0, 16384), (32768, 16384)]
        self.news = os.eventfd(0, os.EFD_NONBLOCK)
        self.written: list[tuple[int, int]] = []

    def _leg(self, path: Path) -> int:
        path.write_bytes(self.content)
        return os.open(path, os.O_RDWR)

    def write_to(self, *fds: int) -> None:
        """So that writes go to these files."""
        queues = [worker.queue for worker in self.workers]
        self.direct = Direct([*zip(queues, fds, strict=True)], self.news)

    def tell(self, *steps: Any) -> None:
        for module in self.modules:
            module.steps = [*steps]

    def run(self, until_s: float | None = None) -> int:
        """From the newest position of the modules on."""
        first = self.modules[0]
        chip = msgspec.msgpack.encode(first.chip)
        state = first.chip.queues[0]
        queue = Virtqueue(self.image.ram, 0, state, EVENT_INDEX)
        shortcut = Shortcut(self.fds[0], self.direct, ffi.new("ft_extent[]", self.marked))
        disk = TurnDisk("disk0", queue, chip, state, DISK_BYTES, MIB, shortcut, self.written.extend)
        self.image.position = first.position
        until_s = time.monotonic() + 10 if until_s is None else until_s
        course = Course(disk, until_s, [self.news], 50_000, 0, 8, 0, 32)
        modules: Any = self.modules
        return self.turns.run(modules, CommandKind.RUN, first.position + 50_000, b"", (0, 500_000), course)

    @property
    def passed(self) -> int:
        passed = self.turns.passed()
        return 0 if passed is None else passed.count

    def close(self) -> None:
        for module in self.modules:
            module.close()
        self.image.close()
        for worker in self.workers:
            worker.abandon(lambda: None)
            worker.join(None)
        for fd in (*self.fds, self.news):
            os.close(fd)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def last(module: Module, payload: bytes) -> None:
    """The guest does something else."""
    asks(0)(module, payload)
    module.outputs = encode([QueueKick("disk1", 0)])


def test_what_a_driver_asks_for_enters_as_an_input_of_the_same_bytes(bench: Bench) -> None:
    bench.tell(asks(3), asks(7, 125), last)
    assert bench.run() == AGREED
    assert bench.passed == 2
    places = struct.pack("=8Q", DATA, 24, DATA + 2048, 1000, DATA + 4096, 24, DATA + 6144, 1000)
    told = [struct.pack("=8Q", STATUS, 1, 0x4004, 8, 0x4002, 2, 0x4084, 2)]
    told.append(struct.pack("=10Q", STATUS, 1, STATUS + 1, 1, 0x400C, 16, 0x4002, 2, 0x4084, 2))
    for module in bench.modules:
        assert module.received[0] == b""
        assert module.received[1] == encode(
            [Placed(places[:32] + told[0]), DeviceIn("disk0", [], [QueueProgress(0, 1, 1, True)])]
        )
        second = decode_inputs(module.received[2])
        assert second[0] == Placed(places + told[1])
        assert isinstance(second[1], DeviceIn)
        assert second[1].queues == [QueueProgress(0, 3, 3, False)]
        assert module.ram[DATA : DATA + 24] == bench.content[7 * 512 :][:24]
        assert module.ram[DATA + 6144 : DATA + 7144] == bench.content[125 * 512 + 24 :][:1000]
        assert module.ram[STATUS : STATUS + 2] == bytes(2)
        assert module.rings.used() == (3, [(0, 1025), (4, 1025), (8, 1025), *13 * [(0, 0)]])


def test_what_a_driver_writes_is_on_all_legs_before_it_is_told_so(bench: Bench) -> None:
    bench.write_to(*bench.fds)
    one, other = bytes(512) + 512 * b"a", 1024 * b"b"
    bench.tell(writes((64, one)), writes((2, other), (3, one)), asks(64), last)
    assert bench.run() == AGREED
    assert bench.passed == 3
    expected = bytearray(bench.content)
    expected[64 * 512 : 66 * 512] = one
    expected[2 * 512 : 5 * 512] = other[:512] + one
    for fd in bench.fds:
        assert os.pread(fd, DISK_BYTES, 0) == expected
    assert bench.written == [(64 * 512, 1024), (1024, 1024), (1536, 1024)]
    status = DeviceIn(
        "disk0",
        [(STATUS, b"\0"), (0x4004, struct.pack("<II", 0, 1)), (0x4002, b"\1\0"), (0x4084, b"\1\0")],
        [QueueProgress(0, 1, 1, True)],
    )
    assert bench.modules[0].received[1] == Delivery([status]).payload
    assert bench.modules[0].ram[DATA : DATA + 24] == one[:24]


@pytest.mark.parametrize("sector", [31, 32, 96 - 1, 126])
def test_nothing_is_written_where_no_mark_says_so(bench: Bench, sector: int) -> None:
    bench.write_to(*bench.fds)
    bench.tell(writes((0, bytes(1024))), writes((1, bytes(1024)), (sector, bytes(1024))))
    assert bench.run() == AGREED
    assert (bench.passed, bench.written) == (1, [(0, 1024)])


def test_a_leg_that_takes_nothing_is_for_the_caller_to_find(bench: Bench) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    bench.write_to(bench.fds[0], full)
    bench.tell(writes((0, bytes(1024))))
    assert bench.run() == AGREED
    assert (bench.passed, bench.written, bench.turns.in_image) == (0, [(0, 1024)], True)
    os.close(full)


def test_a_disk_that_may_not_be_written_is_not(bench: Bench) -> None:
    bench.tell(writes((0, bytes(1024))))
    assert bench.run() == AGREED
    assert (bench.passed, bench.written) == (0, [])


def test_what_is_not_known_yet_is_told_as_a_log_has_it(bench: Bench) -> None:
    bench.tell(asks(3), None)
    assert bench.run() == SILENT
    passed = bench.turns.passed()
    assert passed is not None
    assert [*passed.inputs] == [
        DeviceIn(
            "disk0",
            [(STATUS, b"\0"), (0x4004, struct.pack("<II", 0, 1025)), (0x4002, b"\1\0"), (0x4084, b"\1\0")],
            [QueueProgress(0, 1, 1, True)],
            [Bulk([(DATA, 24), (DATA + 2048, 1000)], bench.content[1536:2560])],
        )
    ]
    assert (passed.report.position, passed.target) == (1100, 51_100)
    assert passed.report.outputs == KICK
    assert bench.image.ram[DRIVER + 2] == 1  # it is verified
    assert bench.image.ram[DATA] == 0  # and this is not
    for module in bench.modules:
        asks(4)(module, module.received[1])
        module.outputs = b""
        module.report()
    assert bench.turns.judge() == AGREED
    assert bench.turns.report().position == 2100


@pytest.mark.parametrize(
    "spoil",
    [
        lambda module: setattr(module, "position", module.position + 1),
        lambda module: setattr(module.chip, "isr", 1),
        lambda module: setattr(module, "outputs", b""),
        lambda module: setattr(module, "outputs", KICK + b" "),
        lambda module: module.touched.append(RAM_BYTES >> 12),
        lambda module: module.ram.__setitem__(HEADER + 100, 1),
    ],
)
def test_whatever_differs_is_no_business_of_native_code(bench: Bench, spoil: Any) -> None:
    def step(module: Module, payload: bytes) -> None:
        asks(4)(module, payload)
        if module is bench.modules[1]:
            spoil(module)

    bench.tell(asks(3), step)
    assert bench.run() == APART
    assert bench.passed == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda module: setattr(module.chip, "isr", 1),
        lambda module: setattr(module.chip.queues[0], "next_used", 9),
        lambda module: setattr(module.chip.queues[0], "msix_vector", 1),
        lambda module: setattr(module, "outputs", encode([QueueKick("disk0", 1)])),
        lambda module: setattr(module, "position", 60_000),
        lambda module: struct.pack_into("<I", module.ram, HEADER, 4),  # a flush
        lambda module: struct.pack_into("<Q", module.ram, HEADER + 8, DISK_BYTES // 512 - 1),
        lambda module: struct.pack_into("<Q", module.ram, HEADER + 8, (1 << 55) + 1),
        lambda module: struct.pack_into("<H", module.ram, DRIVER + 2, 18),
        lambda module: struct.pack_into("<H", module.ram, DRIVER + 4 + 2, 16),
    ],
)
def test_what_is_unusual_is_left_to_the_caller(bench: Bench, change: Any) -> None:
    def step(module: Module, payload: bytes) -> None:
        asks(4)(module, payload)
        change(module)

    bench.tell(asks(3), step)
    assert bench.run() == AGREED
    assert bench.passed == 1
    assert bench.turns.report().position in (2100, 60_000)


def test_what_entered_is_told_as_long_as_nobody_has_made_what_came_of_it_verified(bench: Bench) -> None:
    """The caller may be told to end before it does that; whoever goes on then needs it."""
    bench.tell(asks(3), last)
    assert bench.run() == AGREED
    assert not bench.turns.in_image
    passed = bench.turns.passed()
    assert passed is not None
    assert [type(event) for event in passed.inputs] == [DeviceIn]


def test_what_entered_is_not_told_any_more_when_what_came_of_it_is_in_the_image(bench: Bench) -> None:
    bench.tell(asks(3), asks(5, kind=8))  # the second is nothing for native code, which sees that too late
    assert bench.run() == AGREED
    assert bench.turns.in_image
    passed = bench.turns.passed()
    assert passed is not None
    assert not passed.inputs


def test_it_ends_when_its_time_is_over_or_somebody_has_news(bench: Bench) -> None:
    bench.tell(*(asks(3) for _ in range(40)))
    assert bench.run(until_s=0.0) == AGREED
    assert bench.passed == 0

    def slow(module: Module, payload: bytes) -> None:
        time.sleep(0.002)
        asks(5)(module, payload)

    os.eventfd_write(bench.news, 1)
    bench.tell(slow, asks(3))
    assert bench.run() == AGREED
    assert bench.passed == 0


def test_a_bit_that_flips_in_a_page_nobody_writes_is_found_in_time(bench: Bench) -> None:
    bench.modules[1].ram[40 * 4096] = 1  # of the second scrub: pages 32 to 63
    bench.tell(*(asks(3) for _ in range(16)))
    assert bench.run() == AGREED
    assert bench.passed == 7

"""The mailbox between the monitor and a module, with both ends in one process."""

import mmap
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec
import pytest

from ftvm._native import ffi, lib
from ftvm.module.link import CommandKind, LinkFault, ModuleEnd, MonitorEnd, Report, Snapshot, mailbox_bytes
from ftvm.module.registers import ARCH_BYTES
from ftvm.units import MIB

RAM_BYTES = 2 * MIB


@dataclass
class Pair:
    memory: mmap.mmap
    monitor: MonitorEnd
    module: ModuleEnd
    command_doorbell: int
    report_doorbell: int
    lifeline: socket.socket
    other_end: socket.socket

    def publish(self, stop: int = 0, board: bytes = b"", outputs: bytes = b"", detail: bytes = b"") -> None:
        self.module.publish(stop, 0, board, outputs, detail)


def rang(doorbell: int) -> bool:
    return bool(select.select([doorbell], [], [], 0)[0])


@pytest.fixture
def pair() -> Iterator[Pair]:
    doorbells = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)]
    lifeline, other_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with mmap.mmap(-1, mailbox_bytes(RAM_BYTES)) as memory, lifeline, other_end:
        monitor = MonitorEnd(memory, RAM_BYTES, *doorbells)
        module = ModuleEnd(memory, RAM_BYTES, *doorbells)
        yield Pair(memory, monitor, module, *doorbells, lifeline, other_end)
    for doorbell in doorbells:
        os.close(doorbell)


def test_a_command_arrives_as_it_was_posted(pair: Pair) -> None:
    pair.monitor.post(CommandKind.RUN, 123_456_789_012, b"inputs")
    assert pair.module.await_command(0, pair.lifeline.fileno()) == (CommandKind.RUN, 123_456_789_012, b"inputs")


def test_a_report_arrives_as_it_was_published(pair: Pair) -> None:
    pair.monitor.post(CommandKind.RUN)
    pair.module.await_command(0, pair.lifeline.fileno())
    pair.module.arch.position = 77
    pair.module.arch.gpr[3] = 0xFEED
    pair.module.written_pages[0] = 5
    pair.module.written_count[0] = 1
    pair.module.publish(2, 99, b"board", b"out", b"why")
    assert pair.monitor.reported()
    report, written = pair.monitor.collect()
    assert report == Report(2, 77, 99, bytes(ffi.buffer(pair.module.arch)), b"board", b"out", b"why")
    assert (written, pair.monitor.written_pages[0]) == (1, 5)


def test_no_report_is_there_before_it_is_published(pair: Pair) -> None:
    pair.monitor.post(CommandKind.RUN)
    assert not pair.monitor.reported(spins=10)
    pair.module.await_command(0, pair.lifeline.fileno())
    assert not pair.monitor.reported()
    pair.publish()
    assert pair.monitor.reported()
    pair.monitor.post(CommandKind.RUN)
    assert not pair.monitor.reported()


def test_doorbells_ring_only_for_a_sleeper(pair: Pair) -> None:
    pair.monitor.post(CommandKind.RUN)
    assert not rang(pair.command_doorbell)
    pair.module.await_command(0, pair.lifeline.fileno())
    pair.publish()
    assert not rang(pair.report_doorbell)
    assert pair.monitor.reported()

    pair.monitor.post(CommandKind.RUN)
    pair.module.await_command(0, pair.lifeline.fileno())
    assert not pair.monitor.reported()  # from here on the monitor sleeps
    pair.publish()
    assert rang(pair.report_doorbell)


def test_a_module_that_waits_learns_that_the_monitor_is_gone(pair: Pair) -> None:
    pair.other_end.close()
    assert pair.module.await_command(10, pair.lifeline.fileno()) is None


def test_a_sleeping_module_is_woken_by_a_command(pair: Pair) -> None:
    got: list[object] = []
    thread = threading.Thread(target=lambda: got.append(pair.module.await_command(0, pair.lifeline.fileno())))
    thread.start()
    pair.monitor.post(CommandKind.FLUSH_TLB, 7)
    thread.join(timeout=30)
    assert got == [(CommandKind.FLUSH_TLB, 7, b"")]


@pytest.mark.parametrize("spins", [0, 50, 5000])
def test_no_wake_up_is_lost(pair: Pair, spins: int) -> None:
    """Thousands of exchanges in which each side may or may not be asleep: a lost wake-up would end in the timeout."""
    rounds = 3000

    def serve() -> None:
        while (command := pair.module.await_command(spins, pair.lifeline.fileno())) is not None:
            pair.module.arch.position = command[1]
            pair.publish()

    server = threading.Thread(target=serve)
    server.start()
    doorbell = select.poll()
    doorbell.register(pair.report_doorbell, select.POLLIN)
    positions = []
    for target in range(rounds):
        pair.monitor.post(CommandKind.RUN, target)
        while not pair.monitor.reported(spins):
            assert doorbell.poll(30_000), f"no report in round {target}"
            os.eventfd_read(pair.report_doorbell)
        positions.append(pair.monitor.collect()[0].position)
    pair.other_end.close()
    server.join(timeout=30)
    assert positions == list(range(rounds))


@pytest.mark.parametrize("spin_us", [0, 300])
def test_reports_that_come_are_waited_for_in_one_call(pair: Pair, spin_us: int) -> None:
    def serve() -> None:
        while pair.module.await_command(0, pair.lifeline.fileno()) is not None:
            pair.publish()

    server = threading.Thread(target=serve)
    server.start()
    links = ffi.new("ft_link *[]", [pair.monitor.native])
    for _ in range(500):
        pair.monitor.post(CommandKind.RUN)
        while not lib.ft_link_await_reports(links, 1, spin_us, 900_000):
            pass
        assert pair.monitor.reported()
    pair.other_end.close()
    server.join(timeout=30)


def test_a_report_that_does_not_come_is_not_waited_for(pair: Pair) -> None:
    pair.monitor.post(CommandKind.RUN)
    links = ffi.new("ft_link *[]", [pair.monitor.native])
    assert not lib.ft_link_await_reports(links, 1, 10, 1000)
    pair.module.await_command(0, pair.lifeline.fileno())
    pair.publish()
    assert rang(pair.report_doorbell)  # whoever waits elsewhere meanwhile hears of it
    assert lib.ft_link_await_reports(links, 1, 0, 1000)


def test_a_command_that_does_not_fit_is_refused(pair: Pair) -> None:
    capacity = lib.ft_link_command_capacity()
    with pytest.raises(LinkFault):
        pair.monitor.post(CommandKind.RUN, 0, bytes(capacity + 1))
    pair.monitor.post(CommandKind.RUN, 0, b"x" * capacity)
    assert pair.module.await_command(0, pair.lifeline.fileno()) == (CommandKind.RUN, 0, b"x" * capacity)


def test_a_report_that_does_not_fit_is_refused(pair: Pair) -> None:
    capacity, board_bytes = lib.ft_link_report_capacity(), lib.ft_link_board_capacity()
    with pytest.raises(LinkFault):
        pair.publish(board=bytes(board_bytes + 1))
    with pytest.raises(LinkFault):
        pair.publish(board=b"b", outputs=bytes(capacity))
    pair.publish(board=b"b" * board_bytes, outputs=b"o" * (capacity - board_bytes - 1), detail=b"d")
    report, _ = pair.monitor.collect()
    assert (report.board[-1:], report.outputs[-1:], report.detail) == (b"b", b"o", b"d")


def test_a_state_that_is_reported_can_be_loaded_again(pair: Pair) -> None:
    snapshot = Snapshot(bytes(ARCH_BYTES), bytes(lib.ft_link_board_capacity()))
    pair.monitor.post(CommandKind.LOAD, 0, msgspec.msgpack.encode(snapshot))


@pytest.mark.parametrize("garbage", [0xFF, 0x7F, 0x80])
def test_a_report_with_impossible_lengths_is_not_believed(pair: Pair, garbage: int) -> None:
    pair.memory[:] = bytes([garbage]) * len(pair.memory)
    with pytest.raises(LinkFault):
        pair.monitor.collect()


def test_a_dirty_log_longer_than_ram_is_not_believed(pair: Pair) -> None:
    pair.module.written_count[0] = RAM_BYTES // 4096
    assert pair.monitor.collect()[1] == RAM_BYTES // 4096
    pair.module.written_count[0] += 1
    with pytest.raises(LinkFault):
        pair.monitor.collect()


@dataclass
class Crew:
    """Processes that only wait, and mailboxes whose modules say on which core they are."""

    processes: list[int]
    links: list[MonitorEnd]
    modules: list[ModuleEnd]
    cores: list[int]

    def seen_on(self, *cores: int) -> None:
        """Each module reports from there."""
        ours = os.sched_getaffinity(0)
        for link, module, core in zip(self.links, self.modules, cores, strict=True):
            link.post(CommandKind.RUN)
            os.sched_setaffinity(0, {core})
            module.await_command(0, -1)
            module.publish(0, 0, b"", b"", b"")
            os.sched_setaffinity(0, ours)
            assert link.reported()

    def spread(self) -> list[set[int]]:
        """Where each may run after it."""
        links = ffi.new("ft_link *[]", [link.native for link in self.links])
        lib.ft_link_spread(links, len(self.links))
        return [os.sched_getaffinity(pid) for pid in self.processes]


@pytest.fixture
def crew() -> Iterator[Callable[[int], Crew]]:
    doorbells = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)]
    waiting: list[subprocess.Popen[bytes]] = []

    def make(count: int) -> Crew:
        waiting.extend(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) for _ in range(count))
        memories = [mmap.mmap(-1, mailbox_bytes(RAM_BYTES)) for _ in range(count)]
        return Crew(
            [process.pid for process in waiting],
            [MonitorEnd(m, RAM_BYTES, *doorbells, p.pid) for m, p in zip(memories, waiting, strict=True)],
            [ModuleEnd(memory, RAM_BYTES, *doorbells) for memory in memories],
            sorted(os.sched_getaffinity(0)),
        )

    yield make
    for process in waiting:
        process.kill()
        process.communicate()
    for doorbell in doorbells:
        os.close(doorbell)


def test_modules_on_one_core_are_put_on_two_for_a_while(crew: Callable[[int], Crew]) -> None:
    two = crew(2)
    first, second = two.cores[0], two.cores[1 % len(two.cores)]  # on one core it is all the same
    two.seen_on(first, first)
    everywhere = set(two.cores)
    put_s = time.monotonic()
    assert two.spread() == [everywhere, {second}]
    two.seen_on(first, second)
    held = two.spread() == [everywhere, {second}]
    assert held or time.monotonic() - put_s > 0.1  # a busy host
    time.sleep(0.15)
    assert two.spread() == [everywhere, everywhere]


def test_modules_on_different_cores_stay_where_they_are(crew: Callable[[int], Crew]) -> None:
    two = crew(2)
    first, second = two.cores[0], two.cores[1 % len(two.cores)]  # on one core it is all the same
    two.seen_on(second, first)
    assert two.spread() == [set(two.cores)] * 2


def test_more_modules_than_cores_run_where_they_like(crew: Callable[[int], Crew]) -> None:
    many = crew(len(os.sched_getaffinity(0)) + 1)
    many.seen_on(*many.cores, many.cores[0])
    assert many.spread() == [set(many.cores)] * len(many.links)

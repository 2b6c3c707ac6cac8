"""Rounds of a module, in which native code does without the board: nobody can tell from its reports."""

import os
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftvm.module import events
from ftvm.module.board import Board, BoardConfig, DiskConfig, StopKind, unplugged
from ftvm.module.chips import virtio_pci as v
from ftvm.module.cpu import ARCH_BYTES, Cpu
from ftvm.module.events import ConsoleIn, DeviceIn, Input, KeyboardIn, Placed, QueueKick, QueueProgress, TimePassed
from ftvm.module.link import CommandKind, Descriptors, MonitorEnd, Report, Setup, Snapshot, mailbox_bytes
from ftvm.module.process import Module
from ftvm.module.registers import with_registers
from ftvm.units import MIB
from tests.assembler import assemble
from tests.unit.test_board import LAPIC, configure
from tests.unit.test_board_devices import FIRST_DISK_SLOT, bring_up, place

RAM_BYTES = 2 * MIB
CODE = 0x10000
COUNTER, TICKS, DATA = 0x20000, 0x20004, 0x30000
CONFIG = BoardConfig(ram_bytes=RAM_BYTES, disks=(DiskConfig(8 * MIB), DiskConfig(8 * MIB)))
VECTOR, TIMER_VECTOR = 0x51, 0x52
FLAT_CODE, FLAT_DATA = 0xC09B00, 0xC09300

# A driver that asks again whenever it was interrupted; now and then it writes to the console before or after it asks,
# in the same block, asks the other disk, reads a port, or sets a timer.
GUEST = """
base:
    lgdt gdtr
    lidt idtr
    movl $0xF000, %esp
main:
    incl {counter}
    movl {counter}, %eax
    testl $15, %eax
    jnz 1f
    movl $0x6E0, %ecx
    rdtsc
    addl $3000, %eax
    adcl $0, %edx
    wrmsr
1:  movw $0x3F8, %dx
    movl {counter}, %ebx
    andl $31, %ebx
    cmpl $5, %ebx
    je before
    cmpl $11, %ebx
    je after
    cmpl $17, %ebx
    je other
    cmpl $23, %ebx
    je twice
    cmpl $29, %ebx
    je look
ask:
    movl $0, {notify}
wait:
    sti
    hlt
    jmp main
before:
    movb $'b', %al
    outb %al, %dx
    movl $0, {notify}
    jmp wait
after:
    movl $0, {notify}
    movb $'a', %al
    outb %al, %dx
    jmp wait
other:
    movl $0, {notify}
    movl $0, {other}
    jmp wait
twice:
    movl $0, {notify}
    movw $0, {notify}
    jmp wait
look:
    inb $0x61, %al
    jmp ask
served:
    movl $0, {eoi}
    incl {counter} + 8
    iret
timer:
    movl $0, {eoi}
    incl {ticks}
    iret
    .align 8
gdt: .quad 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF
gdtr: .word 23
    .long gdt
idtr: .word 8 * 0x53 - 1
    .long idt
    .align 8
idt: .skip 8 * {vector}
    .word served - base, 8, 0x8E00, {code} >> 16
    .word timer - base, 8, 0x8E00, {code} >> 16
"""


def start(ram: memoryview) -> Snapshot:
    """The guest at its first instruction, its devices at work."""
    cpu = Cpu(bytearray(RAM_BYTES))
    board = Board(CONFIG, cpu)
    for bay in (0, 1):
        bring_up(board, bay)
        for offset, value in ((0, LAPIC), (8, VECTOR), (12, 0)):
            board.mmio_write(place(board, bay, 1) + offset, 4, value)
        device = board.devices[f"disk{bay}"]
        configure(board, FIRST_DISK_SLOT + bay, device.msix_capability, v.MSIX_ENABLE << 16, 4)
        board.mmio_write(place(board, bay) + v.QUEUE_MSIX_VECTOR, 2, 0)
    board.mmio_write(LAPIC + 0x320, 4, 0x4_0000 | TIMER_VECTOR)
    code = assemble(
        GUEST.format(
            counter=COUNTER,
            ticks=TICKS,
            code=CODE,
            vector=VECTOR,
            eoi=LAPIC + 0xB0,
            notify=place(board, 0) + v.NOTIFY,
            other=place(board, 1) + v.NOTIFY,
        ),
        CODE,
        32,
    )
    ram[CODE : CODE + len(code)] = code
    values = {"cr0": 0x6000_0011, "rip": CODE, "cs.selector": 8, "cs.base": 0, "cs.limit": 0xFFFF_FFFF}
    values["cs.flags"] = FLAT_CODE
    for name in ("ds", "es", "ss"):
        values |= {f"{name}.selector": 16, f"{name}.base": 0, f"{name}.limit": 0xFFFF_FFFF, f"{name}.flags": FLAT_DATA}
    arch = bytearray(ARCH_BYTES)
    cpu.save(arch)
    saved = board.save()
    cpu.close()
    return Snapshot(with_registers(bytes(arch), values), saved)


class Running:
    """A module on a thread of this process, and the monitor's end of its mailbox."""

    def __init__(self, rounds: bool) -> None:
        ram, mailbox = os.memfd_create("ram"), os.memfd_create("mailbox")
        os.truncate(ram, RAM_BYTES)
        os.truncate(mailbox, mailbox_bytes(RAM_BYTES))
        doorbells = os.eventfd(0, os.EFD_NONBLOCK), os.eventfd(0, os.EFD_NONBLOCK)
        self._ours, self._theirs = socket.socketpair()
        self._doorbell = doorbells[1]
        self._fds = (ram, mailbox, *doorbells)
        module = Module(
            Setup(0, RAM_BYTES, CONFIG, Snapshot(bytes(ARCH_BYTES), unplugged(CONFIG).save()), 0, b""),
            Descriptors(ram, mailbox, *doorbells),
        )
        self.ram = memoryview(module._ram)
        module._load(start(self.ram))
        self.rounds = 0
        if rounds:
            run = module._rounds.run

            def count(spins: int, lifeline: int) -> object:
                try:
                    return run(spins, lifeline)
                finally:
                    self.rounds += module._rounds._native.count

            module._rounds.run = count  # type: ignore[method-assign, assignment]
        else:
            module._rounds.look_at = lambda *seen: None  # type: ignore[method-assign]
        self._monitor = MonitorEnd(module._link._memory, RAM_BYTES, *doorbells)
        self._thread = threading.Thread(target=module.serve, args=(self._theirs.fileno(),))
        self._thread.start()

    def do(self, kind: CommandKind, target: int = 0, payload: bytes = b"") -> tuple[Report, list[int]]:
        """What it reports, and the pages that it says were written."""
        self._monitor.post(kind, target, payload)
        poll = select.poll()
        poll.register(self._doorbell, select.POLLIN)
        while not self._monitor.reported():
            if poll.poll(30_000):
                os.eventfd_read(self._doorbell)
            assert self._thread.is_alive()
        report, written = self._monitor.collect()
        return report, [self._monitor.written_pages[index] for index in range(written)]

    def close(self) -> None:
        self._ours.close()
        self._thread.join()
        self._theirs.close()
        self.ram.release()
        for fd in self._fds:
            os.close(fd)


@contextmanager
def two() -> Iterator[tuple[Running, Running]]:
    """Equal ones, but that the second does all by its board."""
    first, second = Running(rounds=True), Running(rounds=False)
    try:
        yield first, second
    finally:
        first.close()
        second.close()


class Driven:
    """The two, told the same."""

    def __init__(self, pair: tuple[Running, Running]) -> None:
        self.pair = pair
        self.position = self.served = 0
        self.outputs: list[events.Output] = []

    def tell(self, inputs: list[Input], blocks: int = 5_000, kind: CommandKind = CommandKind.RUN) -> Report:
        target, payload = self.position + blocks, events.encode(inputs) if inputs else b""
        reports = [module.do(kind, target, payload) for module in self.pair]
        assert reports[0] == reports[1]
        report = reports[0][0]
        self.position = report.position
        self.outputs += events.decode_outputs(report.outputs)
        return report

    def serve(self, data: bytes = b"", placed: int = 0, interrupt: bool = True, device: str = "disk0") -> Report:
        self.served += 1
        index = self.served & 0xFFFF
        inputs: list[Input] = []
        if placed:
            for module in self.pair:
                module.ram[DATA : DATA + placed] = bytes([self.served & 0xFF]) * placed
            inputs.append(Placed(DATA.to_bytes(8, "little") + placed.to_bytes(8, "little")))
        progress = QueueProgress(0, index, index, interrupt)
        return self.tell([*inputs, DeviceIn(device, [(DATA + 0x2000, data)] if data else [], [progress])])

    def look_at_memory(self) -> None:
        assert self.pair[0].ram[:] == self.pair[1].ram[:]


def test_a_driver_that_asks_again_and_again_costs_no_python() -> None:
    with two() as pair:
        driven = Driven(pair)
        assert driven.tell([]).stop == StopKind.OUTPUT
        for number in range(400):
            driven.serve(bytes([number & 0xFF]) * (number % 300 + 1), placed=number % 3 * 700)
        driven.look_at_memory()
        assert driven.outputs.count(QueueKick("disk0", 0)) > 350
        assert QueueKick("disk1", 0) in driven.outputs
        assert pair[0].rounds > 250 and pair[1].rounds == 0
        assert int.from_bytes(pair[0].ram[TICKS : TICKS + 4], "little") > 10


STEPS = st.one_of(
    st.builds(lambda size, placed: ("serve", size, placed), st.integers(0, 500), st.sampled_from([0, 1, 5000])),
    st.just(("quiet",)),
    st.builds(lambda blocks: ("run", blocks), st.integers(0, 40)),
    st.just(("other",)),
    st.sampled_from([ConsoleIn(b"x"), KeyboardIn(b"\x1e\x9e"), TimePassed(10**9)]),
    st.sampled_from([CommandKind.FLUSH_TLB, CommandKind.RUN_AGAIN, CommandKind.STEP]),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=st.lists(st.tuples(STEPS, st.integers(0, 6)), max_size=25))
def test_whatever_comes_between_its_reports_are_the_same(steps: list[tuple[object, int]]) -> None:
    with two() as pair:
        driven = Driven(pair)
        driven.tell([])
        for step, rounds in steps:
            match step:
                case ("serve", size, placed):
                    driven.serve(bytes(size), placed)
                case ("quiet",):
                    driven.serve(interrupt=False)
                case ("run", blocks):
                    driven.tell([], blocks)
                case ("other",):
                    driven.serve(device="disk1")
                case CommandKind.FLUSH_TLB:
                    driven.tell([], kind=CommandKind.FLUSH_TLB)
                case CommandKind():
                    driven.tell([], 3 - driven.position if step is CommandKind.STEP else 50, kind=step)
                    driven.tell([], 50)
                case _:
                    driven.tell([step])
            for _ in range(rounds):
                driven.serve(b"data")
        driven.look_at_memory()

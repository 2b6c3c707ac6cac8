"""What faults do to a module: the part that is hardware, and so is not rolled back.

A module runs through its injector, which lets it stop wherever a fault is due (ftvm/module/agenda.py) and hurts it
there if the fault is in this module. Bits that are held keep their value until this process has run so many blocks
more, however often it was rolled back meanwhile; a new process is other hardware and knows nothing of them.
"""

import contextlib
import mmap
import os
import select
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ftvm.errors import UsageError
from ftvm.memory_map import ram_offset
from ftvm.module.agenda import Agenda
from ftvm.module.board import Board, Stop, StopKind
from ftvm.module.chip_state import ChipField
from ftvm.module.cpu import ARCH_BYTES, Cpu
from ftvm.module.events import FaultStruck
from ftvm.module.fault import (
    ALWAYS,
    Access,
    Change,
    ChipBit,
    Fault,
    Leg,
    LinearBit,
    PageTableBit,
    Process,
    RamBit,
    RegisterBit,
    TlbBit,
)
from ftvm.module.link import Release
from ftvm.module.paging import LinearMemory
from ftvm.module.registers import register

KILLED = 70
"""Exit status of a module that was killed by a fault."""


@dataclass
class _Held:
    """Bits that keep the ``value`` under ``mask``: of bytes of the state or of RAM from ``offset`` on, or of a chip.
    ``left``: blocks, or ALWAYS. ``since``: the position at which it began."""

    where: RegisterBit | RamBit | ChipField
    mask: int
    value: int
    left: int
    since: int


class Injector:
    """Runs the ``board`` of module ``index``, with its ``cpu`` and ``ram``."""

    def __init__(self, index: int, board: Board, cpu: Cpu, ram: mmap.mmap) -> None:
        self._index = index
        self._board = board
        self._cpu = cpu
        self._ram = ram
        self._held: list[_Held] = []
        self._tapped = False

    def run(self, until: int, again: bool) -> Stop:
        """Run to position ``until``, as Board.run does.

        ``again``: this epoch was run before, so that the faults that are due in it have happened already.
        """
        self._tap_devices()
        while True:
            here = self._cpu.position()
            if not self._cpu.instruction():
                if self._meet(again):
                    return Stop(StopKind.OUTPUT)
                if here >= until:
                    return Stop(StopKind.POSITION)
            stop = self._board.run(self._next_stop(here, until))
            self._age(self._cpu.position() - here)
            if stop.kind not in (StopKind.POSITION, StopKind.FAULT):
                return stop

    def step(self, count: int) -> Stop:
        """Run ``count`` instructions, as Board.step does."""
        self._tap_devices()
        stop = Stop(StopKind.POSITION)
        while stop.kind in (StopKind.POSITION, StopKind.FAULT):
            if not self._cpu.instruction() and self._meet(again=False):
                return Stop(StopKind.OUTPUT)
            if count == 0:
                return Stop(StopKind.POSITION)
            before = self._cpu.position(), self._cpu.instruction()
            stop = self._board.step(1)
            after = self._cpu.position(), self._cpu.instruction()
            self._age(after[0] - before[0])
            count -= after != before
        return stop

    def _meet(self, again: bool) -> bool:
        """Let happen what is due, at a block entry. True: the monitor is to do some of it, here."""
        outside = False
        for fault in self._board.agenda.take_due():
            self._board.tell(FaultStruck(fault, self._cpu.position()))
            if fault.hurts(self._index) and not again:
                self._strike(fault)
            outside |= isinstance(fault.target, Leg)
        return outside

    def release(self, which: Release) -> None:
        """Let go of what is held."""
        if self._held and which != Release.NONE:
            here = self._cpu.position()
            self._held = [held for held in self._held if which == Release.LATER and held.since <= here]
            self._hold_again()

    def _next_stop(self, position: int, until: int) -> int:
        due = self._board.agenda.next_position()
        stops = [until] if due is None else [until, due]
        return min(stops + [position + held.left for held in self._held if held.left != ALWAYS])

    # ---- what is held ----

    def _age(self, blocks: int) -> None:
        """The module has worked for so many blocks more."""
        for held in self._held:
            if held.left != ALWAYS:
                held.left = max(0, held.left - blocks)
        if any(held.left == 0 for held in self._held):
            self._held = [held for held in self._held if held.left != 0]
            self._hold_again()

    def _hold(self, held: _Held) -> None:
        self._held.append(held)
        self._hold_again()

    def _hold_again(self) -> None:
        self._cpu.clear_forces()
        for held in self._held:
            match held.where:
                case RegisterBit(name):
                    for offset, keep, put in _bytes_of(held):
                        self._cpu.force_register(register(name).offset + offset, keep, put)
                case RamBit(start):
                    for offset, keep, put in _bytes_of(held):
                        self._cpu.force_ram(start + offset, keep, put)
        self._tap_devices()

    def _tap_devices(self) -> None:
        """Look at each access to a device as long as a fault wants that."""
        chips = [held for held in self._held if isinstance(held.where, ChipField)]
        tapped = self._board.agenda.watches_devices or bool(chips)
        if tapped or self._tapped:
            self._cpu.connect(
                _Tap(self._board, self._board.agenda, lambda: self._force(chips)) if tapped else self._board
            )
        self._tapped = tapped

    def _force(self, chips: list[_Held]) -> None:
        for held in chips:
            assert isinstance(held.where, ChipField)
            old = held.where.get()
            if (new := old & ~held.mask | held.value) != old:
                held.where.set(new)
                self._board.state_changed()

    # ---- what happens once ----

    def _strike(self, fault: Fault) -> None:
        change, lasting = fault.change, fault.lasting
        match fault.target:
            case RegisterBit(name, bit):
                where = register(name)
                arch = self._arch()
                changed = change.of(where.of(arch), bit)
                self._cpu.write_state(where.offset, changed.to_bytes(where.size, "little"))
                self._keep(RegisterBit(name, 0), change, bit, changed, lasting)
            case RamBit():
                self._strike_ram(fault.target, change, lasting)
            case LinearBit(address, bit, logged):
                self._strike_gpa(self._memory().translate(address), bit, logged, change, lasting)
            case PageTableBit(address, level, bit, logged):
                self._strike_gpa(self._memory().entry_address(address, level), bit, logged, change, lasting)
            case TlbBit(address, bit):
                self._cpu.flip_tlb(address, change.mask(bit))
            case ChipBit(path, bit):
                field = ChipField(self._board.chips, path)
                with contextlib.suppress(UsageError):
                    changed = change.of(field.get(), bit)
                    field.set(changed)
                    self._board.state_changed()
                    self._keep(field, change, bit, changed, lasting)
            case Process(how, milliseconds):
                _befall(how, milliseconds)

    def _keep(
        self, where: RegisterBit | RamBit | ChipField, change: Change, bit: int, value: int, lasting: int
    ) -> None:
        if lasting:
            mask = change.mask(bit)
            self._hold(_Held(where, mask, value & mask, lasting, self._cpu.position()))

    def _strike_gpa(self, gpa: int | None, bit: int, logged: bool, change: Change, lasting: int) -> None:
        offset = None if gpa is None else ram_offset(gpa, len(self._ram))
        if offset is not None:
            self._strike_ram(RamBit(offset, bit, logged), change, lasting)

    def _strike_ram(self, target: RamBit, change: Change, lasting: int) -> None:
        """Bits behind the end of RAM are not there."""
        start, bit = target.offset + target.bit // 8, target.bit % 8
        end = min(start + (bit + change.width + 7) // 8, len(self._ram))
        changed = change.of(int.from_bytes(self._ram[start:end], "little"), bit)
        size = end - start
        data = (changed & (1 << 8 * size) - 1).to_bytes(size, "little")
        if target.logged:
            self._cpu.write_ram(start, data)
        else:
            self._ram[start:end] = data
        self._keep(RamBit(start, 0), change, bit, changed, lasting)

    def _arch(self) -> bytes:
        arch = bytearray(ARCH_BYTES)
        self._cpu.save(arch)
        return bytes(arch)

    def _memory(self) -> LinearMemory:
        return LinearMemory(self._ram, self._arch())


class _Tap:
    """The board, as a CPU's Devices, with somebody who looks at every access: the ``agenda`` counts, ``force`` puts
    chips right before and after."""

    def __init__(self, board: Board, agenda: Agenda, force: Callable[[], None]) -> None:
        self._board = board
        self._agenda = agenda
        self._force = force

    def port_read(self, port: int, size: int) -> int:
        self._agenda.see_port(port, size, Access.READ)
        with self._forced():
            return self._board.port_read(port, size)

    def port_write(self, port: int, size: int, value: int) -> None:
        self._agenda.see_port(port, size, Access.WRITE)
        with self._forced():
            self._board.port_write(port, size, value)

    def mmio_read(self, gpa: int, size: int) -> int:
        self._agenda.see_mmio(gpa, size, Access.READ)
        with self._forced():
            return self._board.mmio_read(gpa, size)

    def mmio_write(self, gpa: int, size: int, value: int) -> None:
        self._agenda.see_mmio(gpa, size, Access.WRITE)
        with self._forced():
            self._board.mmio_write(gpa, size, value)

    def msr_read(self, index: int) -> int | None:
        with self._forced():
            return self._board.msr_read(index)

    def msr_write(self, index: int, value: int) -> bool:
        with self._forced():
            return self._board.msr_write(index, value)

    def cr8_read(self) -> int:
        with self._forced():
            return self._board.cr8_read()

    def cr8_write(self, value: int) -> None:
        with self._forced():
            self._board.cr8_write(value)

    def interrupt_ack(self) -> int:
        with self._forced():
            return self._board.interrupt_ack()

    @contextlib.contextmanager
    def _forced(self) -> Iterator[None]:
        self._force()
        yield
        self._force()


def _bytes_of(held: _Held) -> Iterator[tuple[int, int, int]]:
    """(offset, bits to keep, bits to put) of each byte that is concerned."""
    size = (held.mask.bit_length() + 7) // 8
    pairs = zip(held.mask.to_bytes(size, "little"), held.value.to_bytes(size, "little"), strict=True)
    for offset, (mask, value) in enumerate(pairs):
        if mask:
            yield offset, 0xFF ^ mask, value


def _befall(how: str, milliseconds: int) -> None:
    if how == "kill":
        os.write(2, b"killed by a fault that was injected\n")
        os._exit(KILLED)
    nobody = select.poll()
    if how == "slow":
        nobody.poll(milliseconds)
    while how == "hang":
        nobody.poll()

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

import msgspec

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
    OfInstruction,
    OpcodeBit,
    PageTableBit,
    Process,
    RamBit,
    ReadBit,
    RegisterBit,
    Skip,
    TlbBit,
    WrittenBit,
)
from ftvm.module.instruction import MAX_BYTES, length
from ftvm.module.link import Release
from ftvm.module.paging import LinearMemory
from ftvm.module.registers import register

_INSIDE = (StopKind.POSITION, StopKind.FAULT, StopKind.AWAITED)
"""Stops that are nobody's business but the injector's; POSITION only when it is the one that was asked for."""

_CODE_64, _CODE_32, _LONG_MODE = 1 << 21, 1 << 22, 1 << 10

KILLED = 70
"""Exit status of a module that was killed by a fault."""


class _Held(msgspec.Struct):
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

        ``again``: this epoch was run before, so that the faults of single modules that are due in it have happened
        already.
        """
        if self.idle:  # nearly always
            if self._cpu.position() >= until and not self._cpu.instruction():
                return Stop(StopKind.POSITION)
            return self._board.run(until)
        self._tap_devices()
        while True:
            here = self._cpu.position()
            if not self._cpu.instruction():
                if (stop := self._meet(again)) is not None:
                    return stop
                if not self._cpu.instruction() and here >= until:
                    return Stop(StopKind.POSITION)
            if self._board.agenda.awaits_inside(here) and not self._cpu.instruction():
                stop = Stop(StopKind.AWAITED)
            else:
                stop = self._board.run(self._next_stop(here, until))
            if stop.kind == StopKind.AWAITED:
                stop = self._walk(again)
            self._age(self._cpu.position() - here)
            if stop.kind not in _INSIDE:
                return stop

    @property
    def idle(self) -> bool:
        """No fault is held, or expected."""
        return not (self._held or self._tapped or self._board.agenda.state.expected)

    def step(self, count: int) -> Stop:
        """Run ``count`` instructions, as Board.step does."""
        self._tap_devices()
        entered = self._cpu.position()
        while True:
            before = self._cpu.position(), self._cpu.instruction()
            if not before[1]:
                entered = before[0]
            self._look(entered)
            if (stop := self._meet(again=False)) is not None:
                return stop
            if count == 0:
                return Stop(StopKind.POSITION)
            if (self._cpu.position(), self._cpu.instruction()) == before:
                stop = self._board.step(1 if self._awaits_anything() else count)
                count -= self._board.stepped
                if stop.kind not in _INSIDE:
                    return stop
            else:
                count -= 1
            self._age(self._cpu.position() - before[0])

    def _awaits_anything(self) -> bool:
        """Something may begin or end at any instruction."""
        return bool(self._board.agenda.state.expected) or any(held.left != ALWAYS for held in self._held)

    def _walk(self, again: bool) -> Stop:
        """Step through the block that comes next, in which something may come due."""
        entered = self._cpu.position()
        outside: Stop | None = None
        while True:
            before = self._cpu.position(), self._cpu.instruction()
            self._look(entered)
            if (stop := self._meet(again)) is not None:
                if stop.kind != StopKind.OUTPUT:
                    return stop
                outside = stop  # when the block is done
            if (self._cpu.position(), self._cpu.instruction()) == before:
                stop = self._board.step(1)
                if stop.kind not in _INSIDE:
                    return stop
            if not self._cpu.instruction() and self._cpu.position() != entered:
                return outside or Stop(StopKind.POSITION)

    def _look(self, entered: int) -> None:
        """At each instruction of the block that was entered at a position."""
        arch = self._arch()
        linear = register("cs.base").of(arch) + register("rip").of(arch) & (1 << 64) - 1
        self._board.agenda.see_instruction(entered, self._cpu.instruction(), linear)

    def _meet(self, again: bool) -> Stop | None:
        """Let happen what is due here. OUTPUT: the monitor is to do some of it; other stops are of an instruction that
        was executed on the way."""
        due = self._board.agenda.take_due(at_entry=not self._cpu.instruction())
        for fault in due:
            self._board.tell(FaultStruck(fault, self._cpu.position()))
        mine = [fault for fault in due if fault.hurts(self._index) and (fault.in_every_run or not again)]
        for fault in mine:
            self._strike(fault)
        stop = self._execute([fault for fault in mine if isinstance(fault.target, OfInstruction)])
        if stop is not None and stop.kind not in _INSIDE:
            return stop
        return Stop(StopKind.OUTPUT) if any(isinstance(fault.target, Leg) for fault in due) else None

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
            if tapped:
                self._cpu.connect(_Tap(self._board, self._board.agenda, lambda: self._force(chips)))
            else:
                self._cpu.connect(self._board, self._board.native_lapic)
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

    def _instruction(self) -> tuple[int, int]:
        """Its linear address, and the bits of the code that it is in: SDM vol. 3, 3.4.5."""
        arch = self._arch()
        wide = register("cs.flags").of(arch) & _CODE_64 and register("efer").of(arch) & _LONG_MODE
        bits = 64 if wide else 32 if register("cs.flags").of(arch) & _CODE_32 else 16
        return register("cs.base").of(arch) + register("rip").of(arch) & (1 << 64) - 1, bits

    def _execute(self, faults: list[Fault]) -> Stop | None:
        """Execute one instruction with all of these; None if there are none."""
        if not faults:
            return None
        targets = [(fault.target, fault.change) for fault in faults]
        address, bits = self._instruction()
        size = None
        with contextlib.ExitStack() as meanwhile:
            for target, change in targets:
                match target:
                    case OpcodeBit(bit):
                        meanwhile.enter_context(self._wrong_bytes(address + bit // 8, change, bit % 8))
                    case ReadBit(at, bit):
                        meanwhile.enter_context(self._wrong_bytes(at, change, bit))
                    case Skip():
                        size = length(self._memory().read(address, MAX_BYTES), bits)
            stop = self._board.step(1) if size is None else self._board.skip(size)
        for target, change in targets:
            if isinstance(target, WrittenBit):
                self._strike_gpa(self._memory().translate(target.address), target.bit, True, change, 0)
        if self._cpu.instruction() and any(isinstance(target, OpcodeBit) for target, _ in targets):
            self._cpu.begin_block()  # where it ends was decided with the right instruction
        return stop

    @contextlib.contextmanager
    def _wrong_bytes(self, address: int, change: Change, bit: int) -> Iterator[None]:
        """Memory, if it is there, is another one meanwhile, except where the guest writes to it."""
        gpa = self._memory().translate(address)
        start = None if gpa is None else ram_offset(gpa, len(self._ram))
        if start is None:
            yield
            return
        end = min(start + (bit + change.width + 7) // 8, len(self._ram))
        right = self._ram[start:end]
        value = change.of(int.from_bytes(right, "little"), bit)
        wrong = (value & (1 << 8 * len(right)) - 1).to_bytes(len(right), "little")
        self._ram[start:end] = wrong
        self._cpu.invalidate_code(start, len(right))
        yield
        for at, (then, before) in enumerate(zip(wrong, right, strict=True), start):
            if self._ram[at] == then:
                self._ram[at] = before
        self._cpu.invalidate_code(start, len(right))

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

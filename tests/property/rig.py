"""One board with its CPU and RAM in this process, to look at between any two instructions."""

import mmap
from dataclasses import dataclass
from pathlib import Path

from ftvm.boot import load
from ftvm.module.board import Board, BoardConfig, StopKind
from ftvm.module.cpu import ARCH_BYTES, Cpu
from ftvm.module.registers import REGISTERS, with_registers
from ftvm.units import MIB

FOREVER = 1 << 50
GOES_ON = (StopKind.POSITION, StopKind.OUTPUT, StopKind.IDLE, StopKind.DEBUG)


@dataclass(frozen=True)
class State:
    """All that a guest could tell apart."""

    position: int
    instruction: int
    arch: bytes
    board: bytes
    ram: bytes

    def differences(self, other: "State") -> list[str]:
        """For a test that fails: what is not the same."""
        found = [
            f"{register.name}: {register.of(self.arch):#x}, {register.of(other.arch):#x}"
            for register in REGISTERS.values()
            if register.of(self.arch) != register.of(other.arch)
        ]
        found += ["chips"] * (self.board != other.board)
        pages = range(0, len(self.ram), 4096)
        found += [f"RAM {at:#x}" for at in pages if self.ram[at : at + 4096] != other.ram[at : at + 4096]]
        return found


class Rig:
    """A guest at its first instruction. ``end`` says how it ended, once it did."""

    def __init__(
        self,
        image: Path,
        ram_bytes: int = 16 * MIB,
        append: str = "",
        initrd: Path | None = None,
        stop_on: bytes | None = None,
    ) -> None:
        plan = load(image, append=append, initrd=initrd, ram_bytes=ram_bytes)
        self.ram = mmap.mmap(-1, ram_bytes)
        for segment in plan.segments:
            self.ram[segment.gpa : segment.gpa + len(segment.data)] = segment.data
        self.cpu = Cpu(self.ram)
        self.board = Board(BoardConfig(ram_bytes=ram_bytes, stop_on=stop_on), self.cpu)
        values = {**plan.registers, "cs.selector": plan.cs, "cs.base": plan.cs * 16, "rip": plan.ip}
        self.cpu.load(with_registers(self.arch(), values))
        self.end: StopKind | None = None

    def close(self) -> None:
        self.cpu.close()

    def arch(self) -> bytes:
        arch = bytearray(ARCH_BYTES)
        self.cpu.save(arch)
        return bytes(arch)

    def state(self, ram: bool = False) -> State:
        content = self.ram[:] if ram else b""
        return State(self.cpu.position(), self.cpu.instruction(), self.arch(), self.board.save(), content)

    def run(self, position: int = FOREVER) -> None:
        """To ``position``, from inside a block to its end at least, or to the guest's end."""
        while self.end is None and (self.cpu.position() < position or self.cpu.instruction()):
            self.note(self.board.run(position).kind)

    def step(self, count: int = 1) -> None:
        if self.end is None:
            self.note(self.board.step(count).kind)

    def note(self, kind: StopKind) -> None:
        self.board.take_outputs()
        if kind not in GOES_ON:
            self.end = kind

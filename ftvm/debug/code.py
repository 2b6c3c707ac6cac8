"""The guest's code as instructions: decoded from a module's memory in the mode that it runs in."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from ftvm.errors import UsageError

LONGEST_INSTRUCTION = 15

_CS_LONG = 1 << 21
_CS_32_BIT = 1 << 22
_EFER_LMA = 1 << 10


class Reader(Protocol):
    """What is needed of a module (ftvm/monitor/module_view.py)."""

    @property
    def registers(self) -> Mapping[str, int]: ...
    def read_virtual(self, address: int, size: int) -> bytes: ...


@dataclass(frozen=True)
class Instruction:
    """``target``: the address that it names as an operand (of a jump or call, or relative to RIP), if it does."""

    address: int
    code: bytes
    mnemonic: str
    operands: str
    target: int | None = None


def code_bits(registers: Mapping[str, int]) -> int:
    """16, 32 or 64: how the CPU decodes what CS:RIP points at."""
    if registers["efer"] & _EFER_LMA and registers["cs.flags"] & _CS_LONG:
        return 64
    return 32 if registers["cs.flags"] & _CS_32_BIT else 16


def word_bytes(registers: Mapping[str, int]) -> int:
    """Of an address on the stack, in the mode that the CPU runs in."""
    return code_bits(registers) // 8


def code_address(registers: Mapping[str, int]) -> int:
    """The linear address of the next instruction."""
    return registers["rip"] if code_bits(registers) == 64 else registers["cs.base"] + registers["rip"]


def stack_address(registers: Mapping[str, int], offset: int) -> int:
    """The linear address of ``offset`` in the stack segment."""
    return offset if code_bits(registers) == 64 else registers["ss.base"] + offset


def read_some(module: Reader, address: int, size: int) -> bytes:
    """Up to ``size`` bytes at a linear address; fewer where the mapping ends."""
    while size:
        try:
            return module.read_virtual(address, size)
        except UsageError:
            # What is on this page is there, or nothing is.
            on_page = -address % 4096 or 4096
            size = on_page if on_page < size else 0
    return b""


def instructions(module: Reader, address: int, count: int) -> Iterator[Instruction]:
    """Up to ``count`` instructions from ``address`` on. Bytes that are none end it."""
    import capstone  # 60 ms that only code is worth
    from capstone import x86

    bits = code_bits(module.registers)
    decoder = capstone.Cs(
        capstone.CS_ARCH_X86, {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}[bits]
    )
    decoder.detail = True
    code = read_some(module, address, count * LONGEST_INSTRUCTION)
    for found in decoder.disasm(code, address, count):
        target = None
        for operand in found.operands:
            if operand.type == x86.X86_OP_IMM and found.group(x86.X86_GRP_BRANCH_RELATIVE):
                target = operand.imm
            elif operand.type == x86.X86_OP_MEM and operand.mem.base == x86.X86_REG_RIP:
                target = found.address + found.size + operand.mem.disp
            elif operand.type == x86.X86_OP_MEM and not (operand.mem.base or operand.mem.index or operand.mem.segment):
                target = operand.mem.disp
        at = None if target is None else target % (1 << 64)
        yield Instruction(found.address, bytes(found.bytes), found.mnemonic, found.op_str, at)

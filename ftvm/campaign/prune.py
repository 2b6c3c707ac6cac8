"""Faults that cannot have an effect: in a general register that the guest writes before it reads it.

The golden run itself is followed from the fault's position, block by block. What is not understood completely counts as
read: instructions other than the plain ones, code that is not 64-bit, ways that an interrupt or an exception takes.
Definition and use as in A. Benso et al., Analysis and pruning of the fault space, 1998; but nothing is weighted here:
a pruned experiment stands for itself alone, so that the table is the same as without.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import capstone
from capstone import x86

from ftvm.campaign.targets import GENERAL
from ftvm.debug.code import code_address, code_bits
from ftvm.errors import UsageError
from ftvm.machine import Machine
from ftvm.module.fault import Fault, RegisterBit

MAX_BLOCKS = 64
"""Followed at most. Epochs must be longer: a comparison in between would see the fault."""
MAX_CODE_BYTES = 256
"""Of a block. What lies beyond is not looked at."""

_MOVES = ("mov", "movabs", "movsx", "movsxd", "movzx", "lea", "push", "pop", "nop", "jmp", "call")
_SUMS = ("add", "sub", "and", "or", "xor", "cmp", "test", "inc", "dec", "neg", "not", "shl", "shr", "sar", "imul")
_PLAIN = frozenset(_MOVES + _SUMS)
_WHOLE = {name: name for name in GENERAL} | {
    **{f"e{name[1:]}": name for name in GENERAL if not name[1].isdigit()},
    **{f"{name}d": name for name in GENERAL if name[1].isdigit()},
}
"""A write to any of these leaves nothing of the register's old value."""


@dataclass(frozen=True)
class _Step:
    """One instruction: what it reads and what it overwrites as a whole, of the general registers; ``targets`` are where
    a direct branch may go, None when it is no branch."""

    address: int
    end: int
    reads: frozenset[str]
    writes: frozenset[str]
    targets: tuple[int, ...] | None


def candidate(fault: Fault, epoch_blocks: int) -> str | None:
    """The general register that the fault is in, if it can be pruned at all."""
    if isinstance(fault.target, RegisterBit) and fault.target.name in GENERAL and epoch_blocks > MAX_BLOCKS:
        return None if fault.lasting or fault.every else fault.target.name
    return None


def overwritten(machine: Machine, register: str) -> bool:
    """Whether the guest, from where it stands, writes all of ``register`` before it reads any of it. The machine goes
    on by some blocks meanwhile."""
    for _ in range(MAX_BLOCKS):
        registers = machine.modules[0].registers
        if code_bits(registers) != 64:
            return False
        steps = list(_straight(machine, code_address(registers)))
        if machine.run_until(position=machine.position + 1) is not None:
            return False
        executed = _executed(steps, code_address(machine.modules[0].registers))
        for step in executed:
            if register in step.reads:
                return False
            if register in step.writes:
                return True
        if not executed:
            return False
    return False


def _executed(steps: list[_Step], then: int) -> list[_Step]:
    """Those that have been executed for certain when the next block begins at ``then``; none if it is not clear."""
    for number, step in enumerate(steps):
        if number and step.address == then:
            return steps[:number]  # the block ended here, or its end leads here: what is between comes next in any case
    if steps and (then == steps[-1].end or then in (steps[-1].targets or ())):
        return steps
    return []


def _straight(machine: Machine, address: int) -> Iterator[_Step]:
    """The plain instructions from there on, up to a branch; what is not plain ends it."""
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    engine.detail = True
    for instruction in engine.disasm(_code(machine, address), address):
        mnemonic = instruction.mnemonic
        conditional = instruction.group(x86.X86_GRP_JUMP) and mnemonic != "jmp"
        if not conditional and mnemonic not in _PLAIN:
            return
        targets: tuple[int, ...] | None = None
        if instruction.group(x86.X86_GRP_JUMP) or instruction.group(x86.X86_GRP_CALL):
            (operand,) = instruction.operands
            if operand.type != x86.X86_OP_IMM:
                return
            targets = (operand.imm,)
        yield _step(instruction, targets)
        if targets is not None:
            return


def _step(instruction: capstone.CsInsn, targets: tuple[int, ...] | None) -> _Step:
    read, written = ([instruction.reg_name(number) for number in numbers] for numbers in instruction.regs_access())
    cleared = (
        instruction.mnemonic in ("xor", "sub")
        and len(instruction.operands) == 2
        and all(operand.type == x86.X86_OP_REG for operand in instruction.operands)
        and instruction.operands[0].reg == instruction.operands[1].reg
    )
    reads = frozenset() if cleared else frozenset(_family(name) for name in read)
    # A write to a part keeps the rest of the old value.
    partly = frozenset(_family(name) for name in written if name not in _WHOLE)
    writes = frozenset(_WHOLE[name] for name in written if name in _WHOLE)
    return _Step(instruction.address, instruction.address + instruction.size, reads | partly, writes, targets)


def _family(name: str) -> str:
    """The general register that ``ah``, ``r8w`` or ``esi`` is part of; any other name as it is."""
    if name in _WHOLE:
        return _WHOLE[name]
    if name[0] == "r" and name[-1] in "wb":
        return name[:-1]
    letter = {"ah": "rax", "al": "rax", "bh": "rbx", "bl": "rbx", "ch": "rcx", "cl": "rcx", "dh": "rdx", "dl": "rdx"}
    return letter.get(name) or f"r{name.removesuffix('l')}"


def _code(machine: Machine, address: int) -> bytes:
    for size in (MAX_CODE_BYTES, 0x1000 - (address & 0xFFF)):
        try:
            return machine.modules[0].read_virtual(address, size)
        except UsageError:
            continue
    return b""

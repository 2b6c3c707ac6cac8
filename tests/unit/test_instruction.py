"""The length of instructions, held against a disassembler."""

import random
from pathlib import Path

import capstone
import pytest
from elftools.elf.elffile import ELFFile

import ftvm
from ftvm.module.instruction import length

KERNELS = Path(ftvm.__file__).parent / "firmware" / "kernels"
MODES = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}
# What the CPU model does not have, and what a disassembler and a processor see differently.
FOREIGN = ("v", "xop", "k", "extrq", "insertq", "bnd", "xbegin", "xabort", "jmpe", "ud0", "ud1")


@pytest.mark.parametrize("kernel", ["workload", "fpu", "exceptions", "interrupts"])
def test_every_instruction_of_a_kernel_is_as_long_as_it_is(kernel: str) -> None:
    with (KERNELS / f"{kernel}.elf").open("rb") as file:
        text = ELFFile(file).get_section_by_name(".text")
        data, address = text.data(), text["sh_addr"]
    disassembler = capstone.Cs(capstone.CS_ARCH_X86, MODES[64])
    disassembler.skipdata = True
    seen = 0
    for instruction in disassembler.disasm(data, address):
        if instruction.id:
            at = instruction.address - address
            assert length(data[at : at + 15], 64) == instruction.size, instruction
            seen += 1
    assert seen > 1000


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_random_bytes_are_as_long_as_a_disassembler_says(bits: int) -> None:
    dice = random.Random(bits)
    disassembler = capstone.Cs(capstone.CS_ARCH_X86, MODES[bits])
    wrong = []
    compared = 0
    for _ in range(20_000):
        code = dice.randbytes(15)
        instruction = next(disassembler.disasm(code, 0, 1), None)
        short_jump = instruction is not None and instruction.mnemonic.startswith(("j", "call")) and 0x66 in code[:8]
        if (
            (bits == 64 and short_jump)
            or instruction is None
            or instruction.mnemonic.startswith(FOREIGN)
            or code[0] in (0x62, 0xC4, 0xC5, 0x8F)
        ):
            continue
        compared += 1
        if length(code, bits) != instruction.size:
            wrong.append((code[: instruction.size].hex(" "), str(instruction), length(code, bits)))
    assert compared > 10_000
    assert not wrong


def test_an_instruction_that_is_cut_off_has_no_length() -> None:
    assert length(b"", 64) is None
    assert length(b"\x48\xb8\x01\x02", 64) is None
    assert length(b"\x66" * 15, 64) is None

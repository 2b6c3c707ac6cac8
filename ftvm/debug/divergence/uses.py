"""Which blocks may use registers that differ, so that only those need be stepped through.

The others do the same in both modules, since none of their instructions reads or writes such a register. What an
instruction reads and writes is what its encoding says; of those for which that is not all, everything is assumed.
"""

from collections.abc import Iterable
from functools import cached_property
from typing import Any

from ftvm.debug.divergence.pair import Block, Traced
from ftvm.monitor.compare import Difference
from ftvm.units import PAGE_BYTES

_STATUS = 0xCD5
"""The flags that instructions name: CF, PF, AF, ZF, SF, DF, OF (SDM vol. 1, 3.4.3)."""
_SYSTEM_FLAGS = ("pushf", "popf", "iret", "int", "sys", "cli", "sti", "clac", "stac")
_OPAQUE = (
    *("sys", "iret", "int", "enter", "xlat", "pusha", "popa", "swapgs", "fxsave", "fxrstor", "xsave", "xrstor"),
    *("cmpxchg", "maskmov", "blendv", "pblendv", "pcmpestr", "pcmpistr", "ins", "outs"),
)
"""Beginnings of the names of instructions that use registers which their operands do not say."""

_WHOLE = {
    **{part: f"r{letter}x" for letter in "abcd" for part in (f"{letter}l", f"{letter}h", f"{letter}x", f"e{letter}x")},
    **{part: f"r{name}" for name in ("si", "di", "bp", "sp") for part in (f"{name}l", name, f"e{name}")},
    **{f"r{number}{part}": f"r{number}" for number in range(8, 16) for part in "bwd"},
    **{name: f"{name}.base" for name in ("fs", "gs")},
}
"""Registers by the names of their parts."""


class Uses:
    """Looks for uses of the registers in which modules differ, and of the flags."""

    def __init__(self, differences: Iterable[Difference]) -> None:
        differing = [difference for difference in differences if difference.kind == "register"]
        self._registers = {difference.where for difference in differing} - {"rflags"}
        flags = 0
        for difference in differing:
            match difference:
                case Difference("register", "rflags", (int() as sound, int() as faulty)):
                    flags = sound ^ faulty
        self._status, self._system = bool(flags & _STATUS), bool(flags & ~_STATUS)
        self._any = bool(differing)
        self._answers: dict[tuple[bytes, int], bool] = {}

    def first(self, traced: Traced, ram: memoryview, written: set[int]) -> int | None:
        """The number of the first effect in ``traced``, a trace by blocks, at which a block is entered that may use
        them. ``ram`` is what there is after it, and ``written`` are the pages that were written meanwhile."""
        found = None
        for block, number in traced.blocks().items() if self._any else ():
            if (found is None or number < found) and self._may_use(block, ram, written):
                found = number
        return found

    def _may_use(self, block: Block, ram: memoryview, written: set[int]) -> bool:
        first, second, size, bits = block
        on_first = min(size, PAGE_BYTES - first % PAGE_BYTES)
        pieces = [(first, on_first), *([(second, size - on_first)] if on_first < size else [])]
        if any(start + count > len(ram) or start // PAGE_BYTES in written for start, count in pieces):
            return True  # nobody knows what it was
        code = b"".join(bytes(ram[start : start + count]) for start, count in pieces)
        if (code, bits) not in self._answers:
            self._answers[code, bits] = self._in_code(code, bits)
        return self._answers[code, bits]

    def _in_code(self, code: bytes, bits: int) -> bool:
        done = 0
        for found in self._decoders[bits].disasm(code, 0):
            if self._in_instruction(found):
                return True
            done += found.size
        return done != len(code)

    def _in_instruction(self, found: Any) -> bool:
        name: str = found.mnemonic.split()[-1]  # behind prefixes
        if name.startswith(_OPAQUE) or (self._status and found.eflags):
            return True
        if self._system and name.startswith(_SYSTEM_FLAGS):
            return True
        names = [found.reg_name(number) for used in found.regs_access() for number in used]
        return any(_WHOLE.get(name, name) in self._registers for name in names)

    @cached_property
    def _decoders(self) -> dict[int, Any]:
        import capstone  # 60 ms that only code is worth

        modes = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}
        decoders = {bits: capstone.Cs(capstone.CS_ARCH_X86, mode) for bits, mode in modes.items()}
        for decoder in decoders.values():
            decoder.detail = True
        return decoders

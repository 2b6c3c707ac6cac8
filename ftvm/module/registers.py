"""The architectural state by name: every field of ft_arch (native/ftvm.h), where it lies and how wide it is."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from ftvm._native import ffi, lib
from ftvm.errors import UsageError

_NAMES = {
    "gpr": ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16))),
    "segment": ("es", "cs", "ss", "ds", "fs", "gs"),
}


class Register(msgspec.Struct, frozen=True):
    """One register or part of one, such as ``rax``, ``cs.base`` or ``xmm3``; ``offset`` and ``size`` in bytes."""

    name: str
    offset: int
    size: int

    def of(self, arch: bytes) -> int:
        """Its value in a saved architectural state, unsigned."""
        return int.from_bytes(arch[self.offset : self.offset + self.size], "little")


def _registers(name: str, offset: int, ctype: Any) -> Iterator[Register]:
    if ctype.kind == "struct":
        for field, member in ctype.fields:
            if field != "reserved":
                yield from _registers(f"{name}.{field}" if name else field, offset + member.offset, member.type)
    elif ctype.kind == "array" and ctype.item.cname != "uint8_t":
        for index in range(ctype.length):
            item = _NAMES[name][index] if name in _NAMES else f"{name}{index}"
            yield from _registers(item, offset + index * ffi.sizeof(ctype.item), ctype.item)
    else:
        yield Register(name, offset, ffi.sizeof(ctype))


REGISTERS: Mapping[str, Register] = {r.name: r for r in _registers("", 0, ffi.typeof("ft_arch"))}
ARCH_BYTES: int = ffi.sizeof("ft_arch")


def register(name: str) -> Register:
    """Raises UsageError for a name that is not in ft_arch."""
    try:
        return REGISTERS[name]
    except KeyError:
        raise UsageError(f"no register is named {name!r}", "rax, rip, cs.base, cr3, xmm0, for example") from None


def reset_state() -> bytes:
    """The architectural state of a CPU after power-up, but CS:IP is 0:0."""
    arch = ffi.new("ft_arch *")
    lib.ft_cpu_reset_state(arch)
    return bytes(ffi.buffer(arch))


def with_registers(arch: bytes, values: Mapping[str, int]) -> bytes:
    """A copy of ``arch`` with these registers set. Raises UsageError for an unknown name or a value too wide."""
    changed = bytearray(arch)
    for name, value in values.items():
        where = register(name)
        if value < 0 or value.bit_length() > where.size * 8:
            raise UsageError(f"{value:#x} does not fit into register {name}", f"it has {where.size * 8} bits")
        changed[where.offset : where.offset + where.size] = value.to_bytes(where.size, "little")
    return bytes(changed)

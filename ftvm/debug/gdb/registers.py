"""The registers as gdb numbers them, and the description of the target that tells it so (gdb manual, appendix G)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ftvm.module.registers import REGISTERS


@dataclass(frozen=True)
class GdbRegister:
    """One register of gdb: ``name`` there, ``size`` in bytes, its ``type``. ``ours`` is where its value is, if it has
    one; ``writable``: gdb may change it."""

    name: str
    size: int
    type: str
    ours: str | None
    writable: bool = True


def _core() -> Iterator[GdbRegister]:
    general = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{n}" for n in range(8, 16)))
    pointers = {"rbp": "data_ptr", "rsp": "data_ptr"}
    yield from (GdbRegister(name, 8, pointers.get(name, "int64"), name) for name in general)
    yield GdbRegister("rip", 8, "code_ptr", "rip")
    yield GdbRegister("eflags", 4, "i386_eflags", "rflags")
    yield from (
        GdbRegister(name, 4, "int32", f"{name}.selector", writable=False)
        for name in ("cs", "ss", "ds", "es", "fs", "gs")
    )
    yield from (GdbRegister(f"st{n}", 10, "i387_ext", f"st{n}") for n in range(8))
    for name, ours in (("fctrl", "fpu_control"), ("fstat", "fpu_status"), ("ftag", "fpu_tags")):
        yield GdbRegister(name, 4, "int", ours, writable=False)
    yield from (GdbRegister(name, 4, "int", None, writable=False) for name in _FPU_REST)


_FPU_REST = ("fiseg", "fioff", "foseg", "fooff", "fop")

_FEATURES: tuple[tuple[str, tuple[GdbRegister, ...]], ...] = (
    ("org.gnu.gdb.i386.core", tuple(_core())),
    (
        "org.gnu.gdb.i386.sse",
        (
            *(GdbRegister(f"xmm{n}", 16, "vec128", f"xmm{n}") for n in range(16)),
            GdbRegister("mxcsr", 4, "i386_mxcsr", "mxcsr"),
        ),
    ),
    (
        "org.gnu.gdb.i386.segments",
        (GdbRegister("fs_base", 8, "int64", "fs.base"), GdbRegister("gs_base", 8, "int64", "gs.base")),
    ),
    (
        "org.ftvm.x86.system",
        tuple(GdbRegister(name, 8, "int64", name, writable=False) for name in ("cr0", "cr2", "cr3", "cr4", "efer")),
    ),
)

GDB_REGISTERS: tuple[GdbRegister, ...] = tuple(register for _, registers in _FEATURES for register in registers)
"""In the order of their numbers."""

_EFLAGS = (
    *(("CF", 0), ("PF", 2), ("AF", 4), ("ZF", 6), ("SF", 7), ("TF", 8), ("IF", 9), ("DF", 10), ("OF", 11)),
    *(("NT", 14), ("RF", 16), ("VM", 17), ("AC", 18), ("VIF", 19), ("VIP", 20), ("ID", 21)),
)
_MXCSR = (
    *(("IE", 0), ("DE", 1), ("ZE", 2), ("OE", 3), ("UE", 4), ("PE", 5), ("DAZ", 6)),
    *(("IM", 7), ("DM", 8), ("ZM", 9), ("OM", 10), ("UM", 11), ("PM", 12), ("FZ", 15)),
)
_VECTORS = (
    *(("v4f", "ieee_single", 4), ("v2d", "ieee_double", 2), ("v16i8", "int8", 16)),
    *(("v8i16", "int16", 8), ("v4i32", "int32", 4), ("v2i64", "int64", 2)),
)


def _flags(name: str, fields: tuple[tuple[str, int], ...]) -> str:
    inside = "".join(f'<field name="{field}" start="{bit}" end="{bit}"/>' for field, bit in fields)
    return f'<flags id="{name}" size="4">{inside}</flags>'


def _types(feature: str) -> str:
    if feature.endswith(".core"):
        return _flags("i386_eflags", _EFLAGS)
    if feature.endswith(".sse"):
        vectors = "".join(f'<vector id="{name}" type="{type}" count="{count}"/>' for name, type, count in _VECTORS)
        fields = "".join(f'<field name="{name}" type="{name}"/>' for name, _, _ in _VECTORS)
        whole = f'<union id="vec128">{fields}<field name="uint128" type="uint128"/></union>'
        return vectors + whole + _flags("i386_mxcsr", _MXCSR)
    return ""


def _group(register: GdbRegister) -> str:
    if register.name.startswith("f") and register.type == "int":
        return ' group="float"'
    return ' group="vector"' if register.name == "mxcsr" else ""


def target_description() -> bytes:
    """The XML document of the target: x86-64."""
    features = "".join(
        f'<feature name="{name}">{_types(name)}'
        + "".join(
            f'<reg name="{register.name}" bitsize="{8 * register.size}" type="{register.type}"{_group(register)}/>'
            for register in registers
        )
        + "</feature>"
        for name, registers in _FEATURES
    )
    return (
        '<?xml version="1.0"?><!DOCTYPE target SYSTEM "gdb-target.dtd"><target version="1.0">'
        f"<architecture>i386:x86-64</architecture>{features}</target>"
    ).encode()


def value(register: GdbRegister, values: Mapping[str, int]) -> bytes:
    """As gdb wants it, from the registers of a module by name."""
    if register.ours is None:
        return bytes(register.size)
    if register.type == "i387_ext":
        number = values[_physical(register, values)]
    elif register.name == "ftag":  # two bits each, 3 is empty
        number = sum(0 if values["fpu_tags"] >> slot & 1 else 3 << 2 * slot for slot in range(8))
    else:
        number = values[register.ours]
    return (number & ((1 << 8 * register.size) - 1)).to_bytes(register.size, "little")


def change(register: GdbRegister, data: bytes, values: Mapping[str, int]) -> tuple[str, bytes] | None:
    """Our register and its new content; None when gdb may not change it, or gave another number of bytes."""
    if not register.writable or register.ours is None or len(data) != register.size:
        return None
    ours = _physical(register, values) if register.type == "i387_ext" else register.ours
    return ours, data.ljust(REGISTERS[ours].size, b"\0")[: REGISTERS[ours].size]


def _physical(register: GdbRegister, values: Mapping[str, int]) -> str:
    """The FPU's stack begins at TOP (SDM vol. 1, 8.1.2)."""
    return f"st{(int(register.name[2:]) + (values['fpu_status'] >> 11)) & 7}"

"""One fault in words: ``module=1,target=rax:5,at=2000000``. docs/fault-plans.md describes every field."""

import random
import re
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from ftvm.errors import FtvmError, UsageError
from ftvm.faults.legs import check_leg
from ftvm.memory_map import physical, ram_offset
from ftvm.module.fault import (
    ALWAYS,
    Access,
    AtPosition,
    AtTime,
    Change,
    ChipBit,
    Fault,
    Leg,
    LinearBit,
    OnExecution,
    OnMmio,
    OnPort,
    OnText,
    OpcodeBit,
    Operation,
    PageTableBit,
    Process,
    RamBit,
    ReadBit,
    RegisterBit,
    Skip,
    Target,
    TlbBit,
    When,
    WrittenBit,
)
from ftvm.module.registers import register
from ftvm.monitor.module_view import PARTS
from ftvm.units import parse_blocks

FIELDS = ("module", "target", "kind", "at", "nth", "for", "every", "times", "logged", "level", "seed")
"""Of every fault; faults in a module as a whole and in legs have some more, see ``_SETTINGS``."""

_KINDS = {
    "flip": Operation.FLIP,
    "set": Operation.SET,
    "clear": Operation.CLEAR,
    "random": Operation.VALUE,
    "stuck-at-0": Operation.CLEAR,
    "stuck-at-1": Operation.SET,
}
_SETTINGS: Mapping[str, Mapping[str, Callable[[str], int | float | str]]] = {
    "module": {"milliseconds": int},
    "disk": {"offset": int, "size": int, "count": int, "bit": int, "displacement": int, "seconds": float},
    "nic": {"direction": str, "rate": float, "count": int, "seconds": float},
}
_TIME_UNITS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
_ACCESS = {"": Access.ANY, "read": Access.READ, "write": Access.WRITE}

T = TypeVar("T")

Value = int | float | str | bool
"""Of a field, as TOML has it; on the command line all are text."""


class Guest(msgspec.Struct, frozen=True):
    """What must be known of a guest to make sense of addresses. ``symbol`` gives the linear address of a name, and
    raises UsageError for one that it does not know."""

    ram_bytes: int
    symbol: Callable[[str], int] | None = None

    def address(self, text: str) -> int:
        """A linear address: a number, or a symbol and what is added to it."""
        if re.fullmatch(r"0x[0-9a-fA-F_]+|[0-9_]+", text):
            return _integer(text)
        name, plus, more = text.partition("+")
        if self.symbol is None:
            raise UsageError(f"{text!r} is not a number, and no symbols are known", "name a file with --symbols")
        return self.symbol(name) + (_integer(more) if plus else 0)


class FieldError(FtvmError):
    """What is wrong with one fault, and in which ``field`` of it; None: one that is missing."""

    def __init__(self, field: str | None, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.field = field


def parse_fault(text: str, guest: Guest) -> Fault:
    """A fault from one line. Raises UsageError."""
    fields: dict[str, Value] = {}
    for part in re.split(r",(?=[a-z]+=)", text.strip()):
        name, equals, value = part.partition("=")
        if not equals:
            raise UsageError(f"the fault {text!r}: {part!r} is not a field", "write module=1,target=rax:5,at=2000000")
        if name in fields:
            raise UsageError(f"the fault {text!r}: {name} is there twice")
        fields[name] = value
    try:
        return fault_of(fields, guest)
    except FieldError as error:
        where = f"field {error.field}: " if error.field else ""
        raise UsageError(f"the fault {text!r}: {where}{error.message}", error.hint) from None


def fault_of(fields: Mapping[str, Value], guest: Guest, seed: str = "0") -> Fault:
    """A fault from its fields. ``seed`` decides what is left to chance, together with the field of that name.

    Raises FieldError. What is right in itself may still name something that a machine does not have: see
    ftvm/module/fault_check.py.
    """
    return _Reader(fields, guest, seed).fault()


def format_fault(fault: Fault) -> str:
    """The fault in one line, as ``parse_fault`` reads it; of what was left to chance, what it came to."""
    target, fields = _target_text(fault), _when_fields(fault.when)
    kind = fault.change.operation.value
    if isinstance(fault.target, Process | Leg):
        kind = fault.target.how if isinstance(fault.target, Process) else fault.target.model
    elif fault.change.operation == Operation.VALUE:
        kind = f"value-{int.from_bytes(fault.change.value, 'little'):#x}"
    words = {"module": "all" if fault.module is None else str(fault.module)}
    if isinstance(fault.target, Leg):
        words = {}
    words |= {"target": target, "kind": kind} | fields
    if fault.lasting:
        words["for"] = "always" if fault.lasting == ALWAYS else str(fault.lasting)
    if fault.every:
        words |= {"every": str(fault.every), "times": str(fault.times)}
    if isinstance(fault.target, RamBit | LinearBit | PageTableBit) and fault.target.logged:
        words["logged"] = "true"
    if isinstance(fault.target, PageTableBit) and fault.target.level:
        words["level"] = str(fault.target.level)
    if isinstance(fault.target, Process) and fault.target.milliseconds:
        words["milliseconds"] = str(fault.target.milliseconds)
    if isinstance(fault.target, Leg):
        words |= {name: str(value) for name, value in fault.target.settings.items()}
    return ",".join(f"{name}={value}" for name, value in words.items())


def _target_text(fault: Fault) -> str:
    width = fault.change.width

    def bits(lowest: int) -> str:
        return str(lowest) if width == 1 else f"{lowest}-{lowest + width - 1}"

    match fault.target:
        case RegisterBit(name, bit):
            return f"{name}:{bits(bit)}"
        case RamBit(offset, bit):
            return f"phys:{physical(offset):#x}:{bits(bit)}"
        case LinearBit(address, bit):
            return f"mem:{address:#x}:{bits(bit)}"
        case PageTableBit(address, _, bit):
            return f"pte:{address:#x}:{bits(bit)}"
        case TlbBit(address, bit):
            return f"tlb:{address:#x}:{bits(bit)}"
        case ChipBit(path, bit):
            return f"chip:{path}:{bits(bit)}"
        case OpcodeBit(bit):
            return f"opcode:{bits(bit)}"
        case ReadBit(address, bit):
            return f"read:{address:#x}:{bits(bit)}"
        case WrittenBit(address, bit):
            return f"written:{address:#x}:{bits(bit)}"
        case Skip():
            return "skip"
        case Process():
            return "module"
        case Leg(device, leg):
            return f"{device}.{leg}"


def _when_fields(when: When) -> dict[str, str]:
    match when:
        case AtPosition(position, instruction):
            return {"at": f"{position}+{instruction}" if instruction else str(position)}
        case AtTime(ns):
            return {"at": f"time:{ns}ns"}
        case OnText(text, nth):
            at = f"text:{text.decode(errors='backslashreplace')}"
        case OnExecution(address, nth):
            at = f"exec:{address:#x}"
        case OnPort(place, access, nth) | OnMmio(place, access, nth):
            kind = "port" if isinstance(when, OnPort) else "mmio"
            at = f"{kind}:{place:#x}" + ("" if access == Access.ANY else f"/{access}")
    return {"at": at, "nth": str(nth)} if nth != 1 else {"at": at}


class _Reader:
    """Reads the fields of one fault."""

    def __init__(self, fields: Mapping[str, Value], guest: Guest, seed: str) -> None:
        self._fields = fields
        self._guest = guest
        self._seed = f"{seed}/{fields.get('seed', 0)}"

    def fault(self) -> Fault:
        target_text = self._text("target")
        family = _family(target_text)
        allowed = (*FIELDS, *_SETTINGS.get(family, ()))
        for name in self._fields:
            if name not in allowed:
                raise FieldError(name, f"there is no field {name!r}", f"there are {', '.join(allowed)}")
        when = self._read("at", lambda: self._when(self._text("at")))
        if family in _SETTINGS:
            return self._whole(family, target_text, when)
        target, bits = self._read("target", lambda: self._target(target_text))
        kind = self._text("kind", "flip")
        change = _fixed_value(kind, bits)
        if change is None and kind not in _KINDS:
            raise FieldError(
                "kind", f"there is no kind {kind!r} of fault in {target_text}", f"there are {', '.join(_KINDS)}"
            )
        change = change or Change(_KINDS[kind], bits)
        if kind == "random":
            value = random.Random(f"{self._seed}/value").getrandbits(bits)
            change = Change(Operation.VALUE, bits, value.to_bytes((bits + 7) // 8, "little"))
        lasting = self._read("for", lambda: self._lasting(ALWAYS if kind.startswith("stuck") else 0))
        if kind.startswith("stuck") and lasting == 0:
            raise FieldError("for", "a stuck bit that is stuck for 0 blocks", "leave it out, or say how many")
        return Fault(self._module(), when, target, change, lasting, self._blocks("every", 0), self._number("times", 1))

    def _whole(self, family: str, text: str, when: When) -> Fault:
        """A fault in a module as a whole, or in a leg, with settings of its own."""
        names = [name for name in ("for", "logged", "level") if name in self._fields]
        if names:
            raise FieldError(names[0], f"a fault in {text} has no field {names[0]!r}")
        kind = self._text("kind")
        settings = {
            name: self._read(name, lambda name=name, read=read: read(str(self._fields[name])))  # type: ignore[misc]
            for name, read in _SETTINGS[family].items()
            if name in self._fields
        }
        target: Target
        if family == "module":
            target, module = Process(kind, int(settings.get("milliseconds", 0))), self._module()
        else:
            device, _, leg = text.partition(".")
            if family == "nic" and "seed" in self._fields:
                settings["seed"] = self._number("seed", 0)
            target, module = Leg(device, int(leg), kind, settings), None
            self._read("kind", lambda: check_leg(target))
        return Fault(module, when, target, every=self._blocks("every", 0), times=self._number("times", 1))

    def _module(self) -> int | None:
        text = self._text("module")
        return None if text == "all" else self._read("module", lambda: _integer(text))

    # ---- what ----

    def _target(self, text: str) -> tuple[Target, int]:
        """The target, and how many bits of it."""
        kind, _, rest = text.partition(":")
        place, _, bits = rest.rpartition(":")
        logged = self._flag("logged")
        match kind:
            case "phys":
                address, (bit, width) = _integer(place), _bits(bits)
                offset = ram_offset(address + bit // 8, self._guest.ram_bytes)
                if offset is None:
                    raise UsageError(f"{address:#x} is not RAM of this guest")
                return RamBit(offset, bit % 8, logged), width
            case "mem":
                address, (bit, width) = self._guest.address(place), _bits(bits)
                return LinearBit(address + bit // 8, bit % 8, logged), width
            case "pte":
                bit, width = _bits(bits)
                return PageTableBit(self._guest.address(place), self._number("level", 0), bit, logged), width
            case "read" | "written":
                address, (bit, width) = self._guest.address(place), _bits(bits)
                made = ReadBit if kind == "read" else WrittenBit
                return made(address + bit // 8, bit % 8), width
            case "opcode":
                bit, width = _bits(bits)
                return OpcodeBit(bit), width
            case "skip":
                return Skip(), 1
            case "tlb":
                bit, width = _bits(bits)
                return TlbBit(self._guest.address(place), bit), width
            case "chip":
                bit, width = _bits(bits)
                return ChipBit(place, bit), width
        name, colon, bits = text.partition(":")
        whole, lowest, count = PARTS.get(name, (name, 0, 0))
        count = count or register(whole).size * 8
        bit, width = _bits(bits) if colon else (0, count)
        if not colon and not self._text("kind", "flip").startswith(("random", "value-")):
            raise UsageError(f"which bit of {name}?", f"write {name}:5 or {name}:5-8; all of them can be random")
        if name in PARTS and bit + width > count:
            raise UsageError(f"{name} has no bit {bit + width - 1}", f"it has {count} bits")
        return RegisterBit(whole, lowest + bit), width

    # ---- when ----

    def _when(self, text: str) -> When:
        kind, colon, rest = text.partition(":")
        nth = self._number("nth", 1)
        if (not colon or kind not in ("text", "exec", "port", "mmio")) and "nth" in self._fields:
            raise FieldError("nth", f"{text!r} happens only once")
        match kind:
            case "text":
                return OnText(rest.encode(), nth)
            case "exec":
                return OnExecution(self._guest.address(rest), nth)
            case "port" | "mmio":
                place, _, access = rest.partition("/")
                if access not in _ACCESS:
                    raise UsageError(f"{access!r} is no access", "write /read or /write, or leave it out for any")
                made = OnPort if kind == "port" else OnMmio
                return made(_integer(place), _ACCESS[access], nth)
            case "time":
                return AtTime(_nanoseconds(rest))
            case "random":
                first, _, last = rest.partition("-")
                lowest, highest = _blocks(first), _blocks(last)
                if highest < lowest:
                    raise UsageError(f"no position is from {first} to {last}", "write random:1000-2000000")
                return AtPosition(random.Random(f"{self._seed}/position").randint(lowest, highest))
        if colon:
            raise UsageError(
                f"{text!r} is no moment", "write a position, or text:, port:, mmio:, time: or random: and more"
            )
        position, plus, instruction = text.partition("+")
        return AtPosition(_blocks(position), _integer(instruction) if plus else 0)

    def _lasting(self, default: int) -> int:
        if "for" not in self._fields:
            return default
        return ALWAYS if self._fields["for"] == "always" else self._blocks("for", default)

    # ---- fields of simple types ----

    def _text(self, name: str, default: str | None = None) -> str:
        value = self._fields.get(name, default)
        if value is None:
            raise FieldError(None, f"the field {name!r} is missing", "module=1,target=rax:5,at=2000000, for example")
        if isinstance(value, bool) or not isinstance(value, int | str) or (value == "" and name != "at"):
            raise FieldError(name, f"{value!r} makes no sense here")
        return str(value)

    def _number(self, name: str, default: int) -> int:
        return self._read(name, lambda: _integer(self._text(name, str(default))))

    def _blocks(self, name: str, default: int) -> int:
        return self._read(name, lambda: _blocks(self._text(name, str(default))))

    def _flag(self, name: str) -> bool:
        value = self._fields.get(name, False)
        if value not in (True, False, "true", "false"):
            raise FieldError(name, f"{value!r} is neither true nor false")
        return value in (True, "true")

    def _read(self, name: str, read: Callable[[], T]) -> T:
        """What ``read`` gives; what it raises is about the field ``name``."""
        try:
            return read()
        except FieldError:
            raise
        except FtvmError as error:
            raise FieldError(name, error.message, error.hint) from None
        except ValueError:
            raise FieldError(name, f"{self._fields.get(name)!r} is not what is expected here") from None


def _family(target: str) -> str:
    """``module``, ``disk``, ``nic``, or nothing for a target of bits."""
    if target == "module":
        return target
    match = re.fullmatch(r"(disk|nic)\d+\.\d+", target)
    return match[1] if match else ""


def _fixed_value(kind: str, bits: int) -> Change | None:
    """What ``value-0x1f`` means; None for other kinds."""
    if not kind.startswith("value-"):
        return None
    try:
        value = _integer(kind.removeprefix("value-"))
    except UsageError as error:
        raise FieldError("kind", error.message, error.hint) from None
    if value >> bits:
        raise FieldError("kind", f"{value:#x} does not fit into {bits} bits")
    return Change(Operation.VALUE, bits, value.to_bytes((bits + 7) // 8, "little"))


def _integer(text: str) -> int:
    if not re.fullmatch(r"0x[0-9a-fA-F_]+|[0-9][0-9_]*", text):
        raise UsageError(f"{text!r} is not a number", "write it as 4096 or 0x1000")
    return int(text, 16 if text.startswith("0x") else 10)


def _bits(text: str) -> tuple[int, int]:
    """The lowest of the bits, and how many: from ``5`` or ``5-8``."""
    first, dash, last = text.partition("-")
    lowest = _integer(first)
    highest = _integer(last) if dash else lowest
    if highest < lowest:
        raise UsageError(f"{text!r} is no range of bits", "write the lower bit first: 5-8")
    return lowest, highest - lowest + 1


def _blocks(text: str) -> int:
    try:
        return parse_blocks(text)
    except UsageError:
        raise UsageError(f"{text!r} is not a number of blocks", "write it as 1000, 50k or 2M") from None


def _nanoseconds(text: str) -> int:
    match = re.fullmatch(r"(\d+)(?:\.(\d{1,9}))?(ns|us|ms|s)", text)
    if match is None:
        raise UsageError(f"{text!r} is no time", "write 1.5s, 20ms, 7us or 900ns")
    unit = _TIME_UNITS[match[3]]
    digits = match[2] or ""
    return int(match[1]) * unit + int(digits or "0") * unit // int(10 ** len(digits))

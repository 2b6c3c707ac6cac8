"""What the word for a target in a plan stands for: the places that a fault can strike.

docs/campaign-plans.md lists the words.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from ftvm.errors import UsageError
from ftvm.memory_map import physical, ram_offset
from ftvm.module.registers import REGISTERS

GENERAL = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)))
_SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr", "gdtr", "idtr")
_TIME = ("position", "skipped_ns", "interrupt_shadow", "halted", "nmi_pending", "nmi_blocked", "alone")

_LEG = re.compile(r"(disk|nic)[0-9]\.[0-9]")
_IN_NOTATION = re.compile(r"((?:mem|pte|tlb|chip):[^,]+):(\d+)-(\d+)")
"""Targets of ftvm/faults/notation.py that name their own bits."""


@dataclass(frozen=True)
class Target:
    """``bits`` from ``lowest`` on that may be struck, in what the notation of faults calls ``name``; in RAM, from byte
    ``first`` on. A module as a whole, and a leg, count as one bit."""

    name: str
    bits: int
    first: int | None = None
    lowest: int = 0

    def place(self, index: int, width: int) -> tuple[str, int | None]:
        """What the notation calls ``width`` bits from the bit of that index on, or as many as there are; and which bit
        of its register or byte that is."""
        if self.name == "module" or _LEG.fullmatch(self.name):
            return self.name, None
        bit = self.lowest + index
        name, number = self.name, bit
        if self.first is not None:
            name, number = f"phys:{physical(self.first + bit // 8):#x}", bit % 8
        last = number + min(width, self.bits - index) - 1
        return f"{name}:{number}" if last == number else f"{name}:{number}-{last}", number


@dataclass(frozen=True)
class Place:
    """Named bytes of RAM: a section or a symbol of the guest's image."""

    name: str
    first: int
    end: int


def register_groups() -> Mapping[str, Sequence[str]]:
    """Every register of the architectural state, in the groups that plans name."""
    groups: dict[str, list[str]] = {}
    for name in REGISTERS:
        groups.setdefault(_group(name), []).append(name)
    return groups


def _group(name: str) -> str:
    if name in GENERAL:
        return "general"
    if name in ("rip", "rflags"):
        return name
    if name in _TIME:
        return "time"
    if name.partition(".")[0] in _SEGMENTS:
        return "segments"
    if name.startswith(("cr", "dr")) or name == "efer":
        return "control"
    if name.startswith(("xmm", "mxcsr")):
        return "sse"
    if name.startswith(("st", "fpu")) and name != "star":
        return "x87"
    return "msrs"


def places(image: Path) -> list[Place]:
    """The sections and symbols of an ELF image that is loaded where it is linked; none for other images."""
    found: list[Place] = []
    try:
        with image.open("rb") as file:
            elf = ELFFile(file)
            for section in elf.iter_sections():
                if section["sh_flags"] & 2 and section["sh_size"]:  # SHF_ALLOC
                    found.append(Place(section.name, section["sh_addr"], section["sh_addr"] + section["sh_size"]))
            table = elf.get_section_by_name(".symtab")
            for symbol in table.iter_symbols() if isinstance(table, SymbolTableSection) else ():
                if symbol["st_size"] and symbol["st_info"]["type"] in ("STT_FUNC", "STT_OBJECT"):
                    found.append(Place(symbol.name, symbol["st_value"], symbol["st_value"] + symbol["st_size"]))
    except (ELFError, OSError, ValueError, KeyError):
        return []
    return found


def targets(words: Sequence[str], ram_bytes: int, image: Path) -> list[Target]:
    """What the words stand for. Raises UsageError for a word that means nothing here."""
    found: list[Target] = []
    for word in words:
        found += _targets(word, ram_bytes, image)
    return found


def _targets(word: str, ram_bytes: int, image: Path) -> list[Target]:
    groups = register_groups()
    if word == "registers":  # what a guest's program knows of; time is the simulation's own
        return [_register(name) for group, names in groups.items() if group != "time" for name in names]
    if word in groups and word not in REGISTERS:
        return [_register(name) for name in groups[word]]
    if word in REGISTERS:
        return [_register(word)]
    if word == "module" or _LEG.fullmatch(word):
        return [Target(word, 1)]
    if word == "ram":
        return [Target("ram", ram_bytes * 8, 0)]
    if match := _IN_NOTATION.fullmatch(word):
        lowest, highest = int(match[2]), int(match[3])
        if highest < lowest:
            raise UsageError(f"{word!r} has no bits", "write the lower one first: 0-15")
        return [Target(match[1], highest - lowest + 1, lowest=lowest)]
    kind, _, what = word.partition(":")
    if kind == "ram":
        return [_range(word, what, ram_bytes)]
    if kind in ("symbol", "section"):
        of_image = [place for place in places(image) if place.name == what and what]
        if not of_image:
            raise UsageError(f"no {kind} {what!r} in {image}", "nm and readelf -S show what there is")
        return [_bytes(word, of_image[0].first, of_image[0].end, ram_bytes)]
    raise UsageError(
        f"{word!r} is no target",
        f"a register such as rax, {', '.join(groups)}, registers, ram, ram:FIRST-END, symbol:NAME, section:NAME,"
        " module, disk0.1, nic0.0, or pte:, tlb:, mem: and chip: with their bits, as in"
        " chip:pit.counters[0].initial:0-15",
    )


def _register(name: str) -> Target:
    return Target(name, REGISTERS[name].size * 8)


def _range(word: str, text: str, ram_bytes: int) -> Target:
    first, _, end = text.partition("-")
    try:
        return _bytes(word, int(first, 0), int(end, 0), ram_bytes)
    except ValueError:
        raise UsageError(f"{word!r} is not a range of RAM", "write it as ram:0x100000-0x200000") from None


def _bytes(name: str, first: int, end: int, ram_bytes: int) -> Target:
    offset, last = ram_offset(first, ram_bytes), ram_offset(end - 1, ram_bytes)
    if offset is None or last is None or last < offset:
        raise UsageError(
            f"{name}: {first:#x} to {end:#x} is not RAM of this guest", "give it more memory, or less range"
        )
    return Target(name, (last + 1 - offset) * 8, offset)

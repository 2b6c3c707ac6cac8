"""Names of the guest's addresses: from the symbol table of an ELF image, or from a map file.

A map file has lines like those of Linux's System.map and /proc/kallsyms, and of nm: address, letter of the kind, name.
"""

import difflib
import fnmatch
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import msgspec

from ftvm.boot.elf import ELF_MAGIC, MAX_SYMBOLS, parse_elf
from ftvm.errors import UnusableFile, UsageError

MAX_FILE_BYTES = 1 << 30
MAX_DISTANCE = 1 << 20
"""An address this far behind a symbol is not called after it."""

_HINT = "give an ELF file, or lines of address, letter and name, as nm writes them"
_LINE = re.compile(r"([0-9A-Fa-f]{1,16})\s+[A-Za-z?-]\s+(\S{1,512})(?:\s+\[.*\])?\s*")
_MAPPING_SYMBOL = re.compile(r"\$[adtx](\..*)?|\.L.*")
"""Marks that assemblers leave, not names that anybody gave."""


class Place(msgspec.Struct, frozen=True):
    """``offset`` bytes behind the symbol ``name``."""

    name: str
    offset: int

    def __str__(self) -> str:
        return f"{self.name}+{self.offset:#x}" if self.offset else self.name


class Symbols:
    """Addresses by name, and names of addresses. Of several names of one address, the first one given counts."""

    def __init__(self, addresses: Mapping[str, int] | None = None) -> None:
        self._addresses: dict[str, int] = {}
        self._sorted: list[int] = []
        self._names: list[str] = []
        if addresses:
            self.add(addresses)

    @classmethod
    def load(cls, path: Path) -> "Symbols":
        """Those of an ELF image or a map file. Raises UnusableFile."""
        symbols = cls()
        symbols.add(read(path))
        return symbols

    def add(self, addresses: Mapping[str, int]) -> None:
        """More of them; a name that was known already means the new address from now on."""
        self._addresses.update(addresses)
        by_address: dict[int, str] = {}
        for name, address in self._addresses.items():
            by_address.setdefault(address, name)
        self._sorted = sorted(by_address)
        self._names = [by_address[address] for address in self._sorted]

    def __len__(self) -> int:
        return len(self._addresses)

    def __contains__(self, name: object) -> bool:
        return name in self._addresses

    def address(self, name: str) -> int:
        """Raises UsageError, with what may have been meant."""
        try:
            return self._addresses[name]
        except KeyError:
            raise UsageError(f"no symbol is called {name!r}", self._suggestion(name)) from None

    def _suggestion(self, name: str) -> str:
        if not self._addresses:
            return "there are no symbols: load them from an ELF image or a System.map"
        near = difflib.get_close_matches(name, islice(self._addresses, 20000), n=3)
        return f"do you mean {' or '.join(near)}?" if near else f"{len(self)} others are known"

    def place(self, address: int) -> Place | None:
        """The symbol at or before an address; None where there is none, or only one that is far away."""
        index = bisect_right(self._sorted, address) - 1
        if index < 0 or address - self._sorted[index] > MAX_DISTANCE:
            return None
        return Place(self._names[index], address - self._sorted[index])

    def describe(self, address: int) -> str:
        """The same as text: ``main+0x12``; empty where there is none."""
        place = self.place(address)
        return "" if place is None else str(place)

    def names(self) -> Iterable[str]:
        return self._addresses.keys()

    def search(self, pattern: str) -> Iterator[tuple[int, str]]:
        """(address, name) of all that match a pattern with ``*`` and ``?``, or contain it, in order of address."""
        wild = pattern if any(char in pattern for char in "*?[") else f"*{pattern}*"
        matches = re.compile(fnmatch.translate(wild)).match
        found = [(address, name) for name, address in self._addresses.items() if matches(name)]
        yield from sorted(found)


def read(path: Path) -> dict[str, int]:
    """Addresses by name from an ELF image or a map file. Raises UnusableFile for any other file."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UnusableFile(f"the symbols {path} cannot be read: {error.strerror}", _HINT) from None
    if len(data) > MAX_FILE_BYTES:
        raise UnusableFile(f"{path} is larger than any file of symbols", _HINT)
    if data.startswith(ELF_MAGIC):
        found = parse_elf(path, data).symbols()
        return {name: address for name, address in found.items() if _MAPPING_SYMBOL.fullmatch(name) is None}
    return _read_map(path, data)


def of_image(path: Path) -> dict[str, int]:
    """Those of a guest's image, if it is an ELF file that has any; images of other kinds have none."""
    try:
        with path.open("rb") as file:
            if file.read(len(ELF_MAGIC)) != ELF_MAGIC:
                return {}
        return read(path)
    except (OSError, UnusableFile):  # whether it can be booted is for the loader to say
        return {}


def _read_map(path: Path, data: bytes) -> dict[str, int]:
    found: dict[str, int] = {}
    for number, line in enumerate(data.decode("ascii", "replace").splitlines(), 1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise UnusableFile(f"{path}, line {number}: {line[:60]!r} is no symbol", _HINT)
        if _MAPPING_SYMBOL.fullmatch(match[2]) is None:
            found.setdefault(match[2], int(match[1], 16))
        if len(found) > MAX_SYMBOLS:
            raise UnusableFile(f"{path} has more than {MAX_SYMBOLS:,} symbols", "leave out what is not needed")
    return found

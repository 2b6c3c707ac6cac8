"""ELF files as kernels: what is to be loaded, where they start, their notes, sections and symbols.

The files are hostile until proven otherwise: every count and offset is checked against the file's size before it is
used, and whatever the parser stumbles over becomes UnusableFile. (Tool Interface Standard, ELF 1.2; ELF-64 1.5.)
"""

import struct
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import msgspec

ELF_MAGIC = b"\x7fELF"

MAX_SYMBOL_BYTES = 512
"""Longer names are left out: damaged string tables have no ends."""

MAX_SYMBOLS = 1_000_000
"""Enough for any kernel, few enough for any host."""

_SYMBOL_TYPES = (0, 1, 2)  # STT_NOTYPE, STT_OBJECT, STT_FUNC


class LoadSegment(msgspec.Struct, frozen=True):
    """A part of an image: ``data`` goes to the physical address ``paddr``, zeros fill up to ``memory_bytes``."""

    paddr: int
    vaddr: int
    data: memoryview
    memory_bytes: int


class ElfSection(msgspec.Struct, frozen=True):
    """A section header: its place in the file, and its address when it belongs to the loaded image."""

    type: str | int
    offset: int
    size_bytes: int
    address: int
    link: int


class Elf(msgspec.Struct, frozen=True):
    """A kernel in ELF. ``bits`` is 32 or 64; ``entry`` is a virtual address, as the header has it."""

    path: Path
    data: bytes
    bits: int
    entry: int
    segments: tuple[LoadSegment, ...]
    notes: tuple[memoryview, ...]
    sections: tuple[ElfSection, ...]
    section_headers: memoryview
    section_names_index: int

    @property
    def physical_entry(self) -> int:
        """Where execution starts while virtual addresses are physical ones.

        Kernels linked to a high address give a virtual entry point; one in no segment is physical already.
        """
        for segment in self.segments:
            if segment.vaddr <= self.entry < segment.vaddr + segment.memory_bytes:
                return self.entry - segment.vaddr + segment.paddr
        return self.entry

    def section_data(self, section: ElfSection) -> memoryview | None:
        """The bytes of a section in the file; None when they are not all there."""
        if section.offset + section.size_bytes > len(self.data):
            return None
        return memoryview(self.data)[section.offset : section.offset + section.size_bytes]

    def note(self, owner: bytes, kind: int) -> memoryview | None:
        """The descriptor of the first note of that owner and type, None when there is none."""
        for name, note_kind, descriptor in self._notes():
            if name == owner and note_kind == kind:
                return descriptor
        return None

    def _notes(self) -> Iterator[tuple[bytes, int, memoryview]]:
        for area in self.notes:
            position = 0
            while position + 12 <= len(area):
                name_bytes, descriptor_bytes, kind = struct.unpack_from("<III", area, position)
                name = position + 12
                descriptor = name + (name_bytes + 3 & ~3)
                end = descriptor + descriptor_bytes
                if end > len(area):
                    break
                yield bytes(area[name : name + name_bytes]).rstrip(b"\0"), kind, area[descriptor:end]
                position = end + 3 & ~3

    def symbols(self) -> dict[str, int]:
        """Addresses of functions, data and labels by name; empty without a usable symbol table."""
        table = next((section for section in self.sections if section.type == "SHT_SYMTAB"), None)
        if table is None or table.link >= len(self.sections):
            return {}
        entries, strings = self.section_data(table), self.section_data(self.sections[table.link])
        if entries is None or strings is None:
            return {}
        names = bytes(strings)
        layout = struct.Struct("<IBBHQQ" if self.bits == 64 else "<IIIBBH")
        found: dict[str, int] = {}
        whole = entries[: len(entries) // layout.size * layout.size]
        for fields in islice(layout.iter_unpack(whole), MAX_SYMBOLS):
            if self.bits == 64:
                name, info, _, section, value, _ = fields
            else:
                name, value, _, info, _, section = fields
            end = names.find(b"\0", name, name + MAX_SYMBOL_BYTES)
            if section and end > name and info & 0xF in _SYMBOL_TYPES:
                found[names[name:end].decode("ascii", "replace")] = value
        return found


def parse_elf(path: Path, data: bytes) -> Elf:
    """Read the headers of an x86 ELF executable. Raises UnusableFile for a damaged one or one that is no kernel."""
    from ftvm.boot.elf_headers import parse  # loads pyelftools, which takes long and most Linux guests do not need

    return parse(path, data)

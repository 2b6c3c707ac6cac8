"""ELF files as kernels: what is to be loaded, where they start, their notes, sections and symbols.

The files are hostile until proven otherwise: every count and offset is checked against the file's size before it is
used, and whatever the parser stumbles over becomes UnusableFile. (Tool Interface Standard, ELF 1.2; ELF-64 1.5.)
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.common.utils import struct_parse
from elftools.elf.elffile import ELFFile

from ftvm.errors import UnusableFile
from ftvm.units import KIB

ELF_MAGIC = b"\x7fELF"

MAX_HEADERS = 4096
"""Of a kernel's program and section headers; real ones have a few dozen."""

MAX_SYMBOL_BYTES = 512
"""Longer names are left out: damaged string tables have no ends."""

MAX_SYMBOLS = 1_000_000
"""Enough for any kernel, few enough for any host."""

MAX_NOTE_BYTES = 64 * KIB
"""Of all notes together; real ones have a few hundred."""

_HINT = "was it copied or built completely?"
_SYMBOL_TYPES = (0, 1, 2)  # STT_NOTYPE, STT_OBJECT, STT_FUNC


@dataclass(frozen=True)
class LoadSegment:
    """A part of an image: ``data`` goes to the physical address ``paddr``, zeros fill up to ``memory_bytes``."""

    paddr: int
    vaddr: int
    data: memoryview
    memory_bytes: int


@dataclass(frozen=True)
class ElfSection:
    """A section header: its place in the file, and its address when it belongs to the loaded image."""

    type: str | int
    offset: int
    size_bytes: int
    address: int
    link: int


@dataclass(frozen=True)
class Elf:
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
    try:
        return _parse(path, data)
    except (ELFError, ValueError, KeyError, AttributeError, OverflowError, struct.error) as error:
        # pyelftools lets errors of its own inner workings through when a header makes no sense.
        raise UnusableFile(f"{path} is a damaged ELF file: {error}", _HINT) from None


def _parse(path: Path, data: bytes) -> Elf:
    file = ELFFile(io.BytesIO(data))
    machine, kind = file["e_machine"], file["e_type"]
    if machine not in ("EM_386", "EM_X86_64") or not file.little_endian:
        raise UnusableFile(f"{path} is an ELF file for another machine ({machine})", "ftvm runs x86 kernels")
    if kind not in ("ET_EXEC", "ET_DYN"):
        raise UnusableFile(f"{path} is an ELF file, but not an executable ({kind})", "link it into a kernel")

    segments: list[LoadSegment] = []
    notes: list[memoryview] = []
    note_bytes = 0
    whole = memoryview(data)
    for header in _headers(file, "ph", file.structs.Elf_Phdr):
        if header["p_type"] == "PT_INTERP":
            raise UnusableFile(f"{path} is a program for an operating system, not a kernel", "give a kernel image")
        if header["p_type"] not in ("PT_LOAD", "PT_NOTE"):
            continue
        start, size = header["p_offset"], header["p_filesz"]
        if start + size > len(data):
            raise UnusableFile(f"{path} is a truncated ELF file: a segment ends behind its end", _HINT)
        if header["p_type"] == "PT_NOTE":
            note_bytes += size
            if note_bytes <= MAX_NOTE_BYTES:
                notes.append(whole[start : start + size])
        elif size > header["p_memsz"]:
            raise UnusableFile(f"{path} is a damaged ELF file: a segment is larger in the file than in memory", _HINT)
        elif header["p_memsz"]:
            part = whole[start : start + size]
            segments.append(LoadSegment(header["p_paddr"], header["p_vaddr"], part, header["p_memsz"]))
    if not segments:
        raise UnusableFile(f"{path} is an ELF file without anything to load", "link it into a kernel")
    if sum(len(segment.data) for segment in segments) > 2 * len(data):
        raise UnusableFile(f"{path} is a damaged ELF file: its segments hold more than the file does", _HINT)

    sections, table = _sections(file, whole)
    return Elf(
        path=path,
        data=data,
        bits=file.elfclass,
        entry=file["e_entry"],
        segments=tuple(segments),
        notes=tuple(notes),
        sections=sections,
        section_headers=table,
        section_names_index=file["e_shstrndx"],
    )


def _headers(file: ELFFile, prefix: str, layout: Any) -> list[Any]:
    """The program (``ph``) or section (``sh``) headers. Raises ELFError when they are not all in the file."""
    offset, size, count = file[f"e_{prefix}off"], file[f"e_{prefix}entsize"], file[f"e_{prefix}num"]
    if count == 0:
        return []
    if size < layout.sizeof() or count > MAX_HEADERS or offset + size * count > file.stream_len:
        raise ELFError(f"{count} {'program' if prefix == 'ph' else 'section'} headers at 0x{offset:x} are not there")
    return [struct_parse(layout, file.stream, offset + size * index) for index in range(count)]


def _sections(file: ELFFile, whole: memoryview) -> tuple[tuple[ElfSection, ...], memoryview]:
    """Sections only help debuggers: a file whose section headers are unusable has none."""
    try:
        headers = _headers(file, "sh", file.structs.Elf_Shdr)
    except ELFError:
        return (), whole[:0]
    sections = tuple(
        ElfSection(header["sh_type"], header["sh_offset"], header["sh_size"], header["sh_addr"], header["sh_link"])
        for header in headers
    )
    offset = file["e_shoff"]
    return sections, whole[offset : offset + file["e_shentsize"] * len(sections)]

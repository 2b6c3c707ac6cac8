"""The headers of ELF files, read with pyelftools: parse_elf (ftvm/boot/elf.py) without what makes it quick to load."""

import io
import struct
from pathlib import Path
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.common.utils import struct_parse
from elftools.elf.elffile import ELFFile

from ftvm.boot.elf import Elf, ElfSection, LoadSegment
from ftvm.errors import UnusableFile
from ftvm.units import KIB

MAX_HEADERS = 4096
"""Of a kernel's program and section headers; real ones have a few dozen."""

MAX_NOTE_BYTES = 64 * KIB
"""Of all notes together; real ones have a few hundred."""

_HINT = "was it copied or built completely?"


def parse(path: Path, data: bytes) -> Elf:
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

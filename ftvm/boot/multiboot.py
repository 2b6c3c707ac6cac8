"""What both Multiboot specifications share: images that say where they go, sections for the kernel, the text screen."""

import struct

import msgspec

from ftvm.boot.elf import Elf, LoadSegment
from ftvm.boot.image import Image
from ftvm.boot.job import Job
from ftvm.errors import UnusableFile
from ftvm.memory_map import HIGH_MEMORY, VGA_TEXT

LOADER_NAME = b"GRUB 2 (as ftvm)\0"
"""The command line holds no file name, as with GRUB 2: Xen goes by this name, and would drop the first word."""

EGA_TEXT_SCREEN = struct.pack("<QIIIBB", VGA_TEXT, 160, 80, 25, 16, 2)
"""Framebuffer information: address, bytes per line, columns, lines, bits per cell, type 'EGA text'."""


class Addresses(msgspec.Struct, frozen=True):
    """The address fields of a header, all physical: the file is a plain image of memory.

    ``load_end`` 0 means up to the end of the file, ``bss_end`` 0 no bss.
    """

    header: int
    load: int
    load_end: int
    bss_end: int


def addressed_segment(image: Image, header_offset: int, addresses: Addresses) -> LoadSegment:
    """The one segment of an image whose header, ``header_offset`` bytes into the file, says where it belongs."""
    start = header_offset - (addresses.header - addresses.load)
    size_bytes = addresses.load_end - addresses.load if addresses.load_end else len(image.data) - start
    memory_bytes = addresses.bss_end - addresses.load if addresses.bss_end else size_bytes
    if not 0 <= start <= header_offset or size_bytes < 0 or memory_bytes < size_bytes:
        raise UnusableFile(f"image {image.path} has impossible addresses in its multiboot header", "check its fields")
    if start + size_bytes > len(image.data):
        raise UnusableFile(
            f"image {image.path} is truncated: its multiboot header tells of more", "was it copied completely?"
        )
    part = memoryview(image.data)[start : start + size_bytes]
    return LoadSegment(addresses.load, addresses.load, part, memory_bytes)


def add_sections(job: Job, elf: Elf) -> bytes:
    """The section header table, for a kernel that looks for its symbols.

    Sections that belong to no segment are loaded behind the kernel, where they fit, and their addresses filled in.
    """
    table = bytearray(elf.section_headers)
    entry_bytes = len(table) // len(elf.sections)
    address_offset, address_layout = (12, "<I") if elf.bits == 32 else (16, "<Q")
    budget = len(elf.data)
    for index, section in enumerate(elf.sections):
        contents = elf.section_data(section)
        if section.type in ("SHT_NULL", "SHT_NOBITS") or section.address or not contents or len(contents) > budget:
            continue
        address = job.layout.find(len(contents), lowest=max(HIGH_MEMORY, job.layout.end))
        if address is not None:
            job.layout.place(address, contents, f"sections of {job.image.path}")
            struct.pack_into(address_layout, table, entry_bytes * index + address_offset, address)
            budget -= len(contents)
    return bytes(table)

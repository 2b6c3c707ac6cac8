"""Multiboot Specification 0.6.96: a header in the first 8 KiB of an ELF file, or of one that says where it goes."""

import struct

from ftvm.boot.firmware import Entry
from ftvm.boot.image import Image
from ftvm.boot.job import Job
from ftvm.boot.layout import lower_kib, memory_map, upper_kib
from ftvm.boot.multiboot import EGA_TEXT_SCREEN, LOADER_NAME, Addresses, add_sections, addressed_segment
from ftvm.errors import UnusableFile

HEADER_MAGIC = 0x1BADB002
LOADER_MAGIC = 0x2BADB002

_SEARCH_BYTES = 8192
_REQUIREMENTS = 0xFFFF
_KNOWN_REQUIREMENTS = 0b111  # modules on pages, memory information, video mode
_HAS_ADDRESSES = 1 << 16

# Flags of the information structure (3.3): which of its fields are valid.
_MEMORY = 1 << 0
_COMMAND_LINE = 1 << 2
_MODULES = 1 << 3
_ELF_SECTIONS = 1 << 5
_MEMORY_MAP = 1 << 6
_LOADER_NAME = 1 << 9
_FRAMEBUFFER = 1 << 12


def find_header(data: bytes) -> int | None:
    """Offset of the header: an aligned magic number whose checksum is right (3.1)."""
    count = min(len(data), _SEARCH_BYTES) // 4
    words = struct.unpack_from(f"<{count}I", data)
    for index in range(count - 2):
        if words[index] == HEADER_MAGIC and sum(words[index : index + 3]) % (1 << 32) == 0:
            return index * 4
    return None


def matches(image: Image) -> bool:
    return find_header(image.data) is not None


def load(job: Job) -> Entry:
    """Raises UnusableFile for a header that asks for what nobody knows, and for an image that the RAM cannot hold."""
    path, data, elf = job.image.path, job.image.data, job.image.elf
    header = find_header(data)
    assert header is not None
    (flags,) = struct.unpack_from("<I", data, header + 4)
    unknown = flags & _REQUIREMENTS & ~_KNOWN_REQUIREMENTS
    if unknown:
        raise UnusableFile(f"image {path} asks for unknown multiboot features (0x{unknown:x})", "check its flags")

    valid = _MEMORY | _COMMAND_LINE | _MODULES | _MEMORY_MAP | _LOADER_NAME | _FRAMEBUFFER
    sections = (0, 0, 0, 0)
    if flags & _HAS_ADDRESSES:
        if header + 32 > len(data):
            raise UnusableFile(f"image {path} is truncated in its multiboot header", "was it copied completely?")
        *addresses, entry = struct.unpack_from("<5I", data, header + 12)
        job.place_image([addressed_segment(job.image, header, Addresses(*addresses))])
    elif elf is None:
        raise UnusableFile(
            f"image {path} has a multiboot header, but is neither an ELF file nor has address fields",
            "link it as ELF, or set bit 16 of the header flags",
        )
    else:
        job.place_image(elf.segments)
        entry = elf.physical_entry
        if elf.sections:
            table = job.add_information(add_sections(job, elf))
            entry_bytes = len(elf.section_headers) // len(elf.sections)
            sections = (len(elf.sections), entry_bytes, table, elf.section_names_index)
            valid |= _ELF_SECTIONS

    modules = [
        struct.pack("<IIII", address, address + len(module.data), job.add_information(module.text), 0)
        for address, module in job.add_modules()
    ]
    module_list = job.add_information(b"".join(modules)) if modules else 0
    ranges = b"".join(struct.pack("<IQQI", 20, *entry) for entry in memory_map(job.layout.ram_bytes))
    information = struct.pack(
        "<IIIIIII4IIIIIIIIIIHHHH",
        valid, lower_kib(), upper_kib(job.layout.ram_bytes), 0, job.add_information(job.command_line()),
        len(modules), module_list, *sections, len(ranges), job.add_information(ranges),
        0, 0, 0, job.add_information(LOADER_NAME), 0, 0, 0, 0, 0, 0, 0,
    )  # fmt: skip
    address = job.add_information(information + EGA_TEXT_SCREEN + bytes(6))
    return Entry(32, entry, {"eax": LOADER_MAGIC, "ebx": address})

"""Multiboot2 Specification 2.0: a header of tags in the first 32 KiB, answered with a structure of tags."""

import struct
from collections.abc import Sequence

from ftvm.boot.acpi import RSDP_V1_BYTES
from ftvm.boot.elf import Elf, LoadSegment
from ftvm.boot.firmware import Entry, rsdp
from ftvm.boot.image import Image
from ftvm.boot.job import Job
from ftvm.boot.layout import align_up, lower_kib, memory_map, upper_kib
from ftvm.boot.multiboot import EGA_TEXT_SCREEN, LOADER_NAME, Addresses, add_sections, addressed_segment
from ftvm.errors import UnusableFile
from ftvm.memory_map import HIGH_MEMORY, HIGH_RAM

HEADER_MAGIC = 0xE85250D6
LOADER_MAGIC = 0x36D76289

_SEARCH_BYTES = 32768
_ARCHITECTURE_I386 = 0
_HEADER_BYTES = 16
_OPTIONAL = 1 << 0

# Tags of the header (3.1)
_END, _REQUEST, _ADDRESS, _ENTRY_ADDRESS = 0, 1, 2, 3
_CONSOLE_FLAGS, _FRAMEBUFFER, _MODULE_ALIGNMENT = 4, 5, 6
_EFI_BOOT_SERVICES, _EFI_ENTRY_32, _EFI_ENTRY_64 = 7, 8, 9
_RELOCATABLE = 10

_BODY_BYTES = {_ADDRESS: 16, _ENTRY_ADDRESS: 4, _RELOCATABLE: 16}
"""What follows a tag's type, flags and size, for those that are read."""

_NOTHING_TO_DO = {_CONSOLE_FLAGS, _FRAMEBUFFER, _MODULE_ALIGNMENT, _EFI_BOOT_SERVICES, _EFI_ENTRY_32, _EFI_ENTRY_64}
"""There is one console, a text screen, and it is announced; modules are always aligned; there is no EFI."""

_WHOLE_FILE = 0xFFFFFFFF
_PREFER_HIGHEST = 2

# Tags of the information structure (3.6)
_INFO_COMMAND_LINE, _INFO_LOADER_NAME, _INFO_MODULE, _INFO_MEMORY = 1, 2, 3, 4
_INFO_MEMORY_MAP, _INFO_SCREEN, _INFO_SECTIONS = 6, 8, 9
_INFO_OLD_RSDP, _INFO_NEW_RSDP, _INFO_LOAD_BASE = 14, 15, 21
_LAST_KNOWN_INFO = _INFO_LOAD_BASE


def find_header(data: bytes) -> int | None:
    """Offset of the header: an aligned magic number for this architecture whose checksum is right."""
    for offset in range(0, min(len(data), _SEARCH_BYTES) - _HEADER_BYTES + 1, 8):
        magic, architecture, length, checksum = struct.unpack_from("<4I", data, offset)
        total = magic + architecture + length + checksum
        if magic == HEADER_MAGIC and architecture == _ARCHITECTURE_I386 and total % (1 << 32) == 0:
            return offset
    return None


def matches(image: Image) -> bool:
    return find_header(image.data) is not None


def load(job: Job) -> Entry:
    """Raises UnusableFile for a header that asks for what nobody knows, and for an image that the RAM cannot hold."""
    image, elf = job.image, job.image.elf
    header = find_header(image.data)
    assert header is not None
    tags = _header_tags(image, header)

    if _ADDRESS in tags:
        if _ENTRY_ADDRESS not in tags:
            raise UnusableFile(f"image {image.path} has a multiboot 2 address tag, but no entry address tag", "add one")
        segments: Sequence[LoadSegment] = [_addressed_segment(image, header, tags[_ADDRESS])]
        entry, elf = 0, None
    elif elf is not None:
        segments, entry = elf.segments, elf.physical_entry
    else:
        raise UnusableFile(
            f"image {image.path} has a multiboot 2 header, but is neither an ELF file nor has an address tag",
            "link it as ELF, or add the tag",
        )
    if _ENTRY_ADDRESS in tags:
        (entry,) = struct.unpack("<I", tags[_ENTRY_ADDRESS])

    base = min(segment.paddr for segment in segments)
    load_base = base
    if _RELOCATABLE in tags:
        size_bytes = max(segment.paddr + segment.memory_bytes for segment in segments) - base
        load_base = _relocate(job, base, size_bytes, tags[_RELOCATABLE])
    job.place_image(segments, load_base - base)
    information = _information(job, elf, load_base if _RELOCATABLE in tags else None)
    return Entry(32, entry + load_base - base, {"eax": LOADER_MAGIC, "ebx": job.add_information(information)})


def _header_tags(image: Image, header: int) -> dict[int, bytes]:
    """The bodies of the tags that say how to load the image, by type."""
    tags: dict[int, bytes] = {}
    (length,) = struct.unpack_from("<I", image.data, header + 8)
    position, end = header + _HEADER_BYTES, header + length
    if end > _SEARCH_BYTES:
        raise UnusableFile(f"image {image.path} has a multiboot 2 header behind its first 32 KiB", "move it up")
    if end > len(image.data):
        raise UnusableFile(f"image {image.path} is truncated in its multiboot 2 header", "was it copied completely?")
    while position + 8 <= end:
        kind, flags, size = struct.unpack_from("<HHI", image.data, position)
        body = image.data[position + 8 : position + size]
        if size < 8 or position + size > end or len(body) < _BODY_BYTES.get(kind, 0):
            raise UnusableFile(f"image {image.path} has a damaged multiboot 2 header", "check the sizes of its tags")
        if kind == _END:
            break
        if kind in _BODY_BYTES:
            tags[kind] = body[: _BODY_BYTES[kind]]
        elif kind not in _NOTHING_TO_DO and not flags & _OPTIONAL:
            wanted = struct.unpack(f"<{len(body) // 4}I", body[: len(body) // 4 * 4])
            if kind != _REQUEST or max(wanted, default=0) > _LAST_KNOWN_INFO:
                raise UnusableFile(
                    f"image {image.path} insists on something that multiboot 2 does not know",
                    "mark its tag as optional",
                )
        position = align_up(position + size, 8)
    return tags


def _addressed_segment(image: Image, header: int, tag: bytes) -> LoadSegment:
    header_address, load, load_end, bss_end = struct.unpack("<4I", tag)
    if load == _WHOLE_FILE:
        load = header_address - header
    return addressed_segment(image, header, Addresses(header_address, load, load_end, bss_end))


def _relocate(job: Job, base: int, size_bytes: int, tag: bytes) -> int:
    """Where to load a relocatable image: where it is linked if it may be there and wishes nothing else."""
    lowest, highest, alignment, preference = struct.unpack("<4I", tag)
    lowest, highest = max(lowest, HIGH_MEMORY), min(highest + 1, HIGH_RAM)
    limits = {"align": max(alignment, 1), "highest": highest}
    if preference == 0 and job.layout.find(size_bytes, lowest=max(lowest, base), **limits) == base:
        return base
    address = job.layout.find(size_bytes, lowest=lowest, from_top=preference == _PREFER_HIGHEST, **limits)
    if address is None:
        raise UnusableFile(
            f"image {job.image.path} needs {size_bytes} bytes at 0x{lowest:x}-0x{highest:x}, where that is not free",
            "give the machine more memory with --memory",
        )
    return address


def _information(job: Job, elf: Elf | None, load_base: int | None) -> bytes:
    """The information structure. Loads modules and sections, so the image must have its place by now."""
    tags: list[bytes] = []

    def add(kind: int, body: bytes) -> None:
        size = 8 + len(body)
        tags.append(struct.pack("<II", kind, size) + body + bytes(align_up(size, 8) - size))

    ram_bytes, pointer = job.layout.ram_bytes, rsdp()
    add(_INFO_COMMAND_LINE, job.command_line())
    add(_INFO_LOADER_NAME, LOADER_NAME)
    if elf is not None and elf.sections:
        entry_bytes = len(elf.section_headers) // len(elf.sections)
        table = add_sections(job, elf)
        add(_INFO_SECTIONS, struct.pack("<III", len(elf.sections), entry_bytes, elf.section_names_index) + table)
    for address, module in job.add_modules():
        add(_INFO_MODULE, struct.pack("<II", address, address + len(module.data)) + module.text)
    add(_INFO_MEMORY, struct.pack("<II", lower_kib(), upper_kib(ram_bytes)))
    ranges = b"".join(struct.pack("<QQII", *entry, 0) for entry in memory_map(ram_bytes))
    add(_INFO_MEMORY_MAP, struct.pack("<II", 24, 0) + ranges)
    add(_INFO_SCREEN, EGA_TEXT_SCREEN + bytes(2))
    add(_INFO_OLD_RSDP, pointer[:RSDP_V1_BYTES])
    add(_INFO_NEW_RSDP, pointer)
    if load_base is not None:
        add(_INFO_LOAD_BASE, struct.pack("<I", load_base))
    add(_END, b"")
    body = b"".join(tags)
    return struct.pack("<II", 8 + len(body), 0) + body

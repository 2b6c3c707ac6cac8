"""The x86/HVM direct boot ABI, also called PVH (Xen: docs/misc/pvh.pandoc, public/arch-x86/hvm/start_info.h).

An ELF kernel whose note names a 32-bit physical entry point; it gets struct hvm_start_info in EBX.
"""

import struct

from ftvm.boot.firmware import RSDP, Entry
from ftvm.boot.image import Image
from ftvm.boot.job import Job
from ftvm.boot.layout import memory_map
from ftvm.errors import UnusableFile

START_MAGIC = 0x336EC578
START_VERSION = 1

_NOTE_OWNER = b"Xen"
_NOTE_PHYS32_ENTRY = 18


def matches(image: Image) -> bool:
    return image.elf is not None and image.elf.note(_NOTE_OWNER, _NOTE_PHYS32_ENTRY) is not None


def load(job: Job) -> Entry:
    """Raises UnusableFile for a note that holds no address, or an image that the RAM cannot hold."""
    elf = job.image.elf
    assert elf is not None
    note = elf.note(_NOTE_OWNER, _NOTE_PHYS32_ENTRY)
    assert note is not None
    if len(note) not in (4, 8):
        raise UnusableFile(f"image {job.image.path} has a damaged PVH note", "was it built completely?")
    job.place_image(elf.segments)
    modules = job.add_modules()

    command_line = job.add_information(job.command_line())
    entries = [
        struct.pack("<QQQQ", address, len(module.data), job.add_information(module.text), 0)
        for address, module in modules
    ]
    module_list = job.add_information(b"".join(entries)) if entries else 0
    ranges = memory_map(job.layout.ram_bytes)
    map_address = job.add_information(b"".join(struct.pack("<QQII", *entry, 0) for entry in ranges))
    start_info = struct.pack(
        "<IIIIQQQQII",
        START_MAGIC, START_VERSION, 0, len(modules), module_list, command_line, RSDP, map_address, len(ranges), 0,
    )  # fmt: skip
    return Entry(32, int.from_bytes(note, "little"), {"ebx": job.add_information(start_info)})

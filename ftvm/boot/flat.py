"""A boot sector: what a PC's BIOS loads to 0:7C00 and starts in real mode.

The image is also the disk that the boot sector came from: the BIOS keeps a copy at the end of low RAM, from which
INT 13h reads. As much of the image as conventional memory holds is loaded behind the boot sector at once, for those
that were written to be loaded whole.
"""

from ftvm.boot.elf import ELF_MAGIC
from ftvm.boot.firmware import SECTOR_BYTES, Disk, Entry
from ftvm.boot.image import Image
from ftvm.boot.job import Job
from ftvm.boot.layout import low_ram_end
from ftvm.errors import UnusableFile
from ftvm.memory_map import EBDA, HIGH_MEMORY
from ftvm.units import PAGE_BYTES, Gpa, format_size

LOAD_ADDRESS = 0x7C00
FLOPPY_DRIVE = 0x00
HARD_DISK_DRIVE = 0x80

_FLOPPIES = {640: (2, 8), 720: (2, 9), 1440: (2, 9), 2400: (2, 15), 2880: (2, 18), 5760: (2, 36)}
"""Heads and sectors per track of the usual formats, by their number of sectors."""

_HARD_DISK = (16, 63)


def matches(image: Image) -> bool:
    """Whole sectors, the first with the signature 55 AA."""
    data = image.data
    return len(data) % SECTOR_BYTES == 0 and data[510:512] == b"\x55\xaa" and not data.startswith(ELF_MAGIC)


def load(job: Job) -> Entry:
    """Raises UnusableFile for an image that is larger than RAM above 1 MiB."""
    data = job.image.data
    job.layout.place(LOAD_ADDRESS, data[: EBDA - LOAD_ADDRESS], f"image {job.image.path}")
    address = (low_ram_end(job.layout.ram_bytes) - len(data)) // PAGE_BYTES * PAGE_BYTES
    if address < HIGH_MEMORY:
        raise UnusableFile(
            f"image {job.image.path} ({len(data)} bytes) does not fit in {format_size(job.layout.ram_bytes)} of RAM",
            "give the machine more memory with --memory",
        )
    sectors = len(data) // SECTOR_BYTES
    heads, sectors_per_track = _FLOPPIES.get(sectors, _HARD_DISK)
    is_floppy = sectors in _FLOPPIES
    disk = Disk(Gpa(address), data, heads, sectors_per_track, is_floppy)
    return Entry(16, LOAD_ADDRESS, {"rdx": FLOPPY_DRIVE if is_floppy else HARD_DISK_DRIVE}, disk)

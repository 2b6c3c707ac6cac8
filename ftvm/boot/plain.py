"""ELF kernels that follow no boot protocol of their own: entered at their entry point, flat, with a zero page.

An ELF64 is entered in long mode with RSI = struct boot_params, which is how a vmlinux wants it: its entry point is
startup_64 (Documentation/arch/x86/boot.rst). An ELF32 is entered in protected mode, with ESI likewise.
"""

import struct

from ftvm.boot.firmware import Entry
from ftvm.boot.image import Image
from ftvm.boot.job import Job
from ftvm.boot.linux import add_zero_page

_SETUP_HEADER = struct.pack("<13xHH4sH", 0xAA55, 0, b"HdrS", 0x20F)
"""From offset 0x1F1: boot flag, magic and version, which stand in a bzImage's header and not in an ELF file."""


def matches32(image: Image) -> bool:
    return image.elf is not None and image.elf.bits == 32


def matches64(image: Image) -> bool:
    return image.elf is not None and image.elf.bits == 64


def load(job: Job) -> Entry:
    """Raises UnusableFile for an ELF file that is damaged or that the RAM cannot hold."""
    elf = job.image.elf
    assert elf is not None
    job.place_image(elf.segments)
    zero_page = add_zero_page(job, _SETUP_HEADER)
    return Entry(elf.bits, elf.physical_entry, {"rsi" if elf.bits == 64 else "esi": zero_page})

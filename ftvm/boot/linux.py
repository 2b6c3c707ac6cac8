"""The Linux/x86 boot protocol through its 64-bit entry point (Documentation/arch/x86/boot.rst and zero-page.rst).

A bzImage is a real-mode part with a setup header, then the kernel proper, whose 64-bit entry is 0x200 bytes into it.
The loader does what the real-mode part would: it fills the zero page (struct boot_params) and enters in long mode.
"""

import struct
from pathlib import Path

import msgspec

from ftvm.boot.firmware import RSDP, Entry, e820_entry
from ftvm.boot.image import Image
from ftvm.boot.job import Job
from ftvm.boot.layout import align_up, memory_map, upper_kib
from ftvm.errors import UnusableFile
from ftvm.memory_map import HIGH_MEMORY, HIGH_RAM, LOW_RAM_LIMIT
from ftvm.units import PAGE_BYTES

SECTOR_BYTES = 512
HEADER = 0x1F1
HEADER_MAGIC = b"HdrS"
ENTRY_64 = 0x200

DEFAULT_INITRD_LIMIT = 0x7FFFFFFF
"""The highest address an initrd may reach when the kernel does not say."""

_OLDEST_VERSION = 0x206  # the first with a size of the command line
_VERSION_64_BIT = 0x20C  # the first with xloadflags
_LOADED_HIGH = 1 << 0
_KERNEL_64 = 1 << 0

_ZERO_PAGE_BYTES = 4096
_CODE32_START = 0x214
_HEADER_END_64_BIT = 0x264  # of protocol 2.12
_HEADER_LIMIT = 0x290  # what the zero page has room for
_E820_TABLE = 0x2D0


class SetupHeader(msgspec.Struct, frozen=True):
    """What the loader reads of the setup header. Addresses and sizes in bytes."""

    raw: bytes  # as it goes into the zero page, from HEADER on
    kernel_offset: int
    kernel_bytes: int
    initrd_limit: int
    alignment: int
    relocatable: bool
    command_line_bytes: int
    preferred_address: int
    init_bytes: int


def matches(image: Image) -> bool:
    """A setup header of protocol 2.00 or later."""
    return image.data[0x1FE:0x200] == b"\x55\xaa" and image.data[0x202:0x206] == HEADER_MAGIC


def parse_header(path: Path, data: bytes) -> SetupHeader:
    """Raises UnusableFile for a damaged image and for one that cannot be entered in 64-bit mode."""

    def field(layout: str, offset: int) -> int:
        return int(struct.unpack_from(f"<{layout}", data, offset)[0])

    if len(data) < 2 * SECTOR_BYTES:
        raise UnusableFile(f"image {path} is a truncated bzImage", "was it copied completely?")
    version = field("H", 0x206)
    if version < _OLDEST_VERSION or not field("B", 0x211) & _LOADED_HIGH:
        raise UnusableFile(
            f"image {path} is a zImage, or of a boot protocol before 2.06 ({version >> 8}.{version & 0xFF:02})",
            "use a bzImage built for x86_64 (Linux 3.8 or later)",
        )
    if version < _VERSION_64_BIT or not field("H", 0x236) & _KERNEL_64:
        raise UnusableFile(
            f"image {path} has no 64-bit entry point (boot protocol {version >> 8}.{version & 0xFF:02})",
            "use a kernel built for x86_64",
        )
    header_end = 0x202 + field("B", 0x201)
    if header_end < _HEADER_END_64_BIT:
        raise UnusableFile(f"image {path} has a damaged setup header", "was it built completely?")
    kernel_offset = (field("B", 0x1F1) or 4) * SECTOR_BYTES + SECTOR_BYTES
    kernel_bytes = field("I", 0x1F4) * 16
    # The size is rounded up to 16 bytes, and not every build pads the file.
    if kernel_bytes < ENTRY_64 or kernel_offset + kernel_bytes - 15 > len(data):
        raise UnusableFile(f"image {path} is a truncated bzImage", "was it copied completely?")
    return SetupHeader(
        raw=data[HEADER : min(header_end, _HEADER_LIMIT)],
        kernel_offset=kernel_offset,
        kernel_bytes=kernel_bytes,
        initrd_limit=field("I", 0x22C) or DEFAULT_INITRD_LIMIT,
        alignment=field("I", 0x230),
        relocatable=field("B", 0x234) != 0,
        command_line_bytes=field("I", 0x238),
        preferred_address=field("Q", 0x258),
        init_bytes=field("I", 0x260),
    )


def load(job: Job) -> Entry:
    """Raises UnusableFile for an image that is no 64-bit bzImage, and for one that the RAM cannot hold."""
    path = job.image.path
    header = parse_header(path, job.image.data)
    kernel = memoryview(job.image.data)[header.kernel_offset : header.kernel_offset + header.kernel_bytes]
    # A relocatable kernel may be loaded lower than it prefers, but x86_64 kernels move up to that address then, and
    # RAM is without holes there: where the preferred place does not fit, no other does.
    address = header.preferred_address
    if address == 0:
        address = align_up(HIGH_MEMORY, header.alignment) if header.relocatable else HIGH_MEMORY
    if address >= HIGH_RAM:
        raise UnusableFile(f"image {path} wants to be loaded above 4 GiB", "use a kernel built for a lower address")
    start = align_up(address, header.alignment) if header.relocatable else address
    job.layout.place(address, kernel, f"image {path}", start - address + header.init_bytes)
    setup_header = bytearray(header.raw)
    struct.pack_into("<I", setup_header, _CODE32_START - HEADER, address)
    zero_page = add_zero_page(job, setup_header, header.initrd_limit, header.command_line_bytes)
    return Entry(64, address + ENTRY_64, {"rsi": zero_page})


def add_zero_page(
    job: Job,
    setup_header: bytes | bytearray,
    initrd_limit: int = DEFAULT_INITRD_LIMIT,
    command_line_limit: int | None = None,
) -> int:
    """Load initrd and command line, and fill struct boot_params for them; returns its address."""
    ram_bytes = job.layout.ram_bytes
    ranges = memory_map(ram_bytes)
    command_line = job.add_information(job.command_line(command_line_limit))
    initrd, initrd_bytes = 0, 0
    if job.initrd:
        initrd_bytes = len(job.initrd.data)
        highest = min(initrd_limit + 1, LOW_RAM_LIMIT)
        what = f"initrd {job.initrd.path}"
        initrd = job.layout.add(
            job.initrd.data, what, align=PAGE_BYTES, lowest=HIGH_MEMORY, highest=highest, from_top=True
        )

    page = bytearray(_ZERO_PAGE_BYTES)
    page[HEADER : HEADER + len(setup_header)] = setup_header

    def put(offset: int, layout: str, *values: int) -> None:
        struct.pack_into(f"<{layout}", page, offset, *values)

    # screen_info: a VGA in 80x25 text mode
    put(0x002, "H", min(upper_kib(ram_bytes), 0xFFFF))
    put(0x006, "BB", 3, 80)  # mode, columns
    put(0x00A, "H", 3)  # 256 KiB of video memory
    put(0x00E, "BBH", 25, 1, 16)  # lines, VGA, lines per character
    put(0x070, "Q", RSDP)
    put(0x1E0, "I", upper_kib(ram_bytes))
    put(0x1E8, "B", len(ranges))
    # the setup header's fields that are the loader's to fill
    put(0x1FA, "H", 0xFFFF)  # normal video mode
    put(0x210, "B", 0xFF)  # a loader without a number
    put(0x218, "II", initrd, initrd_bytes)
    put(0x228, "I", command_line)
    table = b"".join(e820_entry(entry) for entry in ranges)
    page[_E820_TABLE : _E820_TABLE + len(table)] = table
    return job.add_information(bytes(page), align=PAGE_BYTES)

"""Small boot images, made field by field from the specifications, for tests of the loaders."""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftvm.boot import BootPlan, load
from ftvm.units import MIB

RAM_BYTES = 64 * MIB


@dataclass(frozen=True)
class Part:
    """A PT_LOAD of a test kernel."""

    paddr: int
    data: bytes
    vaddr: int | None = None
    memory_bytes: int | None = None


def elf(
    *parts: Part,
    bits: int = 64,
    entry: int | None = None,
    machine: int | None = None,
    kind: int = 2,
    note: bytes = b"",
    symbols: dict[str, int] | None = None,
) -> bytes:
    """An ELF executable; sections only when there are symbols."""
    wide = bits == 64
    header_bytes, program_bytes = (64, 56) if wide else (52, 32)
    count = len(parts) + bool(note)
    body = bytearray()
    start = header_bytes + count * program_bytes
    start += -start % 8
    program = b""

    def program_header(kind: int, data: bytes, vaddr: int, paddr: int, memory_bytes: int) -> bytes:
        offset = start + len(body)
        body.extend(data + bytes(-len(data) % 8))
        if wide:
            return struct.pack("<IIQQQQQQ", kind, 7, offset, vaddr, paddr, len(data), memory_bytes, 8)
        return struct.pack("<IIIIIIII", kind, offset, vaddr, paddr, len(data), memory_bytes, 7, 8)

    for part in parts:
        vaddr = part.paddr if part.vaddr is None else part.vaddr
        memory_bytes = len(part.data) if part.memory_bytes is None else part.memory_bytes
        program += program_header(1, part.data, vaddr, part.paddr, memory_bytes)
    if note:
        program += program_header(4, note, 0, 0, len(note))

    sections, section_count = b"", 0
    if symbols is not None:
        strings, table = b"\0", bytes(24 if wide else 16)
        for name, value in symbols.items():
            layout = (len(strings), 0x12, 0, 1, value, 0) if wide else (len(strings), value, 0, 0x12, 0, 1)
            table += struct.pack("<IBBHQQ" if wide else "<IIIBBH", *layout)
            strings += name.encode() + b"\0"
        places = [(start + len(body), len(table), 2, 2), (start + len(body) + len(table), len(strings), 3, 0)]
        body.extend(table + strings + bytes(-(len(table) + len(strings)) % 8))
        section = struct.Struct("<IIQQQQIIQQ" if wide else "<IIIIIIIIII")
        sections = bytes(section.size)
        sections += b"".join(section.pack(0, kind, 0, 0, at, size, link, 0, 8, 0) for at, size, kind, link in places)
        section_count = 3

    ident = b"\x7fELF" + bytes([2 if wide else 1, 1, 1]) + bytes(9)
    header = ident + struct.pack(
        "<HHIQQQIHHHHHH" if wide else "<HHIIIIIHHHHHH",
        kind,
        machine if machine is not None else (62 if wide else 3),
        1,
        parts[0].paddr if entry is None else entry,
        header_bytes,
        start + len(body) if sections else 0,
        0,
        header_bytes,
        program_bytes,
        count,
        (64 if wide else 40) if sections else 0,
        section_count,
        2 if sections else 0,
    )
    headers = header + program
    return headers + bytes(start - len(headers)) + bytes(body) + sections


def pvh_note(entry: int) -> bytes:
    """A note of another owner, then XEN_ELFNOTE_PHYS32_ENTRY."""
    other = struct.pack("<III4s4s", 4, 4, 18, b"GNU\0", b"\xff\xff\xff\xff")
    return other + struct.pack("<III4sI", 4, 4, 18, b"Xen\0", entry)


def multiboot1_header(flags: int = 0, *addresses: int) -> bytes:
    magic = 0x1BADB002
    flags |= 1 << 16 if addresses else 0
    return struct.pack(f"<III{len(addresses)}I", magic, flags, -(magic + flags) & 0xFFFFFFFF, *addresses)


def tag(kind: int, *values: int, optional: bool = False) -> bytes:
    """A tag of a multiboot 2 header, padded."""
    body = struct.pack(f"<HHI{len(values)}I", kind, optional, 8 + 4 * len(values), *values)
    return body + bytes(-len(body) % 8)


def multiboot2_header(*tags: bytes) -> bytes:
    body = b"".join(tags) + tag(0)
    length = 16 + len(body)
    magic = 0xE85250D6
    return struct.pack("<IIII", magic, 0, length, -(magic + length) & 0xFFFFFFFF) + body


def bzimage(
    *,
    version: int = 0x20F,
    loaded_high: bool = True,
    has_64_bit_entry: bool = True,
    relocatable: bool = True,
    alignment: int = 0x200000,
    preferred: int = 0x1000000,
    init_bytes: int = 0x800000,
    command_line_bytes: int = 255,
    initrd_limit: int = 0x7FFFFFFF,
    kernel: bytes = b"\xf4" * 0x1000,
) -> bytes:
    """One sector of setup code behind the boot sector, then ``kernel``."""
    image = bytearray(1024)
    struct.pack_into("<B", image, 0x1F1, 1)
    struct.pack_into("<I", image, 0x1F4, len(kernel) // 16)
    struct.pack_into("<HH4sH", image, 0x1FE, 0xAA55, 0x66EB, b"HdrS", version)
    struct.pack_into("<B", image, 0x211, loaded_high)
    struct.pack_into(
        "<IIBBHI", image, 0x22C, initrd_limit, alignment, relocatable, 21, has_64_bit_entry, command_line_bytes
    )
    struct.pack_into("<QI", image, 0x258, preferred, init_bytes)
    return bytes(image) + kernel


def boot_sector(code: bytes = b"\xf4", sectors: int = 1) -> bytes:
    image = bytearray(512 * sectors)
    image[: len(code)] = code
    image[510:512] = b"\x55\xaa"
    return bytes(image)


class Memory:
    """RAM as a plan leaves it."""

    def __init__(self, plan: BootPlan) -> None:
        self._segments = plan.segments

    def read(self, gpa: int, size: int) -> bytes:
        """``size`` bytes; what nothing was loaded to is zero."""
        result = bytearray(size)
        for segment in self._segments:
            low, high = max(gpa, segment.gpa), min(gpa + size, segment.gpa + len(segment.data))
            if low < high:
                result[low - gpa : high - gpa] = segment.data[low - segment.gpa : high - segment.gpa]
        return bytes(result)

    def unpack(self, layout: str, gpa: int) -> tuple[Any, ...]:
        return struct.unpack(layout, self.read(gpa, struct.calcsize(layout)))

    def text(self, gpa: int) -> str:
        """A C string."""
        return self.read(gpa, 4096).split(b"\0")[0].decode()


def start_registers(plan: BootPlan) -> tuple[int, ...]:
    """What the stub will load: entry point, then A, B, C, D, SI, DI, BP."""
    wide = plan.kind in ("linux", "elf64")
    return Memory(plan).unpack("<8Q" if wide else "<8I", 0xEF000)


def write(folder: Path, contents: bytes, name: str = "image") -> Path:
    path = folder / name
    path.write_bytes(contents)
    return path


def boot(folder: Path, contents: bytes, **options: Any) -> BootPlan:
    """Load ``contents`` from a file in ``folder``."""
    options.setdefault("ram_bytes", RAM_BYTES)
    return load(write(folder, contents), **options)

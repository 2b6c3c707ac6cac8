"""Multiboot 2, as the specification has it (version 2.0, sections 3.1 and 3.6)."""

import struct
from pathlib import Path

import pytest

from ftvm.boot import BootPlan
from ftvm.errors import UnusableFile
from ftvm.units import GIB, MIB
from tests.unit.boot_images import Memory, Part, boot, elf, multiboot2_header, start_registers, tag, write

CODE = b"\xf4" * 64
REQUEST, ADDRESS, ENTRY, CONSOLE, FRAMEBUFFER, ALIGN, RELOCATABLE = 1, 2, 3, 4, 5, 6, 10


def kernel(*tags: bytes, paddr: int = MIB, symbols: dict[str, int] | None = None) -> bytes:
    header = multiboot2_header(*tags)
    return elf(Part(paddr, header + CODE, memory_bytes=0x3000), bits=32, entry=paddr + len(header), symbols=symbols)


class Information:
    """The structure that EBX points to: its tags by type, each body without its header."""

    def __init__(self, plan: BootPlan) -> None:
        self.entry, eax, ebx, *others = start_registers(plan)
        assert eax == 0x36D76289
        assert ebx % 8 == 0
        assert not any(others)
        self.memory = Memory(plan)
        total, reserved = self.memory.unpack("<II", ebx)
        assert reserved == 0
        self.tags: dict[int, list[bytes]] = {}
        position = 8
        while True:
            kind, size = self.memory.unpack("<II", ebx + position)
            self.tags.setdefault(kind, []).append(self.memory.read(ebx + position + 8, size - 8))
            position += size + -size % 8
            if kind == 0:
                break
        assert position == total

    def fields(self, kind: int, layout: str) -> tuple[int, ...]:
        (body,) = self.tags[kind]
        return struct.unpack_from("<" + layout, body)


def test_strings_memory_and_screen(tmp_path: Path) -> None:
    information = Information(boot(tmp_path, kernel(), append="one two"))
    assert information.tags[1] == [b"one two\0"]
    assert information.tags[2] == [b"GRUB 2 (as ftvm)\0"]
    assert information.fields(4, "II") == (639, 63 * 1024)
    assert information.fields(8, "QIIIBB") == (0xB8000, 160, 80, 25, 16, 2)
    assert set(information.tags) == {0, 1, 2, 4, 6, 8, 14, 15}


def test_the_memory_map(tmp_path: Path) -> None:
    (body,) = Information(boot(tmp_path, kernel(), ram_bytes=4 * GIB)).tags[6]
    assert struct.unpack_from("<II", body) == (24, 0)
    assert list(struct.iter_unpack("<QQII", body[8:])) == [
        (0, 0x9FC00, 1, 0),
        (0x9FC00, 0x400, 2, 0),
        (0xE0000, 0x20000, 2, 0),
        (MIB, 3 * GIB - MIB, 1, 0),
        (4 * GIB, GIB, 1, 0),
    ]


def test_the_acpi_root_pointers_are_copies_of_the_one_in_memory(tmp_path: Path) -> None:
    information = Information(boot(tmp_path, kernel()))
    assert information.tags[14] == [information.memory.read(0xF8000, 20)]
    assert information.tags[15] == [information.memory.read(0xF8000, 36)]
    assert information.tags[15][0].startswith(b"RSD PTR ")


def test_initrd_and_modules(tmp_path: Path) -> None:
    files = [write(tmp_path, bytes([index]) * 5000, f"file{index}") for index in range(1, 4)]
    information = Information(boot(tmp_path, kernel(tag(ALIGN)), initrd=files[0], modules=files[1:]))
    assert len(information.tags[3]) == 3
    for index, body in enumerate(information.tags[3], start=1):
        start, end = struct.unpack_from("<II", body)
        assert start % 4096 == 0
        assert start >= MIB + 0x3000
        assert information.memory.read(start, end - start) == bytes([index]) * 5000
        assert body[8:] == f"file{index}\0".encode()


def test_a_module_may_have_arguments_and_its_file_a_blank(tmp_path: Path) -> None:
    plain, blank = write(tmp_path, b"1", "plain"), write(tmp_path, b"2", "a blank")
    information = Information(boot(tmp_path, kernel(), modules=[f"{plain} root=/dev/vda  ro", blank, f"{blank}"]))
    texts = [body[8:] for body in information.tags[3]]
    assert texts == [b"plain root=/dev/vda  ro\0", b"a blank\0", b"a blank\0"]


def test_modules_of_a_kernel_at_the_end_of_memory_lie_below_it(tmp_path: Path) -> None:
    module = write(tmp_path, b"m" * 5000, "module")
    highest = tag(RELOCATABLE, 0, 0xFFFFFFFF, 0x1000, 2)
    information = Information(boot(tmp_path, kernel(highest, paddr=8 * MIB), modules=[module]))
    ((start, end),) = [struct.unpack_from("<II", body) for body in information.tags[3]]
    assert MIB <= start < end <= information.fields(21, "I")[0]
    assert information.memory.read(start, end - start) == b"m" * 5000


def test_symbols(tmp_path: Path) -> None:
    information = Information(boot(tmp_path, kernel(symbols={"main": MIB})))
    (body,) = information.tags[9]
    assert struct.unpack_from("<III", body) == (3, 40, 2)
    strtab = struct.unpack_from("<10I", body, 12 + 2 * 40)
    assert information.memory.text(strtab[3] + 1) == "main"


def test_an_entry_address_tag_wins_over_elf(tmp_path: Path) -> None:
    assert Information(boot(tmp_path, kernel(tag(ENTRY, MIB + 0x50)))).entry == MIB + 0x50


@pytest.mark.parametrize(("load", "offset"), [(0x200008, 0), (0xFFFFFFFF, 8)])
def test_an_address_tag_places_the_image(tmp_path: Path, load: int, offset: int) -> None:
    header = multiboot2_header(tag(ADDRESS, 0x200008, load, 0x200070, 0x210000), tag(ENTRY, 0x200048))
    image = b"\x90" * 8 + header + bytes(range(100))
    information = Information(boot(tmp_path, image))
    assert information.entry == 0x200048
    assert information.memory.read(0x200008 - offset, 0x68 + offset) == image[8 - offset : 0x70]
    assert information.memory.read(0x200070, 16) == bytes(16)


@pytest.mark.parametrize(
    ("lowest", "highest", "alignment", "preference", "base"),
    [
        (0, 0xFFFFFFFF, 0x1000, 0, 8 * MIB),  # it may stay where it is linked
        (16 * MIB, 0xFFFFFFFF, 0x1000, 0, 16 * MIB),
        (0, 4 * MIB, 0x1000, 0, MIB),
        (0, 0xFFFFFFFF, 0x200000, 1, 2 * MIB),
        (0, 0xFFFFFFFF, 0x200000, 2, 62 * MIB),
        (0, 32 * MIB - 1, 0x1000, 2, 32 * MIB - 0x3000),
        (0, 0xFFFFFFFF, 0, 1, MIB),
    ],
)
def test_a_relocatable_kernel_moves_as_it_wishes(
    tmp_path: Path, lowest: int, highest: int, alignment: int, preference: int, base: int
) -> None:
    image = kernel(tag(RELOCATABLE, lowest, highest, alignment, preference), paddr=8 * MIB)
    information = Information(boot(tmp_path, image))
    assert information.fields(21, "I") == (base,)
    assert information.memory.read(information.entry, len(CODE)) == CODE
    assert base < information.entry < base + 0x3000


def test_a_relocatable_kernel_without_a_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableFile, match="not free"):
        boot(tmp_path, kernel(tag(RELOCATABLE, 128 * MIB, 0xFFFFFFFF, 0x1000, 0), paddr=8 * MIB))


def test_requests_and_tags_that_need_nothing_are_accepted(tmp_path: Path) -> None:
    tags = tag(REQUEST, 1, 2, 4, 6, 8, 9, 14, 15, 21), tag(CONSOLE, 3), tag(FRAMEBUFFER, 80, 25, 0), tag(ALIGN)
    assert boot(tmp_path, kernel(*tags)).kind == "multiboot2"


def test_unknown_tags_and_requests_may_be_optional(tmp_path: Path) -> None:
    for kind, *values in ((77, 1, 2, 3), (REQUEST, 4, 99)):
        boot(tmp_path, kernel(tag(kind, *values, optional=True)))
        with pytest.raises(UnusableFile, match="does not know"):
            boot(tmp_path, kernel(tag(kind, *values)))


def test_a_header_for_another_architecture_is_none(tmp_path: Path) -> None:
    header = struct.pack("<IIIIHHI", 0xE85250D6, 4, 24, -(0xE85250D6 + 4 + 24) & 0xFFFFFFFF, 0, 0, 8)
    assert boot(tmp_path, elf(Part(MIB, header + CODE))).kind == "elf64"


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (multiboot2_header() + CODE, "neither an ELF file nor has an address tag"),
        (multiboot2_header(tag(ADDRESS, MIB, MIB, 0, 0)) + CODE, "no entry address tag"),
        (multiboot2_header(tag(77, *[0] * 10_000, optional=True)) + CODE, "behind its first 32 KiB"),
        (multiboot2_header(tag(ADDRESS, MIB, MIB), tag(ENTRY, MIB)) + CODE, "damaged multiboot 2 header"),
        (multiboot2_header(struct.pack("<HHI", ALIGN, 0, 7)) + CODE, "damaged multiboot 2 header"),
        (multiboot2_header(struct.pack("<HHI", ALIGN, 0, 0x1000)) + CODE, "damaged multiboot 2 header"),
        (multiboot2_header(tag(ADDRESS, MIB, MIB, 0, 0), tag(ENTRY, MIB))[:-8], "truncated in its multiboot 2 header"),
    ],
)
def test_a_damaged_header_is_refused(tmp_path: Path, image: bytes, message: str) -> None:
    with pytest.raises(UnusableFile, match=message) as caught:
        boot(tmp_path, image)
    assert caught.value.hint

"""Multiboot 1, as the specification has it (version 0.6.96, section 3)."""

from pathlib import Path

import pytest

from ftvm.boot import BootPlan
from ftvm.errors import UnusableFile
from ftvm.units import GIB, MIB
from tests.unit.boot_images import Memory, Part, boot, elf, multiboot1_header, start_registers, write

CODE = b"\xf4" * 64


def kernel(flags: int = 0) -> bytes:
    return elf(Part(MIB, multiboot1_header(flags) + CODE), bits=32, entry=MIB + 12)


class Information:
    """The structure that EBX points to."""

    def __init__(self, plan: BootPlan) -> None:
        self.entry, eax, ebx, *others = start_registers(plan)
        assert eax == 0x2BADB002
        assert not any(others)
        self.memory = Memory(plan)
        (self.flags,) = self.memory.unpack("<I", ebx)
        self.address = ebx

    def fields(self, layout: str, offset: int, flag: int) -> tuple[int, ...]:
        assert self.flags & 1 << flag
        return self.memory.unpack("<" + layout, self.address + offset)


def test_memory_command_line_and_loader_name(tmp_path: Path) -> None:
    information = Information(boot(tmp_path, kernel(), append="one two"))
    assert information.entry == MIB + 12
    assert information.fields("II", 4, 0) == (639, 63 * 1024)
    assert information.memory.text(*information.fields("I", 16, 2)) == "one two"
    assert information.memory.text(*information.fields("I", 64, 9)) == "GRUB 2 (as ftvm)"


def test_no_field_is_announced_that_is_not_there(tmp_path: Path) -> None:
    information = Information(boot(tmp_path, kernel()))
    assert not information.flags & (1 << 1 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 11)


def test_the_memory_map_has_entries_of_20_bytes_and_their_size(tmp_path: Path) -> None:
    information = Information(boot(tmp_path, kernel(), ram_bytes=4 * GIB))
    length, address = information.fields("II", 44, 6)
    entries = [information.memory.unpack("<IQQI", address + at) for at in range(0, length, 24)]
    assert entries == [
        (20, 0, 0x9FC00, 1),
        (20, 0x9FC00, 0x400, 2),
        (20, 0xE0000, 0x20000, 2),
        (20, MIB, 3 * GIB - MIB, 1),
        (20, 4 * GIB, GIB, 1),
    ]
    assert information.fields("II", 4, 0) == (639, 3 * 1024 * 1024 - 1024)


def test_initrd_and_modules_lie_on_pages_behind_the_kernel(tmp_path: Path) -> None:
    files = [write(tmp_path, bytes([index]) * 5000, f"file{index}") for index in range(1, 4)]
    information = Information(boot(tmp_path, kernel(1), initrd=files[0], modules=files[1:]))
    count, address = information.fields("II", 20, 3)
    assert count == 3
    previous_end = MIB + 12 + len(CODE)
    for index in range(count):
        start, end, name, _ = information.memory.unpack("<IIII", address + 16 * index)
        assert start % 4096 == 0
        assert start >= previous_end
        assert information.memory.read(start, end - start) == bytes([index + 1]) * 5000
        assert information.memory.text(name) == f"file{index + 1}"
        previous_end = end


def test_the_text_screen_is_the_framebuffer(tmp_path: Path) -> None:
    information = Information(boot(tmp_path, kernel(4)))
    assert information.fields("QIIIBB", 88, 12) == (0xB8000, 160, 80, 25, 16, 2)


@pytest.mark.parametrize("bits", [32, 64])
def test_symbols_are_loaded_and_found_through_the_section_headers(tmp_path: Path, bits: int) -> None:
    image = elf(Part(MIB, multiboot1_header() + CODE), bits=bits, symbols={"main": MIB + 12})
    information = Information(boot(tmp_path, image))
    count, size, table, names = information.fields("IIII", 28, 5)
    assert (count, size, names) == (3, 64 if bits == 64 else 40, 2)
    memory = information.memory
    layout = "<IIQQQQ" if bits == 64 else "<IIIIII"
    _, symtab, strtab = (memory.unpack(layout, table + size * index) for index in range(count))
    assert (symtab[1], strtab[1]) == (2, 3)
    assert min(symtab[3], strtab[3]) >= MIB + 12 + len(CODE)
    assert memory.text(strtab[3] + 1) == "main"
    value = memory.unpack("<QQ", symtab[3] + 24 + 8)[0] if bits == 64 else memory.unpack("<I", symtab[3] + 16 + 4)[0]
    assert value == MIB + 12


def test_address_fields_place_the_image_and_win_over_elf(tmp_path: Path) -> None:
    flat = b"before.." + multiboot1_header(0, 0x200008, 0x200004, 0x200060, 0x210000, 0x200030) + bytes(range(200))
    plan = boot(tmp_path, flat)
    information = Information(plan)
    assert information.entry == 0x200030
    assert information.memory.read(0x200004, 0x5C) == flat[4:0x60]
    assert information.memory.read(0x200060, 16) == bytes(16)

    header = multiboot1_header(0, 0x300000, 0x300000, 0, 0, 0x300020)
    plan = boot(tmp_path, elf(Part(MIB, header + CODE), bits=32))
    assert Information(plan).entry == 0x300020
    assert Memory(plan).read(0x300000, 96) == header + CODE


def test_bss_is_claimed(tmp_path: Path) -> None:
    module = write(tmp_path, b"module", "module")
    image = multiboot1_header(0, MIB, MIB, 0, 3 * MIB, MIB + 32) + CODE
    information = Information(boot(tmp_path, image, modules=[module]))
    _, address = information.fields("II", 20, 3)
    assert information.memory.unpack("<I", address) == (3 * MIB,)


def test_a_header_is_found_in_the_first_8_kib_only(tmp_path: Path) -> None:
    before = elf(Part(MIB, b""))
    for offset, kind in ((8192 - 12, "multiboot1"), (8192 - 8, "elf64")):
        code = CODE.ljust(offset - len(before), b"\0")
        image = elf(Part(MIB, code + multiboot1_header() + CODE), entry=MIB)
        assert image.index(multiboot1_header()) == offset
        assert boot(tmp_path, image).kind == kind


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (kernel(1 << 5), r"unknown multiboot features \(0x20\)"),
        (multiboot1_header() + CODE, "neither an ELF file nor has address fields"),
        (multiboot1_header(0, MIB, MIB, 0, 0, MIB)[:28], "truncated in its multiboot header"),
        (multiboot1_header(0, MIB, MIB + 4, 0, 0, MIB) + CODE, "impossible addresses"),
        (multiboot1_header(0, MIB, MIB - 4, 0, 0, MIB) + CODE, "impossible addresses"),
        (multiboot1_header(0, MIB, MIB, MIB - 4, 0, MIB) + CODE, "impossible addresses"),
        (multiboot1_header(0, MIB, MIB, 0, MIB + 8, MIB) + CODE, "impossible addresses"),
        (multiboot1_header(0, MIB, MIB, 2 * MIB, 0, MIB) + CODE, "tells of more"),
        (multiboot1_header(0, 0, 0, 0, 0, 0x600) + CODE, "BIOS has its data"),
    ],
)
def test_a_header_that_cannot_be_honoured_is_refused(tmp_path: Path, image: bytes, message: str) -> None:
    with pytest.raises(UnusableFile, match=message) as caught:
        boot(tmp_path, image)
    assert caught.value.hint

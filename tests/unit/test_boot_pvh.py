"""The PVH entry (x86/HVM direct boot ABI)."""

from pathlib import Path

import pytest

from ftvm.units import GIB, MIB
from tests.unit.boot_images import Memory, Part, boot, elf, pvh_note, start_registers, write

CODE = b"\xf4" * 64


@pytest.mark.parametrize("bits", [32, 64])
def test_the_note_names_the_entry_point_and_ebx_holds_the_start_info(tmp_path: Path, bits: int) -> None:
    files = [write(tmp_path, bytes([index]) * 5000, f"file{index}") for index in (1, 2)]
    image = elf(Part(MIB, CODE), bits=bits, note=pvh_note(MIB + 8))
    plan = boot(tmp_path, image, append="quiet", initrd=files[0], modules=files[1:], ram_bytes=4 * GIB)
    assert plan.kind == "pvh"
    entry, eax, ebx, *others = start_registers(plan)
    assert (entry, eax, any(others)) == (MIB + 8, 0, False)

    memory = Memory(plan)
    magic, version, flags, count, modules, command_line, rsdp, memory_map, entries, reserved = memory.unpack(
        "<IIIIQQQQII", ebx
    )
    assert (magic, version, flags, reserved) == (0x336EC578, 1, 0, 0)
    assert memory.text(command_line) == "quiet"
    assert memory.read(rsdp, 8) == b"RSD PTR "
    assert count == 2
    for index in range(count):
        address, size, name, _ = memory.unpack("<QQQQ", modules + 32 * index)
        assert address % 4096 == 0
        assert memory.read(address, size) == bytes([index + 1]) * 5000
        assert memory.text(name) == f"file{index + 1}"
    assert [memory.unpack("<QQII", memory_map + 24 * index) for index in range(entries)] == [
        (0, 0x9FC00, 1, 0),
        (0x9FC00, 0x400, 2, 0),
        (0xE0000, 0x20000, 2, 0),
        (MIB, 3 * GIB - MIB, 1, 0),
        (4 * GIB, GIB, 1, 0),
    ]


def test_without_modules_there_is_no_list(tmp_path: Path) -> None:
    plan = boot(tmp_path, elf(Part(MIB, CODE), note=pvh_note(MIB)))
    *_, count, modules = Memory(plan).unpack("<IIIIQ", start_registers(plan)[2])
    assert (count, modules) == (0, 0)


def test_more_notes_than_any_kernel_has_are_not_searched(tmp_path: Path) -> None:
    filler = bytes(12 * 8192)
    assert boot(tmp_path, elf(Part(MIB, CODE), note=filler[: 12 * 100] + pvh_note(MIB))).kind == "pvh"
    assert boot(tmp_path, elf(Part(MIB, CODE), note=filler + pvh_note(MIB))).kind == "elf64"


def test_notes_of_others_are_passed_over(tmp_path: Path) -> None:
    note = pvh_note(MIB)
    assert boot(tmp_path, elf(Part(MIB, CODE), note=note[: len(note) // 2])).kind == "elf64"

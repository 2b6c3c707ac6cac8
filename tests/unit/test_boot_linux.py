"""The Linux boot protocol, field by field (Documentation/arch/x86/boot.rst, zero-page.rst)."""

from pathlib import Path

import pytest

from ftvm.boot import BootPlan
from ftvm.errors import UnusableFile
from ftvm.units import GIB, MIB
from tests.unit.boot_images import RAM_BYTES, Memory, Part, boot, bzimage, elf, start_registers, write


def zero_page(plan: BootPlan) -> int:
    """Its address: RSI at the 64-bit entry point."""
    _, rax, rbx, rcx, rdx, rsi, rdi, rbp = start_registers(plan)
    assert (rax, rbx, rcx, rdx, rdi, rbp) == (0, 0, 0, 0, 0, 0)
    return rsi


def test_the_kernel_lies_at_its_preferred_address_and_is_entered_at_0x200(tmp_path: Path) -> None:
    kernel = bytes(range(256)) * 16
    plan = boot(tmp_path, bzimage(kernel=kernel, preferred=0x1200000))
    assert Memory(plan).read(0x1200000, len(kernel)) == kernel
    assert start_registers(plan)[0] == 0x1200200


@pytest.mark.parametrize(("relocatable", "alignment", "address"), [(True, 0x400000, 0x400000), (False, 0x400000, MIB)])
def test_without_a_preferred_address_a_kernel_lies_as_low_as_it_may(
    tmp_path: Path, relocatable: bool, alignment: int, address: int
) -> None:
    plan = boot(tmp_path, bzimage(preferred=0, relocatable=relocatable, alignment=alignment))
    assert start_registers(plan)[0] == address + 0x200


def test_the_setup_header_is_in_the_zero_page_with_the_loaders_fields(tmp_path: Path) -> None:
    image = bzimage()
    plan = boot(tmp_path, image, append="console=ttyS0 quiet")
    memory, page = Memory(plan), zero_page(plan)
    assert memory.read(page + 0x1FE, 10) == image[0x1FE:0x208]
    assert memory.read(page + 0x22C, 0x40) == image[0x22C:0x26C]
    assert memory.unpack("<B", page + 0x210) == (0xFF,)
    assert memory.unpack("<I", page + 0x214) == (0x1000000,)
    assert memory.unpack("<II", page + 0x218) == (0, 0)
    assert memory.text(*memory.unpack("<I", page + 0x228)) == "console=ttyS0 quiet"
    assert memory.read(page + 0x1EF, 1) == b"\0"  # the sentinel says that the rest was cleared


def test_the_zero_page_describes_screen_memory_and_acpi(tmp_path: Path) -> None:
    plan = boot(tmp_path, bzimage(), ram_bytes=5 * GIB)
    memory, page = Memory(plan), zero_page(plan)
    assert page % 4096 == 0
    assert memory.unpack("<BB", page + 0x06) == (3, 80)  # mode, columns
    assert memory.unpack("<BBH", page + 0x0E) == (25, 1, 16)  # lines, VGA, lines per character
    (rsdp,) = memory.unpack("<Q", page + 0x70)
    assert memory.read(rsdp, 8) == b"RSD PTR "
    (count,) = memory.unpack("<B", page + 0x1E8)
    assert [memory.unpack("<QQI", page + 0x2D0 + 20 * index) for index in range(count)] == [
        (0, 0x9FC00, 1),
        (0x9FC00, 0x400, 2),
        (0xE0000, 0x20000, 2),
        (MIB, 3 * GIB - MIB, 1),
        (4 * GIB, 2 * GIB, 1),
    ]


def test_the_initrd_lies_as_high_as_the_kernel_can_reach(tmp_path: Path) -> None:
    contents = bytes(range(251)) * 40
    initrd = write(tmp_path, contents, "initrd")
    for limit, ram_bytes, highest in (
        (0x7FFFFFFF, RAM_BYTES, RAM_BYTES),
        (0x2FFFFFF, RAM_BYTES, 0x3000000),
        (0xFFFFFFFF, 4 * GIB, 3 * GIB),
        (0, 4 * GIB, 2 * GIB),
    ):
        plan = boot(tmp_path, bzimage(initrd_limit=limit), initrd=initrd, ram_bytes=ram_bytes)
        memory = Memory(plan)
        address, size = memory.unpack("<II", zero_page(plan) + 0x218)
        assert size == len(contents)
        assert address % 4096 == 0
        assert highest - 4096 < address + size <= highest
        assert memory.read(address, size) == contents


def test_the_initrd_stays_clear_of_what_the_kernel_unpacks_itself_to(tmp_path: Path) -> None:
    initrd = write(tmp_path, b"x" * 0x2000, "initrd")
    image = bzimage(init_bytes=RAM_BYTES - 0x1000000 - 0x1000)
    plan = boot(tmp_path, image, initrd=initrd)
    address, _ = Memory(plan).unpack("<II", zero_page(plan) + 0x218)
    assert address + 0x2000 <= 0x1000000


def test_an_initrd_that_does_not_fit_beside_the_kernel_is_refused(tmp_path: Path) -> None:
    initrd = write(tmp_path, bytes(50 * MIB), "initrd")
    with pytest.raises(UnusableFile, match=r"initrd .* does not fit in what is free of 64M") as caught:
        boot(tmp_path, bzimage(), initrd=initrd)
    assert caught.value.hint is not None and "--memory" in caught.value.hint


def test_a_command_line_has_the_length_that_the_kernel_allows(tmp_path: Path) -> None:
    boot(tmp_path, bzimage(command_line_bytes=20), append="x" * 20)
    with pytest.raises(UnusableFile, match="at most 20 bytes of command line, not 21"):
        boot(tmp_path, bzimage(command_line_bytes=20), append="x" * 21)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (bzimage(version=0x205), r"before 2.06 \(2.05\)"),
        (bzimage(loaded_high=False), "is a zImage"),
        (bzimage(version=0x20B), r"no 64-bit entry point \(boot protocol 2.11\)"),
        (bzimage(has_64_bit_entry=False), "no 64-bit entry point"),
        (bzimage()[:-16], "truncated bzImage"),
        (bzimage()[:1000], "truncated bzImage"),
        (bzimage()[:600], "truncated bzImage"),
        (bzimage(kernel=b""), "truncated bzImage"),
        (bzimage(init_bytes=60 * MIB), "RAM ends at 0x4000000"),
        (bzimage(preferred=0xFFFFFFFF00000000), "above 4 GiB"),
        (bzimage().replace(b"\xeb\x66HdrS", b"\xeb\x11HdrS"), "damaged setup header"),
    ],
)
def test_a_kernel_that_cannot_be_entered_in_64_bit_mode_is_refused(tmp_path: Path, image: bytes, message: str) -> None:
    with pytest.raises(UnusableFile, match=message) as caught:
        boot(tmp_path, image)
    assert caught.value.hint


def test_the_last_bytes_of_padding_may_be_missing(tmp_path: Path) -> None:
    boot(tmp_path, bzimage()[:-15])


def test_a_vmlinux_gets_a_zero_page_too(tmp_path: Path) -> None:
    initrd = write(tmp_path, b"initrd", "initrd")
    plan = boot(tmp_path, elf(Part(0x1000000, b"\xf4" * 64)), append="quiet", initrd=initrd)
    memory, page = Memory(plan), zero_page(plan)
    assert memory.unpack("<HH4sH", page + 0x1FE) == (0xAA55, 0, b"HdrS", 0x20F)
    assert memory.text(*memory.unpack("<I", page + 0x228)) == "quiet"
    address, size = memory.unpack("<II", page + 0x218)
    assert memory.read(address, size) == b"initrd"

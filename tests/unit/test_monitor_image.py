"""The verified image as a whole: start image, filling a module, digest."""

import os

import pytest

from ftvm._native import ffi
from ftvm.memory_map import HIGH_RAM
from ftvm.module.board import StopKind
from ftvm.module.link import Report
from ftvm.module.registers import ARCH_BYTES, with_registers
from ftvm.monitor.image import VerifiedImage, WrittenMemory
from ftvm.units import MIB, PAGE_BYTES

RAM_BYTES = 2 * MIB


@pytest.fixture
def image() -> VerifiedImage:
    return VerifiedImage(RAM_BYTES, threads=2)


def commit(image: VerifiedImage, offset: int, data: bytes, arch: bytes = bytes(ARCH_BYTES)) -> None:
    ram = bytearray(RAM_BYTES)
    ram[:RAM_BYTES] = image.ram[:]
    ram[offset : offset + len(data)] = data
    pages = range(offset // PAGE_BYTES, (offset + len(data) - 1) // PAGE_BYTES + 1)
    image.compare([WrittenMemory(ffi.from_buffer(ram), ffi.new("uint32_t[]", list(pages)), len(pages))])
    image.commit(Report(StopKind.POSITION, 42, 0, arch, b"chips", b"", b""))


def filled(image: VerifiedImage, blank: bytes = bytes(RAM_BYTES)) -> bytes:
    ram_fd = os.memfd_create("test")
    with open(ram_fd, "r+b") as ram:
        ram.write(blank)
        ram.flush()
        image.fill(ram_fd)
        ram.seek(0)
        return ram.read()


def test_a_module_is_filled_with_start_image_and_commits(image: VerifiedImage) -> None:
    image.write(0x7C00, b"boot sector")
    image.write(RAM_BYTES - 3, b"end")
    commit(image, 5 * PAGE_BYTES - 2, b"over a page border")
    expected = bytearray(RAM_BYTES)
    expected[0x7C00 : 0x7C00 + 11] = b"boot sector"
    expected[-3:] = b"end"
    expected[5 * PAGE_BYTES - 2 : 5 * PAGE_BYTES + 16] = b"over a page border"
    assert filled(image) == expected == image.ram[:]


def test_filling_touches_only_pages_with_content(image: VerifiedImage) -> None:
    image.write(PAGE_BYTES, bytes(PAGE_BYTES))
    image.write(3 * PAGE_BYTES, b"\x01")
    ram = filled(image, b"\xcc" * RAM_BYTES)
    assert ram[: 3 * PAGE_BYTES] == b"\xcc" * (3 * PAGE_BYTES)
    assert ram[3 * PAGE_BYTES : 4 * PAGE_BYTES] == b"\x01" + bytes(PAGE_BYTES - 1)
    assert ram[4 * PAGE_BYTES :] == b"\xcc" * (RAM_BYTES - 4 * PAGE_BYTES)


@pytest.mark.parametrize("gpa", [RAM_BYTES - 1, RAM_BYTES, HIGH_RAM, -1])
def test_nothing_is_written_outside_ram(image: VerifiedImage, gpa: int) -> None:
    with pytest.raises(ValueError, match="not inside RAM"):
        image.write(gpa, b"xy")
    assert image.ram[:] == bytes(RAM_BYTES)


def test_position_and_virtual_time_are_those_of_the_last_commit(image: VerifiedImage) -> None:
    assert (image.position, image.virtual_ns()) == (0, 0)
    commit(image, 0, b"x", with_registers(bytes(ARCH_BYTES), {"skipped_ns": 5}))
    assert (image.position, image.virtual_ns()) == (42, 425)


def test_the_digest_does_not_depend_on_how_a_state_was_reached() -> None:
    one, other = VerifiedImage(RAM_BYTES, 1), VerifiedImage(RAM_BYTES, 2)
    commit(one, 0x1000, b"ab")
    commit(other, 0x1001, b"x")
    commit(other, 0x1000, b"ab")
    commit(other, 0x9000, b"\x00")  # verified, but zero as if it had never been written
    assert one.digest() == other.digest()


def test_the_digest_tells_every_part_of_the_state_apart() -> None:
    digests = set()
    for offset, data, arch in [
        (0x1000, b"ab", {}),
        (0x1000, b"ac", {}),
        (0x2000, b"ab", {}),
        (0x1000, b"ab", {"rax": 1}),
    ]:
        image = VerifiedImage(RAM_BYTES, 1)
        commit(image, offset, data, with_registers(bytes(ARCH_BYTES), arch))
        digests.add(image.digest())
    image.board = b"other chips"
    digests.add(image.digest())
    assert len(digests) == 5

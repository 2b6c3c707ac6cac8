"""RAM is shared memory for which the host may have huge pages: nobody can tell from what is in it."""

import ctypes
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftvm._native import ffi
from ftvm.module.cpu import Cpu, map_ram
from ftvm.units import MIB, PAGE_BYTES

HUGE_PAGE_BYTES = 2 * MIB
MADV_COLLAPSE = 25
ENOUGH = 32  # pages written, until 2 MiB are worth a huge page


@pytest.fixture
def memory_file() -> Iterator[int]:
    fd = os.memfd_create("ftvm-test-ram", os.MFD_CLOEXEC)
    os.ftruncate(fd, 3 * HUGE_PAGE_BYTES + PAGE_BYTES)
    yield fd
    os.close(fd)


def huge_kib(address: int) -> int:
    """Of the mapping at ``address``."""
    mapping = Path("/proc/self/smaps").read_text().partition(f"\n{address:x}-")[2]
    found = re.search(r"ShmemPmdMapped: +(\d+) kB", mapping)
    assert found
    return int(found[1])


def test_what_is_written_to_ram_is_in_the_file_and_the_other_way_round(memory_file: int) -> None:
    ram = map_ram(memory_file, os.fstat(memory_file).st_size)
    cpu = Cpu(ram)
    expected = bytearray(len(ram))
    for page in range(0, len(ram) // PAGE_BYTES, 3):  # the last 2 MiB are of one page
        content = page.to_bytes(2, "little") * 100
        expected[page * PAGE_BYTES : page * PAGE_BYTES + len(content)] = content
        cpu.write_ram(page * PAGE_BYTES, content)
        os.pwrite(memory_file, content, page * PAGE_BYTES + 1000)
        expected[page * PAGE_BYTES + 1000 : page * PAGE_BYTES + 1000 + len(content)] = content
    assert bytes(ram) == expected
    assert os.pread(memory_file, len(expected), 0) == expected


def test_ram_that_is_written_to_gets_huge_pages_if_the_host_can(memory_file: int) -> None:
    ram = map_ram(memory_file, os.fstat(memory_file).st_size)
    cpu = Cpu(ram)
    address = int(ffi.cast("uintptr_t", ffi.from_buffer(ram)))
    assert address % HUGE_PAGE_BYTES == 0
    for page in range(ENOUGH // 2):
        cpu.write_ram(page * PAGE_BYTES, b"here")
    assert huge_kib(address) == 0
    for page in range(ENOUGH // 2, ENOUGH):
        cpu.write_ram(page * PAGE_BYTES, b"and there")
    got_one = huge_kib(address) > 0
    refused = ctypes.CDLL(None).madvise(ctypes.c_void_p(address), ctypes.c_size_t(HUGE_PAGE_BYTES), MADV_COLLAPSE)
    assert got_one or refused

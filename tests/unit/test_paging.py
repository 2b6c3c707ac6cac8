"""Walks through page tables of every paging mode."""

import pytest

from ftvm.module.paging import LinearMemory
from ftvm.module.registers import ARCH_BYTES, with_registers
from ftvm.units import MIB

PG, PSE, PAE, LMA = 1 << 31, 1 << 4, 1 << 5, 1 << 10
RAM_BYTES = 8 * MIB


def memory(entries: dict[int, int], size: int, **registers: int) -> LinearMemory:
    """RAM in which byte n of page p is p + n modulo 251, page tables from ``entries`` (address: entry)."""
    ram = bytearray((offset // 4096 + offset % 4096) % 251 for offset in range(RAM_BYTES))
    for table in {address & ~0xFFF for address in entries}:
        ram[table : table + 4096] = bytes(4096)
    for address, entry in entries.items():
        ram[address : address + size] = entry.to_bytes(size, "little")
    return LinearMemory(memoryview(ram), with_registers(bytes(ARCH_BYTES), registers))


def test_without_paging_linear_is_physical() -> None:
    flat = memory({}, 4, cr3=0x1000)
    assert flat.translate(0x12345) == 0x12345
    assert flat.read(0xFFF, 3) == bytes([4095 % 251, 1, 2])


def test_32_bit_paging_with_large_pages_and_pse_36() -> None:
    entries = {0x1000 + 4 * 1: 0x2003, 0x2000 + 4 * 5: 0x7001, 0x1000 + 4 * 2: 0x400083, 0x1000 + 4 * 3: 0x2083}
    tables = memory(entries, 4, cr0=PG, cr3=0x1018, cr4=PSE)
    assert tables.translate(0x405ABC) == 0x7ABC
    assert tables.translate(0x812345) == 0x412345
    assert tables.translate(0xC00001) == 0x100000001
    assert tables.translate(0x406000) is None
    assert tables.translate(0x1405ABC) is None


def test_without_pse_the_size_bit_means_nothing() -> None:
    tables = memory({0x1000: 0x2083, 0x2000: 0x3003}, 4, cr0=PG, cr3=0x1000)
    assert tables.translate(0x10) == 0x3010


def test_pae_paging() -> None:
    entries = {0x1020 + 8 * 3: 0x2001, 0x2000 + 8 * 1: 0x3003, 0x3000 + 8 * 2: 0x5003, 0x2000 + 8 * 2: 0x200083}
    tables = memory(entries, 8, cr0=PG, cr3=0x1020, cr4=PAE)
    assert tables.translate(0xC0202345) == 0x5345
    assert tables.translate(0xC0412345) == 0x212345
    assert tables.translate(0x345) is None


def test_long_mode_paging_with_pages_of_every_size_and_no_execute_bits() -> None:
    nx = 1 << 63
    entries = {
        0x1000 + 8 * 256: 0x2003,
        0x2000 + 8 * 1: 0x3003,
        0x3000 + 8 * 3: 0x4003 | nx,
        0x4000 + 8 * 4: 0x6003 | nx,
        0x3000 + 8 * 5: 0x600083 | nx,
        0x2000 + 8 * 6: 0x40000083,
    }
    tables = memory(entries, 8, cr0=PG, cr3=0x1000, cr4=PAE, efer=LMA)
    base = 0xFFFF800000000000
    assert tables.translate(base + (1 << 30) + (3 << 21) + (4 << 12) + 7) == 0x6007
    assert tables.translate(base + (1 << 30) + (5 << 21) + 0x12345) == 0x612345
    assert tables.translate(base + (6 << 30) + 0x1234567) == 0x41234567
    assert tables.translate(base + (1 << 30) + (4 << 21)) is None


def test_a_read_goes_over_page_borders_and_ends_where_the_mapping_does() -> None:
    entries = {0x1000: 0x2003, 0x2000 + 4 * 1: 0x9001, 0x2000 + 4 * 2: 0x5001}
    tables = memory(entries, 4, cr0=PG, cr3=0x1000)
    assert tables.read(0x1FFE, 4) == bytes([(9 + 4094) % 251, (9 + 4095) % 251, 5, 6])
    assert tables.read(0x2FFF, 4) == bytes([(5 + 4095) % 251])
    assert tables.read(0x3000, 4) == b""


@pytest.mark.parametrize("entry", [0x10000003, 0xFFFFF003])
def test_a_table_outside_ram_maps_nothing(entry: int) -> None:
    assert memory({0x1000: entry}, 4, cr0=PG, cr3=0x1000).translate(0) is None

"""Guest physical memory is where the map says, and nothing is read across its holes."""

import pytest

from ftvm.memory_map import HIGH_RAM, LOW_RAM_LIMIT, physical, ram_offset, ram_range
from ftvm.units import GIB, MIB


@pytest.mark.parametrize(
    ("gpa", "size", "ram_bytes", "offset"),
    [
        (0, 1, 2 * MIB, 0),
        (0, 2 * MIB, 2 * MIB, 0),
        (0, 2 * MIB + 1, 2 * MIB, None),
        (2 * MIB, 1, 2 * MIB, None),
        (0, 0, 2 * MIB, None),
        (16, -8, 2 * MIB, None),
        (-1, 2, 2 * MIB, None),
        (LOW_RAM_LIMIT - 1, 1, 5 * GIB, LOW_RAM_LIMIT - 1),
        (LOW_RAM_LIMIT - 1, 2, 5 * GIB, None),
        (LOW_RAM_LIMIT - 1, GIB + 2, 5 * GIB, None),
        (HIGH_RAM, 2 * GIB, 5 * GIB, LOW_RAM_LIMIT),
        (HIGH_RAM, 2 * GIB + 1, 5 * GIB, None),
        (HIGH_RAM, 1, 3 * GIB, None),
    ],
)
def test_a_range_is_ram_in_one_piece_or_none(gpa: int, size: int, ram_bytes: int, offset: int | None) -> None:
    assert ram_range(gpa, size, ram_bytes) == offset


def test_addresses_of_ram_and_offsets_are_the_same_both_ways() -> None:
    for offset in (0, LOW_RAM_LIMIT - 1, LOW_RAM_LIMIT, 5 * GIB - 1):
        assert ram_offset(physical(offset), 5 * GIB) == offset

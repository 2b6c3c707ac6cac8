"""RAM that fills up: nothing overlaps, nothing lies outside, and what is asked for is found when it is there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.boot.layout import Layout, MemoryType, memory_map
from ftvm.errors import UnusableFile
from ftvm.memory_map import BIOS, BIOS_BYTES, EBDA, usable_ram
from ftvm.units import GIB, MIB

RAM_SIZES = st.sampled_from((2 * MIB, 64 * MIB, 3 * GIB, 5 * GIB))
PLACEMENTS = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 4 * MIB), st.integers(0, 8 * GIB)),
        st.integers(0, 64 * 1024),
        st.integers(0, 2 * MIB),
    ),
    max_size=20,
)


@given(ram_bytes=RAM_SIZES, placements=PLACEMENTS)
def test_a_place_is_given_once_and_only_in_free_ram(ram_bytes: int, placements: list[tuple[int, int, int]]) -> None:
    layout = Layout(ram_bytes)
    taken: list[tuple[int, int]] = []
    starts: list[int] = []
    for gpa, data_bytes, size_bytes in placements:
        end = gpa + max(data_bytes, size_bytes)
        fits = gpa >= 0x500 and any(base <= gpa and end <= base + size for base, size in usable_ram(ram_bytes))
        fits = fits and not any(gpa < other_end and start < end for start, other_end in taken)
        if fits or end == gpa:
            layout.place(gpa, bytes(data_bytes), "part", size_bytes)
            taken += [(gpa, end)] if end > gpa else []
            starts += [gpa] if data_bytes else []
        else:
            with pytest.raises(UnusableFile, match=f"part needs memory at 0x{gpa:x}"):
                layout.place(gpa, bytes(data_bytes), "part", size_bytes)
    assert [segment.gpa for segment in layout.segments] == sorted(starts)


@given(
    ram_bytes=RAM_SIZES,
    placements=PLACEMENTS,
    size=st.integers(1, 8 * MIB),
    align=st.sampled_from((1, 16, 4096, 1 * MIB)),
    lowest=st.integers(0, 4 * MIB),
    from_top=st.booleans(),
)
def test_what_is_found_is_free_and_the_lowest_or_highest(
    ram_bytes: int, placements: list[tuple[int, int, int]], size: int, align: int, lowest: int, from_top: bool
) -> None:
    layout = Layout(ram_bytes)
    for gpa, data_bytes, size_bytes in placements:
        try:
            layout.place(gpa, bytes(data_bytes), "part", size_bytes)
        except UnusableFile:
            continue
    address = layout.find(size, align=align, lowest=lowest, from_top=from_top)
    if address is None:
        with pytest.raises(UnusableFile, match="does not fit"):
            layout.add(bytes(size), "part", align=align, lowest=lowest, from_top=from_top)
        return
    assert address % align == 0
    assert lowest <= address and address + size <= 4 * GIB
    if from_top:
        assert layout.find(size, align=align, lowest=address + align) is None
    else:
        assert layout.find(size, align=align, lowest=lowest, highest=address + size - 1) is None
    layout.place(address, bytes(size), "part")


def test_the_memory_map_names_what_firmware_keeps() -> None:
    assert memory_map(4 * GIB, kept_bytes=MIB) == [
        (0, EBDA, MemoryType.USABLE),
        (EBDA, 1024, MemoryType.RESERVED),
        (BIOS, BIOS_BYTES, MemoryType.RESERVED),
        (MIB, 3 * GIB - 2 * MIB, MemoryType.USABLE),
        (3 * GIB - MIB, MIB, MemoryType.RESERVED),
        (4 * GIB, 1 * GIB, MemoryType.USABLE),
    ]

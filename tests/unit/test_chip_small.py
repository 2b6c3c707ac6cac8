"""Chips that are a port or two: debug exit, debug console, DMA pages."""

import pytest

from ftvm.module.chips.debugcon import Debugcon
from ftvm.module.chips.debugexit import DebugExit
from ftvm.module.chips.dma_pages import DmaPages


@pytest.mark.parametrize(("size", "code"), [(1, 0x31), (2, 0x1234), (4, 0xDEADBEEF)])
def test_debug_exit_leaves_with_the_whole_value(size: int, code: int) -> None:
    codes: list[int] = []
    port = DebugExit(codes.append)
    assert port.read(0, size) == 0
    assert codes == []
    port.write(0, size, code)
    assert codes == [code]


def test_the_debug_console_is_recognised_by_what_it_reads() -> None:
    sent = bytearray()
    port = Debugcon(sent.append)
    assert port.read(0, 1) == 0xE9
    port.write(0, 1, 0x41)
    assert sent == b"A"


def test_dma_pages_are_storage() -> None:
    pages = DmaPages()
    for offset in range(16):
        pages.write(offset, 1, 0xF0 | offset)
    assert [pages.read(offset, 1) for offset in range(16)] == list(range(0xF0, 0x100))

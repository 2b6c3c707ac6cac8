"""Units of the machine, as types and as parsers of what users write."""

import re
from typing import NewType

from ftvm.errors import UsageError

Gpa = NewType("Gpa", int)
"""A guest physical address, in bytes."""

Position = NewType("Position", int)
"""Where a module is in its execution: guest blocks entered since reset."""

Nanoseconds = NewType("Nanoseconds", int)
"""Virtual time since reset."""

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
PAGE_BYTES = 4096

NS_PER_BLOCK = 10
"""Virtual time is a function of the position: one block is 10 ns, about what it takes on the host."""


_SIZE_SUFFIX = {"": 1, "k": KIB, "m": MIB, "g": GIB}
_COUNT_SUFFIX = {"": 1, "k": 1000, "m": 1_000_000, "g": 1_000_000_000}


def _scaled(text: str, suffixes: dict[str, int], what: str, example: str) -> int:
    match = re.fullmatch(r"\s*(\d+)\s*([a-zA-Z]?)(?:i?[bB])?\s*", text)
    if match is None or match[2].lower() not in suffixes:
        raise UsageError(f"{what} {text!r} is not a number with an optional suffix", f"write it as {example}")
    return int(match[1]) * suffixes[match[2].lower()]


def parse_size(text: str) -> int:
    """Bytes from ``4096``, ``64K``, ``256M`` or ``2G`` (powers of 1024). Raises UsageError."""
    return _scaled(text, _SIZE_SUFFIX, "size", "64K, 256M or 2G")


def parse_blocks(text: str) -> int:
    """Blocks from ``1000``, ``77777``, ``50k`` or ``1M`` (powers of 1000). Raises UsageError."""
    return _scaled(text.replace("_", ""), _COUNT_SUFFIX, "epoch length", "1000, 50k or 1M")


def format_size(size_bytes: int) -> str:
    """The shortest exact way to write a size: ``256M``, ``64K``, ``100``."""
    for suffix, factor in (("G", GIB), ("M", MIB), ("K", KIB)):
        if size_bytes and size_bytes % factor == 0:
            return f"{size_bytes // factor}{suffix}"
    return str(size_bytes)

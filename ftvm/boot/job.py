"""What every boot protocol is given: the image, what goes with it, and the RAM to put it in."""

from collections.abc import Iterable

import msgspec

from ftvm.boot.elf import LoadSegment
from ftvm.boot.image import Image, Module
from ftvm.boot.layout import Layout
from ftvm.errors import UnusableFile, UsageError
from ftvm.memory_map import HIGH_MEMORY
from ftvm.units import KIB, PAGE_BYTES

INFORMATION = 64 * KIB
"""Loaders put what they tell a kernel from here on: above what BIOS calls use, below where most kernels are linked."""


class Job(msgspec.Struct, frozen=True):
    """``append`` is the kernel's command line; ``initrd`` and ``modules`` are files for the kernel."""

    image: Image
    layout: Layout
    append: str
    initrd: Module | None
    modules: tuple[Module, ...]

    def command_line(self, limit_bytes: int | None = None) -> bytes:
        """``append`` with its terminator.

        Raises UsageError for one that holds a terminator, UnusableFile for a kernel that takes less than that.
        """
        line = self.append.encode("utf-8", "surrogateescape")
        if b"\0" in line:
            raise UsageError("the command line holds a NUL character", "leave it out of --append")
        if limit_bytes is not None and len(line) > limit_bytes:
            raise UnusableFile(
                f"image {self.image.path} takes at most {limit_bytes} bytes of command line, not {len(line)}",
                "shorten --append",
            )
        return line + b"\0"

    def place_image(self, segments: Iterable[LoadSegment], displacement: int = 0) -> None:
        """Load the segments of the image, ``displacement`` bytes above where it is linked."""
        for segment in segments:
            what = f"image {self.image.path}"
            self.layout.place(segment.paddr + displacement, segment.data, what, segment.memory_bytes)

    def add_information(self, data: bytes, align: int = 16) -> int:
        """Put something that the kernel will read where it does not disturb; returns the address."""
        return self.layout.add(data, f"boot information for {self.image.path}", align=align, lowest=INFORMATION)

    def add_modules(self) -> list[tuple[int, Module]]:
        """Load the initrd and the modules to page boundaries behind the kernel, where boot loaders put them."""
        modules = (self.initrd, *self.modules) if self.initrd else self.modules
        placed = []
        for module in modules:
            what = f"module {module.path}"
            behind = max(HIGH_MEMORY, self.layout.end)
            if self.layout.find(len(module.data), align=PAGE_BYTES, lowest=behind) is not None:
                address = self.layout.add(module.data, what, align=PAGE_BYTES, lowest=behind)
            else:  # a kernel that wished to be at the end of RAM
                address = self.layout.add(module.data, what, align=PAGE_BYTES, lowest=HIGH_MEMORY, from_top=True)
            placed.append((address, module))
        return placed

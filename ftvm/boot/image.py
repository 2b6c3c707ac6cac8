"""The files a guest is booted from: read once, whole, and only when they are what a file should be."""

import stat
from functools import cached_property
from pathlib import Path

import msgspec

from ftvm.boot.elf import ELF_MAGIC, Elf, parse_elf
from ftvm.errors import UnusableFile
from ftvm.units import GIB, format_size

MAX_IMAGE_BYTES = 1 * GIB
"""Far above any kernel, debugging information included; a larger file was given by mistake."""


class Image(msgspec.Struct, frozen=True, dict=True):
    """A boot image in memory. ``path`` is for messages."""

    path: Path
    data: bytes

    @cached_property
    def elf(self) -> Elf | None:
        """The image as an ELF file, None when it is not one. Raises UnusableFile for a broken one."""
        return parse_elf(self.path, self.data) if self.data.startswith(ELF_MAGIC) else None


class Module(msgspec.Struct, frozen=True):
    """A file that is handed to the kernel as it is: an initrd or a boot module."""

    path: Path
    data: bytes
    arguments: str = ""

    @property
    def text(self) -> bytes:
        """What kernels are told about it: the file's name without its folder and its arguments, terminated."""
        return f"{self.path.name} {self.arguments}".rstrip().encode("utf-8", "surrogateescape") + b"\0"


def read_file(path: Path, what: str, limit_bytes: int) -> bytes:
    """All bytes of the regular file ``path``; ``what`` says in messages what it is for.

    Raises UnusableFile for one that is missing, unreadable, no regular file, empty, or above the limit.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise UnusableFile(f"{what} {path} is a directory", "name a file")
        if not stat.S_ISREG(status.st_mode):
            raise UnusableFile(f"{what} {path} is not a regular file", "copy it into one")
        if status.st_size == 0:
            raise UnusableFile(f"{what} {path} is empty", "was it copied or built completely?")
        if status.st_size > limit_bytes:
            raise UnusableFile(
                f"{what} {path} has {status.st_size} bytes; at most {format_size(limit_bytes)} can be loaded",
                "is it the right file? What is loaded must fit in RAM (--memory)",
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise UnusableFile(f"{what} {path} does not exist", "check the path; 'ftvm guests list' shows names") from None
    except OSError as error:
        raise UnusableFile(f"{what} {path} cannot be read: {error.strerror}", "check the path and its mode") from None
    except ValueError:
        raise UnusableFile(f"{what} {str(path)!r} is not a path", "check the path") from None

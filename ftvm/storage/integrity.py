"""Checksums of blocks (``a.img.ftvm-sums``): which leg is right when legs differ, and nobody reported an error.

One xxh3-64 for each block of 4 KiB, combined (xor) with that of a block of zeroes, so that zeroes have the
checksum 0 and a sparse image has a sparse file of checksums. They stand in a file of their own: a write that is
lost or goes astray does not take its checksum along, and is found.
"""

import struct
import sys
from array import array
from pathlib import Path

import xxhash

from ftvm.errors import UnusableFile
from ftvm.storage.host import Buffer, File, Host, beside, create_file
from ftvm.units import KIB

BLOCK_BYTES = 4 * KIB
SUFFIX = ".ftvm-sums"

_HEADER_BYTES = 4 * KIB
_HEADER = struct.Struct("<8sI4x16s16s")
_MAGIC = b"FTVMSUMS"
_VERSION = 1
_SUM_BYTES = 8
_ZERO = xxhash.xxh3_64_intdigest(bytes(BLOCK_BYTES))


def path_of(image: Path) -> Path:
    return beside(image, SUFFIX)


def checksums(data: Buffer) -> bytes:
    """Of whole blocks, as they are stored: 8 bytes each, little endian."""
    view = memoryview(data)
    digest = xxhash.xxh3_64_intdigest
    sums = array("Q", (digest(view[at : at + BLOCK_BYTES]) ^ _ZERO for at in range(0, len(view), BLOCK_BYTES)))
    if sys.byteorder == "big":
        sums.byteswap()
    return sums.tobytes()


def checksums_of_zeroes(size: int) -> bytes:
    return bytes(size // BLOCK_BYTES * _SUM_BYTES)


def first_wrong(data: Buffer, expected: Buffer) -> int | None:
    """Offset in ``data`` of the first block that does not have its checksum."""
    found = checksums(data)
    if found == expected:
        return None
    stored = bytes(expected).ljust(len(found), b"\0")
    wrong = (at for at in range(0, len(found), _SUM_BYTES) if found[at : at + 8] != stored[at : at + 8])
    return next(wrong) // _SUM_BYTES * BLOCK_BYTES


class Sums:
    """An open file of checksums. Offsets and sizes are the image's, in whole blocks. Raises OSError."""

    def __init__(self, file: File, array_id: bytes, leg: bytes) -> None:
        """Raises UnusableFile when the file is not this leg's."""
        self.file = file
        if bytes(file.read(0, _HEADER.size)) != _header(array_id, leg):
            image = file.path.name.removesuffix(SUFFIX)
            raise UnusableFile(
                f"{file.path} does not hold the checksums of {image}",
                f"copy the disk from a leg that is right: ftvm disk resync --from RIGHT.img RIGHT.img {image}",
            )

    def read(self, offset: int, size: int) -> Buffer:
        return self.file.read(*_range(offset, size))

    def read_cached(self, offset: int, size: int) -> Buffer | None:
        return self.file.read_cached(*_range(offset, size))

    def write(self, offset: int, sums: bytes) -> int:
        return self.file.write(_range(offset, 0)[0], sums)

    def clear(self, offset: int, size: int) -> None:
        """Checksums of blocks of zeroes. Raises OSError where the file system has no holes."""
        self.file.zero(*_range(offset, size), punch=True)

    def sync(self) -> None:
        self.file.sync()

    def close(self) -> None:
        self.file.close()


def create(host: Host, image: Path, size_bytes: int, array_id: bytes, leg: bytes) -> Sums:
    """The checksums of an image of zeroes, in place of a file that may be there. Durable on return."""
    header = _header(array_id, leg)
    file = create_file(host, path_of(image), sum(_range(0, size_bytes)), lambda file: _write_header(file, header))
    return Sums(file, array_id, leg)


def _write_header(file: File, header: bytes) -> None:
    file.write(0, header)


def _header(array_id: bytes, leg: bytes) -> bytes:
    return _HEADER.pack(_MAGIC, _VERSION, array_id, leg)


def _range(offset: int, size: int) -> tuple[int, int]:
    return _HEADER_BYTES + offset // BLOCK_BYTES * _SUM_BYTES, size // BLOCK_BYTES * _SUM_BYTES

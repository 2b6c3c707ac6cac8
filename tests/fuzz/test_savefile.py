"""Saved machines that were damaged, and some that were forged: refused, whatever was done to them."""

import functools
import tempfile
import tracemalloc
from pathlib import Path

import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftvm.errors import UnusableFile
from ftvm.monitor import savefile
from ftvm.monitor.savefile import DIGEST_BYTES, HEAD, PIECE_BYTES
from tests.unit.saved_machines import write

MEMORY_BYTES = 4 * PIECE_BYTES
"""More than this is never needed for a file of 20 KiB, whatever it says of itself."""

PLACES = st.integers(0, 2000) | st.integers(0, 1 << 20)
"""In a file, modulo its length. Most of it is pages; its head has a meaning of its own, and is tried as often."""

many = settings(max_examples=1000, suppress_health_check=[HealthCheck.function_scoped_fixture])


@functools.cache
def intact() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return write(Path(folder, "file"))


def load(contents: bytes, folder: Path) -> None:
    """Load a file of ``contents``; in little memory."""
    path = folder / "file"
    path.write_bytes(contents)
    tracemalloc.start()
    try:
        savefile.load(path)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MEMORY_BYTES


def refused(contents: bytes, folder: Path) -> None:
    with pytest.raises(UnusableFile) as error:
        load(contents, folder)
    assert "\n" not in error.value.message
    assert len(error.value.message) < 1000


def test_the_intact_file_is_loaded(tmp_path: Path) -> None:
    load(intact(), tmp_path)


@many
@given(place=PLACES)
def test_any_truncation_is_refused(place: int, tmp_path: Path) -> None:
    refused(intact()[: place % len(intact())], tmp_path)


@many
@given(place=PLACES, flips=st.integers(1, 255))
def test_any_altered_byte_is_refused(place: int, flips: int, tmp_path: Path) -> None:
    at = place % len(intact())
    refused(intact()[:at] + bytes([intact()[at] ^ flips]) + intact()[at + 1 :], tmp_path)


@many
@given(changes=st.lists(st.tuples(PLACES, st.integers(0, 8), st.binary(max_size=12)), min_size=1, max_size=4))
def test_a_forged_file_is_loaded_or_refused(changes: list[tuple[int, int, bytes]], tmp_path: Path) -> None:
    """Pieces exchanged, and the checksum made right again."""
    forged = bytearray(intact()[:-DIGEST_BYTES])
    for place, size, piece in changes:
        at = place % len(forged)
        forged[at : at + size] = piece
    try:
        load(bytes(forged) + xxhash.xxh3_128(bytes(forged)).digest(), tmp_path)
    except UnusableFile as error:
        assert "\n" not in error.message


@many
@given(header=st.binary(max_size=200))
def test_a_header_of_any_bytes_is_refused(header: bytes, tmp_path: Path) -> None:
    contents = HEAD.pack(savefile.MAGIC, savefile.VERSION, len(header)) + header + savefile.RUN.pack(512, 0)
    refused(contents + xxhash.xxh3_128(contents).digest(), tmp_path)

"""Recordings that were damaged, and some that were forged: refused, or replayable, whatever was done to them."""

import functools
import tempfile
from pathlib import Path

import msgspec
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftvm.errors import UnusableFile
from ftvm.module import events
from ftvm.module.events import ConsoleIn, TimePassed
from ftvm.monitor import recording
from ftvm.monitor.image import VerifiedImage
from ftvm.monitor.recording import LENGTH_BYTES, RECORDING, End, Mark
from ftvm.monitor.savefile import HEAD, encoded_header, put_memory
from ftvm.monitor.script import LoggedInput
from tests.unit.saved_machines import CONTENTS, MIN_RAM_BYTES, PAGE_BYTES, POSITION, STATE

PLACES = st.integers(0, 3000) | st.integers(0, 1 << 20)
many = settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])

DIGEST = 32 * "a"
RECORDS = [
    LoggedInput(POSITION, 50_000, True, events.encode([ConsoleIn(b"keys")])),
    Mark(POSITION + 10, 60_000, 1, DIGEST),
    LoggedInput(POSITION + 20, 70_000, False, events.encode([TimePassed(80_000)])),
    Mark(POSITION + 20, 80_000, 2, DIGEST),
    End(POSITION + 30, 90_000, 2, DIGEST, "exit", 0),
]


def written(records: list[bytes]) -> bytes:
    """A file of these records, with right checksums."""
    image = VerifiedImage(MIN_RAM_BYTES, threads=1)
    for page, text in CONTENTS.items():
        image.put_pages(page, text.ljust(PAGE_BYTES, b"\0"))
    header = encoded_header(msgspec.structs.replace(STATE, inputs=b"", typed=b""))
    contents = bytearray(HEAD.pack(RECORDING.magic, RECORDING.version, len(header)) + header)
    put_memory(contents.extend, image)
    image.close()
    contents += xxhash.xxh3_128(contents).digest()
    for record in records:
        contents += len(record).to_bytes(LENGTH_BYTES, "little") + record
        contents += xxhash.xxh3_128(contents).digest()
    return bytes(contents)


@functools.cache
def intact() -> bytes:
    return written([msgspec.msgpack.encode(record) for record in RECORDS])


def load(contents: bytes, partial: bool = False) -> recording.Recording:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file")
        path.write_bytes(contents)
        return recording.load(path, partial)


def refused(contents: bytes) -> None:
    with pytest.raises(UnusableFile) as error:
        load(contents)
    assert "\n" not in error.value.message
    assert len(error.value.message) < 1000


def test_the_intact_file_is_what_was_written() -> None:
    loaded = load(intact())
    assert [*loaded.inputs, *loaded.marks, loaded.end] == [RECORDS[0], RECORDS[2], RECORDS[1], *RECORDS[3:]]


@many
@given(place=PLACES)
def test_any_truncation_is_refused_or_a_prefix(place: int) -> None:
    contents = intact()[: place % len(intact())]
    refused(contents)
    try:
        loaded = load(contents, partial=True)
    except UnusableFile:  # not even the first state is there
        assert len(contents) < len(written([]))
    else:
        assert loaded.end is None
        assert loaded.inputs == [RECORDS[0], RECORDS[2]][: len(loaded.inputs)]
        assert loaded.marks == [RECORDS[1], RECORDS[3]][: len(loaded.marks)]


@many
@given(place=PLACES, flips=st.integers(1, 255))
def test_any_altered_byte_is_refused(place: int, flips: int) -> None:
    at = place % len(intact())
    refused(intact()[:at] + bytes([intact()[at] ^ flips]) + intact()[at + 1 :])


@many
@given(tail=st.binary(min_size=1, max_size=100))
def test_what_follows_the_end_is_refused(tail: bytes) -> None:
    refused(intact() + tail)


def test_another_format_is_refused_by_name() -> None:
    with pytest.raises(UnusableFile, match="format 7"):
        load(intact()[:8] + (7).to_bytes(4, "little") + intact()[12:])
    with pytest.raises(UnusableFile, match="is not a recording"):
        load(b"FTVMSAVE" + intact()[8:])


numbers = st.integers(-2, 1 << 70) | st.sampled_from([POSITION, POSITION + 10, POSITION + 20, 60_000, 80_000])
values = st.one_of(
    st.tuples(st.just("input"), numbers, numbers, st.booleans(), st.binary(max_size=20)),
    st.tuples(st.just("mark"), numbers, numbers, st.integers(0, 3), st.sampled_from([DIGEST, "", "x" * 32])),
    st.tuples(st.just("end"), numbers, numbers, st.integers(0, 3), st.just(DIGEST), st.text(max_size=80), st.none()),
    st.lists(st.integers() | st.text(max_size=5), max_size=5).map(tuple),
)


def packed(value: tuple[object, ...]) -> bytes:
    try:
        return msgspec.msgpack.encode(value)
    except (OverflowError, ValueError):  # no such integer in this encoding
        return b"\xc1"


@many
@given(records=st.lists(values.map(packed) | st.binary(max_size=30), max_size=6))
def test_forged_records_are_refused_or_make_sense(records: list[bytes]) -> None:
    try:
        loaded = load(written(records), partial=True)
    except UnusableFile as error:
        assert "\n" not in error.message
        return
    moments = [entry.moment for entry in loaded.inputs]
    assert moments == sorted(moments)
    assert all(mark.inputs <= len(loaded.inputs) for mark in loaded.marks)
    assert loaded.last >= max([mark.place for mark in loaded.marks], default=loaded.last)

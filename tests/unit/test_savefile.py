"""Files of saved machines: what is written is read; what is not exactly that is refused in one line."""

import os
import stat
from pathlib import Path

import msgspec
import pytest
import xxhash

from ftvm.errors import HostError, UnusableFile
from ftvm.memory_map import MIN_RAM_BYTES
from ftvm.module.link import Snapshot
from ftvm.monitor import savefile
from ftvm.monitor.image import VerifiedImage
from ftvm.monitor.savefile import DIGEST_BYTES, HEAD, MAGIC, RUN, VERSION, MachineState
from ftvm.units import PAGE_BYTES
from tests.unit.saved_machines import CONTENTS, PAGES, POSITION, STATE, write


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write(tmp_path / "file")
    return tmp_path / "file"


def signed(contents: bytes) -> bytes:
    """``contents`` with the checksum that belongs to it: altered by somebody who means it."""
    return contents + xxhash.xxh3_128(contents).digest()


def test_what_is_saved_is_what_is_loaded(file: Path) -> None:
    saved = savefile.load(file)
    assert saved.state == STATE
    image = VerifiedImage(MIN_RAM_BYTES, threads=1)
    saved.fill(image)
    for page in range(PAGES):
        expected = CONTENTS.get(page, b"").ljust(PAGE_BYTES, b"\0")
        assert image.ram[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] == expected
    assert list(image.contents()) == [(0, 2), (7, 1), (PAGES - 1, 1)]
    image.stand_at(saved.state.snapshot)
    assert image.position == POSITION
    image.close()


def test_equal_machines_are_equal_files(file: Path, tmp_path: Path) -> None:
    assert write(tmp_path / "again") == file.read_bytes()


def test_zeros_take_no_room(file: Path) -> None:
    assert file.stat().st_size < (len(CONTENTS) + 2) * PAGE_BYTES


def test_the_format_is_the_documented_one(file: Path) -> None:
    data = file.read_bytes()
    magic, version, header_bytes = HEAD.unpack_from(data)
    assert (magic, version) == (MAGIC, VERSION) == (b"FTVMSAVE", 1)
    header = msgspec.msgpack.decode(data[HEAD.size : HEAD.size + header_bytes])
    assert set(header) == {"ftvm", "build", "machine"}
    at = HEAD.size + header_bytes
    assert RUN.unpack_from(data, at) == (0, 2)
    at += RUN.size + 2 * PAGE_BYTES
    assert RUN.unpack_from(data, at) == (7, 1)
    at += 2 * (RUN.size + PAGE_BYTES)
    assert RUN.unpack_from(data, at) == (PAGES, 0)
    at += RUN.size
    assert data[at:] == xxhash.xxh3_128(data[:at]).digest()
    assert len(data) == at + DIGEST_BYTES


def test_only_the_owner_can_read_a_guests_memory(file: Path) -> None:
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


# ---- writing ----


def test_an_older_file_is_replaced_and_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"older")
    (tmp_path / "link").symlink_to("file")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert savefile.load(tmp_path / "file").state == STATE


def test_a_disk_that_fails_leaves_the_older_file_and_nothing_else(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()

    def fail(fd: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(HostError, match="No space left"):
        write(file)
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert file.read_bytes() == before


def test_an_interruption_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(source: object, target: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/dev/null", "no regular file"),
        ("/proc", "no regular file"),
        ("/nowhere/file", "its folder"),
        ("/dev/null/file", "its folder"),
        ("nul\0", "cannot be the name"),
        ("surrogate\ud800", "cannot be the name"),
        ("x" * 300, "too long"),
    ],
)
def test_where_no_file_can_be_none_is_written(
    name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HostError, match=words) as refused:
        write(Path(name))
    assert "\n" not in refused.value.message
    assert refused.value.hint
    assert list(tmp_path.iterdir()) == []


def test_more_input_than_a_header_holds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(savefile, "MAX_HEADER_BYTES", 1000)
    with pytest.raises(HostError, match="too much input"):
        write(tmp_path / "file", msgspec.structs.replace(STATE, typed=bytes(1000)))


# ---- reading ----


def refused(path: Path, words: str) -> str:
    with pytest.raises(UnusableFile, match=words) as error:
        savefile.load(path)
    assert "\n" not in error.value.message
    assert str(path) in error.value.message
    assert error.value.hint
    return error.value.message


@pytest.mark.parametrize("contents", [b"", b"FTVM", b"#!/bin/sh\necho no saved machine\n", bytes(10_000)])
def test_other_files_are_no_saved_machines(contents: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(contents)
    refused(tmp_path / "file", "is not a saved machine")


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    refused(tmp_path / "none", "No such file")
    refused(tmp_path, "directory")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "not a saved machine")
    refused(Path("/dev/zero"), "not a saved machine")


def test_another_format_is_named(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[8] = 77
    file.write_bytes(data)
    refused(file, "format 77, not 1")


def test_another_build_is_refused_and_both_are_named(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(savefile, "build_id", lambda: "0123456789abcdef")
    message = refused(file, "build '0123456789abcdef'")
    monkeypatch.undo()
    assert f"build '{savefile.build_id()}'" in message
    assert "ftvm '" in message


@pytest.mark.parametrize("missing", [1, DIGEST_BYTES, DIGEST_BYTES + 1, 5000, 17_000])
def test_a_truncated_file_is_refused(missing: int, file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[:-missing])
    refused(file, "truncated or altered")


def test_a_file_with_something_behind_it_is_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")
    refused(file, "truncated or altered")


def with_header(data: bytes, state: MachineState) -> bytes:
    """The same file with another machine in its header."""
    _, _, header_bytes = HEAD.unpack_from(data)
    header = msgspec.msgpack.decode(data[HEAD.size : HEAD.size + header_bytes], type=dict[str, msgspec.Raw])
    header["machine"] = msgspec.Raw(msgspec.msgpack.encode(state))
    packed = msgspec.msgpack.encode(header)
    rest = data[HEAD.size + header_bytes : -DIGEST_BYTES]
    return signed(HEAD.pack(MAGIC, VERSION, len(packed)) + packed + rest)


@pytest.mark.parametrize(
    "state",
    [
        *(
            msgspec.structs.replace(STATE, board=msgspec.structs.replace(STATE.board, ram_bytes=size))
            for size in (0, -4096, MIN_RAM_BYTES + 1, 4096, 2 * MIN_RAM_BYTES, 1 << 62)
        ),
        *(
            msgspec.structs.replace(STATE, snapshot=Snapshot(arch, STATE.snapshot.board))
            for arch in (b"", STATE.snapshot.arch[:-1], STATE.snapshot.arch + b"\0")
        ),
        *(
            msgspec.structs.replace(STATE, snapshot=Snapshot(STATE.snapshot.arch, chips))
            for chips in (b"", b"junk", b"\x80", STATE.snapshot.board[:-1])
        ),
        msgspec.structs.replace(STATE, inputs=b"\xc1"),
    ],
)
def test_a_header_that_lies_is_refused_though_its_checksum_is_right(state: MachineState, file: Path) -> None:
    file.write_bytes(with_header(file.read_bytes(), state))
    refused(file, "truncated or altered")


def test_with_header_alone_alters_nothing(file: Path) -> None:
    data = file.read_bytes()
    assert with_header(data, STATE) == data


@pytest.mark.parametrize(
    "run",
    [(0, PAGES + 1), (PAGES, 1), (1 << 63, 1), (1, 1 << 63), (0, 1 << 52), (0, 0), (PAGES - 1, 0), (PAGES + 1, 0)],
)
def test_a_run_of_pages_that_lies_is_refused_though_its_checksum_is_right(run: tuple[int, int], file: Path) -> None:
    data = file.read_bytes()
    at = HEAD.size + HEAD.unpack_from(data)[2]
    file.write_bytes(signed(data[:at] + RUN.pack(*run) + data[at + RUN.size : -DIGEST_BYTES]))
    refused(file, "truncated or altered")


def test_pages_come_in_order_and_once(file: Path) -> None:
    data = file.read_bytes()
    at = HEAD.size + HEAD.unpack_from(data)[2] + RUN.size + 2 * PAGE_BYTES
    file.write_bytes(signed(data[:at] + RUN.pack(1, 1) + data[at + RUN.size : -DIGEST_BYTES]))
    refused(file, "truncated or altered")


def test_a_header_of_gigabytes_is_not_even_read(file: Path) -> None:
    data = file.read_bytes()
    with file.open("wb") as sparse:
        sparse.write(HEAD.pack(MAGIC, VERSION, 0xFFFF_FFFF) + data[HEAD.size :])
        sparse.truncate(8 << 30)
    refused(file, "truncated or altered")


def test_a_header_that_is_nested_without_end_is_refused(file: Path) -> None:
    nested = msgspec.msgpack.encode({"ftvm": "0", "build": "0"})
    nested = b"\x83" + nested[1:] + b"\xa7machine" + b"\x91" * 100_000 + b"\xc0"
    file.write_bytes(signed(HEAD.pack(MAGIC, VERSION, len(nested)) + nested + RUN.pack(PAGES, 0)))
    refused(file, "truncated or altered|another build|was written by")


def test_a_file_that_was_replaced_after_it_was_checked_is_not_used(file: Path) -> None:
    saved = savefile.load(file)
    write(file, msgspec.structs.replace(STATE, typed=b""))
    image = VerifiedImage(MIN_RAM_BYTES, threads=1)
    with pytest.raises(UnusableFile, match="was written to"):
        saved.fill(image)
    image.close()

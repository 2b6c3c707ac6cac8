"""Captures that other programs read, byte for byte as the format says."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.errors import HostError
from ftvm.network.pcap import PcapFile


def read(path: Path) -> tuple[tuple[int, ...], list[tuple[int, bytes]]]:
    data = path.read_bytes()
    head = struct.unpack_from("<IHHiIII", data)
    records, at = [], 24
    while at < len(data):
        seconds, nanoseconds, kept, length = struct.unpack_from("<IIII", data, at)
        assert kept == length and nanoseconds < 1_000_000_000
        records.append((seconds * 1_000_000_000 + nanoseconds, data[at + 16 : at + 16 + kept]))
        at += 16 + kept
    assert at == len(data)
    return head, records


@given(records=st.lists(st.tuples(st.integers(0, 1 << 60), st.binary(min_size=14, max_size=2000)), max_size=10))
def test_what_was_written_is_what_a_reader_finds(
    tmp_path_factory: pytest.TempPathFactory, records: list[tuple[int, bytes]]
) -> None:
    path = tmp_path_factory.mktemp("pcap") / "c.pcap"
    capture = PcapFile(path)
    for virtual_ns, data in records:
        capture.write(virtual_ns, data)
    capture.flush()
    head, found = read(path)
    capture.close()
    assert head[:4] == (0xA1B23C4D, 2, 4, 0) and head[5] >= 65535 and head[6] == 1
    assert found == records


def test_a_file_that_cannot_be_written_is_the_hosts_fault(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot be written"):
        PcapFile(tmp_path / "none" / "c.pcap")


def test_a_disk_that_is_full_later_ends_the_capture_and_nothing_else() -> None:
    capture = PcapFile.__new__(PcapFile)
    capture.trouble = None
    capture._file = Path("/dev/full").open("wb", buffering=0)
    capture.write(1, bytes(20))
    assert capture.trouble == "No space left on device"
    capture.write(2, bytes(20))
    capture.close()

"""Checksums and segments done in software: what a real receiver would accept, and nothing from nonsense."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.network.frame import (
    GSO_ECN,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    HEADER_BYTES,
    NEEDS_CHECKSUM,
    PLAIN_BYTES,
    Frame,
    Offload,
)
from ftvm.network.offload import checksum, finish

ETHERNET = bytes.fromhex("0266747 66d01 0266747 66d00".replace(" ", ""))


def sum_of(data: bytes) -> int:
    """The one's complement sum, word by word, as RFC 1071 writes it."""
    total = 0
    for at in range(0, len(data), 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return total


def tcp_frame(payload: bytes, v4: bool, flags: int = 0x18, options: bytes = b"", vlan: bool = False) -> bytes:
    """Headers as a stack leaves them to the NIC: lengths of the whole, checksums still to be made."""
    tcp = struct.pack(">HHIIBBHHH", 1000, 80, 0xFFFF_FF00, 7, (20 + len(options)) // 4 << 4, flags, 512, 0, 0) + options
    length = len(tcp) + len(payload)
    if v4:
        ip = struct.pack(
            ">BBHHHBBH4s4s", 0x45, 0, 20 + length & 0xFFFF, 0xFFFE, 0x4000, 64, 6, 0, bytes(4), b"\1\2\3\4"
        )
    else:
        ip = struct.pack(">IHBB16s16s", 0x6000_0000, length & 0xFFFF, 6, 64, bytes(16), 16 * b"\x20")
    tag = b"\x81\x00\x00\x05" if vlan else b""
    return ETHERNET + tag + (b"\x08\x00" if v4 else b"\x86\xdd") + ip + tcp + payload


def gso(v4: bool, segment_bytes: int, extra: int = 0) -> Offload:
    return Offload(NEEDS_CHECKSUM, (GSO_TCPV4 if v4 else GSO_TCPV6) | extra, 54, segment_bytes, 34, 16)


@given(st.binary(max_size=300))
def test_the_checksum_is_that_of_the_rfc(data: bytes) -> None:
    assert checksum(data) == 0xFFFF - sum_of(data)


@given(st.binary(min_size=22, max_size=200), st.integers(0, 10))
def test_a_checksum_that_was_left_to_the_nic_is_right_for_the_receiver(body: bytes, offset: int) -> None:
    frame = Frame(ETHERNET + b"\x08\x00" + body, Offload(NEEDS_CHECKSUM, GSO_NONE, 0, 0, HEADER_BYTES, offset * 2))
    (data,) = finish(frame)
    at = HEADER_BYTES + offset * 2
    pseudo = frame.data[at : at + 2]  # its sum, as the stack left it
    assert sum_of(pseudo + data[HEADER_BYTES:]) == 0xFFFF
    assert data[:at] + data[at + 2 :] == frame.data[:at] + frame.data[at + 2 :]


@given(
    payload=st.binary(min_size=1, max_size=5000),
    v4=st.booleans(),
    vlan=st.booleans(),
    segment_bytes=st.integers(100, 2000),
    options=st.sampled_from([b"", 4 * b"\1", 12 * b"\1"]),
)
def test_segments_are_whole_packets_and_together_the_same_stream(
    payload: bytes, v4: bool, vlan: bool, segment_bytes: int, options: bytes
) -> None:
    flags = 0x80 | 0x18 | 0x01  # CWR, PSH, ACK, FIN
    frame = Frame(tcp_frame(payload, v4, flags, options, vlan), gso(v4, segment_bytes, GSO_ECN))
    segments = finish(frame)
    network = HEADER_BYTES + (4 if vlan else 0)
    transport = network + (20 if v4 else 40)
    stream = b""
    for number, segment in enumerate(segments):
        ip, tcp = segment[network:transport], segment[transport:]
        if v4:
            assert sum_of(ip) == 0xFFFF
            assert int.from_bytes(ip[2:4], "big") == len(segment) - network
            assert int.from_bytes(ip[4:6], "big") == (0xFFFE + number) & 0xFFFF
            pseudo = ip[12:20] + struct.pack(">HH", 6, len(tcp))
        else:
            assert int.from_bytes(ip[4:6], "big") == len(tcp)
            pseudo = ip[8:40] + struct.pack(">II", len(tcp), 6)
        assert sum_of(pseudo + tcp) == 0xFFFF
        assert int.from_bytes(tcp[4:8], "big") == (0xFFFF_FF00 + len(stream)) & 0xFFFF_FFFF
        last = number == len(segments) - 1
        assert tcp[13] == (0x10 | (0x80 if number == 0 else 0) | (0x09 if last else 0))
        part = tcp[20 + len(options) :]
        assert len(part) == segment_bytes or last
        stream += part
    assert stream == payload


@given(
    st.binary(max_size=120),
    st.tuples(
        st.integers(0, 255),
        st.sampled_from([0, 1, 3, 4, 5, 0x81, 0x84, 255]),
        st.integers(0, 65535),
        st.integers(0, 65535),
        st.integers(0, 200),
        st.integers(0, 65535),
    ),
)
def test_nonsense_gives_little_and_never_an_exception(data: bytes, words: tuple[int, ...]) -> None:
    made = finish(Frame(data, Offload(*words)))
    assert sum(map(len, made)) <= 120 * (len(data) + 1)


@pytest.mark.parametrize("segment_bytes", [0, 1])
def test_a_guest_cannot_ask_for_any_number_of_segments(segment_bytes: int) -> None:
    assert finish(Frame(tcp_frame(bytes(60000), True), gso(True, segment_bytes))) == []


def test_a_header_of_zeros_is_no_work() -> None:
    assert Offload.of(PLAIN_BYTES) is None
    assert Offload.of(Offload(1, 0, 0, 0, 34, 16).to_bytes()) == Offload(1, 0, 0, 0, 34, 16)

"""The work that a network stack leaves to its NIC, done in software: checksums, and cutting up TCP segments.

Sources: RFC 1071 (checksum), RFC 9293 (TCP), RFC 791, RFC 8200. Frames come from the guest or the network: what they
say about themselves is checked, and a frame that makes no sense is dropped.
"""

import struct
from collections.abc import Iterable, Iterator

from ftvm.network.frame import GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, HEADER_BYTES, NEEDS_CHECKSUM, Frame

VLAN_BYTES = 4
_VLAN_TYPES = (b"\x81\x00", b"\x88\xa8")
_IPV4, _IPV6, _TCP = b"\x08\x00", b"\x86\xdd", 6
IPV4_BYTES, IPV6_BYTES, TCP_BYTES = 20, 40, 20
_FIN_PSH, _CWR = 0x09, 0x80
MAX_SEGMENTS = 2048
"""Of one frame: more mean a guest that wants to keep the host busy."""


def finished(frames: Iterable[Frame]) -> Iterator[bytes]:
    """The same frames with nothing left to be done."""
    for frame in frames:
        if frame.offload is None:
            yield frame.data
        else:
            yield from finish(frame)


def finish(frame: Frame) -> list[bytes]:
    """What leaves when all work on ``frame`` is done; nothing when it asks for what cannot be."""
    offload = frame.offload
    if offload is None:
        return [frame.data]
    match offload.gso & ~GSO_ECN:
        case _ if offload.gso == GSO_NONE:
            if not offload.flags & NEEDS_CHECKSUM:
                return [frame.data]
            summed = _with_checksum(frame.data, offload.checksum_start, offload.checksum_offset)
            return [] if summed is None else [summed]
        case kind if kind in (GSO_TCPV4, GSO_TCPV6) and offload.segment_bytes:
            return _segments(frame.data, kind, offload.segment_bytes)
    return []


def header_bytes(data: bytes) -> int:
    """Of a frame's Ethernet header, VLAN tag included."""
    tagged = data[HEADER_BYTES - 2 : HEADER_BYTES] in _VLAN_TYPES
    return HEADER_BYTES + VLAN_BYTES if tagged else HEADER_BYTES


def checksum(data: bytes) -> int:
    """The Internet checksum of ``data``, padded with a zero byte when its length is odd."""
    total = int.from_bytes(data, "big") << (8 * (len(data) & 1))
    # The one's complement sum of 16-bit words is the remainder by 0xFFFF; of two ways to write zero, all-ones is meant
    # unless every word is zero.
    return 0xFFFF - (total % 0xFFFF or (0xFFFF if total else 0))


def _with_checksum(data: bytes, start: int, offset: int) -> bytes | None:
    """The field at ``start`` + ``offset`` holds the pseudo header's sum; it gets the checksum from ``start`` on."""
    at = start + offset
    if at + 2 > len(data):
        return None
    # Zero means "no checksum" to UDP; all-ones is the same sum.
    return data[:at] + (checksum(data[start:]) or 0xFFFF).to_bytes(2, "big") + data[at + 2 :]


def _segments(data: bytes, kind: int, segment_bytes: int) -> list[bytes]:
    network = header_bytes(data)
    v4 = kind == GSO_TCPV4
    if data[network - 2 : network] != (_IPV4 if v4 else _IPV6):
        return []
    transport = network + (_ipv4_bytes(data, network) if v4 else IPV6_BYTES)
    if len(data) < transport + TCP_BYTES or data[network + (9 if v4 else 6)] != _TCP:
        return []
    payload = transport + (data[transport + 12] >> 4) * 4
    if payload < transport + TCP_BYTES or len(data) <= payload or len(data) - payload > MAX_SEGMENTS * segment_bytes:
        return []
    segments: list[bytes] = []
    for at in range(payload, len(data), segment_bytes):
        segments.append(_segment(data, network, transport, payload, at, at + segment_bytes, len(segments), v4))
    return segments


def _ipv4_bytes(data: bytes, network: int) -> int:
    """Length of the IPv4 header; so long that nothing can follow it, if it is none."""
    first = data[network] if network < len(data) else 0
    length = (first & 0xF) * 4
    return length if first >> 4 == 4 and length >= IPV4_BYTES else len(data)


def _segment(
    data: bytes, network: int, transport: int, payload: int, start: int, end: int, number: int, v4: bool
) -> bytes:
    """The segment with the bytes from ``start`` to ``end``; the first three numbers are where the headers begin."""
    ip, tcp, part = bytearray(data[network:transport]), bytearray(data[transport:payload]), data[start:end]
    length = len(tcp) + len(part)
    if v4:
        identity = int.from_bytes(ip[4:6], "big") + number
        ip[2:6] = struct.pack(">HH", len(ip) + length & 0xFFFF, identity & 0xFFFF)
        ip[10:12] = b"\0\0"
        ip[10:12] = checksum(bytes(ip)).to_bytes(2, "big")
        pseudo = bytes(ip[12:20]) + struct.pack(">HH", _TCP, length)
    else:
        ip[4:6] = length.to_bytes(2, "big")
        pseudo = bytes(ip[8:40]) + struct.pack(">II", length, _TCP)
    sequence = int.from_bytes(tcp[4:8], "big") + start - payload
    tcp[4:8] = (sequence & 0xFFFF_FFFF).to_bytes(4, "big")
    if end < len(data):
        tcp[13] &= ~_FIN_PSH
    if number:
        tcp[13] &= ~_CWR
    tcp[16:18] = b"\0\0"
    tcp[16:18] = checksum(pseudo + tcp + part).to_bytes(2, "big")
    return data[:network] + ip + tcp + part

"""What travels between a NIC and a leg: Ethernet frames, and the work on them that somebody else is still to do.

A network stack leaves checksums, and cutting up TCP segments, to the NIC where it can: one frame of 64 KiB then passes
where 45 would have. A leg that can pass such a frame on as it is does so; for others ftvm/network/offload.py does it.
"""

import re
import struct
from typing import NamedTuple

from ftvm.errors import UsageError

HEADER_BYTES = 14
"""Destination, source, EtherType: the shortest frame that means anything."""
MAX_FRAME_BYTES = 65535 + HEADER_BYTES + 4
"""The longest IP packet, with its Ethernet header and a VLAN tag."""

NEEDS_CHECKSUM = 1
CHECKSUM_IS_VALID = 2
GSO_NONE, GSO_TCPV4, GSO_TCPV6 = 0, 1, 4
GSO_ECN = 0x80

OFFLOAD = struct.Struct("<BBHHHH")
PLAIN_BYTES = bytes(OFFLOAD.size)


class Offload(NamedTuple):
    """What is still to be done to a frame: struct virtio_net_hdr, which Linux' TAP interface speaks too.

    Source: VIRTIO 1.2, 5.1.6; include/uapi/linux/virtio_net.h. None of it can be trusted.
    """

    flags: int
    gso: int
    header_bytes: int
    segment_bytes: int
    checksum_start: int
    checksum_offset: int

    @classmethod
    def of(cls, header: bytes) -> "Offload | None":
        """From its OFFLOAD.size bytes; None when there is nothing to be done. Flags that are not above are ignored, as
        they are to be (5.1.6.2.2)."""
        if header == PLAIN_BYTES:
            return None
        flags, *rest = OFFLOAD.unpack(header)
        return cls(flags & (NEEDS_CHECKSUM | CHECKSUM_IS_VALID), *rest)

    def to_bytes(self) -> bytes:
        return OFFLOAD.pack(*self)


class Frame(NamedTuple):
    """An Ethernet frame without its FCS."""

    data: bytes
    offload: Offload | None = None


MAC_BYTES = 6
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")


def parse_mac(text: str) -> bytes:
    """Raises UsageError for what is not the address of one NIC."""
    if _MAC.fullmatch(text) is None:
        raise UsageError(f"{text!r} is not a MAC address", "write it as 02:66:74:76:6d:00")
    mac = bytes.fromhex(text.replace(":", ""))
    if mac[0] & 1 or not any(mac):
        raise UsageError(f"the MAC address {text} is not that of one NIC", "its first byte must be even, as in 02:...")
    return mac


def format_mac(mac: bytes) -> str:
    return mac.hex(":")

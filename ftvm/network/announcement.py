"""The frame that tells switches at which port a NIC's address is now: a reverse ARP request, which nobody answers.

Sources: RFC 903; virtual machines are announced like this after a migration, as it needs no IP address.
"""

from ftvm.network.frame import MAC_BYTES

_BROADCAST = MAC_BYTES * b"\xff"
_RARP = b"\x80\x35"
_ETHERNET_IPV4_REQUEST = bytes.fromhex("0001 0800 06 04 0003")
_NO_IP = bytes(4)
SHORTEST_BYTES = 60
"""Of an Ethernet frame without its FCS."""


def frame(mac: bytes) -> bytes:
    """From the NIC with this address, to all."""
    body = _ETHERNET_IPV4_REQUEST + 2 * (mac + _NO_IP)
    return (_BROADCAST + mac + _RARP + body).ljust(SHORTEST_BYTES, b"\0")

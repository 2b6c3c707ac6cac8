"""Packets of gdb's remote protocol as they travel: framing, checksums, acknowledgements (gdb manual, appendix E)."""

from collections.abc import Iterator
from enum import Enum, auto

MAX_PACKET_BYTES = 1 << 16
INTERRUPT = 0x03
_ESCAPE = 0x7D


class Signal(Enum):
    """What comes between packets."""

    INTERRUPT = auto()
    ACKNOWLEDGED = auto()
    REFUSED = auto()  # send it again
    BROKEN = auto()  # a packet with a wrong checksum, or one that is too long


def frame(body: bytes) -> bytes:
    """A packet that holds ``body``."""
    escaped = bytearray()
    for byte in body:
        if byte in b"#$}*":
            escaped += bytes((_ESCAPE, byte ^ 0x20))
        else:
            escaped.append(byte)
    return b"$%b#%02x" % (bytes(escaped), sum(escaped) & 0xFF)


class Reader:
    """Takes bytes as they come, gives out what they mean. Whatever comes, it goes on behind it."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes | Signal]:
        """Bodies of packets, and what came between them."""
        self._buffer += data
        while self._buffer:
            match self._buffer[0]:
                case 0x24:  # $
                    end = self._buffer.find(b"#", 1, MAX_PACKET_BYTES)
                    if end < 0 and len(self._buffer) >= MAX_PACKET_BYTES:
                        self._buffer.clear()
                        yield Signal.BROKEN
                        return
                    if end < 0 or len(self._buffer) < end + 3:
                        return
                    content, check = bytes(self._buffer[1:end]), bytes(self._buffer[end + 1 : end + 3])
                    del self._buffer[: end + 3]
                    yield _body(content, check)
                case first:
                    del self._buffer[0]
                    if first in _BETWEEN:
                        yield _BETWEEN[first]


_BETWEEN = {INTERRUPT: Signal.INTERRUPT, ord("+"): Signal.ACKNOWLEDGED, ord("-"): Signal.REFUSED}


def _body(content: bytes, check: bytes) -> bytes | Signal:
    try:
        if int(check, 16) != sum(content) & 0xFF:
            return Signal.BROKEN
    except ValueError:
        return Signal.BROKEN
    body = bytearray()
    escaped = False
    for byte in content:
        if escaped:
            body.append(byte ^ 0x20)
            escaped = False
        elif byte == _ESCAPE:
            escaped = True
        else:
            body.append(byte)
    return bytes(body)

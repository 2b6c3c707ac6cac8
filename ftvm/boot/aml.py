"""Just enough of an encoder for ACPI Machine Language (ACPI 6.4, chapter 20) to describe this machine.

Each function returns the bytes of one term; terms nest by concatenation.
"""

import struct

ARG0 = b"\x68"
ZERO = b"\x00"


def _package_length(body: bytes) -> bytes:
    """PkgLength: counts itself; one byte up to 63, else a nibble and one to three more bytes (20.2.4)."""
    if len(body) + 1 < 1 << 6:
        return bytes([len(body) + 1])
    extra = 1 if len(body) + 2 < 1 << 12 else 2 if len(body) + 3 < 1 << 20 else 3
    total = len(body) + 1 + extra
    return bytes([extra << 6 | total & 0xF]) + (total >> 4).to_bytes(extra, "little")


def _block(opcode: bytes, body: bytes) -> bytes:
    return opcode + _package_length(body) + body


def path(text: str) -> bytes:
    """A NameString such as ``_CRS``, ``\\_SB_.PCI0``."""
    root, rest = (b"\\", text[1:]) if text.startswith("\\") else (b"", text)
    segments = [segment.ljust(4, "_").encode() for segment in rest.split(".")] if rest else []
    prefix = {0: b"\0", 1: b"", 2: b"\x2e"}.get(len(segments), b"\x2f" + bytes([len(segments)]))
    return root + prefix + b"".join(segments)


def integer(value: int) -> bytes:
    """A constant of at most 32 bits, in its shortest form."""
    if value < 2:
        return bytes([value])
    if value < 1 << 8:
        return b"\x0a" + value.to_bytes(1, "little")
    if value < 1 << 16:
        return b"\x0b" + value.to_bytes(2, "little")
    return b"\x0c" + value.to_bytes(4, "little")


def eisa_id(text: str) -> bytes:
    """A compressed EISA identifier such as ``PNP0A03`` (19.3.4): three letters of 5 bits, four hex digits."""
    letters = [ord(letter) - 0x40 for letter in text[:3]]
    value = letters[0] << 26 | letters[1] << 21 | letters[2] << 16 | int(text[3:], 16)
    return b"\x0c" + value.to_bytes(4, "big")


def string(text: str) -> bytes:
    return b"\x0d" + text.encode("ascii") + b"\0"


def buffer(data: bytes) -> bytes:
    return _block(b"\x11", integer(len(data)) + data)


def package(elements: list[bytes]) -> bytes:
    """At most 255 elements."""
    return _block(b"\x12", bytes([len(elements)]) + b"".join(elements))


def name(text: str, value: bytes) -> bytes:
    return b"\x08" + path(text) + value


def scope(text: str, *terms: bytes) -> bytes:
    return _block(b"\x10", path(text) + b"".join(terms))


def device(text: str, *terms: bytes) -> bytes:
    return _block(b"\x5b\x82", path(text) + b"".join(terms))


def method(text: str, arguments: int, *terms: bytes) -> bytes:
    return _block(b"\x14", path(text) + bytes([arguments]) + b"".join(terms))


def store(value: bytes, target: str) -> bytes:
    return b"\x70" + value + path(target)


def if_(condition: bytes, *terms: bytes) -> bytes:
    return _block(b"\xa0", condition + b"".join(terms))


def return_(value: bytes) -> bytes:
    return b"\xa4" + value


# --- Resource templates (6.4): a buffer of descriptors ---


def resources(*descriptors: bytes) -> bytes:
    return buffer(b"".join(descriptors) + b"\x79\x00")  # end tag; checksum 0 is 'not computed'


def io_ports(base: int, count: int) -> bytes:
    """Fixed ports, all 16 address bits decoded."""
    return struct.pack("<BBHHBB", 0x47, 1, base, base, 1, count)


def irq(number: int) -> bytes:
    """An edge-triggered, active-high, exclusive ISA interrupt."""
    return struct.pack("<BH", 0x22, 1 << number)


_MEMORY_SPACE, _IO_SPACE, _BUS_SPACE = 0, 1, 2
_WINDOW = 0x0C  # a range that the bridge passes on, minimum and maximum fixed


def _word_window(space: int, flags: int, first: int, last: int) -> bytes:
    return struct.pack("<BHBBBHHHHH", 0x88, 13, space, _WINDOW, flags, 0, first, last, 0, last - first + 1)


def bus_window(first: int, last: int) -> bytes:
    return _word_window(_BUS_SPACE, 0, first, last)


def io_window(first: int, last: int) -> bytes:
    return _word_window(_IO_SPACE, 3, first, last)  # the whole range, ISA ports too


def memory_window(first: int, last: int) -> bytes:
    return struct.pack("<BHBBBIIIII", 0x87, 23, _MEMORY_SPACE, _WINDOW, 1, 0, first, last, 0, last - first + 1)

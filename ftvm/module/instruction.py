"""How long an x86 instruction is (SDM vol. 2, appendix A): as much of a decoder as skipping one needs.

For the instructions that the CPU model offers: no VEX, no EVEX. A near jump with an operand-size prefix has 16 bits in
64-bit code too, as on AMD's processors and in the engine.
"""

MAX_BYTES = 15

_PREFIXES = frozenset((0x66, 0x67, 0xF0, 0xF2, 0xF3, 0x2E, 0x36, 0x3E, 0x26, 0x64, 0x65))

# By opcode: whether a ModRM byte follows, and which immediates: b, w: 1 and 2 bytes; z: 2 or 4 by the operand size;
# v: the same, or 8 with REX.W; p: a far pointer; a: an address; g: b or z for the first two of the group F6/F7.
_MODRM = frozenset(
    [
        *(opcode for opcode in range(0x40) if opcode & 7 < 4),
        *(0x62, 0x63, 0x69, 0x6B, *range(0x80, 0x90), 0xC0, 0xC1, 0xC4, 0xC5, 0xC6, 0xC7),
        *(*range(0xD0, 0xD4), *range(0xD8, 0xE0), 0xF6, 0xF7, 0xFE, 0xFF),
    ]
)
_IMMEDIATES = {
    **dict.fromkeys(range(4, 64, 8), "b"),
    **dict.fromkeys(range(5, 64, 8), "z"),
    **dict.fromkeys((0x68, 0x69, 0x81, 0xA9, 0xC7, 0xE8, 0xE9), "z"),
    **dict.fromkeys((0x6A, 0x6B, *range(0x70, 0x81), 0x82, 0x83, 0xA8, *range(0xB0, 0xB8), 0xC0, 0xC1, 0xC6), "b"),
    **dict.fromkeys((0xCD, 0xD4, 0xD5, *range(0xE0, 0xE8), 0xEB), "b"),
    **dict.fromkeys(range(0xB8, 0xC0), "v"),
    **dict.fromkeys((0xC2, 0xCA), "w"),
    **dict.fromkeys((0x9A, 0xEA), "p"),
    **dict.fromkeys(range(0xA0, 0xA4), "a"),
    **dict.fromkeys((0xF6, 0xF7), "g"),
    0xC8: "wb",
}
_PLAIN_0F = frozenset(
    [
        *(0x05, 0x06, 0x07, 0x08, 0x09, 0x0B, 0x0E, *range(0x30, 0x38), 0x77, *range(0x80, 0x90)),
        *(0xA0, 0xA1, 0xA2, 0xA8, 0xA9, 0xAA, *range(0xC8, 0xD0)),
    ]
)
_BYTE_0F = frozenset((0x0F, 0x70, 0x71, 0x72, 0x73, 0xA4, 0xAC, 0xBA, 0xC2, 0xC4, 0xC5, 0xC6))


def length(code: bytes, bits: int) -> int | None:
    """Bytes of the instruction at the start of ``code``, in code of 16, 32 or 64 ``bits``; None when ``code`` ends
    first or the instruction would be too long."""
    try:
        size = _length(code[:MAX_BYTES], bits)
    except IndexError:
        return None
    return size if size <= min(len(code), MAX_BYTES) else None


def _length(code: bytes, bits: int) -> int:
    at, operand, address, wide = 0, min(bits, 32), bits, False
    while code[at] in _PREFIXES or (bits == 64 and code[at] & 0xF0 == 0x40):
        wide = code[at] & 0xF8 == 0x48 and bits == 64  # REX counts only right before the opcode
        if code[at] == 0x66:
            operand = 32 if bits == 16 else 16
        elif code[at] == 0x67:
            address = 16 if bits == 32 else 32
        at += 1
    operand = 32 if wide else operand
    opcode = code[at]
    at += 1
    modrm, immediates = opcode in _MODRM, _IMMEDIATES.get(opcode, "")
    map_0f = opcode == 0x0F
    if map_0f:
        opcode = code[at]
        at += 1
        modrm, immediates = opcode not in _PLAIN_0F, "b" if opcode in _BYTE_0F else ""
        if opcode in (0x38, 0x3A):
            at += 1
            immediates = "b" if opcode == 0x3A else ""
        elif 0x80 <= opcode < 0x90:
            immediates = "z"
    group = 0
    if modrm and map_0f and opcode in range(0x20, 0x24):  # control and debug registers: registers only
        at += 1
    elif modrm:
        group = code[at] >> 3 & 7
        at += _operand_bytes(code[at:], address)
    for kind in immediates:
        match kind:
            case "b":
                at += 1
            case "w":
                at += 2
            case "z":
                at += operand // 8
            case "v":
                at += 8 if wide else operand // 8
            case "p":
                at += 2 + operand // 8
            case "a":
                at += address // 8
            case "g" if group < 2:
                at += 1 if opcode == 0xF6 else operand // 8
    return at


def _operand_bytes(code: bytes, address: int) -> int:
    """Of the ModRM byte and what belongs to it."""
    mode, register = code[0] >> 6, code[0] & 7
    if mode == 3:
        return 1
    if address == 16:
        return 1 + (2 if mode == 2 or (mode == 0 and register == 6) else mode)
    size = 1
    if register == 4:
        size = 2
        if mode == 0 and code[1] & 7 == 5:
            return size + 4
    if mode == 0:
        return size + (4 if register == 5 else 0)
    return size + (1 if mode == 1 else 4)

"""The VGA's registers, in text mode. Source: IBM PS/2 Hardware Interface Technical Reference, "Video Subsystem".

Text memory at B8000 is plain RAM and nothing is drawn here: registers are storage with the protocols of their index
and data ports. ftvm/display/screen.py makes text of the memory.
"""

import msgspec

from ftvm.module.chips.chip import Clock

# Offsets from port 3B0; the CRTC and input status 1 answer at 3Bx or 3Dx, as bit 0 of the miscellaneous output says
PORTS = 0x30
CRTC_MONO = 0x04
STATUS_1_MONO = 0x0A
ATTRIBUTE = 0x10
ATTRIBUTE_READ = 0x11
MISC_WRITE = 0x12  # input status 0 when read
SEQUENCER = 0x14
DAC_MASK = 0x16
DAC_READ_INDEX = 0x17  # DAC state when read
DAC_WRITE_INDEX = 0x18
DAC_DATA = 0x19
FEATURE_READ = 0x1A
MISC_READ = 0x1C
GRAPHICS = 0x1E
CRTC_COLOUR = 0x24
STATUS_1_COLOUR = 0x2A

CRTC_CURSOR_START = 0x0A
CRTC_CURSOR_END = 0x0B
CRTC_START_HIGH = 0x0C
CRTC_START_LOW = 0x0D
CRTC_CURSOR_HIGH = 0x0E
CRTC_CURSOR_LOW = 0x0F
CRTC_PROTECT = 0x11

CURSOR_OFF = 0x20  # in CRTC_CURSOR_START
PROTECT = 0x80  # in CRTC_PROTECT: registers 0..7 are read only, but for bit 4 of 7
SEQUENCER_CLOCKING = 0x01
SCREEN_OFF = 0x20
PALETTE_SHOWN = 0x20  # in the attribute index
ATTRIBUTE_MODE = 0x10
MODE_BLINK = 0x08
MISC_COLOUR = 0x01
STATUS_BLANKED = 0x01
STATUS_RETRACE = 0x08

# 720x400 at 70 Hz: 449 lines of 31.78 us, of which 400 are shown
_LINE_NS = 31_778
_LINE_SHOWN_NS = 25_422
_FRAME_LINES = 449
_SHOWN_LINES = 400
_RETRACE_LINES = (412, 413)

# What the BIOS sets for mode 3, 80x25 colour text
_CRTC = bytes.fromhex("5f4f50825581bf1f004f0d0e000000009c8e8f281f96b9a3ff")
_SEQUENCER = bytes.fromhex("0300030002")
_GRAPHICS = bytes.fromhex("0000000000100e0fff")
_ATTRIBUTE = bytes.fromhex("000102030405140738393a3b3c3d3e3f0c000f0800")
_MISC = 0x67

_DAC_BYTES = 3 * 256
_INTENSITY = (0x00, 0x2A, 0x15, 0x3F)


def _palette() -> bytearray:
    """The first 64 colours are rgbRGB: two thirds of the intensity from the low bit, a third from the high one."""
    dac = bytearray(_DAC_BYTES)
    for colour in range(64):
        for channel, low in enumerate((2, 1, 0)):
            dac[3 * colour + channel] = _INTENSITY[(colour >> low & 1) | (colour >> (low + 3) & 1) << 1]
    return dac


class VgaState(msgspec.Struct):
    misc: int = _MISC
    crtc_index: int = 0
    crtc: bytearray = msgspec.field(default_factory=lambda: bytearray(_CRTC))
    sequencer_index: int = 0
    sequencer: bytearray = msgspec.field(default_factory=lambda: bytearray(_SEQUENCER))
    graphics_index: int = 0
    graphics: bytearray = msgspec.field(default_factory=lambda: bytearray(_GRAPHICS))
    attribute_index: int = 0x20  # PALETTE_SHOWN
    attribute: bytearray = msgspec.field(default_factory=lambda: bytearray(_ATTRIBUTE))
    attribute_data_next: bool = False
    """The flip-flop: the next write to the attribute port is data."""
    dac_mask: int = 0xFF
    dac: bytearray = msgspec.field(default_factory=_palette)
    dac_index: int = 0
    """Of the next byte of the palette, three to a colour."""
    dac_reading: bool = False

    def is_whole(self) -> bool:
        """All registers are there, also in a state that came from elsewhere."""
        sizes = ((self.crtc, _CRTC), (self.sequencer, _SEQUENCER), (self.attribute, _ATTRIBUTE), (self.dac, _palette()))
        return all(len(registers) == len(wanted) for registers, wanted in sizes)

    def start(self) -> int:
        """The character cell of text memory that is shown first."""
        return self.crtc[CRTC_START_HIGH] << 8 | self.crtc[CRTC_START_LOW]

    def cursor(self) -> int | None:
        """The character cell of text memory that the cursor is in; None when it is off."""
        if self.crtc[CRTC_CURSOR_START] & CURSOR_OFF:
            return None
        return self.crtc[CRTC_CURSOR_HIGH] << 8 | self.crtc[CRTC_CURSOR_LOW]

    def cursor_lines(self) -> tuple[int, int]:
        """The first and the last of the 16 lines of its cell that the cursor fills."""
        return self.crtc[CRTC_CURSOR_START] & 0x1F, self.crtc[CRTC_CURSOR_END] & 0x1F

    def is_blank(self) -> bool:
        """The screen is off, or the palette is not connected to it."""
        return bool(self.sequencer[SEQUENCER_CLOCKING] & SCREEN_OFF or not self.attribute_index & PALETTE_SHOWN)

    def blinking(self) -> bool:
        """The highest bit of an attribute makes a character blink; else it is one more bit of the background."""
        return bool(self.attribute[ATTRIBUTE_MODE] & MODE_BLINK)

    def palette(self) -> tuple[tuple[int, int, int], ...]:
        """Red, green and blue, 0 to 255, of each colour that an attribute can name."""
        colours = []
        for index in self.attribute[:16]:
            at = 3 * (index & 0x3F & self.dac_mask)
            red, green, blue = (value << 2 & 0xFF | value >> 4 & 0x03 for value in self.dac[at : at + 3])
            colours.append((red, green, blue))
        return tuple(colours)


class Vga:
    def __init__(self, clock: Clock) -> None:
        self.state = VgaState()
        self._clock = clock

    def read(self, offset: int, size: int) -> int:
        state = self.state
        offset = self._canonical(offset)
        if offset == STATUS_1_COLOUR:
            state.attribute_data_next = False
            return self._status_1()
        if offset == CRTC_COLOUR:
            return state.crtc_index
        if offset == CRTC_COLOUR + 1:
            return _get(state.crtc, state.crtc_index)
        if offset == ATTRIBUTE:
            return state.attribute_index
        if offset == ATTRIBUTE_READ:
            return _get(state.attribute, state.attribute_index & 0x1F)
        if offset == MISC_WRITE:
            return 0x10  # a monitor is there
        if offset == MISC_READ:
            return state.misc
        if offset == SEQUENCER:
            return state.sequencer_index
        if offset == SEQUENCER + 1:
            return _get(state.sequencer, state.sequencer_index)
        if offset == GRAPHICS:
            return state.graphics_index
        if offset == GRAPHICS + 1:
            return _get(state.graphics, state.graphics_index)
        if offset == DAC_MASK:
            return state.dac_mask
        if offset == DAC_READ_INDEX:
            return 0x03 if state.dac_reading else 0x00
        if offset == DAC_WRITE_INDEX:
            return state.dac_index // 3
        if offset == DAC_DATA:
            value = state.dac[state.dac_index]
            state.dac_index = (state.dac_index + 1) % _DAC_BYTES
            return value
        return 0x00 if offset == FEATURE_READ else 0xFF

    def write(self, offset: int, size: int, value: int) -> None:
        state = self.state
        offset = self._canonical(offset)
        if offset == CRTC_COLOUR:
            state.crtc_index = value & 0x3F
        elif offset == CRTC_COLOUR + 1:
            self._write_crtc(state.crtc_index, value)
        elif offset == ATTRIBUTE:
            if state.attribute_data_next:
                _set(state.attribute, state.attribute_index & 0x1F, value)
            else:
                state.attribute_index = value & 0x3F
            state.attribute_data_next = not state.attribute_data_next
        elif offset == MISC_WRITE:
            state.misc = value
        elif offset == SEQUENCER:
            state.sequencer_index = value & 0x07
        elif offset == SEQUENCER + 1:
            _set(state.sequencer, state.sequencer_index, value)
        elif offset == GRAPHICS:
            state.graphics_index = value & 0x0F
        elif offset == GRAPHICS + 1:
            _set(state.graphics, state.graphics_index, value)
        elif offset == DAC_MASK:
            state.dac_mask = value
        elif offset in (DAC_READ_INDEX, DAC_WRITE_INDEX):
            state.dac_index = 3 * value
            state.dac_reading = offset == DAC_READ_INDEX
        elif offset == DAC_DATA:
            state.dac[state.dac_index] = value & 0x3F
            state.dac_index = (state.dac_index + 1) % _DAC_BYTES

    def _canonical(self, offset: int) -> int:
        """The offset as it is in colour mode; that of a register which does not answer now becomes -1."""
        mono = offset in (CRTC_MONO, CRTC_MONO + 1, STATUS_1_MONO)
        if not mono and offset not in (CRTC_COLOUR, CRTC_COLOUR + 1, STATUS_1_COLOUR):
            return offset
        if mono == bool(self.state.misc & MISC_COLOUR):
            return -1
        return offset + 0x20 if mono else offset

    def _write_crtc(self, index: int, value: int) -> None:
        crtc = self.state.crtc
        if crtc[CRTC_PROTECT] & PROTECT and index <= 7:
            if index == 7:
                crtc[7] = crtc[7] & ~0x10 | value & 0x10
            return
        _set(crtc, index, value)

    def _status_1(self) -> int:
        line, in_line_ns = divmod(self._clock() % (_FRAME_LINES * _LINE_NS), _LINE_NS)
        value = 0
        if line >= _SHOWN_LINES or in_line_ns >= _LINE_SHOWN_NS:
            value |= STATUS_BLANKED
        if line in _RETRACE_LINES:
            value |= STATUS_RETRACE
        return value


def _get(registers: bytearray, index: int) -> int:
    return registers[index] if index < len(registers) else 0


def _set(registers: bytearray, index: int, value: int) -> None:
    if index < len(registers):
        registers[index] = value

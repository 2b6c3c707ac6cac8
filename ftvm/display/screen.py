"""The 80x25 text screen as a value: what a VGA in text mode would show of its memory."""

import msgspec

from ftvm.module.chips.vga import VgaState

COLUMNS = 80
ROWS = 25
TEXT_BYTES = 32 * 1024
"""Text memory from B8000: two bytes to a cell, character and attribute."""

GLYPHS = (
    " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼"
    + bytes(range(0x20, 0x7F)).decode("ascii")
    + "⌂"
    + bytes(range(0x80, 0x100)).decode("cp437")
)
"""Code page 437 as it is drawn: codes below 20 and 7F have glyphs too."""

Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""

_decode_state = msgspec.msgpack.Decoder(dict[str, msgspec.Raw]).decode
_decode_vga = msgspec.msgpack.Decoder(VgaState).decode


class Cursor(msgspec.Struct, frozen=True):
    """A block in one cell, from line ``first_line`` to ``last_line`` of its 16."""

    row: int
    column: int
    first_line: int
    last_line: int


class Look(msgspec.Struct, frozen=True):
    """How a cell is drawn: numbers of colours, and whether its character blinks."""

    foreground: int
    background: int
    blinks: bool


class Screen(msgspec.Struct, frozen=True):
    """``cells`` has a character and an attribute for each, row by row; ``palette`` the 16 colours.

    ``blinking``: the highest bit of an attribute makes the character blink; else it makes the background bright.
    """

    cells: bytes
    cursor: Cursor | None
    palette: tuple[Colour, ...] = msgspec.field(default_factory=lambda: VgaState().palette())
    blinking: bool = True

    @classmethod
    def of(cls, text_memory: bytes, board: bytes) -> "Screen":
        """What is seen of ``text_memory``, TEXT_BYTES from B8000, by a VGA in the state that ``board`` (Board.save)
        has; by one as it was at reset, if what is there makes no sense."""
        return cls.shown(text_memory, _vga_of(board))

    @classmethod
    def shown(cls, text_memory: bytes, vga: VgaState) -> "Screen":
        """What is seen of ``text_memory``. It begins at any cell, and wraps round."""
        start = vga.start() % (TEXT_BYTES // 2)
        cells = (text_memory[2 * start :] + text_memory)[: 2 * ROWS * COLUMNS]
        if vga.is_blank():
            cells = bytes(len(cells))
        place = vga.cursor()
        cursor = None
        if place is not None and start <= place < start + ROWS * COLUMNS and not vga.is_blank():
            cursor = Cursor(*divmod(place - start, COLUMNS), *vga.cursor_lines())
        return cls(cells, cursor, vga.palette(), vga.blinking())

    def cell(self, row: int, column: int) -> tuple[int, int]:
        """Its character and its attribute."""
        at = 2 * (row * COLUMNS + column)
        return self.cells[at], self.cells[at + 1]

    def look(self, attribute: int) -> Look:
        """How a cell with this attribute is drawn."""
        if self.blinking:
            return Look(attribute & 0x0F, attribute >> 4 & 0x07, bool(attribute & 0x80))
        return Look(attribute & 0x0F, attribute >> 4, False)

    def lines(self) -> list[str]:
        """25 lines of 80 characters. A cursor in an empty cell is shown as an underscore."""
        text = [GLYPHS[code] for code in self.cells[::2]]
        if self.cursor is not None:
            at = self.cursor.row * COLUMNS + self.cursor.column
            if text[at] in " \xa0":
                text[at] = "_"
        return ["".join(text[first : first + COLUMNS]) for first in range(0, len(text), COLUMNS)]


def _vga_of(board: bytes) -> VgaState:
    try:
        state = _decode_vga(_decode_state(board)["vga"])
    except (msgspec.DecodeError, KeyError):
        return VgaState()
    return state if state.is_whole() else VgaState()

"""The 80x25 text screen as text: what a VGA in text mode would show."""

COLUMNS = 80
ROWS = 25
TEXT_BYTES = 32 * 1024
"""Text memory from B8000: two bytes to a cell, character and attribute."""

_CONTROL_GLYPHS = " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼"
_GLYPHS = _CONTROL_GLYPHS + bytes(range(0x20, 0x7F)).decode("ascii") + "⌂" + bytes(range(0x80, 0x100)).decode("cp437")
"""Code page 437 as it is drawn: codes below 20 and 7F have glyphs too."""


def render_text(text_memory: bytes, start: int, cursor: int | None) -> list[str]:
    """25 lines of 80 characters.

    ``text_memory`` is TEXT_BYTES from B8000; ``start`` and ``cursor`` are cells of it, as the CRTC counts them.
    A cursor in an empty cell is shown as an underscore; None: there is none.
    """
    cells = len(text_memory) // 2
    lines = []
    for row in range(ROWS):
        first = start + row * COLUMNS
        line = [_GLYPHS[text_memory[2 * (cell % cells)]] for cell in range(first, first + COLUMNS)]
        if cursor is not None and first <= cursor < first + COLUMNS and line[cursor - first] in " \xa0":
            line[cursor - first] = "_"
        lines.append("".join(line))
    return lines

"""A screen on a terminal: what to write so that it shows one, given what it shows already."""

from collections.abc import Iterator

from ftvm.display.screen import COLUMNS, GLYPHS, ROWS, Screen

ENTER = "\x1b[?1049h\x1b[2J"
"""To another page of the terminal, where nothing of the old one is lost."""
LEAVE = "\x1b[0m\x1b[?25h\x1b[?1049l"

_ANSI = (0, 4, 2, 6, 1, 5, 3, 7)
"""The number that a terminal gives to each of the first eight colours of a PC."""


class Painter:
    """Keeps what the terminal shows; ``paint`` says how to change it.

    With ``true_colour`` the terminal takes the screen's own colours, else its own ones of the same names are used.
    """

    def __init__(self, true_colour: bool = False) -> None:
        self._true_colour = true_colour
        self._rows = self._columns = 0
        self._shown: bytes | None = None
        self._palette: object = None
        self._status = ""
        self._cursor: tuple[int, int] | None = None

    def resize(self, columns: int, rows: int) -> None:
        """The terminal has this size now. The screen is cut off where it does not fit; the last row is the status."""
        if (columns, rows) != (self._columns, self._rows):
            self._columns, self._rows = columns, rows
            self._palette = None

    def paint(self, screen: Screen, status: str) -> str:
        """What to write to show ``screen`` and, below it, ``status``; nothing when it shows both already."""
        parts: list[str] = []
        if self._palette != (screen.palette, screen.blinking):
            self._palette = (screen.palette, screen.blinking)
            self._shown = None
            self._status = ""
            parts.append("\x1b[0m\x1b[2J")
        rows = min(ROWS, max(0, self._rows - 1))
        columns = min(COLUMNS, self._columns)
        for row in range(rows):
            parts += self._row(screen, row, columns)
        self._shown = screen.cells
        if status != self._status and self._rows:
            self._status = status
            text = f"{status[: self._columns]:{columns}}"
            parts.append(f"\x1b[{min(ROWS + 1, self._rows)};1H\x1b[0;7m{text}\x1b[K\x1b[0m")
        cursor = screen.cursor
        place = None
        if cursor is not None and cursor.first_line <= cursor.last_line:
            inside = cursor.row < rows and cursor.column < columns
            place = (cursor.row + 1, cursor.column + 1) if inside else None
        if not parts and place == self._cursor:
            return ""
        self._cursor = place
        show = "" if place is None else f"\x1b[{place[0]};{place[1]}H\x1b[?25h"
        return "".join(["\x1b[?25l", *parts, show])

    def _row(self, screen: Screen, row: int, columns: int) -> Iterator[str]:
        first = 2 * row * COLUMNS
        new = screen.cells[first : first + 2 * columns]
        old = self._shown[first : first + 2 * columns] if self._shown is not None else b""
        if new == old:
            return
        attribute_set: int | None = None
        end = -1
        for column in range(columns):
            code, attribute = cell = new[2 * column : 2 * column + 2]
            if cell == old[2 * column : 2 * column + 2]:
                continue
            if end != column:
                yield f"\x1b[{row + 1};{column + 1}H"
            if attribute != attribute_set:
                yield self._colours(screen, attribute)
                attribute_set = attribute
            yield GLYPHS[code]
            end = column + 1

    def _colours(self, screen: Screen, attribute: int) -> str:
        look = screen.look(attribute)
        if self._true_colour:
            colours = (
                "38;2;{};{};{}".format(*screen.palette[look.foreground]),
                "48;2;{};{};{}".format(*screen.palette[look.background]),
            )
        else:
            colours = (_ansi(look.foreground, 30), _ansi(look.background, 40))
        return f"\x1b[0;{';'.join(colours)}{';5' if look.blinks else ''}m"


def _ansi(colour: int, base: int) -> str:
    """30 to 37 and 40 to 47; 60 more for the bright ones."""
    return str(base + _ANSI[colour & 7] + (60 if colour & 8 else 0))

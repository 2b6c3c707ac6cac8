"""The text screen as a value, as a picture, and on a terminal."""

import io
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ftvm.display import font
from ftvm.display.painter import Painter
from ftvm.display.picture import png
from ftvm.display.screen import COLUMNS, GLYPHS, ROWS, TEXT_BYTES, Cursor, Screen
from ftvm.module.chips.vga import VgaState

BLUE, GREY, YELLOW = (0, 0, 170), (170, 170, 170), (255, 255, 85)


def text_memory(*rows: bytes) -> bytearray:
    memory = bytearray(b"\x20\x07" * (TEXT_BYTES // 2))
    for row, text in enumerate(rows):
        memory[2 * COLUMNS * row : 2 * (COLUMNS * row + len(text)) : 2] = text
    return memory


def vga(start: int = 0, cursor: int | None = None) -> VgaState:
    state = VgaState()
    state.crtc[0x0C:0x10] = bytes((start >> 8, start & 0xFF, (cursor or 0) >> 8, (cursor or 0) & 0xFF))
    if cursor is None:
        state.crtc[0x0A] |= 0x20
    return state


def test_the_screen_has_25_lines_of_80_characters() -> None:
    lines = Screen.shown(text_memory(b"hello", b" world"), vga()).lines()
    assert [len(line) for line in lines] == ROWS * [COLUMNS]
    assert lines[0].rstrip() == "hello"
    assert lines[1].rstrip() == " world"
    assert "".join(lines[2:]).strip() == ""


def test_the_screen_starts_where_the_crtc_says_and_wraps_round() -> None:
    memory = text_memory(b"first", b"second")
    assert Screen.shown(memory, vga(COLUMNS)).lines()[0].rstrip() == "second"
    cells = TEXT_BYTES // 2
    assert Screen.shown(memory, vga(cells - COLUMNS)).lines()[1].rstrip() == "first"


def test_code_page_437_has_a_glyph_for_every_code() -> None:
    assert GLYPHS[0x00:0x20] == " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼"
    assert GLYPHS[0x20:0x7F] == bytes(range(0x20, 0x7F)).decode()
    assert GLYPHS[0x7F] + GLYPHS[0x80] + GLYPHS[0xC9] + GLYPHS[0xDB] + GLYPHS[0xE1] == "⌂Ç╔█ß"
    assert len(set(GLYPHS)) == 255, "only 00 and 20 look alike"


def test_the_cursor_is_seen_in_an_empty_cell_only() -> None:
    memory = text_memory(b"login:")
    assert Screen.shown(memory, vga(0, 7)).lines()[0].rstrip() == "login: _"
    assert Screen.shown(memory, vga(0, 2)).lines()[0].rstrip() == "login:"
    assert Screen.shown(memory, vga(0, ROWS * COLUMNS)).cursor is None


def test_the_palette_is_that_of_the_dac() -> None:
    state = VgaState()
    palette = state.palette()
    assert (palette[1], palette[6], palette[7], palette[14]) == (BLUE, (170, 85, 0), GREY, YELLOW)
    state.dac[3:6] = b"\x3f\x00\x20"
    assert state.palette()[1] == (255, 0, 130)


def test_a_screen_that_is_off_is_black() -> None:
    state = VgaState()
    state.sequencer[1] |= 0x20
    screen = Screen.shown(text_memory(b"secret"), state)
    assert screen.cells == bytes(2 * ROWS * COLUMNS)
    assert screen.cursor is None


def test_the_highest_bit_of_an_attribute_blinks_or_makes_the_background_bright() -> None:
    screen = Screen.shown(text_memory(), VgaState())
    assert (screen.look(0x9E).background, screen.look(0x9E).blinks) == (1, True)
    state = VgaState()
    state.attribute[0x10] &= ~0x08
    screen = Screen.shown(text_memory(), state)
    assert (screen.look(0x9E).background, screen.look(0x9E).blinks) == (9, False)


@given(st.binary(max_size=64) | st.builds(lambda v: msgspec.msgpack.encode({"vga": v}), st.builds(VgaState)))
def test_a_board_that_makes_no_sense_has_a_screen_all_the_same(board: bytes) -> None:
    assert len(Screen.of(text_memory(), board).lines()) == ROWS


def test_a_state_without_its_registers_is_not_believed() -> None:
    broken = msgspec.msgpack.encode({"vga": VgaState(crtc=bytearray(3))})
    assert Screen.of(text_memory(b"x"), broken).lines()[0].startswith("x")


# ---- the typeface ----


def test_every_visible_code_has_a_glyph_of_its_own() -> None:
    glyphs = font.glyphs()
    assert [code for code in range(256) if not any(glyphs[code])] == [0x00, 0x20, 0xFF]
    alike = {0x00, 0x20, 0xFF, 0x09, 0x6F, 0x16, 0xFE}
    assert len({glyphs[code] for code in range(256) if code not in alike}) == 256 - len(alike)
    assert all(len(glyph) == font.HEIGHT and max(glyph) < 1 << font.WIDTH for glyph in glyphs)


def edges(code: int) -> tuple[set[int], set[int], set[int], set[int]]:
    """Where the ink of a glyph meets its upper, lower, left and right edge."""
    glyph = font.glyphs()[code]
    columns = [{x for x in range(font.WIDTH) if row >> (font.WIDTH - 1 - x) & 1} for row in glyph]
    rows = range(font.HEIGHT)
    return columns[0], columns[-1], {y for y in rows if 0 in columns[y]}, {y for y in rows if 8 in columns[y]}


def test_lines_of_boxes_meet_those_of_their_neighbours() -> None:
    names = "─━│┃┌┐└┘├┤┬┴┼═║╒╓╔╕╖╗╘╙╚╛╜╝╞╟╠╡╢╣╤╥╦╧╨╩╪╫╬"
    boxes = [char.encode("cp437")[0] for char in names if char not in "━┃"]
    assert len(boxes) == 40
    meets = {0: {frozenset()}, 1: {frozenset()}, 2: {frozenset()}, 3: {frozenset()}}
    for code in boxes:
        for side, ink in enumerate(edges(code)):
            meets[side].add(frozenset(ink))
    assert meets[0] == meets[1], "from above and from below, single and double"
    assert meets[2] == meets[3]
    assert [len(meets[side]) for side in range(4)] == [3, 3, 3, 3]


def test_a_full_block_is_full() -> None:
    assert set(font.glyphs()[0xDB]) == {0x1FF}


# ---- the picture ----


def test_a_picture_has_the_colours_of_the_text() -> None:
    memory = text_memory(b"A")
    memory[1] = 0x1E
    memory[2:4] = b"\xdb\x07"
    image = Image.open(io.BytesIO(png(Screen.shown(memory, vga()))))
    assert (image.format, image.size) == ("PNG", (720, 400))
    colours = image.convert("RGB")
    assert {colours.getpixel((x, y)) for x in range(9) for y in range(16)} == {BLUE, YELLOW}
    assert {colours.getpixel((x, y)) for x in range(9, 18) for y in range(16)} == {GREY}


def test_a_picture_shows_the_cursor() -> None:
    def pixel(cursor: int | None) -> object:
        screen = Screen.shown(text_memory(), vga(0, cursor))
        return Image.open(io.BytesIO(png(screen))).convert("RGB").getpixel((81 * 9 % 720 + 2, 16 + 14))

    assert pixel(81) == GREY
    assert pixel(None) == (0, 0, 0)


# ---- on a terminal ----


class Terminal:
    """As much of a terminal as the painter needs: cells with their colours, a cursor."""

    def __init__(self, columns: int = 100, rows: int = 30) -> None:
        self.columns, self.rows = columns, rows
        self.cells: dict[tuple[int, int], tuple[str, str]] = {}
        self.cursor: tuple[int, int] | None = None
        self._at = [0, 0]
        self._colours = "0"

    def write(self, text: str) -> None:
        for token in re.finditer(r"\x1b\[([?0-9;]*)([A-Za-z])|(.)", text, re.DOTALL):
            numbers, final, char = token.groups()
            if char is not None:
                assert 0 <= self._at[0] < self.rows and 0 <= self._at[1] < self.columns, "writes stay inside"
                self.cells[self._at[0], self._at[1]] = (char, self._colours)
                self._at[1] += 1
            elif final == "H":
                self._at = [int(number) - 1 for number in numbers.split(";")]
            elif final == "m":
                self._colours = numbers
            elif final == "J":
                self.cells.clear()
            elif final == "h" and numbers == "?25":
                self.cursor = (self._at[0], self._at[1])
            elif final == "l" and numbers == "?25":
                self.cursor = None

    def line(self, row: int) -> str:
        return "".join(self.cells.get((row, column), (" ", ""))[0] for column in range(self.columns)).rstrip()


cells = st.lists(st.tuples(st.integers(0, 1999), st.integers(0, 255), st.integers(0, 255)), max_size=30)


@given(
    st.lists(st.tuples(cells, st.one_of(st.none(), st.integers(0, 1999))), min_size=1, max_size=5),
    st.integers(1, 120),
    st.integers(1, 40),
)
def test_what_is_painted_bit_by_bit_is_what_would_be_painted_at_once(
    frames: list[tuple[list[tuple[int, int, int]], int | None]], columns: int, rows: int
) -> None:
    memory = text_memory()
    step_by_step, painter = Terminal(columns, rows), Painter()
    painter.resize(columns, rows)
    for changes, cursor in frames:
        for at, code, attribute in changes:
            memory[2 * at : 2 * at + 2] = bytes((code, attribute))
        screen = Screen.shown(memory, vga(0, cursor))
        step_by_step.write(painter.paint(screen, "status"))
        assert painter.paint(screen, "status") == "", "nothing is left to do"
    at_once, other = Terminal(columns, rows), Painter()
    other.resize(columns, rows)
    at_once.write(other.paint(screen, "status"))
    assert (step_by_step.cells, step_by_step.cursor) == (at_once.cells, at_once.cursor)
    for row in range(min(ROWS, rows - 1)):
        assert step_by_step.line(row) == screen_line(screen, row)[:columns].rstrip()


def screen_line(screen: Screen, row: int) -> str:
    return "".join(GLYPHS[screen.cell(row, column)[0]] for column in range(COLUMNS))


def test_only_what_changed_is_painted() -> None:
    painter = Painter()
    painter.resize(80, 26)
    memory = text_memory(b"x" * 80)
    painter.paint(Screen.shown(memory, vga()), "status")
    memory[2] = ord("y")
    assert len(painter.paint(Screen.shown(memory, vga()), "status")) < 40


def test_colours_are_the_screen_s_own_where_the_terminal_can_show_them() -> None:
    memory = text_memory(b"A")
    memory[1] = 0x9E
    screen = Screen(bytes(memory[:4000]), Cursor(0, 0, 13, 14))
    for true_colour, wanted in ((False, "0;93;44;5"), (True, "0;38;2;255;255;85;48;2;0;0;170;5")):
        terminal, painter = Terminal(), Painter(true_colour)
        painter.resize(100, 30)
        terminal.write(painter.paint(screen, ""))
        assert terminal.cells[0, 0] == ("A", wanted)


@pytest.mark.parametrize("size", [(0, 0), (1, 1), (80, 2)])
def test_a_tiny_terminal_is_no_trouble(size: tuple[int, int]) -> None:
    painter, terminal = Painter(), Terminal(*size)
    painter.resize(*size)
    terminal.write(painter.paint(Screen.shown(text_memory(b"abc"), vga()), "s"))

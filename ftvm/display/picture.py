"""A screen as a picture: 720 x 400 pixels, as a VGA in text mode sends them to its monitor."""

import functools
import io
from typing import TYPE_CHECKING

from ftvm.display import font
from ftvm.display.screen import COLUMNS, ROWS, Screen

if TYPE_CHECKING:
    from PIL.Image import Image


def png(screen: Screen) -> bytes:
    """A PNG file with the 16 colours of the screen as its palette. What blinks is shown."""
    file = io.BytesIO()
    draw(screen).save(file, "PNG", optimize=True)
    return file.getvalue()


def draw(screen: Screen) -> "Image":
    """The picture, in palette mode: pixels are numbers of the screen's colours."""
    from PIL import Image  # 50 ms that only a picture is worth

    masks = _masks()
    picture = Image.new("P", (COLUMNS * font.WIDTH, ROWS * font.HEIGHT))
    picture.putpalette([channel for colour in screen.palette for channel in colour])
    for row in range(ROWS):
        for column in range(COLUMNS):
            code, attribute = screen.cell(row, column)
            look = screen.look(attribute)
            x, y = column * font.WIDTH, row * font.HEIGHT
            box = (x, y, x + font.WIDTH, y + font.HEIGHT)
            picture.paste(look.background, box)
            picture.paste(look.foreground, box, masks[code])
            cursor = screen.cursor
            if cursor is not None and (cursor.row, cursor.column) == (row, column):
                lines = (y + cursor.first_line, min(y + cursor.last_line + 1, box[3]))
                if lines[0] < lines[1]:
                    picture.paste(look.foreground, (x, lines[0], box[2], lines[1]))
    return picture


@functools.cache
def _masks() -> "list[Image]":
    from PIL import Image

    return [
        Image.frombytes("1", (font.WIDTH, font.HEIGHT), b"".join((row << 7).to_bytes(2) for row in glyph))
        for glyph in font.glyphs()
    ]

"""The typeface of the text screen: 256 glyphs of code page 437, 9 x 16 as a VGA shows them.

font.txt has what was drawn by hand. Accents are put on letters here, and everything that must meet its neighbours
(box drawing, blocks, shades) is computed.
"""

import functools
from collections.abc import Iterator, Sequence
from importlib import resources

WIDTH, HEIGHT = 9, 16
DRAWN_WIDTH = 8
"""The ninth column is blank; but where the eighth must reach the next cell (codes C0 to DF), it is repeated."""

Glyph = tuple[int, ...]
"""HEIGHT rows of WIDTH bits, the leftmost one highest."""

_BLANK = HEIGHT * (0,)

# Code: letter, accent. A capital's accent stands two rows higher.
_COMPOSED = {
    0x80: ("43", "cedilla"),
    0x81: ("75", "diaeresis"),
    0x82: ("65", "acute"),
    0x83: ("61", "circumflex"),
    0x84: ("61", "diaeresis"),
    0x85: ("61", "grave"),
    0x86: ("61", "ring"),
    0x87: ("63", "cedilla"),
    0x88: ("65", "circumflex"),
    0x89: ("65", "diaeresis"),
    0x8A: ("65", "grave"),
    0x8B: ("dotless", "diaeresis"),
    0x8C: ("dotless", "circumflex"),
    0x8D: ("dotless", "grave"),
    0x8E: ("41", "diaeresis"),
    0x8F: ("41", "ring"),
    0x90: ("45", "acute"),
    0x93: ("6F", "circumflex"),
    0x94: ("6F", "diaeresis"),
    0x95: ("6F", "grave"),
    0x96: ("75", "circumflex"),
    0x97: ("75", "grave"),
    0x98: ("79", "diaeresis"),
    0x99: ("4F", "diaeresis"),
    0x9A: ("55", "diaeresis"),
    0xA0: ("61", "acute"),
    0xA1: ("dotless", "acute"),
    0xA2: ("6F", "acute"),
    0xA3: ("75", "acute"),
    0xA4: ("6E", "tilde"),
    0xA5: ("4E", "tilde"),
}
_CAPITALS = {"41", "45", "4E", "4F", "55"}

# Lines that leave the middle of a box drawing character: up, down, left, right; 0 none, 1 single, 2 double.
_ARMS = {
    0xB3: "1100", 0xB4: "1110", 0xB5: "1120", 0xB6: "2210", 0xB7: "0210", 0xB8: "0120", 0xB9: "2220", 0xBA: "2200",
    0xBB: "0220", 0xBC: "2020", 0xBD: "2010", 0xBE: "1020", 0xBF: "0110", 0xC0: "1001", 0xC1: "1011", 0xC2: "0111",
    0xC3: "1101", 0xC4: "0011", 0xC5: "1111", 0xC6: "1102", 0xC7: "2201", 0xC8: "2002", 0xC9: "0202", 0xCA: "2022",
    0xCB: "0222", 0xCC: "2202", 0xCD: "0022", 0xCE: "2222", 0xCF: "1022", 0xD0: "2011", 0xD1: "0122", 0xD2: "0211",
    0xD3: "2001", 0xD4: "1002", 0xD5: "0102", 0xD6: "0201", 0xD7: "2211", 0xD8: "1122", 0xD9: "1010", 0xDA: "0101",
}  # fmt: skip

_Lines = tuple[range, ...]
"""Where the lines of an arm are, across it: one for a single arm, two for a double one, each some pixels thick."""

_VERTICAL: tuple[_Lines, ...] = ((), (range(3, 5),), (range(1, 3), range(5, 7)))
_HORIZONTAL: tuple[_Lines, ...] = ((), (range(7, 8),), (range(6, 7), range(9, 10)))

_SHADES = {0xB0: ("#...#...", "..#...#."), 0xB1: (".#.#.#.#", "#.#.#.#."), 0xB2: (".###.###", "##.###.#")}
_BLOCKS = {  # columns, rows
    0xDB: (range(8), range(16)),
    0xDC: (range(8), range(8, 16)),
    0xDD: (range(4), range(16)),
    0xDE: (range(4, 8), range(16)),
    0xDF: (range(8), range(8)),
}


@functools.cache
def glyphs() -> tuple[Glyph, ...]:
    """The glyph of each code from 0 to 255."""
    drawn = dict(_drawn(resources.files(__package__).joinpath("font.txt").read_text().splitlines()))
    rows: list[Sequence[int]] = [drawn.get(f"{code:02X}", _BLANK) for code in range(256)]
    for code, (letter, accent) in _COMPOSED.items():
        above = (*drawn[accent][2:], 0, 0) if letter in _CAPITALS else drawn[accent]
        rows[code] = [a | b for a, b in zip(drawn[letter], above, strict=True)]
    for code, arms in _ARMS.items():
        rows[code] = _box(*(int(style) for style in arms))
    for code, pattern in _SHADES.items():
        rows[code] = [_bits(pattern[row % 2]) for row in range(HEIGHT)]
    for code, (columns, filled) in _BLOCKS.items():
        rows[code] = [sum(0x80 >> column for column in columns) if row in filled else 0 for row in range(HEIGHT)]
    return tuple(_widened(code, glyph) for code, glyph in enumerate(rows))


def _drawn(lines: Sequence[str]) -> Iterator[tuple[str, Glyph]]:
    """The glyphs of font.txt, which says in its head how it is to be read, by code or name."""
    name, rows = "", [0]
    for line in [*lines, "end 0"]:
        if line.startswith("# "):
            continue
        if " " not in line:
            rows.append(_bits(line))
            continue
        if name:
            yield name, (*rows, *_BLANK)[:HEIGHT]
        name, first = line.split()
        rows = int(first) * [0]


def _bits(row: str) -> int:
    return sum(0x80 >> column for column, ink in enumerate(row) if ink == "#")


def _widened(code: int, glyph: Sequence[int]) -> Glyph:
    repeat = 0xC0 <= code <= 0xDF
    return tuple(row << 1 | (row & 1 if repeat else 0) for row in glyph)


def _box(up: int, down: int, left: int, right: int) -> Glyph:
    pixels: set[tuple[int, int]] = set()
    for x, y in _arms(_VERTICAL[up], _VERTICAL[down], _HORIZONTAL[left], _HORIZONTAL[right], DRAWN_WIDTH):
        pixels.add((x, y))
    for y, x in _arms(_HORIZONTAL[left], _HORIZONTAL[right], _VERTICAL[up], _VERTICAL[down], HEIGHT):
        pixels.add((x, y))
    return tuple(sum(0x80 >> x for x in range(DRAWN_WIDTH) if (x, y) in pixels) for y in range(HEIGHT))


def _arms(before: _Lines, after: _Lines, near: _Lines, far: _Lines, length: int) -> Iterator[tuple[int, int]]:
    """(along, across) of the pixels of the two arms that go along one axis: ``near`` to 0, ``far`` to ``length``.

    ``before`` and ``after`` are those of the other axis, on the sides of lower and of higher coordinates.
    """
    crossing = sorted({*before, *after}, key=lambda line: line.start)
    for lines, outwards in ((near, False), (far, True)):
        for index, line in enumerate(lines):
            if not crossing:
                joint = range(length // 2 - 1, length // 2)
            elif len(lines) == 1:
                through = bool(near and far) or not (before and after)
                # It crosses, or turns a corner, at the far line; it ends at the near one of a wall that goes on.
                joint = crossing[0 if through == outwards else -1]
            else:
                # A line of two meets the near line on its own side; round a corner, the far one on the other.
                side, other = (before, after) if index == 0 else (after, before)
                joint = (side[-1] if outwards else side[0]) if side else (other[0] if outwards else other[-1])
            for along in range(joint.start, length) if outwards else range(joint.stop):
                yield from ((along, across) for across in line)

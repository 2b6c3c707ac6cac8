"""What a terminal sends when keys are pressed, as strokes of the PC keyboard.

Source: XTerm Control Sequences, "PC-Style Function Keys". A terminal tells characters, not keys: what goes down goes up
at once, and of Ctrl, Alt and Shift it says only what it can encode.
"""

import re

from ftvm.display.keyboard import character, chord
from ftvm.errors import UsageError

_ESCAPE = "\x1b"

_LETTERS = {
    "A": "up", "B": "down", "C": "right", "D": "left", "H": "home", "F": "end",
    "P": "f1", "Q": "f2", "R": "f3", "S": "f4",
}  # fmt: skip
_NUMBERS = {
    1: "home", 2: "insert", 3: "del", 4: "end", 5: "pageup", 6: "pagedown", 7: "home", 8: "end",
    11: "f1", 12: "f2", 13: "f3", 14: "f4", 15: "f5", 17: "f6", 18: "f7", 19: "f8", 20: "f9", 21: "f10",
    23: "f11", 24: "f12",
}  # fmt: skip

_SEQUENCE = re.compile(r"\x1b(?:O(?P<ss3>[A-Z])|\[(?P<numbers>[0-9;]{0,16})(?P<final>[A-Za-z~])|\[\[(?P<linux>[A-E]))")
_BEGINNING = re.compile(r"\x1b(?:O|\[\[?|\[[0-9;]{1,16})\Z")
"""Of a sequence whose rest may come with the next bytes."""


class TerminalKeys:
    """Makes strokes of what is typed. A sequence may come in several pieces; a lone escape at an end is that key."""

    def __init__(self) -> None:
        self._bytes = b""
        self._text = ""

    def feed(self, typed: bytes) -> list[bytes]:
        """The strokes (scan codes) that ``typed`` completes. What no key of a PC types is left out."""
        text = self._text + self._decode(typed)
        strokes = []
        at = 0
        while at < len(text):
            if _BEGINNING.match(text, at):
                break
            sequence = _SEQUENCE.match(text, at)
            if sequence is not None:
                at = sequence.end()
                stroke = _special(sequence)
            elif text[at] == _ESCAPE and at + 1 < len(text):
                stroke = _typed(text[at + 1], "alt")
                at += 2
            else:
                stroke = _typed(text[at])
                at += 1
            strokes.append(stroke)
        self._text = text[at:]
        return [stroke for stroke in strokes if stroke]

    def _decode(self, typed: bytes) -> str:
        """UTF-8, of which the end may be missing. Bytes that are none become characters that no key types."""
        data = self._bytes + typed
        for kept in range(min(3, len(data)) + 1):
            head = data[: len(data) - kept]
            try:
                text = head.decode()
            except UnicodeDecodeError:
                continue
            self._bytes = data[len(head) :]
            return text
        self._bytes = b""
        return data.decode(errors="replace")


def _typed(char: str, *held: str) -> bytes:
    try:
        if char == "\x7f":
            return chord(*held, "backspace")
        if char == "\0":
            return chord(*held, "ctrl", "space")
        if char < " " and char not in "\t\r\n\x1b":
            return character(chr(ord(char) | 0x40).lower(), *held, "ctrl")
        return character(char, *held)
    except UsageError:
        return b""


def _special(sequence: re.Match[str]) -> bytes:
    if sequence["linux"]:
        return chord(f"f{ord(sequence['linux']) - ord('A') + 1}")
    numbers = [int(number or 0) for number in (sequence["numbers"] or "").split(";")]
    final = sequence["ss3"] or sequence["final"]
    if final == "Z":
        return chord("shift", "tab")
    name = _NUMBERS.get(numbers[0]) if final == "~" else _LETTERS.get(final)
    if name is None:
        return b""
    modifiers = (numbers[1] - 1) & 0x07 if len(numbers) > 1 and numbers[1] else 0
    held = [key for bit, key in ((4, "ctrl"), (2, "alt"), (1, "shift")) if modifiers & bit]
    return chord(*held, name)

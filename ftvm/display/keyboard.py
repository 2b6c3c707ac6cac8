"""A PC keyboard by the names of its keys: what a person types, as scan codes of set 1 (US layout)."""

import re

from ftvm.errors import UsageError

MAX_STROKES = 2000
"""Of one text."""

_RELEASE = 0x80
_EXTENDED = 0xE0

_ROWS = {0x02: "1234567890-=", 0x10: "qwertyuiop[]", 0x1E: "asdfghjkl;'`", 0x2B: "\\zxcvbnm,./", 0x39: " "}
_SHIFTED = {0x02: "!@#$%^&*()_+", 0x10: "QWERTYUIOP{}", 0x1E: 'ASDFGHJKL:"~', 0x2B: "|ZXCVBNM<>?"}

_PLAIN = {key: bytes([first + place]) for first, row in _ROWS.items() for place, key in enumerate(row)}
_WITH_SHIFT = {key: bytes([first + place]) for first, row in _SHIFTED.items() for place, key in enumerate(row)}

_NAMED = {
    "esc": b"\x01",
    "backspace": b"\x0e",
    "tab": b"\x0f",
    "enter": b"\x1c",
    "ctrl": b"\x1d",
    "shift": b"\x2a",
    "alt": b"\x38",
    "space": b"\x39",
    "capslock": b"\x3a",
    **{f"f{number}": bytes([0x3A + number]) for number in range(1, 11)},
    "f11": b"\x57",
    "f12": b"\x58",
    "numlock": b"\x45",
    "scrolllock": b"\x46",
    "home": b"\xe0\x47",
    "up": b"\xe0\x48",
    "pageup": b"\xe0\x49",
    "left": b"\xe0\x4b",
    "right": b"\xe0\x4d",
    "end": b"\xe0\x4f",
    "down": b"\xe0\x50",
    "pagedown": b"\xe0\x51",
    "insert": b"\xe0\x52",
    "del": b"\xe0\x53",
    "win": b"\xe0\x5b",
    "menu": b"\xe0\x5d",
}
_OTHER_NAMES = {"escape": "esc", "return": "enter", "delete": "del", "pgup": "pageup", "pgdn": "pagedown"}
_CONTROL = {"\n": "enter", "\r": "enter", "\t": "tab", "\b": "backspace", "\x1b": "esc"}

NAMES = tuple(sorted(_NAMED))
"""Of the keys that are no characters."""

_HINT = "give characters of a US keyboard, {enter}, {f1}, {ctrl-c}, {left:down}, {left:up}; {{ and }} are the braces"

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]+)\}|([^{}])", re.DOTALL)


def strokes(text: str) -> list[bytes]:
    """What ``text`` is when it is typed, key by key: scan codes of all that go down and up for one.

    ``{enter}`` is a key by its name, ``{ctrl-alt-del}`` several that are held together, ``{left:down}`` one that stays
    down until ``{left:up}``; ``{{`` and ``}}`` are braces. Raises UsageError for what this keyboard cannot type.
    """
    typed = []
    at = 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            raise UsageError(f"a lone {text[at]!r} in the keys {_short(text)!r}", _HINT)
        if token[1] is not None:
            names, colon, half = token[1].rpartition(":")
            if colon and names and half in ("down", "up"):
                typed.append(halves(chord(*_names(names)))[half == "up"])
            else:
                typed.append(chord(*_names(token[1])))
        else:
            typed.append(character(token[2] or token[0][0]))
        if len(typed) > MAX_STROKES:
            raise UsageError(f"more than {MAX_STROKES} keys", "send them in pieces, as fast as the guest takes them")
        at = token.end()
    return typed


def character(char: str, *held: str) -> bytes:
    """The stroke that types one character, while the keys ``held`` (names) are down. Raises UsageError."""
    if char in _CONTROL:
        return chord(*held, _CONTROL[char])
    if char in _PLAIN:
        return _press(*(_NAMED[name] for name in held), _PLAIN[char])
    if char in _WITH_SHIFT:
        return _press(*(_NAMED[name] for name in held), _NAMED["shift"], _WITH_SHIFT[char])
    raise UsageError(f"no key of this keyboard types {char!r}", _HINT)


def chord(*names: str) -> bytes:
    """Keys by name or as characters go down in this order, and up in the reverse one. Raises UsageError."""
    return _press(*(_code(name) for name in names))


def halves(stroke: bytes) -> tuple[bytes, bytes]:
    """The codes of a stroke's keys going down, and those of its keys going up, which are as many."""
    middle = len(stroke) // 2
    return stroke[:middle], stroke[middle:]


def _names(text: str) -> list[str]:
    """``ctrl-c`` is two names; ``ctrl--`` and ``-`` have the key of that character at their end."""
    if text == "-" or text.endswith("--"):
        return [*text[:-2].split("-"), "-"] if len(text) > 1 else ["-"]
    return text.split("-")


def _code(name: str) -> bytes:
    lower = _OTHER_NAMES.get(name.lower(), name.lower())
    code = _NAMED.get(lower) or _PLAIN.get(lower)
    if code is None:
        raise UsageError(f"no key is called {_short(name)!r}", f"keys: {', '.join(NAMES)}, and single characters")
    return code


def _press(*codes: bytes) -> bytes:
    return b"".join(codes) + b"".join(_up(code) for code in reversed(codes))


def _up(code: bytes) -> bytes:
    return code[:-1] + bytes([code[-1] | _RELEASE])


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}..."

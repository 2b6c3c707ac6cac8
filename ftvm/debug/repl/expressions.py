"""Numbers as a user of the REPL writes them: ``main+0x10``, ``rsp``, ``[rsp+8]``, ``20M``.

A name is a symbol, or else a register; with ``$`` before it, always a register. Square brackets read the word at an
address. Operators are those of C, on integers.
"""

import re
from collections.abc import Callable
from typing import NoReturn

from ftvm.errors import UsageError

MAX_LENGTH = 500
MAX_DEPTH = 40
_BITS = 64

_TOKEN = re.compile(
    r"\s*(?:(?P<number>0[xX][0-9A-Fa-f_]+|0[bB][01_]+|[0-9][0-9_]*[kKmMgG]?(?![\w.]))"
    r"|(?P<name>[$]?[A-Za-z_.@?][\w.$@?]*)|(?P<operator><<|>>|[-+*/%&|^~()\[\]]))"
)
_SUFFIX = {"k": 1000, "m": 1_000_000, "g": 1_000_000_000}
_BINARY: tuple[tuple[str, ...], ...] = (("|",), ("^",), ("&",), ("<<", ">>"), ("+", "-"), ("*", "/", "%"))
"""Operators from the loosest to the tightest."""


class _Parser:
    def __init__(self, text: str, name: Callable[[str], int], read: Callable[[int], int]) -> None:
        self._text = text
        self._name = name
        self._read = read
        self._at = 0
        self._depth = 0
        self._token: tuple[str, str] | None = None
        self._advance()

    def parse(self) -> int:
        value = self._level(0)
        if self._token is not None:
            self._fail(f"{self._token[1]!r} makes no sense there")
        return value

    def _fail(self, why: str) -> NoReturn:
        raise UsageError(f"{self._text!r} is no address or number: {why}", "for example main+0x10, rsp, [rsp+8], 20M")

    def _advance(self) -> None:
        if not self._text[self._at :].strip():
            self._token = None
            return
        match = _TOKEN.match(self._text, self._at)
        if match is None:
            self._fail(f"{self._text[self._at :].strip()[:20]!r} is not understood")
        self._at = match.end()
        kind = match.lastgroup
        assert kind is not None
        self._token = (kind, match[kind])

    def _take(self, *operators: str) -> str | None:
        if self._token is not None and self._token[0] == "operator" and self._token[1] in operators:
            operator = self._token[1]
            self._advance()
            return operator
        return None

    def _level(self, level: int) -> int:
        if level == len(_BINARY):
            return self._unary()
        value = self._level(level + 1)
        while (operator := self._take(*_BINARY[level])) is not None:
            value = self._apply(operator, value, self._level(level + 1))
        return value

    def _apply(self, operator: str, left: int, right: int) -> int:
        if operator in ("/", "%") and right == 0:
            self._fail("a division by zero")
        if operator in ("<<", ">>") and not 0 <= right < _BITS:
            self._fail(f"a shift by {right}")
        match operator:
            case "|":
                return left | right
            case "^":
                return left ^ right
            case "&":
                return left & right
            case "<<":
                return left << right
            case ">>":
                return left >> right
            case "+":
                return left + right
            case "-":
                return left - right
            case "*":
                return left * right
            case "/":
                return left // right
            case _:
                return left % right

    def _unary(self) -> int:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._fail("it is nested too deeply")
        try:
            if self._take("-"):
                return -self._unary()
            if self._take("~"):
                return ~self._unary()
            if self._take("+"):
                return self._unary()
            return self._primary()
        finally:
            self._depth -= 1

    def _primary(self) -> int:
        for opening, closing in (("(", ")"), ("[", "]")):
            if self._take(opening):
                value = self._level(0)
                if not self._take(closing):
                    self._fail(f"a {closing!r} is missing")
                return value if opening == "(" else self._read(value % (1 << _BITS))
        if self._token is None:
            self._fail("it ends too early")
        kind, text = self._token
        if kind == "operator":
            self._fail(f"{text!r} makes no sense there")
        self._advance()
        return self._number(text) if kind == "number" else self._name(text)

    def _number(self, text: str) -> int:
        digits, factor = text.replace("_", ""), 1
        if digits[:2].lower() not in ("0x", "0b") and digits[-1].lower() in _SUFFIX:
            digits, factor = digits[:-1], _SUFFIX[digits[-1].lower()]
        try:
            return int(digits, 0 if digits[:2].lower() in ("0x", "0b") else 10) * factor
        except ValueError:
            self._fail(f"{text!r} is no number")


def evaluate(text: str, name: Callable[[str], int], read: Callable[[int], int]) -> int:
    """What ``text`` means, as an unsigned 64-bit number; ``name`` gives the values of names (``$rax``, ``main``),
    ``read`` the word at an address. Raises UsageError, and what those two raise."""
    if len(text) > MAX_LENGTH:
        raise UsageError(f"an expression of {len(text)} characters", f"at most {MAX_LENGTH} are understood")
    return _Parser(text, name, read).parse() % (1 << _BITS)

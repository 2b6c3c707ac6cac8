"""Addresses and numbers as users write them."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.debug.repl.expressions import MAX_LENGTH, evaluate
from ftvm.errors import UsageError

NAMES = {"main": 0x1000, "$rax": 7, "cs.base": 0x20, "helper.part.0": 0x3000, "rip": 0x1010}


def value(text: str) -> int:
    def name(word: str) -> int:
        if word not in NAMES:
            raise UsageError(f"no symbol is called {word!r}")
        return NAMES[word]

    return evaluate(text, name, lambda address: address * 2)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0", 0),
        ("0x1F", 31),
        ("0b101", 5),
        ("1_000", 1000),
        ("20M", 20_000_000),
        ("50k", 50_000),
        ("main", 0x1000),
        ("main+0x10", 0x1010),
        ("cs.base + rip", 0x1030),
        ("helper.part.0-1", 0x2FFF),
        ("$rax*2+1", 15),
        ("1+2*3", 7),
        ("(1+2)*3", 9),
        ("-1", (1 << 64) - 1),
        ("~0 >> 60", (1 << 64) - 1),
        ("[main]", 0x2000),
        ("[main+8]+[2]", 0x2014),
        ("7/2 + 7%4", 6),
        ("6|1^3&2", 7),
        ("1 << 4", 16),
        (" 1 ", 1),
        ("+5", 5),
    ],
)
def test_they_are_understood_as_in_c(text: str, wanted: int) -> None:
    assert value(text) == wanted


NONSENSE = ["", " ", "1+", "(1", "[1", "1)", "a b", "1 2", "0x", "12abc", "nosuch", "1/0", "1%0", "1<<64", "'a'"]


@pytest.mark.parametrize("text", NONSENSE)
def test_nonsense_is_an_error_that_shows_it(text: str) -> None:
    with pytest.raises(UsageError) as error:
        value(text)
    assert "\n" not in error.value.message


def test_long_and_deep_ones_are_refused() -> None:
    for text in ("1+" * MAX_LENGTH + "1", "(" * 200 + "1" + ")" * 200, "-" * 200 + "1", "[" * 45 + "1" + "]" * 45):
        with pytest.raises(UsageError):
            value(text)


@given(st.text(st.sampled_from("0123456789abcdefxXkMG+-*/%&|^~()[]<>$._ \\'\"é"), max_size=40) | st.text(max_size=40))
def test_any_text_is_a_number_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert 0 <= value(text) < 1 << 64

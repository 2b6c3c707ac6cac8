"""Keys by name and as terminals send them: what arrives is what a PC keyboard sends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.display.keyboard import MAX_STROKES, NAMES, chord, strokes
from ftvm.display.terminal_keys import TerminalKeys
from ftvm.errors import UsageError
from ftvm.module.chips.i8042 import DATA, I8042, MAX_KEYS

ECHO_KEYS = "1234567890-=qwertyuiop[]asdfghjkl;'`\\zxcvbnm,./ "


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("a", "1e9e"),
        ("A", "2a1e9eaa"),
        ("ab", "1e9e30b0"),
        ("{enter}", "1c9c"),
        ("\n", "1c9c"),
        ("{Up}", "e048e0c8"),
        ("{ctrl-c}", "1d2eae9d"),
        ("{ctrl-alt-del}", "1d38e053e0d3b89d"),
        ("{alt-f2}", "383cbcb8"),
        ("{{}}", "2a1a9aaa2a1b9baa"),
        ("{ctrl--}", "1d0c8c9d"),
        ("{-}", "0c8c"),
        ("{ctrl-left:down}x{ctrl-left:up}", "1de04b2dade0cb9d"),
        ("{;}", "27a7"),
        ("", ""),
    ],
)
def test_text_and_names_become_scan_codes(text: str, codes: str) -> None:
    assert b"".join(strokes(text)).hex() == codes


@pytest.mark.parametrize(
    "text", ["{", "}", "{}", "{nokey}", "a{ctrl-}", "{{}", "ä", "\x07", "{ctrl-ab}", "}{", "{left:}", "{:down}"]
)
def test_what_the_keyboard_cannot_type_is_an_error_with_a_hint(text: str) -> None:
    with pytest.raises(UsageError) as error:
        strokes(text)
    assert error.value.hint
    assert "\n" not in error.value.message


def test_a_text_that_is_too_long_is_refused() -> None:
    strokes("x" * MAX_STROKES)
    with pytest.raises(UsageError, match="more than"):
        strokes("x" * (MAX_STROKES + 1))


@given(st.lists(st.sampled_from([*ECHO_KEYS, *ECHO_KEYS.upper(), "{", "}", "-", "ü", *NAMES])))
def test_any_text_becomes_strokes_that_release_all_keys_or_an_error(pieces: list[str]) -> None:
    try:
        typed = strokes("".join(pieces))
    except UsageError:
        return
    for stroke in typed:
        codes = stroke.replace(b"\xe0", b"")
        assert sorted(code | 0x80 for code in codes if code < 0x80) == sorted(code for code in codes if code >= 0x80)


@pytest.mark.parametrize("translated", [True, False])
def test_the_controller_makes_the_same_scan_codes_of_every_key_again(translated: bool) -> None:
    chip = I8042(lambda level: None, lambda level: None, lambda: None)
    if not translated:  # the guest asks the keyboard itself for set 1
        chip.write(4, 1, 0x60)
        chip.write(DATA, 1, 0x04)
        for byte in (0xF0, 0x01):
            chip.write(DATA, 1, byte)
            assert chip.read(DATA, 1) == 0xFA
    for name in NAMES:
        stroke = chord(name)
        chip.press(stroke)
        assert bytes(chip.read(DATA, 1) for _ in stroke) == stroke, name


def test_a_full_keyboard_drops_whole_strokes() -> None:
    chip = I8042(lambda level: None, lambda level: None, lambda: None)
    for _ in range(MAX_KEYS):
        chip.press(b"\x1e\x9e")
    assert len(chip.state.keys) <= MAX_KEYS
    got = []
    while chip.read(4, 1) & 1:
        got.append(chip.read(DATA, 1))
    assert len(got) > 1000
    assert bytes(got) == b"\x1e\x9e" * (len(got) // 2)


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        (b"a", "a"),
        (b"A?", "A?"),
        (b"\r", "{enter}"),
        (b"\x7f", "{backspace}"),
        (b"\x1b", "{esc}"),
        (b"\t", "{tab}"),
        (b"\x03", "{ctrl-c}"),
        (b"\x1bx", "{alt-x}"),
        (b"\x1b[A\x1b[B\x1b[C\x1b[D", "{up}{down}{right}{left}"),
        (b"\x1bOA\x1bOP", "{up}{f1}"),
        (b"\x1b[5~\x1b[3~\x1b[24~", "{pageup}{del}{f12}"),
        (b"\x1b[1;5C\x1b[3;2~", "{ctrl-right}{shift-del}"),
        (b"\x1b[Z", "{shift-tab}"),
        (b"\x1b[[B", "{f2}"),
        ("ä".encode() + b"b\xff", "b"),
        (b"\x1b[99~z", "z"),
    ],
)
def test_what_terminals_send_becomes_the_key_that_was_pressed(typed: bytes, text: str) -> None:
    assert TerminalKeys().feed(typed) == strokes(text)


def test_sequences_and_characters_may_come_in_pieces() -> None:
    keys = TerminalKeys()
    assert keys.feed(b"\x1b[1;") == []
    assert keys.feed(b"5A") == strokes("{ctrl-up}")
    assert keys.feed("ä".encode()[:1]) == []
    assert keys.feed("ä".encode()[1:] + b"b") == strokes("b")


@given(st.lists(st.binary(max_size=12)))
def test_no_bytes_from_a_terminal_upset_it(pieces: list[bytes]) -> None:
    keys = TerminalKeys()
    for piece in pieces:
        for stroke in keys.feed(piece):
            assert stroke
    assert len(keys._text) + len(keys._bytes) < 32, "nothing piles up"

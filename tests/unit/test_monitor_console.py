"""The I/O half of the console: what is shown, and when input is offered."""

import pytest

from ftvm.errors import UsageError
from ftvm.module.events import ConsoleIn, ConsoleOut, KeyboardIn
from ftvm.monitor.console import INPUT_BYTES, MAX_STROKES, Console


def test_output_goes_to_the_callback_with_its_channel() -> None:
    shown: list[tuple[str, bytes]] = []
    console = Console(lambda channel, data: shown.append((channel, data)))
    console.release(ConsoleOut("serial", b"a"))
    console.release(ConsoleOut("debug", b"b"))
    assert shown == [("serial", b"a"), ("debug", b"b")]


def test_without_a_callback_output_is_dropped() -> None:
    Console(None).release(ConsoleOut("serial", b"a"))


def test_typed_bytes_are_taken_together_in_order() -> None:
    console = Console(None)
    console.send(b"a")
    console.send(b"b")
    assert console.take() == [ConsoleIn(b"ab")]


def test_long_input_is_taken_in_parts_and_nothing_is_lost() -> None:
    data = bytes(range(256)) * 1000
    console = Console(None)
    console.send(data)
    console.send(b"end")
    taken = b""
    while console.pending():
        (part,) = console.take()
        assert len(part.data) <= INPUT_BYTES
        taken += part.data
    assert taken == data + b"end"


def test_strokes_are_taken_one_by_one_after_the_bytes() -> None:
    console = Console(None)
    console.press([b"\x1e\x9e", b"\x1c\x9c"])
    console.send(b"a")
    assert console.pending()
    assert console.keys_waiting() == [KeyboardIn(b"\x1e\x9e"), KeyboardIn(b"\x1c\x9c")]
    assert console.take() == [ConsoleIn(b"a"), KeyboardIn(b"\x1e\x9e"), KeyboardIn(b"\x1c\x9c")]
    assert not console.pending()


def test_more_strokes_than_a_keyboard_takes_are_refused_and_none_of_them_kept() -> None:
    console = Console(None)
    console.press([b"\x1e\x9e"] * MAX_STROKES)
    with pytest.raises(UsageError):
        console.press([b"\x1e\x9e"])
    assert len(console.take()) == MAX_STROKES

"""The I/O half of the console: what is shown, and when input is offered."""

import msgspec
import pytest

from ftvm.errors import UsageError
from ftvm.module.chips.uart import WIRE_BYTES
from ftvm.module.events import ConsoleIn, ConsoleOut, KeyboardIn
from ftvm.monitor.console import MAX_STROKES, Console


def board(wire_bytes: int) -> bytes:
    """The saved state of a board whose terminal has so many bytes to send."""
    return msgspec.msgpack.encode({"pit": {"counters": []}, "uart": {"ier": 0, "wire": bytes(wire_bytes)}})


def empty() -> bytes:
    return board(0)


def test_output_goes_to_the_callback_with_its_channel() -> None:
    shown: list[tuple[str, bytes]] = []
    console = Console(lambda channel, data: shown.append((channel, data)), empty)
    console.release(ConsoleOut("serial", b"a"))
    console.release(ConsoleOut("debug", b"b"))
    assert shown == [("serial", b"a"), ("debug", b"b")]


def test_without_a_callback_output_is_dropped() -> None:
    Console(None, empty).release(ConsoleOut("serial", b"a"))


def test_typed_bytes_are_taken_together_in_order() -> None:
    console = Console(None, empty)
    console.send(b"a")
    console.send(b"b")
    assert console.take() == [ConsoleIn(b"ab")]


def test_long_input_is_taken_as_the_guest_reads_and_nothing_is_lost() -> None:
    data = bytes(range(256)) * 1000
    verified = [empty()]
    console = Console(None, lambda: verified[0])
    console.send(data)
    console.send(b"end")
    taken = b""
    unread = 0
    while console.waiting():
        assert console.pending()
        for part in console.take():
            taken += part.data
            unread += len(part.data)
        assert unread <= WIRE_BYTES
        assert not (console.waiting() and console.pending()), "the terminal is full"
        unread //= 2  # the guest reads
        verified[0] = board(unread)
    assert taken == data + b"end"


def test_strokes_are_taken_one_by_one_after_the_bytes() -> None:
    console = Console(None, empty)
    console.press([b"\x1e\x9e", b"\x1c\x9c"])
    console.send(b"a")
    assert console.pending()
    assert console.keys_waiting() == [KeyboardIn(b"\x1e\x9e"), KeyboardIn(b"\x1c\x9c")]
    assert console.take() == [ConsoleIn(b"a"), KeyboardIn(b"\x1e\x9e"), KeyboardIn(b"\x1c\x9c")]
    assert not console.pending()


def test_more_strokes_than_a_keyboard_takes_are_refused_and_none_of_them_kept() -> None:
    console = Console(None, empty)
    console.press([b"\x1e\x9e"] * MAX_STROKES)
    with pytest.raises(UsageError):
        console.press([b"\x1e\x9e"])
    assert len(console.take()) == MAX_STROKES


def test_a_full_terminal_takes_nothing() -> None:
    console = Console(None, lambda: board(WIRE_BYTES))
    console.send(b"a")
    assert not console.pending()
    assert console.take() == []
    assert console.waiting() == b"a"

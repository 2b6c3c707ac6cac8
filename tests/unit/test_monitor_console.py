"""The I/O half of the console: what is shown, and when input is offered."""

from ftvm.module.events import ConsoleIn, ConsoleOut
from ftvm.monitor.console import INPUT_BYTES, Console


def test_output_goes_to_the_callback_with_its_channel() -> None:
    shown: list[tuple[str, bytes]] = []
    console = Console(lambda channel, data: shown.append((channel, data)))
    console.release(ConsoleOut("serial", b"a"))
    console.release(ConsoleOut("debug", b"b"))
    assert shown == [("serial", b"a"), ("debug", b"b")]


def test_without_a_callback_output_is_dropped() -> None:
    Console(None).release(ConsoleOut("serial", b"a"))


def test_a_script_is_offered_at_the_start_and_once() -> None:
    console = Console(None, b"ls\n")
    assert console.pending()
    assert console.take() == [ConsoleIn(b"ls\n")]
    assert not console.pending()
    assert console.take() == []


def test_a_script_waits_for_its_text_even_when_it_comes_in_pieces() -> None:
    console = Console(None, b"ls\n", b"login:")
    for piece in (b"Welcome\nlo", b"gi", b"n", b" log"):
        console.release(ConsoleOut("serial", piece))
        assert not console.pending()
    console.release(ConsoleOut("debug", b"login:"))
    assert not console.pending(), "the text counts on the serial port only"
    console.release(ConsoleOut("serial", b"in: "))
    assert console.take() == [ConsoleIn(b"ls\n")]
    console.release(ConsoleOut("serial", b"login: "))
    assert not console.pending()


def test_typed_bytes_are_taken_together_in_order() -> None:
    console = Console(None)
    console.send(b"a")
    console.send(b"b")
    assert console.take() == [ConsoleIn(b"ab")]


def test_long_input_is_taken_in_parts_and_nothing_is_lost() -> None:
    data = bytes(range(256)) * 1000
    console = Console(None, data)
    console.send(b"end")
    taken = b""
    while console.pending():
        (part,) = console.take()
        assert len(part.data) <= INPUT_BYTES
        taken += part.data
    assert taken == data + b"end"

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

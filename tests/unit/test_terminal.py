"""The terminal as a console: which keys are the guest's, and that its mode comes back."""

import os
import pty
import termios
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.terminal import Command, KeyFilter, RawTerminal, in_foreground


@given(st.binary().filter(lambda typed: b"\x01" not in typed))
def test_every_key_but_the_prefix_is_the_guest_s(typed: bytes) -> None:
    assert KeyFilter().feed(typed) == (typed, [])


@pytest.mark.parametrize(
    ("typed", "for_guest", "commands"),
    [
        (b"\x01x", b"", [Command.QUIT]),
        (b"\x01h", b"", [Command.HELP]),
        (b"\x01\x01", b"\x01", []),
        (b"\x01\x01x", b"\x01x", []),
        (b"ls\r\x01h\x03\x01x", b"ls\r\x03", [Command.HELP, Command.QUIT]),
        (b"\x01qx", b"x", []),
    ],
)
def test_the_prefix_makes_the_next_key_ours(typed: bytes, for_guest: bytes, commands: list[Command]) -> None:
    assert KeyFilter().feed(typed) == (for_guest, commands)
    one_by_one = KeyFilter()
    parts = [one_by_one.feed(bytes([key])) for key in typed]
    assert b"".join(data for data, _ in parts) == for_guest
    assert [command for _, asked in parts for command in asked] == commands


@pytest.fixture
def terminal() -> Iterator[int]:
    controller, fd = pty.openpty()
    yield fd
    os.close(fd)
    os.close(controller)


def test_raw_mode_passes_control_keys_and_does_not_echo(terminal: int) -> None:
    with RawTerminal(terminal):
        flags = termios.tcgetattr(terminal)[3]
        assert not flags & (termios.ECHO | termios.ICANON | termios.ISIG)


def test_the_old_mode_is_back_after_an_exception(terminal: int) -> None:
    before = termios.tcgetattr(terminal)
    with pytest.raises(KeyboardInterrupt), RawTerminal(terminal):
        assert termios.tcgetattr(terminal) != before
        raise KeyboardInterrupt
    assert termios.tcgetattr(terminal) == before


def test_a_pipe_needs_no_mode() -> None:
    reader, writer = os.pipe()
    with RawTerminal(reader):
        os.write(writer, b"x")
        assert os.read(reader, 1) == b"x"
    os.close(reader)
    os.close(writer)


def test_only_a_terminal_without_job_control_or_with_us_in_front_is_ours(terminal: int) -> None:
    assert in_foreground(terminal)
    reader, writer = os.pipe()
    assert not in_foreground(reader)
    os.close(reader)
    os.close(writer)


def test_a_background_job_leaves_the_terminal_alone() -> None:
    child, controller = pty.fork()
    if child == 0:  # leads a session of its own on a new terminal; its child is a job that was never brought to front
        job = os.fork()
        if job == 0:
            os.setpgid(0, 0)
            os._exit(int(in_foreground(0)))
        in_front = in_foreground(0)
        in_background = os.waitstatus_to_exitcode(os.waitpid(job, 0)[1])
        os._exit(int(in_front and not in_background))
    status = os.waitpid(child, 0)[1]
    os.close(controller)
    assert os.waitstatus_to_exitcode(status) == 1

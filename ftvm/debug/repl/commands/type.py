"""``type``: text for the guest's serial console."""

import codecs

import click

from ftvm.debug.repl.desk import Desk
from ftvm.errors import UsageError


@click.command("type")
@click.argument("text")
@click.option("-n", "--no-enter", is_flag=True, help="Without the Enter key at its end.")
@click.pass_obj
def command(desk: Desk, text: str, no_enter: bool) -> None:
    r"""Type TEXT and Enter on the serial console.

    The guest gets it when it runs on. \n, \t, \x03 and their like are understood.

    \b
    Example:
      type "ls /proc"
      type --no-enter "\x03"
    """
    desk.leave_past()
    desk.machine.send_console(unescaped(text) + (b"" if no_enter else b"\r"))


def unescaped(text: str) -> bytes:
    r"""``\n`` and its like are what they are in Python. Raises UsageError."""
    try:
        return codecs.escape_decode(text.encode())[0]
    except ValueError as error:
        raise UsageError(f"{text!r}: {error}", r"a backslash is written \\") from None

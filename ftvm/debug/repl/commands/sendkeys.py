"""``sendkeys``: keys of the PS/2 keyboard."""

import click

from ftvm.debug.repl.desk import Desk
from ftvm.debug.repl.parameters import KEYS


@click.command("sendkeys")
@click.argument("keys", type=KEYS)
@click.pass_obj
def command(desk: Desk, keys: str) -> None:
    """Type KEYS on the PS/2 keyboard; the guest gets them when it runs on. Names stand in braces.

    \b
    Example:
      sendkeys "root{enter}"
      sendkeys "{ctrl-alt-del}"
    """
    desk.leave_past()
    desk.machine.send_keys(keys)

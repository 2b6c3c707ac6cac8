"""``status``: the machine and all its parts."""

import click

from ftvm.control.describe import describe
from ftvm.debug.repl.desk import Desk


@click.command("status")
@click.pass_obj
def command(desk: Desk) -> None:
    """Show the state of the machine, of its modules, disks and NICs, and where it stands.

    \b
    Example:
      status
    """
    desk.out.line(desk.here())
    desk.out.lines(describe(desk.machine.status()))

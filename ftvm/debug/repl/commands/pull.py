"""``pull``: a module or a leg leaves."""

import click

from ftvm.control.verbs import Target
from ftvm.debug.repl.desk import Desk
from ftvm.debug.repl.parameters import TARGET


@click.command("pull")
@click.argument("target", type=TARGET)
@click.pass_obj
def command(desk: Desk, target: Target) -> None:
    """Take TARGET out of service; the machine goes on with the others.

    TARGET is the number of a module, or a leg of a disk or NIC.

    \b
    Example:
      pull 1
      pull disk0.1
    """
    if isinstance(target, int):
        desk.check_module(target)  # before anything is forgotten
    desk.leave_past()
    desk.machine.pull(target)

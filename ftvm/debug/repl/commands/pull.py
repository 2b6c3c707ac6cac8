"""``pull``: a module leaves."""

import click

from ftvm.debug.repl.desk import Desk
from ftvm.debug.repl.parameters import MODULE


@click.command("pull")
@click.argument("module", type=MODULE)
@click.pass_obj
def command(desk: Desk, module: int) -> None:
    """Take MODULE out of service; the machine goes on with the others.

    \b
    Example:
      pull 1
    """
    desk.leave_past()
    desk.machine.pull(module)

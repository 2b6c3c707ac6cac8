"""``insert``: a module comes back."""

import click

from ftvm.debug.repl.desk import Desk
from ftvm.debug.repl.parameters import MODULE


@click.command("insert")
@click.argument("module", type=MODULE)
@click.pass_obj
def command(desk: Desk, module: int) -> None:
    """Begin to bring MODULE back into service; it joins the others while the machine runs.

    \b
    Example:
      insert 1
    """
    desk.leave_past()
    desk.machine.insert(module)
    desk.out.line(f"module {module} is filled while the machine runs: continue")

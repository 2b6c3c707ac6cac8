"""``insert``: a module or a leg comes back."""

import click

from ftvm.control.verbs import Target
from ftvm.debug.repl.desk import Desk
from ftvm.debug.repl.parameters import TARGET


@click.command("insert")
@click.argument("target", type=TARGET)
@click.pass_obj
def command(desk: Desk, target: Target) -> None:
    """Begin to bring TARGET back into service.

    TARGET is the number of a module, or a leg of a disk or NIC. It joins the others while the machine runs.

    \b
    Example:
      insert 1
      insert disk0.1
    """
    if isinstance(target, int):
        desk.check_module(target)  # before anything is forgotten
    desk.leave_past()
    desk.machine.insert(target)
    desk.out.line(f"{target} is filled while the machine runs: continue")

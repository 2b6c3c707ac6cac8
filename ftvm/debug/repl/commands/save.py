"""``save``: the machine in a file."""

import shlex
from pathlib import Path

import click

from ftvm.debug.repl.desk import Desk
from ftvm.debug.repl.parameters import FILE


@click.command("save")
@click.argument("file", type=FILE)
@click.pass_obj
def command(desk: Desk, file: Path) -> None:
    """Save the machine, in the state that all modules agreed on last, to FILE.

    \b
    Example:
      save here.save
    """
    desk.machine.save(file)
    desk.out.line(f"saved; to go on from there: ftvm resume {shlex.quote(str(file))}")

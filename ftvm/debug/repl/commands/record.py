"""``record``: the run in a file, from here on."""

import shlex
from pathlib import Path

import click

from ftvm.debug.repl.desk import Desk
from ftvm.debug.repl.parameters import FILE


@click.command("record")
@click.argument("file", type=FILE)
@click.pass_obj
def command(desk: Desk, file: Path) -> None:
    """Record the run in FILE from here on, until the session ends.

    'ftvm replay FILE' repeats it, and 'ftvm repl --replay FILE' goes back and forth in it.

    \b
    Example:
      record shell.rec
    """
    desk.leave_past()
    desk.machine.record(file)
    desk.out.line(f"recording; to repeat it: ftvm replay {shlex.quote(str(file))}")

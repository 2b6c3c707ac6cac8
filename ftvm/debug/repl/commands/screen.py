"""``screen``: the text screen."""

import click

from ftvm.debug.repl.desk import Desk


@click.command("screen")
@click.pass_obj
def command(desk: Desk) -> None:
    """Show the VGA's text screen.

    \b
    Example:
      screen
    """
    desk.out.lines(line.rstrip() for line in desk.machine.screen().lines())

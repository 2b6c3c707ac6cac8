"""``quit``: the end of the session, and of the machine."""

import click

from ftvm.debug.repl.desk import Desk, Leave

ALIASES = ("exit", "q")


@click.command("quit")
@click.pass_obj
def command(desk: Desk) -> None:
    """Leave, and end the machine; 'save FILE' keeps it.

    \b
    Example:
      quit
    """
    raise Leave

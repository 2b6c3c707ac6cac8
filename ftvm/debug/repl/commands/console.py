"""``console``: what the guest said."""

import click

from ftvm.debug.repl.desk import Desk


@click.command("console")
@click.option("-n", "--lines", default=25, show_default=True, type=click.IntRange(1), help="The last lines.")
@click.pass_obj
def command(desk: Desk, lines: int) -> None:
    """Show again what the guest wrote to its consoles last.

    \b
    Example:
      console
      console -n 100
    """
    text = desk.machine.console.decode(errors="replace").replace("\r\n", "\n")
    desk.out.lines(text.splitlines()[-lines:])

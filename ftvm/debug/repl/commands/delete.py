"""``delete``: no more of this breakpoint or watch."""

import click

from ftvm.debug.repl.desk import Desk


@click.command("delete")
@click.argument("number", required=False, type=click.IntRange(1))
@click.pass_obj
def command(desk: Desk, number: int | None) -> None:
    """Take breakpoint or watch NUMBER away, or all of them.

    \b
    Example:
      delete 1
      delete
    """
    if number is None:
        desk.points.clear()
    else:
        desk.points.delete(number)

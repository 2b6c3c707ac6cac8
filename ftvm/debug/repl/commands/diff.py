"""``diff``: in what the modules differ."""

import click
from rich.text import Text

from ftvm.debug.repl.desk import Desk
from ftvm.debug.repl.output import DIFFERS, Cell
from ftvm.monitor.compare import Value

MAX_SHOWN = 100
SHOWN_BYTES = 16


@click.command("diff")
@click.pass_obj
def command(desk: Desk) -> None:
    """Show all in which the modules differ where they stand.

    These are registers, chips, and memory that was written since they agreed last. At a sync point they are alike;
    'goto fault' brings them to where they were not.

    \b
    Example:
      diff
    """
    views = desk.modules()
    differences = desk.session.differences()
    rows: list[list[Cell]] = [
        [f"{each.kind} {each.where}", *(Text(_shown(value), style=DIFFERS) for value in each.values)]
        for each in differences[:MAX_SHOWN]
    ]
    desk.out.table(["WHAT", *(f"MODULE {view.index}" for view in views)], rows)
    if len(differences) > MAX_SHOWN:
        desk.out.line(f"and {len(differences) - MAX_SHOWN} more")
    if not rows:
        desk.out.line("the modules are alike" if len(views) > 1 else "one module differs from nobody")


def _shown(value: Value) -> str:
    match value:
        case int():
            return f"{value:#x}"
        case bytes():
            more = f" ... ({len(value)} bytes)" if len(value) > SHOWN_BYTES else ""
            return value[:SHOWN_BYTES].hex(" ") + more
        case str():
            return value

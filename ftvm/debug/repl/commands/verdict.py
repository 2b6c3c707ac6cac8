"""``verdict``: what the comparisons found, and who was blamed."""

import click

from ftvm.debug.repl.desk import Desk
from ftvm.errors import UsageError


@click.command("verdict")
@click.argument("number", required=False, type=click.IntRange(1))
@click.pass_obj
def command(desk: Desk, number: int | None) -> None:
    """List the divergences and losses so far and who was blamed, or explain NUMBER.

    \b
    Example:
      verdict
      verdict 1
    """
    incidents = desk.machine.incidents
    if number is not None:
        if number > len(incidents):
            raise UsageError(f"there is no divergence {number}", f"there are {len(incidents)} so far")
        desk.out.lines(desk.machine.explain(incidents[number - 1]).splitlines())
        return
    if not incidents:
        desk.out.line("the modules agreed at every sync point")
        return
    rows = []
    for index, incident in enumerate(incidents, 1):
        first = incident.divergence.differences[0]
        blamed = "nobody" if incident.module is None else f"module {incident.module}"
        took = "-" if incident.recovered_in_ms is None else f"{incident.recovered_in_ms:.1f} ms"
        position = f"{incident.divergence.verified:,}"
        rows.append([str(index), position, f"{first.kind} {first.where}", blamed, incident.verdict, took])
    desk.out.table(["", "AFTER POSITION", "FIRST DIFFERENCE", "BLAMED", "VERDICT", "RECOVERED IN"], rows, right=(1, 5))

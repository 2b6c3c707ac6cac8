"""``verdict``: what the comparisons found, and who was blamed."""

import click

from ftvm.debug.divergence.examine import Examination
from ftvm.debug.divergence.text import report_lines
from ftvm.debug.repl.desk import Desk
from ftvm.errors import UsageError


@click.command("verdict")
@click.argument("number", required=False, type=click.IntRange(1))
@click.pass_obj
def command(desk: Desk, number: int | None) -> None:
    """List the divergences and losses so far and who was blamed, or explain NUMBER.

    To explain one, its epoch is run again on two other modules: which instruction went wrong first, what became of it,
    and which output would have been wrong, as in the reports of 'ftvm explain'.

    \b
    Example:
      verdict
      verdict 1
    """
    episodes = desk.session.episodes
    if number is not None:
        if number > len(episodes):
            raise UsageError(f"there is no divergence {number}", f"there are {len(episodes)} so far")
        episode = episodes[number - 1]
        with desk.session.before(episode):
            report = Examination(desk.machine, desk.symbols).report(episode.incident)
        desk.out.lines(report_lines(number, report))
        return
    if not episodes:
        desk.out.line("the modules agreed at every sync point")
        return
    rows = []
    for index, episode in enumerate(episodes, 1):
        incident = episode.incident
        first = incident.divergence.differences[0]
        blamed = "nobody" if incident.module is None else f"module {incident.module}"
        took = "-" if incident.recovered_in_ms is None else f"{incident.recovered_in_ms:.1f} ms"
        position = f"{incident.divergence.verified:,}"
        rows.append([str(index), position, f"{first.kind} {first.where}", blamed, incident.verdict, took])
    desk.out.table(["", "AFTER POSITION", "FIRST DIFFERENCE", "BLAMED", "VERDICT", "RECOVERED IN"], rows, right=(1, 5))

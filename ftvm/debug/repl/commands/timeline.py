"""``timeline``: what has happened, in order."""

import click
from rich.text import Text

from ftvm.debug.repl.desk import Desk
from ftvm.debug.repl.output import HERE, Cell


@click.command("timeline")
@click.pass_obj
def command(desk: Desk) -> None:
    """Show the run so far: its begin, divergences, places with names, where you are, and the present.

    \b
    Example:
      timeline
    """
    session = desk.session
    checkpoints = session.checkpoints
    entries: list[tuple[int, int, str]] = [(checkpoints[0], 0, "the session began")]
    for index, episode in enumerate(session.episodes, 1):
        first = episode.incident.divergence.differences[0]
        what = f"divergence {index}: {first.kind} {first.where}; {episode.incident.verdict}"
        entries.append((episode.began.position, 0, f"the modules agreed for the last time before divergence {index}"))
        entries.append((episode.found, 0, what))
    entries += [(position, instruction, f"place {name!r}") for name, (position, instruction) in desk.places.items()]
    entries.append((session.present, 0, "the present"))
    entries.append((session.position, session.instruction, "you are here"))
    rows: list[list[Cell]] = []
    for position, instruction, text in sorted(entries):
        style = HERE if text == "you are here" else ""
        rows.append([Text(f"{position:,}", style=style), str(instruction or ""), Text(text, style=style)])
    desk.out.table(["POSITION", "+", ""], rows, right=(0,))
    desk.out.line(f"checkpoints that are kept: {len(checkpoints)}")

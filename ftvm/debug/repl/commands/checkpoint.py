"""``checkpoint``: a name for a place."""

import click

from ftvm.debug.repl.desk import Desk
from ftvm.errors import UsageError


@click.command("checkpoint")
@click.argument("name", required=False)
@click.pass_obj
def command(desk: Desk, name: str | None) -> None:
    """Call this place NAME, so that 'goto NAME' comes back to it; or list the names.

    \b
    Example:
      checkpoint before-the-fault
      goto before-the-fault
      checkpoint
    """
    session = desk.session
    if name is None:
        rows = [[each, f"{place[0]:,}", str(place[1])] for each, place in sorted(desk.places.items())]
        desk.out.table(["NAME", "POSITION", "INSTRUCTION"], rows, right=(1, 2))
        if not rows:
            desk.out.line("no place has a name")
        return
    if name in ("present", "fault") or not name[:1].isalpha():
        raise UsageError(f"{name!r} cannot be the name of a place", "begin with a letter; present and fault are taken")
    desk.places[name] = session.position, session.instruction
    desk.out.line(f"{name}: {desk.here()}")

"""``run``: the guest goes on."""

import click

from ftvm.debug.repl.desk import Desk
from ftvm.debug.repl.parameters import ADDRESS
from ftvm.errors import UsageError

ALIASES = ("continue", "c")


@click.command("run")
@click.argument("condition", metavar="[until position N | text TEXT]", nargs=-1, type=ADDRESS)
@click.option("-t", "--timeout", metavar="SECONDS", type=click.FloatRange(0, min_open=True), help="At most so long.")
@click.pass_obj
def command(desk: Desk, condition: tuple[str, ...], timeout: float | None) -> None:
    """Let the guest run.

    It runs to its end, to a position (+N: so many blocks from here), or until TEXT comes on its serial console. Ctrl-C
    stops it at the next sync point.

    \b
    Example:
      run
      run until text "~ # "
      run until position 20M
      run until position +1000
      continue --timeout 5
    """
    position, text = _condition(desk, condition)
    desk.run(position=position, text=text, timeout_s=timeout)


def _condition(desk: Desk, words: tuple[str, ...]) -> tuple[int | None, str | None]:
    match words:
        case ():
            return None, None
        case ("until", "text", text) | ("text", text):
            return None, text
        case ("until", "position", where) | ("position", where):
            relative = where.startswith("+")
            return desk.number(where) + (desk.machine.position if relative else 0), None
        case _:
            raise UsageError(f"{' '.join(words)!r} is no condition", "until position N, or until text TEXT")

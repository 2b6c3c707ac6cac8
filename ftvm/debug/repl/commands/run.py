"""``run``: the guest goes on."""

import click

from ftvm.debug.repl.desk import Desk
from ftvm.debug.repl.parameters import ADDRESS
from ftvm.errors import UsageError

ALIASES = ("continue", "c")


@click.command("run")
@click.argument("condition", metavar="[until position N | text TEXT | ADDRESS]", nargs=-1, type=ADDRESS)
@click.option("-t", "--timeout", metavar="SECONDS", type=click.FloatRange(0, min_open=True), help="At most so long.")
@click.pass_obj
def command(desk: Desk, condition: tuple[str, ...], timeout: float | None) -> None:
    """Let the guest run.

    It runs to a breakpoint or a watch, to its end, to a position (+N: so many blocks from here), until TEXT comes on
    its serial console, or until it is about to execute the instruction at ADDRESS. Ctrl-C stops it at the next sync
    point. In the past it goes the way that it went, up to the present, and on from there.

    \b
    Example:
      run
      run until text "~ # "
      run until position 20M
      run until position +1000
      run until main
      continue --timeout 5
    """
    words = condition[1:] if condition[:1] == ("until",) else condition
    match words:
        case ():
            if condition:
                raise UsageError("until what?", "'until position N', 'until text TEXT', 'until ADDRESS'")
            desk.run(timeout_s=timeout)
        case ("text", text):
            desk.run(text=text, timeout_s=timeout)
        case ("position", where):
            relative = where.startswith("+")
            desk.run(position=desk.number(where) + (desk.session.position if relative else 0), timeout_s=timeout)
        case (address,):
            desk.run(address=desk.number(address), timeout_s=timeout)
        case _:
            raise UsageError(f"{' '.join(words)!r} is no condition", "position N, text TEXT, or an address")

"""``symbols``: names of the guest's addresses."""

from pathlib import Path

import click

from ftvm.debug import symbols
from ftvm.debug.repl.desk import Desk
from ftvm.debug.repl.parameters import FILE, SYMBOL
from ftvm.errors import UsageError

MAX_SHOWN = 200


@click.command("symbols")
@click.argument("pattern", required=False, type=SYMBOL)
@click.option("-l", "--load", type=FILE, help="Read those of an ELF image or a System.map.")
@click.option("-a", "--at", metavar="ADDRESS", help="Say what is at this address.")
@click.pass_obj
def command(desk: Desk, pattern: str | None, load: Path | None, at: str | None) -> None:
    """Show the symbols that contain PATTERN, or match it, if it has a '*' or a '?'.

    \b
    Example:
      symbols irq
      symbols "sys_*"
      symbols --load System.map
      symbols --at rip
    """
    if load is not None:
        desk.symbols.add(symbols.read(load))
    if at is not None:
        desk.out.line(desk.called(desk.number(at)))
    if pattern is None:
        if at is None:
            desk.out.line(f"{len(desk.symbols):,} symbols")
        return
    found = list(desk.symbols.search(pattern))
    if not found:
        raise UsageError(f"no symbol matches {pattern!r}", f"{len(desk.symbols):,} are known")
    desk.out.lines(f"{address:#018x}  {name}" for address, name in found[:MAX_SHOWN])
    if len(found) > MAX_SHOWN:
        desk.out.line(f"and {len(found) - MAX_SHOWN:,} more")

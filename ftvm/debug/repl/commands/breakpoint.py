"""``break``: stop before an instruction."""

import click

from ftvm.debug.repl.desk import Desk
from ftvm.debug.repl.parameters import ADDRESS

ALIASES = ("b",)


@click.command("break")
@click.argument("address", required=False, type=ADDRESS)
@click.pass_obj
def command(desk: Desk, address: str | None) -> None:
    """Stop whenever the guest is about to execute the instruction at ADDRESS; or list what is looked for.

    \b
    Example:
      break main
      break rip+0x10
      break
    """
    if address is None:
        for point in desk.points:
            desk.out.line(f"{point.number}: {point.text}")
        return
    at = desk.number(address)
    point = desk.points.add("breakpoints", at, f"breakpoint at {desk.called(at)}")
    desk.out.line(f"{point.number}: {point.text}")

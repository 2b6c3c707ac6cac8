"""``disas``: code, with the names of what it refers to."""

import click

from ftvm.debug.code import code_address, instructions
from ftvm.debug.repl.desk import Desk
from ftvm.debug.repl.output import TITLE
from ftvm.debug.repl.parameters import ADDRESS, module_option
from ftvm.errors import UsageError

ALIASES = ("u",)
MAX_INSTRUCTIONS = 1000


@click.command("disas")
@click.argument("address", required=False, type=ADDRESS)
@click.option("-n", "--count", default=10, show_default=True, type=click.IntRange(1, MAX_INSTRUCTIONS))
@module_option
@click.pass_obj
def command(desk: Desk, address: str | None, count: int, module: int | None) -> None:
    """Show the code at ADDRESS, or where the machine stands; '=>' is the next instruction.

    \b
    Example:
      disas
      disas main -n 20
      disas rip+0x40
    """
    view = desk.module(module)
    here = code_address(view.registers)
    start = here if address is None else desk.number(address, module)
    shown = False
    for instruction in instructions(view, start, count):
        place = desk.symbols.place(instruction.address)
        if place is not None and (not shown or place.offset == 0):
            desk.out.line(f"{place}:", style=TITLE)
        shown = True
        desk.out.line(desk.code_line(instruction, current=instruction.address == here))
    if not shown:
        raise UsageError(f"no code at {start:#x}", "nothing is mapped there, or the bytes are no instruction")

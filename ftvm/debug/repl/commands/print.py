"""``print``: the value of an expression."""

import click

from ftvm.debug.repl.desk import Desk
from ftvm.debug.repl.parameters import ADDRESS, module_option

ALIASES = ("p",)


@click.command("print")
@click.argument("expression", type=ADDRESS)
@module_option
@click.pass_obj
def command(desk: Desk, expression: str, module: int | None) -> None:
    """Show what EXPRESSION is worth.

    It may have symbols, registers ($rax, where a symbol has that name too), numbers, [memory] and the operators of C.

    \b
    Example:
      print rsp+8
      print "[rsp] & 0xff"
      print main -m 1
    """
    value = desk.number(expression, module)
    signed = value - (1 << 64) if value >> 63 else value
    name = desk.symbols.describe(value)
    desk.out.line(f"{value:#x}  {signed:,}{'  ' + name if name else ''}")

"""``back``: the other way."""

import click

from ftvm.debug.repl.desk import Desk
from ftvm.debug.repl.parameters import ADDRESS
from ftvm.debug.repl.steps import unit_and_count
from ftvm.errors import UsageError

REPEATS = True


@click.command("back")
@click.argument("words", metavar="[step] [UNIT] [COUNT] | continue [ADDRESS]", nargs=-1, type=ADDRESS)
@click.pass_obj
def command(desk: Desk, words: tuple[str, ...]) -> None:
    """Go back by COUNT instructions or blocks, or to where a breakpoint or watch was met last.

    Both modules are as they were then, bit by bit, also where a fault was at work that has long been put right. With
    ADDRESS: to where the instruction there was executed last. An empty line goes back once more.

    \b
    Example:
      back
      back 5
      back step block
      back continue
      back continue main
    """
    if words[:1] in (("continue",), ("c",)):
        if len(words) > 2:
            raise UsageError(f"back to {' '.join(words[1:])!r}", "name one address, or none")
        desk.back_to(*(desk.number(word) for word in words[1:]))
        return
    unit, count = unit_and_count(words[1:] if words[:1] == ("step",) else words)
    if unit not in ("instruction", "block"):
        raise UsageError(f"back by {unit}s", "back goes by instructions or blocks; goto POSITION goes anywhere")
    with desk.interruptible():
        if unit == "instruction":
            desk.session.back_instructions(count)
        else:
            desk.session.back_blocks(count)
    desk.tell_arrival(None)

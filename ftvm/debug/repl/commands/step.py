"""``step``: on by a little."""

import click

from ftvm.debug.repl.desk import Desk
from ftvm.debug.repl.steps import UNIT, unit_and_count

ALIASES = ("s",)
REPEATS = True


@click.command("step")
@click.argument("words", metavar="[UNIT] [COUNT]", nargs=-1, type=UNIT)
@click.pass_obj
def command(desk: Desk, words: tuple[str, ...]) -> None:
    """Go on by COUNT instructions, blocks, epochs, or comparisons of the modules (sync).

    An instruction is meant where no UNIT is given, and one. An epoch is as many blocks as the machine would run before
    it compares the modules next; a comparison may come earlier, for example where the guest writes to the console. An
    empty line steps once more.

    \b
    Example:
      step
      step 10
      step block
      step epoch 2
      step sync
    """
    unit, count = unit_and_count(words)
    session = desk.session
    with desk.interruptible():
        match unit:
            case "instruction":
                ending = session.step_instructions(count)
            case "block":
                ending = session.step_blocks(count)
            case "epoch":
                ending = next((end for _ in range(count) if (end := session.step_epoch()) is not None), None)
            case _:
                ending = next((end for _ in range(count) if (end := session.step_sync()) is not None), None)
    desk.tell_arrival(ending)

"""How far a step goes: a unit and a count, as in ``block 3``, ``10``, ``instruction``."""

import click
from click.shell_completion import CompletionItem

from ftvm.debug.repl.parameters import Type
from ftvm.errors import UsageError
from ftvm.units import parse_blocks

UNITS = ("instruction", "block", "epoch", "sync")
MAX_INSTRUCTIONS = 100_000


class _Unit(Type):
    name = "unit"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(unit) for unit in UNITS if unit.startswith(incomplete)]


UNIT = _Unit()


def unit_and_count(words: tuple[str, ...]) -> tuple[str, int]:
    """Raises UsageError."""
    unit, count = "instruction", 1
    for word in words:
        if word[:1].isdecimal():
            count = parse_blocks(word)
        else:
            begun = [each for each in UNITS if word and each.startswith(word.removesuffix("s") if word != "s" else "s")]
            if len(begun) != 1:
                raise UsageError(f"a step of {word!r}", f"steps are {', '.join(UNITS)}, and a number of them")
            unit = begun[0]
    if len(words) > 2 or count < 1:
        raise UsageError(f"a step of {' '.join(words)!r}", "give a unit and how many of it, at least 1")
    if unit == "instruction" and count > MAX_INSTRUCTIONS:
        raise UsageError(f"{count:,} single instructions", "go by blocks first: step block N, or goto POSITION")
    return unit, count

"""``info``: what the chips hold."""

from collections.abc import Iterator
from typing import Any

import click

from ftvm.debug.repl.desk import Desk, differing
from ftvm.debug.repl.output import Cell, marked
from ftvm.debug.repl.parameters import CHIP, module_option
from ftvm.errors import UsageError

SHOWN_BYTES = 32


@click.command("info")
@click.argument("chip", default="chips", type=CHIP)
@module_option
@click.pass_obj
def command(desk: Desk, chip: str, module: int | None) -> None:
    """List the chips, or show what CHIP holds, field by field.

    Where modules differ there is a '*'.

    \b
    Example:
      info chips
      info pit
      info lapic -m 1
    """
    views = desk.modules(module)
    states = [view.chips for view in views]
    if chip == "chips":
        for name in states[0]:
            differs = differing([state.get(name) for state in states])
            desk.out.line(marked(name, differs))
        return
    if any(chip not in state for state in states):
        raise UsageError(f"no chip is called {chip!r}", "'info chips' lists them")
    fields = [dict(_fields("", state[chip])) for state in states]
    rows: list[list[Cell]] = []
    for name in fields[0]:
        values = [each.get(name, "absent") for each in fields]
        rows.append([name or "state", *(marked(value, differing(values)) for value in values)])
    desk.out.table(["FIELD", *(f"MODULE {view.index}" for view in views)], rows)


def _fields(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """Single values by their paths."""
    if isinstance(value, dict) and value:
        for name, below in value.items():
            yield from _fields(f"{path}.{name}" if path else str(name), below)
    elif isinstance(value, list) and value and (len(value) <= 16 or isinstance(value[0], dict | list)):
        for index, below in enumerate(value):
            yield from _fields(f"{path}[{index}]", below)
    else:
        yield path, _shown(value)


def _shown(value: Any) -> str:
    match value:
        case bool() | None:
            return str(value)
        case int():
            return f"{value:#x}" if value > 9 else str(value)
        case bytes():
            text = value[:SHOWN_BYTES].hex(" ")
            return text if len(value) <= SHOWN_BYTES else f"{text} ... ({len(value)} bytes)"
        case list() if all(isinstance(each, int) for each in value):
            numbers = " ".join(f"{each:x}" for each in value[:SHOWN_BYTES])
            return numbers if len(value) <= SHOWN_BYTES else f"{numbers} ... ({len(value)} values)"
        case _:
            return str(value)

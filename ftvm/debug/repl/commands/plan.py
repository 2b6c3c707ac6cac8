"""``plan``: many faults at once."""

from pathlib import Path

import click

from ftvm.debug.repl.desk import Desk
from ftvm.debug.repl.parameters import FILE
from ftvm.errors import UsageError
from ftvm.faults.notation import Guest, format_fault
from ftvm.faults.plan import load_plan


@click.command("plan")
@click.argument("words", metavar="[load] FILE", nargs=-1, type=FILE)
@click.pass_obj
def command(desk: Desk, words: tuple[Path, ...]) -> None:
    """Let the faults of a plan happen; docs/fault-plans.md describes such files.

    \b
    Example:
      plan load faults.toml
    """
    files = words[1:] if len(words) > 1 and str(words[0]) == "load" else words
    if len(files) != 1:
        raise UsageError("one plan is loaded at a time", "plan load FILE")
    faults = load_plan(files[0], Guest(desk.machine.memory_bytes, desk.symbols.address))
    desk.leave_past()
    for fault in faults:
        desk.machine.inject(fault)
        desk.out.line(format_fault(fault))

"""The commands of the REPL, found in their folder."""

import difflib
import functools
import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass

import click

from ftvm.debug.repl import commands
from ftvm.errors import UsageError


@dataclass(frozen=True)
class Command:
    """One command: what click makes of its words, its other names, and whether an empty line repeats it."""

    click: click.Command
    aliases: tuple[str, ...]
    repeats: bool

    @property
    def name(self) -> str:
        assert self.click.name is not None
        return self.click.name

    @property
    def summary(self) -> str:
        """The first sentence of its help."""
        return self.click.get_short_help_str(limit=100)


@functools.cache
def all_commands() -> tuple[Command, ...]:
    """Each command once, by name."""
    found = []
    for module in pkgutil.iter_modules(commands.__path__):
        code = importlib.import_module(f"{commands.__name__}.{module.name}")
        found.append(Command(code.command, getattr(code, "ALIASES", ()), getattr(code, "REPEATS", False)))
    return tuple(sorted(found, key=lambda command: command.name))


@functools.cache
def names() -> Mapping[str, Command]:
    """Commands by all their names."""
    return {name: command for command in all_commands() for name in (command.name, *command.aliases)}


def find(word: str) -> Command:
    """The command of that name, or the only one whose name begins so. Raises UsageError."""
    known = names()
    if word in known:
        return known[word]
    begun = {command.name: command for name, command in known.items() if name.startswith(word)}
    if len(begun) == 1:
        return next(iter(begun.values()))
    near = sorted(begun) or difflib.get_close_matches(word, known, n=3)
    raise UsageError(
        f"no command is called {word!r}", f"do you mean {' or '.join(near)}?" if near else "'help' lists the commands"
    )

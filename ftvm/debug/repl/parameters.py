"""What the words after a command can be, and how they are completed."""

import glob
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from ftvm.control.verbs import Target
from ftvm.debug.repl.desk import Desk
from ftvm.display import keyboard
from ftvm.errors import FtvmError
from ftvm.module.registers import REGISTERS
from ftvm.monitor.module_view import PARTS

MAX_OFFERED = 200

if TYPE_CHECKING:
    Type = click.ParamType[Any]
else:  # not every click that will do has it generic
    Type = click.ParamType


def _items(begun: str, words: Iterable[str]) -> list[CompletionItem]:
    found = []
    for word in words:
        if word.startswith(begun):
            found.append(CompletionItem(word))
            if len(found) == MAX_OFFERED:
                break
    return found


class RegisterName(Type):
    """A register by the names that ``regs --all`` shows, or a familiar part of one."""

    name = "register"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return _items(incomplete.lower(), [*REGISTERS, *PARTS])


class Address(Type):
    """A number, a symbol, a register, or a sum of them. Its value depends on the module, so commands work it out."""

    name = "address"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        head, begun = _last_name(incomplete)
        desk: Desk = ctx.obj
        names = [*desk.symbols.names(), *REGISTERS]
        if begun.startswith("$"):
            names = [f"${name}" for name in (*REGISTERS, *PARTS)]
        return [CompletionItem(head + item.value) for item in _items(begun, names)] if begun else []


def _last_name(text: str) -> tuple[str, str]:
    at = len(text)
    while at and (text[at - 1].isalnum() or text[at - 1] in "_.$@"):
        at -= 1
    return text[:at], text[at:]


class SymbolName(Type):
    name = "symbol"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        desk: Desk = ctx.obj
        return _items(incomplete, desk.symbols.names())


class ChipName(Type):
    name = "chip"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        desk: Desk = ctx.obj
        try:
            return _items(incomplete, ["chips", *desk.module().chips])
        except FtvmError:
            return []


class Module(click.IntRange):
    """The index of a module."""

    name = "module"

    def __init__(self) -> None:
        super().__init__(min=0)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        desk: Desk = ctx.obj
        return _items(incomplete, [str(module.index) for module in desk.machine.modules])


class TargetName(Type):
    """A module by its index, or a leg by its name."""

    name = "target"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Target:
        text = str(value)
        return int(text) if text.isascii() and text.isdecimal() and len(text) < 4 else text

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        desk: Desk = ctx.obj
        status = desk.machine.status()
        legs = [f"{each.name}.{leg.index}" for each in (*status.disks, *status.nics) for leg in each.legs]
        return _items(incomplete, [*(str(module.index) for module in status.modules), *legs])


class Keys(Type):
    name = "keys"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        head, brace, begun = incomplete.rpartition("{")
        if not brace or "}" in begun:
            return []
        return [CompletionItem(f"{head}{{{name}}}") for name in keyboard.NAMES if name.startswith(begun)]


class File(Type):
    """A path; ``~`` is the home directory."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        return Path(os.path.expanduser(str(value)))

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        found = sorted(glob.glob(glob.escape(os.path.expanduser(incomplete)) + "*"))[:MAX_OFFERED]
        return [CompletionItem(path + "/" if os.path.isdir(path) else path) for path in found]


REGISTER, ADDRESS, SYMBOL, CHIP, MODULE, TARGET, KEYS, FILE = (
    RegisterName(),
    Address(),
    SymbolName(),
    ChipName(),
    Module(),
    TargetName(),
    Keys(),
    File(),
)

module_option = click.option(
    "-m", "--module", type=MODULE, help="Look at this module only; by default at all that are in service."
)

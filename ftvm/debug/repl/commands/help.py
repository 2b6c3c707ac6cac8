"""``help``: what the commands are, and how each is used."""

import click
from click.shell_completion import CompletionItem

from ftvm.debug.repl import discovery
from ftvm.debug.repl.desk import Desk
from ftvm.debug.repl.parameters import Type

ALIASES = ("?",)


class _CommandName(Type):
    name = "command"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        names = [command.name for command in discovery.all_commands()]
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@click.command("help")
@click.argument("name", metavar="[COMMAND]", required=False, type=_CommandName())
@click.pass_obj
def command(desk: Desk, name: str | None) -> None:
    """List the commands, or explain COMMAND, with examples. A command may be shortened as long as it is clear.

    \b
    Example:
      help
      help regs
    """
    if name is None:
        rows = [[", ".join((each.name, *each.aliases)), each.summary] for each in discovery.all_commands()]
        desk.out.table(["COMMAND", ""], [*rows, ["!", "Python on the rest of the line, as py"]])
        return
    found = discovery.find(name)
    context = click.Context(found.click, info_name=found.name)
    desk.out.lines(found.click.get_help(context).splitlines())
    if found.aliases:
        desk.out.line(f"\nAlso: {', '.join(found.aliases)}")

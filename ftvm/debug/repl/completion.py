"""What can come next on a line that is being typed."""

import shlex
from collections.abc import Iterable, Iterator

import click
from click.shell_completion import CompletionItem
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from ftvm.debug.repl import discovery
from ftvm.debug.repl.desk import Desk


class LineCompleter(Completer):
    """Completes commands, their options, and what their words can be."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        line = document.text_before_cursor
        if line.lstrip().startswith("!"):
            return
        words, begun = _split(line)
        for item in self._candidates(words, begun):
            yield Completion(item.value, start_position=-len(begun), display_meta=item.help)

    def _candidates(self, words: list[str], begun: str) -> Iterable[CompletionItem]:
        if not words:
            return [
                CompletionItem(command.name, help=command.summary)
                for command in discovery.all_commands()
                if any(name.startswith(begun) for name in (command.name, *command.aliases))
            ]
        command = discovery.names().get(words[0])
        if command is None:
            return []
        context = click.Context(command.click, obj=self._desk, resilient_parsing=True)
        return _of_command(command.click, context, words[1:], begun)


def _of_command(
    command: click.Command, context: click.Context, words: list[str], begun: str
) -> Iterable[CompletionItem]:
    """``words`` stand after the command already, and the next one has begun."""
    options = {
        flag: param for param in command.get_params(context) if isinstance(param, click.Option) for flag in param.opts
    }
    last = options.get(words[-1]) if words else None
    if last is not None and not last.is_flag:
        return last.type.shell_complete(context, last, begun)
    if begun.startswith("-"):
        return [CompletionItem(flag, help=options[flag].help) for flag in sorted(options) if flag.startswith(begun)]
    arguments = [param for param in command.params if isinstance(param, click.Argument)]
    place = sum(1 for word in _positional(words, options))
    for argument in arguments:
        if argument.nargs == -1 or place < argument.nargs:
            return argument.shell_complete(context, begun)
        place -= argument.nargs
    return []


def _positional(words: list[str], options: dict[str, click.Option]) -> Iterator[str]:
    takes_value = False
    for word in words:
        if takes_value:
            takes_value = False
        elif word in options:
            takes_value = not options[word].is_flag
        elif not word.startswith("-"):
            yield word


def _split(line: str) -> tuple[list[str], str]:
    """The words before the cursor, and the one that is being typed."""
    try:
        words = shlex.split(line)
    except ValueError:  # inside quotes
        return line.split()[:-1], line.split()[-1]
    if not line or line[-1].isspace():
        return words, ""
    return words[:-1], words[-1]

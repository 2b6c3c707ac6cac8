"""Where the lines of the REPL come from: a person at a terminal, a script, or standard input of any kind."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ftvm.debug.repl.desk import Desk, Leave
from ftvm.debug.repl.interpreter import Interpreter, encodable

if TYPE_CHECKING:
    from prompt_toolkit.eventloop import InputHookContext
    from prompt_toolkit.history import History

PROMPT = "ftvm> "


def run_lines(desk: Desk, interpreter: Interpreter, lines: Iterable[str], name: str) -> None:
    """Do all commands of a script, each shown before its answer. One that fails does not keep the others from being
    done. Until the end, or until one of them leaves."""
    for number, line in enumerate(lines, 1):
        line = encodable(line).strip()
        if not line or line.startswith("#"):
            continue
        desk.out.line(f"{PROMPT}{line}", style="bold")
        try:
            interpreter.execute(line, f"{name}:{number}: ")
        except Leave:
            return


def run_terminal(desk: Desk, interpreter: Interpreter) -> None:
    """Talk to a person until they leave."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.auto_suggest import AutoSuggestFromHistory

    from ftvm.debug.repl.completion import LineCompleter

    session: PromptSession[str] = PromptSession(
        history=_history(),
        completer=LineCompleter(desk),
        complete_while_typing=False,
        auto_suggest=AutoSuggestFromHistory(),
        bottom_toolbar=lambda: f" {desk.here()}   modules: {desk.states()}",
        enable_open_in_editor=True,
    )
    desk.out.line("'help' lists the commands, 'help COMMAND' explains one; Tab completes; Ctrl-D leaves.")
    while True:
        desk.out.fresh_line()
        try:
            line = encodable(session.prompt(PROMPT, inputhook=lambda context: _idle(desk, context))).strip()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        try:
            if line:
                interpreter.execute(line)
            else:
                interpreter.repeat()
        except Leave:
            return


def _idle(desk: Desk, context: "InputHookContext") -> None:
    """The user thinks. Others may talk to the machine meanwhile, where it is live; not while it shows the past."""
    if not desk.session.in_past and desk.session.compared:
        desk.machine.attend(context.fileno())


def _history() -> "History":
    """Of all sessions of this user; of this one alone where there is no place for a file."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    base = Path(os.environ.get("XDG_STATE_HOME", ""))
    try:
        if not base.is_absolute():
            base = Path.home() / ".local" / "state"
        folder = base / "ftvm"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = folder / "repl-history"
        file.touch(mode=0o600)
        return FileHistory(str(file))
    except (OSError, RuntimeError):
        return InMemoryHistory()

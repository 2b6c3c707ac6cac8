"""``py``: Python, with the machine at hand."""

import code
import contextlib
import traceback
from types import CodeType
from typing import Any

import click

from ftvm.debug.repl.desk import Desk
from ftvm.debug.repl.interpreter import PythonFailed


@click.command("py", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("text", metavar="[CODE]", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def command(desk: Desk, text: tuple[str, ...]) -> None:
    """Evaluate Python; '!' is the same. 'machine', 'symbols' and 'desk' are there, and what you assign
    stays. Without CODE, on a terminal: a Python prompt until Ctrl-D.

    \b
    Example:
      !machine.modules[0].registers["rip"]
      !for m in machine.modules: print(m.pid, m.state)
      py
    """
    source = " ".join(text).strip()
    names = desk.python_names()
    if not source:
        if desk.out.is_terminal:
            code.interact(banner="Python; Ctrl-D goes back", local=names, exitmsg="")
        return
    desk.out.fresh_line()
    _run(desk, source, names)


def _run(desk: Desk, source: str, names: dict[str, Any]) -> None:
    value = None
    try:
        compiled, is_value = _compiled(source)
        with contextlib.redirect_stdout(desk.out.stream):
            if is_value:
                value = eval(compiled, names)
            else:
                exec(compiled, names)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  whatever the user's own code raises, SystemExit too, is theirs to see
        ours = 1 if not isinstance(error, SyntaxError) else 2
        frames = error.__traceback__
        for _ in range(ours):
            frames = None if frames is None else frames.tb_next
        desk.out.line("".join(traceback.format_exception(type(error), error, frames)).rstrip(), style="red")
        raise PythonFailed from None
    if value is not None:
        names["_"] = value
        desk.out.value(value)


def _compiled(source: str) -> tuple[CodeType, bool]:
    """The code, and whether it has a value to be shown."""
    with contextlib.suppress(SyntaxError):
        return compile(source, "<repl>", "eval"), True
    return compile(source, "<repl>", "exec"), False

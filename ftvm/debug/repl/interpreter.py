"""One line of the REPL: found, understood, done. What goes wrong is said, and the session goes on."""

import contextlib
import shlex
import sys
import traceback

import click

from ftvm.debug.repl import discovery
from ftvm.debug.repl.desk import Desk, Leave
from ftvm.errors import FtvmError, UsageError
from ftvm.exitcodes import ExitCode

PYTHON = "!"
"""What follows on the line is Python."""


class PythonFailed(Exception):
    """The user's own Python raised an exception, which has been shown."""


class Interpreter:
    """``failed`` is the exit code of the first command that did not do what it was to do, OK while all did."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._last = ""
        self.failed = ExitCode.OK

    def execute(self, line: str, where: str = "") -> bool:
        """Do what a line says; False when it could not be done. ``where`` goes before its errors. Raises Leave."""
        line = line.strip()
        try:
            self._execute(line)
        except FtvmError as error:
            return self._fail(error, where)
        except click.UsageError as error:
            name = error.ctx.info_name if error.ctx is not None else None
            hint = f"'help {name}' shows how to use it" if name else None
            return self._fail(UsageError(_one_line(error), hint), where)
        except click.ClickException as error:
            return self._fail(UsageError(_one_line(error)), where)
        except click.exceptions.Exit:  # after --help
            return True
        except PythonFailed:
            return self._note(ExitCode.GUEST_FAILURE)
        except (KeyboardInterrupt, click.Abort):
            self._desk.out.line("interrupted")
            return self._note(ExitCode.INTERRUPTED)
        except (Leave, SystemExit, GeneratorExit):
            raise
        except Exception as error:  # noqa: BLE001  a defect in a command must not end a session with state to lose
            trace = "".join(traceback.format_exception(error)).rstrip()
            self._desk.out.line(trace, style="dim")
            return self._fail(FtvmError(f"the command failed: {error!r}", "this is a defect of ftvm; report it"), where)
        return True

    def repeat(self) -> bool:
        """Do the last command once more, if it is one that is worth repeating."""
        return self.execute(self._last) if self._last else True

    def _execute(self, line: str) -> None:
        python = line.removeprefix(PYTHON if line.startswith(PYTHON) else "py ")
        words = ["py", python] if python != line else _words(line)
        if not words:
            return
        command = discovery.find(words[0])
        self._last = line if command.repeats else ""
        with (
            contextlib.redirect_stdout(self._desk.out.stream),  # click prints by itself at --help
            command.click.make_context(command.name, words[1:], obj=self._desk) as context,
        ):
            command.click.invoke(context)

    def _fail(self, error: FtvmError, where: str) -> bool:
        self._desk.out.error(error, where)
        return self._note(error.exit_code)

    def _note(self, code: ExitCode) -> bool:
        self.failed = self.failed or code
        self._last = ""
        return False


def _words(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace_split = True
    lexer.commenters = "#"
    lexer.escape = ""  # a backslash is itself: "\n" is for the command to understand
    try:
        return list(lexer)
    except ValueError as error:
        raise UsageError(f"{line!r}: {str(error).lower()}", "quotes come in pairs") from None


def _one_line(error: click.ClickException) -> str:
    return " ".join(error.format_message().split())


def encodable(line: str) -> str:
    """What a terminal or a file gave that is no text would fail wherever it is written again."""
    return line.encode(sys.getfilesystemencoding(), "replace").decode(errors="replace")

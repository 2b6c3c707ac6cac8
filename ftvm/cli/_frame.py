"""What holds the subcommands together: finding them, and how each ends."""

import importlib
import os
import pkgutil
import sys
from collections.abc import Sequence

import click

from ftvm import __version__, cli
from ftvm.errors import FtvmError
from ftvm.exitcodes import ExitCode


class Subcommands(click.Group):
    """Finds subcommands in this package; a file is imported only when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(module.name for module in pkgutil.iter_modules(cli.__path__) if not module.name.startswith("_"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command = importlib.import_module(f"{cli.__name__}.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command


@click.group(cls=Subcommands, invoke_without_command=True)
@click.version_option(__version__, prog_name="ftvm")
@click.pass_context
def ftvm(ctx: click.Context) -> int:
    """A fault-tolerant virtual machine: two CPUs run one unmodified guest in lockstep and are compared as they go.

    \b
    Example:
      ftvm guests list            what can be booted by name
      ftvm run hello              boot a test kernel on two modules
      ftvm run ./bzImage --append console=ttyS0

    \b
    Exit codes: 0 the guest ended well, 1 it reported failure, 2 wrong usage,
    3 unusable file, 4 the host refused something, 5 timeout, 6 the guest
    crashed or halted for ever, 7 the modules differ (fail-stop), 130 Ctrl-C.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
    return ExitCode.USAGE


def execute(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (default: the process's own) and return its exit code; errors become one line each."""
    try:
        # Not ftvm.main(): that has exit codes of its own, for one a 1 when the reader of our output has gone.
        with ftvm.make_context("ftvm", list(sys.argv[1:] if arguments is None else arguments)) as context:
            code = ftvm.invoke(context)
        sys.stdout.flush()
        return int(code or ExitCode.OK)
    except click.exceptions.Exit as end:
        return end.exit_code
    except FtvmError as error:
        return _complain(error.message, error.hint, error.exit_code)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "ftvm"
        return _complain(_one_line(error), f"'{command} --help' shows how to use it", ExitCode.USAGE)
    except click.ClickException as error:
        return _complain(_one_line(error), None, ExitCode.USAGE)
    except (KeyboardInterrupt, click.Abort):
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone. Nobody is there to be told; keep the interpreter from flushing once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.HOST
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{where}{error.strerror or error}", None, ExitCode.HOST)


def _one_line(error: click.ClickException) -> str:
    return " ".join(error.format_message().split())


def _complain(message: str, hint: str | None, code: ExitCode) -> ExitCode:
    click.echo(f"error: {message}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)
    return code

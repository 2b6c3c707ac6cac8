"""``ftvm repl``: a machine at a prompt."""

import sys
from pathlib import Path

import click

from ftvm import terminal
from ftvm.cli._boot import Boot, boot_options
from ftvm.cli._machine import Settings, machine_options
from ftvm.debug.repl.desk import Desk
from ftvm.debug.repl.interpreter import Interpreter
from ftvm.debug.repl.output import Output
from ftvm.debug.repl.shell import run_lines, run_terminal
from ftvm.errors import UnusableFile, UsageError
from ftvm.machine import Machine, MachineConfig
from ftvm.monitor import recording


@click.command("repl")
@click.argument("image", required=False)
@click.option("--replay", metavar="FILE", type=Path, help="Look into a recorded run instead of booting IMAGE.")
@click.option("-x", "--script", metavar="FILE", help="Do the commands in FILE ('-' is standard input) and end.")
@boot_options
@machine_options
def command(image: str | None, replay: Path | None, script: str | None, boot: Boot, settings: Settings) -> int:
    """Boot IMAGE and talk about it: run it, stop it, look into its modules, break them, see what comes of it.

    The options are those of 'ftvm run'. With --replay the run is one that 'ftvm run --record' wrote: all of it is the
    past, and can be gone to; nothing goes out, and its disks and network need not be there.

    On a terminal there is a prompt with history and completion; 'help' lists the commands. Otherwise the commands come
    from standard input, and with --script from a file: each is shown before its answer. A command that fails does not
    end the session, but the exit code is that of the first which did (1 for one of your own Python's exceptions).

    \b
    Example:
      ftvm repl workload
      ftvm repl debian-cloud --symbols System.map
      ftvm repl workload -x commands.txt
      ftvm repl --replay shell.rec
    """
    if settings.display:
        raise UsageError("--display beside a prompt", "the command 'screen' shows the text screen")
    if script == "-" and boot.input_path == "-":
        raise UsageError("standard input is both --input and the script", "give one of them a file")
    lines = None if script in (None, "-") else _read_script(Path(str(script)))
    config = _configuration(image, replay, boot, settings)
    desk = Desk(settings.symbols(_image(config)), Output())
    interpreter = Interpreter(desk)
    with Machine(config, on_console=desk.show_console, on_event=desk.tell) as machine:
        settings.inject_faults(machine, config)
        desk.attach(machine)
        if settings.gdb is not None:
            interpreter.execute("gdb {}:{}".format(*settings.gdb))
        if lines is not None:
            run_lines(desk, interpreter, lines, str(script))
        elif script is None and terminal.in_foreground(0) and sys.stdout.isatty():
            run_terminal(desk, interpreter)
            return 0
        else:
            run_lines(desk, interpreter, sys.stdin, "standard input")
    return interpreter.failed


def _configuration(image: str | None, replay: Path | None, boot: Boot, settings: Settings) -> MachineConfig:
    """Raises UsageError, UnusableFile."""
    if (image is None) == (replay is None):
        raise UsageError("an image to boot, or a recording: one of them", "ftvm repl IMAGE, or ftvm repl --replay FILE")
    of_machine = settings.of_machine(keyboard_free=False)
    if image is not None:
        return boot.guest(image, **of_machine)
    assert replay is not None
    kept = ("modules", "epoch_blocks", "timeout_s", "name", "event_log", "event_command")
    return MachineConfig.replay(recording.load(replay, partial=True), **{name: of_machine[name] for name in kept})


def _image(config: MachineConfig) -> Path:
    """What is booted; of a recording, what was, which need not be there any more."""
    return config.image if config.recording is None else Path(config.recording.state.guest.partition(" ")[0])


def _read_script(path: Path) -> list[str]:
    try:
        return path.read_text(errors="surrogateescape").splitlines()
    except OSError as error:
        raise UnusableFile(f"the script {path} cannot be read: {error.strerror}", "give a file of commands") from None

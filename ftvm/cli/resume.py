"""``ftvm resume``: go on with a machine that was saved."""

from pathlib import Path

import click

from ftvm.cli._machine import Settings, machine_options, run_machine
from ftvm.machine import MachineConfig
from ftvm.monitor import savefile


@click.command("resume")
@click.argument("file", type=Path)
@machine_options
def command(file: Path, settings: Settings) -> int:
    """Go on with the machine in FILE, where 'ftvm run --save-on-exit', 'ftvm ctl suspend' or a fail-stop left it.

    The guest notices nothing: its time stood still meanwhile. It may go on with another number of modules and another
    length of epochs. FILE stays as it is, so that it can be resumed again; input that the machine was started with,
    and a text to stop on that has not come yet, are part of it.

    \b
    Example:
      ftvm resume shell.save
      ftvm resume shell.save --modules 3 --timeout 10 --save-on-exit shell.save
    """
    return run_machine(MachineConfig.resume(savefile.load(file), **settings.of_machine()), settings)

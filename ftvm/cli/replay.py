"""``ftvm replay``: repeat a recorded run."""

import math
from pathlib import Path
from typing import BinaryIO

import click

from ftvm.cli._machine import ConsoleOutput
from ftvm.cli._output import json_option, live_output, output_file, write_json
from ftvm.debug.replay import ReplayResult, replay
from ftvm.errors import UsageError
from ftvm.exitcodes import ExitCode
from ftvm.machine import MAX_MODULES, Machine, MachineConfig
from ftvm.monitor import recording
from ftvm.units import parse_blocks


@click.command("replay")
@click.argument("file", type=Path)
@click.option("--modules", type=int, default=2, show_default=True, help=f"CPUs in lockstep, 1 to {MAX_MODULES}.")
@click.option("--epoch", metavar="BLOCKS", type=parse_blocks, help="Guest blocks between two comparisons.")
@click.option("--timeout", metavar="SECONDS", type=float, help="End the replay after this wall time.")
@click.option("--partial", is_flag=True, help="Replay a recording without an end as far as it goes.")
@click.option("--console", "console_file", metavar="FILE", type=output_file, help="Write the console's bytes here too.")
@json_option
def command(
    file: Path,
    modules: int,
    epoch: int | None,
    timeout: float | None,
    partial: bool,
    console_file: BinaryIO | None,
    json_file: BinaryIO | None,
) -> int:
    """Repeat the run in FILE, which 'ftvm run --record' wrote: the same instructions, input and times, on as many
    modules and with such epochs as you like. What its disks and network gave is in FILE; nothing goes out.

    The state is compared with the recorded one on the way and at the end. The exit code is 0 if it is the same, and 3,
    with the place from which on it is not, if it differs; also for a file that was cut off, altered, or made by another
    build of ftvm.

    \b
    Example:
      ftvm replay shell.rec                     after: ftvm run debian-cloud --record shell.rec
      ftvm replay shell.rec --modules 3 --epoch 50k --json -
    """
    if timeout is not None and not math.isfinite(timeout):
        raise UsageError(f"a timeout of {timeout} seconds", "give a number, or no timeout")
    recorded = recording.load(file, partial).undisturbed()
    console = ConsoleOutput([live_output(json_file), *([] if console_file is None else [console_file])])
    config = MachineConfig.replay(recorded, modules=modules, epoch_blocks=epoch, timeout_s=timeout)
    with Machine(config, on_console=console.show, on_event=console.tell) as machine:
        result = replay(machine, recorded)
    if json_file is not None:
        write_json(json_file, result.to_json())
    if not console.at_line_start:
        click.echo(err=True)
    click.echo(_summary(result), err=True)
    return ExitCode.OK if result.complete else ExitCode.TIMEOUT


def _summary(result: ReplayResult) -> str:
    """One line for people."""
    if not result.complete:
        return f"ftvm: the replay was ended at {result.blocks:,} blocks, before the recording's end"
    end = result.outcome if result.exit_code is None else f"{result.outcome} {result.exit_code}"
    same = f"the same at {result.compared} of its states" if result.compared else "no state of it is known"
    return f"ftvm: {end}; {result.inputs} inputs, {same}, {result.blocks:,} blocks in {result.wall_s:.2f} s"

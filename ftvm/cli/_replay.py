"""One experiment of a campaign, in the REPL: the machine stands where the fault is about to strike."""

import contextlib
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ftvm import terminal
from ftvm.campaign.experiment import Experiment
from ftvm.campaign.guest import config_of, make_disks, symbols_of
from ftvm.campaign.plan import CampaignPlan, Column
from ftvm.campaign.rig import inject
from ftvm.campaign.space import fault_of
from ftvm.debug.repl.desk import Desk
from ftvm.debug.repl.interpreter import Interpreter
from ftvm.debug.repl.output import Output
from ftvm.debug.repl.shell import run_lines, run_terminal
from ftvm.errors import UnusableFile
from ftvm.machine import Machine

KEYBOARD = 0  # standard input


def replay(plan: CampaignPlan, experiment: Experiment, column: Column, lines: Iterable[str] | None, name: str) -> int:
    """Bring the guest to the fault, tell the machine of it, and do the commands in ``lines`` (None: those of standard
    input, at a prompt if that is a terminal); the exit code of the first that failed. Raises UnusableFile."""
    guest = plan.guest[experiment.guest]
    desk = Desk(symbols_of(guest), Output())
    interpreter = Interpreter(desk)
    with contextlib.ExitStack() as resources:
        folder = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="ftvm-replay-")))
        config = config_of(plan, guest, column, make_disks(guest, column, folder))
        machine = resources.enter_context(Machine(config, on_console=desk.show_console, on_event=desk.tell))
        ending = machine.run_until(position=experiment.position)
        if ending is not None:
            raise UnusableFile(
                f"{guest.image} does not come to position {experiment.position} any more: {ending.outcome}",
                "replay needs the same image as the campaign had",
            )
        desk.attach(machine)
        inject(machine, fault_of(experiment, guest.memory_bytes), column)
        desk.out.line(f"{desk.here()}; next: {experiment.fault}")
        if lines is not None:
            run_lines(desk, interpreter, lines, name)
        elif terminal.in_foreground(KEYBOARD) and sys.stdout.isatty():
            run_terminal(desk, interpreter)
            return 0
        else:
            run_lines(desk, interpreter, sys.stdin, "standard input")
    return interpreter.failed

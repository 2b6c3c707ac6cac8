"""``attach``: the terminal is the guest's."""

import sys
import termios

import click

from ftvm import terminal
from ftvm.debug.repl.desk import Desk
from ftvm.errors import UsageError


@click.command("attach")
@click.pass_obj
def command(desk: Desk) -> None:
    """Let the guest run with this terminal as its serial console.

    Every key goes to the guest, Ctrl-C too. Ctrl-A x stops it and comes back to the prompt.

    \b
    Example:
      attach
    """
    keyboard = sys.stdin.fileno()
    if not (desk.out.is_terminal and terminal.in_foreground(keyboard)):
        raise UsageError("there is no terminal to attach", "'type TEXT' and 'run' do it from a script")
    desk.leave_past()
    termios.tcflush(keyboard, termios.TCIFLUSH)  # what was typed before is not for the guest
    desk.out.line(terminal.KEYS_HINT.replace("ends the machine", "comes back to the prompt"))
    with terminal.SerialKeys(keyboard, desk.machine, lambda: desk.out.line(terminal.KEYS_HELP)):
        while (ending := desk.session.run()) is not None and ending.outcome == "halted":
            if not desk.machine.await_input():
                break
    desk.tell_arrival(ending)

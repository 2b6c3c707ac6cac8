"""``ftvm run``: boot a guest on its modules and show its console until it ends."""

import math
import os
import sys
from pathlib import Path
from typing import BinaryIO

import click

from ftvm import terminal
from ftvm.boot import KINDS
from ftvm.cli._output import json_option, output_file, write_json
from ftvm.errors import UnusableFile, UsageError
from ftvm.exitcodes import ExitCode
from ftvm.guests import catalogue
from ftvm.guests.fetch import RECIPES
from ftvm.machine import DEFAULT_EPOCH_BLOCKS, MAX_MODULES, Machine, MachineConfig, RunResult
from ftvm.monitor.eventlog import MODULE_FAILED, MODULE_FAULT, MODULE_JOINED, MODULE_PULLED, Event
from ftvm.units import parse_blocks, parse_size

KEYBOARD = 0  # standard input

_SHOWN = frozenset({MODULE_FAILED, MODULE_FAULT, MODULE_JOINED, MODULE_PULLED})
"""Events that a person at the console should see at once."""


@click.command("run")
@click.argument("image")
@click.option("--initrd", metavar="FILE", type=Path, help="Linux: the initial root file system.")
@click.option("--append", metavar="TEXT", default="", help="The guest's command line (added to that of a known guest).")
@click.option("--module-file", "module_files", metavar="FILE", type=Path, multiple=True, help="A multiboot module.")
@click.option("--protocol", type=click.Choice(KINDS), help="The boot protocol, where IMAGE does not tell.")
@click.option("--memory", metavar="SIZE", type=parse_size, default="256M", show_default=True, help="RAM of the guest.")
@click.option("--modules", type=int, default=2, show_default=True, help=f"CPUs in lockstep, 1 to {MAX_MODULES}.")
@click.option(
    "--epoch",
    metavar="BLOCKS",
    type=parse_blocks,
    default=str(DEFAULT_EPOCH_BLOCKS),
    show_default=True,
    help="Guest blocks between two comparisons; 50k and 1M are understood.",
)
@click.option("--stop-on", metavar="TEXT", help="End the run well when this comes on the serial console.")
@click.option("--timeout", metavar="SECONDS", type=float, help="End the run after this wall time.")
@click.option("--input", "input_path", metavar="FILE", help="Bytes for the serial console; '-' is standard input.")
@click.option("--input-after", metavar="TEXT", help="Offer the input when this text came (default: known guest's own).")
@click.option(
    "--interactive/--no-interactive",
    default=None,
    help="Keys go to the serial console. Default: on a terminal, unless --input is given.",
)
@click.option(
    "--real-time/--no-real-time",
    default=None,
    help="An idle guest waits for the wall clock, else its time jumps. Default: when interactive on a terminal.",
)
@click.option("--name", help="For 'ftvm ctl'; by default the process id.")
@click.option("--event-log", metavar="FILE", type=Path, help="Append every change of state, one JSON object a line.")
@click.option("--on-event", metavar="COMMAND", help="Run this at every change of state, told as JSON on its input.")
@click.option("--console", "console_file", metavar="FILE", type=output_file, help="Write the console's bytes here too.")
@click.option("--screen", "screen_file", metavar="FILE", type=output_file, help="Write the VGA text screen at the end.")
@json_option
def command(
    image: str,
    initrd: Path | None,
    append: str,
    module_files: tuple[Path, ...],
    protocol: str | None,
    memory: int,
    modules: int,
    epoch: int,
    stop_on: str | None,
    timeout: float | None,
    input_path: str | None,
    input_after: str | None,
    interactive: bool | None,
    real_time: bool | None,
    name: str | None,
    event_log: Path | None,
    on_event: str | None,
    console_file: BinaryIO | None,
    screen_file: BinaryIO | None,
    json_file: BinaryIO | None,
) -> ExitCode:
    """Boot IMAGE on two CPUs in lockstep: compare all registers and all written memory at every sync point, and let
    out only what both agree on.

    IMAGE is a name that 'ftvm guests list' shows, or the path of a multiboot, Linux, PVH or ELF kernel or of a boot
    sector (./NAME for a file that is called like a guest).

    \b
    Example:
      ftvm run hello
      ftvm run debian-cloud
      ftvm run ./bzImage --initrd ./initrd.gz --append console=ttyS0
      ftvm run debian-cloud --input commands.txt --json result.json
    """
    if timeout is not None and not math.isfinite(timeout):
        raise UsageError(f"a timeout of {timeout} seconds", "give a number, or no timeout")
    if interactive and input_path == "-":
        raise UsageError("standard input is both --input and the keyboard", "give --input a file")
    on_terminal = terminal.in_foreground(KEYBOARD) and sys.stdout.isatty()
    if interactive is None:
        interactive = on_terminal and input_path is None
    if real_time is None:
        real_time = interactive and on_terminal

    guest = _known_guest(image)
    if guest is not None:
        initrd = initrd or guest.initrd
        append = f"{guest.append} {append}".strip()
        protocol = protocol or guest.kind
        if input_path is not None and input_after is None:
            input_after = guest.ready
    config = MachineConfig(
        image=guest.path if guest else Path(image),
        initrd=initrd,
        append=append,
        memory_bytes=memory,
        modules=modules,
        epoch_blocks=epoch,
        stop_on=stop_on,
        timeout_s=timeout,
        input=None if input_path is None else _read_input(input_path),
        input_after=input_after,
        name=name or str(os.getpid()),
        real_time=real_time,
        interactive=interactive,
        event_log=event_log,
        event_command=on_event,
        protocol=protocol,
        module_files=module_files,
    )
    # With the report on standard output, the console makes room for it.
    live = sys.stderr.buffer if json_file is sys.stdout.buffer else sys.stdout.buffer
    console = _ConsoleOutput([live] if console_file is None else [live, console_file])
    machine = Machine(config, on_console=console.show, on_event=console.tell)
    result = _run_with_keyboard(machine) if interactive else machine.run()

    if screen_file is not None:
        screen_file.write("".join(f"{line.rstrip()}\n" for line in machine.screen()).encode())
        screen_file.flush()
    if json_file is not None:
        write_json(json_file, result.to_json())
    if not console.at_line_start:
        click.echo(err=True)
    if machine.divergence_text is not None:
        click.echo(machine.divergence_text, err=True)
    click.echo(_summary(result), err=True)
    return result.process_exit_code()


class _ConsoleOutput:
    """Where the guest's console is shown and written."""

    def __init__(self, files: list[BinaryIO]) -> None:
        self._files = files
        self.at_line_start = True

    def show(self, channel: str, data: bytes) -> None:
        """Both channels are shown: few guests use more than one."""
        for file in self._files:
            file.write(data)
            file.flush()
        self.at_line_start = data.endswith(b"\n")

    def tell(self, event: Event) -> None:
        """An event of the machine, beside the console."""
        if event.kind in _SHOWN:
            begin = "" if self.at_line_start else "\r\n"
            click.echo(f"{begin}ftvm: {event.subject}: {event.detail['reason']}\r", err=True)
            self.at_line_start = True


def _known_guest(image: str) -> catalogue.Guest | None:
    guest = catalogue.find(image)
    if guest is None and image in RECIPES and not Path(image).exists():
        raise UnusableFile(f"the guest {image!r} is not here yet", f"get it with: ftvm guests fetch {image}")
    return guest


def _read_input(path: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise UnusableFile(f"the input {path} cannot be read: {error.strerror}", "give a file, or '-'") from None


def _run_with_keyboard(machine: Machine) -> RunResult:
    """Run with the keys of standard input going to the guest."""
    keys = terminal.KeyFilter()

    def typed() -> None:
        data = os.read(KEYBOARD, 4096)
        if not data:
            machine.unwatch(KEYBOARD)
            return
        for_guest, commands = keys.feed(data)
        if for_guest:
            machine.send_console(for_guest)
        for asked in commands:
            if asked is terminal.Command.QUIT:
                machine.request_stop()
            else:
                click.echo(f"\n{terminal.KEYS_HELP}", err=True)

    machine.watch(KEYBOARD, typed)
    click.echo(f"ftvm: {terminal.KEYS_HINT}", err=True)
    with terminal.RawTerminal(KEYBOARD):
        return machine.run()


def _summary(result: RunResult) -> str:
    """One line for people: how it ended and what it took."""
    end = result.outcome if result.exit_code is None else f"{result.outcome} {result.exit_code}"
    count = len(result.modules)
    compared = f"{count} modules compared at {result.sync_points:,} sync points" if count > 1 else "one module"
    return f"ftvm: {end}; {compared}, {result.blocks:,} blocks in {result.wall_s:.2f} s"

"""What ``ftvm run`` and ``ftvm resume`` share: how a machine is run, watched and ended, whatever it began with.

What few runs need, and takes long to load, is imported where it is needed.
"""

import contextlib
import functools
import gc
import math
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

import click
import msgspec

from ftvm import terminal
from ftvm._native import lib
from ftvm.cli._display import SHOWN, LiveDisplay
from ftvm.cli._output import json_option, live_output, output_file, write_json
from ftvm.debug import symbols
from ftvm.debug.symbols import Symbols
from ftvm.errors import HostError, UsageError
from ftvm.machine import MAX_MODULES, Machine, MachineConfig, RunResult
from ftvm.monitor import savefile
from ftvm.monitor.bays import DiskFiles
from ftvm.monitor.eventlog import Event
from ftvm.network.spec import parse_nic
from ftvm.units import parse_blocks

KEYBOARD = 0  # standard input

GARBAGE = 50_000
"""New objects that may be garbage in cycles until Python looks for it: a guest that reads a disk makes hundreds at each
sync point, which are not."""


def _save_target(path: str) -> Path:
    """The ``type=`` of an option that names a file to save to; trouble shows before anything starts."""
    savefile.check_target(Path(path))
    return Path(path)


def _gdb_address(text: str) -> tuple[str, int]:
    """The ``type=`` of --gdb."""
    from ftvm.debug.gdb.server import parse_address

    return parse_address(text)


_OPTIONS = (
    click.option("--modules", type=int, default=2, show_default=True, help=f"CPUs in lockstep, 1 to {MAX_MODULES}."),
    click.option(
        "--epoch",
        metavar="BLOCKS",
        type=parse_blocks,
        help="Guest blocks between two comparisons; 50k and 1M are understood. Default: as many as take about 40 ms.",
    ),
    click.option("--stop-on", metavar="TEXT", help="End the run well when this comes on the serial console."),
    click.option("--timeout", metavar="SECONDS", type=float, help="End the run after this wall time."),
    click.option(
        "--interactive/--no-interactive",
        default=None,
        help="Keys go to the serial console. Default: on a terminal, unless input is given.",
    ),
    click.option(
        "--real-time/--no-real-time",
        default=None,
        help="An idle guest waits for the wall clock, else its time jumps. Default: when interactive on a terminal,"
        " or with a NIC on the network.",
    ),
    click.option(
        "--disk",
        "disks",
        metavar="FILE[,FILE]...[,readonly]",
        multiple=True,
        help="A disk: the files that mirror each other, as 'ftvm disk' makes them, or a single raw image. Repeatable:"
        " /dev/vda, vdb, vdc.",
    ),
    click.option(
        "--nic",
        "nics",
        metavar="LEG[,LEG]...[,SETTING]...",
        multiple=True,
        help="A NIC on tap:NAME, tap:NAMESPACE/NAME, stream:PATH, loopback or loopback:WIRE; settings are mac=, mtu="
        " and mode=active-backup or broadcast. Repeatable: eth0, eth1, ...",
    ),
    click.option("--pcap", metavar="FILE", type=Path, help="Write what the NICs send and receive, as tcpdump does."),
    click.option(
        "--fault",
        "fault_texts",
        metavar="FAULT",
        multiple=True,
        help="Inject a fault, such as module=1,target=rax:5,at=2000000 (docs/fault-plans.md). Repeatable.",
    ),
    click.option("--plan", "plan_files", metavar="FILE", type=Path, multiple=True, help="Inject the faults of a plan."),
    click.option(
        "--symbols",
        "symbol_files",
        metavar="FILE",
        type=Path,
        multiple=True,
        help="Names for addresses: an ELF file or a System.map. Those of an ELF image are known.",
    ),
    click.option("--name", help="For 'ftvm ctl'; by default the process id."),
    click.option(
        "--save-on-exit",
        metavar="FILE",
        type=_save_target,
        help="Save the machine for 'ftvm resume' when the run ends and the guest has not: by the timeout, the text to"
        " stop on, Ctrl-A x, Ctrl-C or a signal. At a fail-stop it is saved in any case, else to ftvm-NAME.save.",
    ),
    click.option(
        "--record",
        metavar="FILE",
        type=_save_target,
        help="Write all that enters the guest to FILE, for 'ftvm replay', and the guest's memory as it is at first.",
    ),
    click.option(
        "--gdb",
        "gdb",
        metavar="[HOST]:PORT",
        type=_gdb_address,
        help="Wait for gdb before the guest runs ('target remote :PORT' there); for this host only without HOST.",
    ),
    click.option(
        "--divergence-report",
        metavar="FILE",
        type=_save_target,
        help="Look into each divergence, for some seconds, and write what was found to FILE, for 'ftvm explain'.",
    ),
    click.option(
        "--event-log", metavar="FILE", type=Path, help="Append every change of state, one JSON object a line."
    ),
    click.option("--on-event", metavar="COMMAND", help="Run this at every change of state, told as JSON on its input."),
    click.option(
        "--console", "console_file", metavar="FILE", type=output_file, help="Write the console's bytes here too."
    ),
    click.option(
        "--screen", "screen_file", metavar="FILE", type=output_file, help="Write the VGA text screen at the end."
    ),
    click.option(
        "--display", is_flag=True, help="Show the VGA's text screen here, not the consoles; keys go to the keyboard."
    ),
    json_option,
)


class Settings(msgspec.Struct, frozen=True):
    """What the options above say."""

    modules: int
    epoch: int | None
    stop_on: str | None
    timeout: float | None
    interactive: bool | None
    real_time: bool | None
    disks: tuple[str, ...]
    nics: tuple[str, ...]
    pcap: Path | None
    fault_texts: tuple[str, ...]
    plan_files: tuple[Path, ...]
    symbol_files: tuple[Path, ...]
    name: str | None
    save_on_exit: Path | None
    record: Path | None
    gdb: tuple[str, int] | None
    divergence_report: Path | None
    event_log: Path | None
    on_event: str | None
    console_file: BinaryIO | None
    screen_file: BinaryIO | None
    display: bool
    json_file: BinaryIO | None

    def of_machine(self, keyboard_free: bool = True) -> dict[str, Any]:
        """The fields of a MachineConfig that they decide. Raises UsageError."""
        if self.timeout is not None and not math.isfinite(self.timeout):
            raise UsageError(f"a timeout of {self.timeout} seconds", "give a number, or no timeout")
        if self.display and not sys.stdout.isatty():
            raise UsageError("--display where there is no terminal", "--screen FILE has the screen at the end")
        if self.display and self.json_file is sys.stdout.buffer:
            raise UsageError("--display and --json on one terminal", "give --json a file")
        on_terminal = terminal.in_foreground(KEYBOARD) and sys.stdout.isatty()
        interactive = on_terminal and keyboard_free if self.interactive is None else self.interactive
        name = self.name or str(os.getpid())
        return {
            "modules": self.modules,
            "epoch_blocks": self.epoch,
            "stop_on": self.stop_on,
            "timeout_s": self.timeout,
            "interactive": interactive,
            "real_time": True if interactive and on_terminal and self.real_time is None else self.real_time,
            "nics": tuple(parse_nic(text) for text in self.nics),
            "capture": self.pcap,
            "disks": tuple(DiskFiles.parse(text) for text in self.disks),
            "name": name,
            "save_on_exit": self.save_on_exit,
            "save_on_fail_stop": self.save_on_exit or Path(f"ftvm-{name}.save"),
            "record": self.record,
            "event_log": self.event_log,
            "event_command": self.on_event,
        }

    def symbols(self, image: Path) -> Symbols:
        """Those of the image and of --symbols. Raises UnusableFile."""
        known = Symbols(symbols.of_image(image))
        for file in self.symbol_files:
            known.add(symbols.read(file))
        return known

    def inject_faults(self, machine: Machine, config: MachineConfig) -> None:
        """Those of --fault and --plan. Raises UsageError, UnusableFile."""
        if not self.fault_texts and not self.plan_files:
            return
        from ftvm.faults.notation import Guest, format_fault, parse_fault
        from ftvm.faults.plan import load_plan

        guest = Guest(config.memory_bytes, self.symbols(config.image).address)
        planned = [fault for file in self.plan_files for fault in load_plan(file, guest)]
        for fault in [parse_fault(text, guest) for text in self.fault_texts] + planned:
            try:
                machine.inject(fault)
            except UsageError as error:
                raise UsageError(f"the fault {format_fault(fault)}: {error.message}", error.hint) from None


def machine_options(command: Callable[..., int]) -> Callable[..., int]:
    """The options that every run of a machine has, as the argument ``settings``. Next to the function."""

    @functools.wraps(command)
    def gathering(**arguments: Any) -> int:
        settings = Settings(**{name: arguments.pop(name) for name in Settings.__struct_fields__})
        return command(settings=settings, **arguments)

    for option in reversed(_OPTIONS):
        gathering = option(gathering)
    return gathering


def run_machine(config: MachineConfig, settings: Settings) -> int:
    """Run a machine with its console here, and report; the exit code."""
    files = [] if settings.display else [live_output(settings.json_file)]
    if settings.console_file is not None:
        files.append(settings.console_file)
    console = ConsoleOutput(files)
    display = LiveDisplay(sys.stdout.buffer, KEYBOARD if config.interactive else None) if settings.display else None
    machine = Machine(config, on_console=console.show, on_event=console.tell if display is None else display.tell)
    settings.inject_faults(machine, config)
    gc.set_threshold(GARBAGE)
    lib.ft_link_keep_memory()
    examiner = None
    if settings.divergence_report is not None:
        from ftvm.debug.divergence import report
        from ftvm.debug.divergence.examine import Examiner

        examiner = Examiner(machine, str(config.image), settings.symbols(config.image))
    try:
        with _ending_by_signal(machine, config.save_on_exit is not None) as signals:
            if settings.gdb is not None:
                result = _run_with_gdb(machine, settings.gdb, settings.symbols(config.image))
            elif display is not None:
                result = display.run(machine)
            else:
                result = _run_with_keyboard(machine) if config.interactive else machine.run()
    except HostError:
        _tell_where_it_is(machine)
        raise

    if examiner is not None and settings.divergence_report is not None:
        report.save(settings.divergence_report, examiner.reports())
    if settings.screen_file is not None:
        settings.screen_file.write("".join(f"{line.rstrip()}\n" for line in machine.screen().lines()).encode())
        settings.screen_file.flush()
    if settings.json_file is not None:
        write_json(settings.json_file, result.to_json())
    if not console.at_line_start:
        click.echo(err=True)
    if machine.divergence_text is not None:
        click.echo(machine.divergence_text, err=True)
    _tell_where_it_is(machine)
    click.echo(_summary(result), err=True)
    if signals:
        return 128 + signals[0]
    if isinstance(machine.not_saved, HostError) and result.outcome != "fail-stop":
        raise machine.not_saved
    return result.process_exit_code()


class ConsoleOutput:
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
        if event.kind in SHOWN:
            begin = "" if self.at_line_start else "\r\n"
            click.echo(f"{begin}ftvm: {event.subject}: {event.detail['reason']}\r", err=True)
            self.at_line_start = True


def _run_with_gdb(machine: Machine, address: tuple[str, int], known: Symbols) -> RunResult:
    """Run as gdb says; when it detaches, on to the guest's end."""
    from ftvm.debug.gdb.server import GdbServer
    from ftvm.debug.repl.desk import Desk
    from ftvm.debug.repl.output import Output

    desk = Desk(known, Output(sys.stderr))
    with GdbServer(address) as server, machine:
        desk.attach(machine)
        click.echo(f"ftvm: gdb can attach: target remote {server.address[0]}:{server.address[1]}", err=True)
        if not server.serve(desk):
            machine.request_stop()
        return machine.run()


def _run_with_keyboard(machine: Machine) -> RunResult:
    """Run with the keys of standard input going to the guest."""
    click.echo(f"ftvm: {terminal.KEYS_HINT}", err=True)
    with terminal.SerialKeys(KEYBOARD, machine, lambda: click.echo(f"\n{terminal.KEYS_HELP}", err=True)):
        return machine.run()


@contextlib.contextmanager
def _ending_by_signal(machine: Machine, wanted: bool) -> Iterator[list[int]]:
    """If ``wanted``: the first Ctrl-C, SIGTERM or SIGHUP lets the machine come to a state that can be saved, and is in
    the list then; the next one ends the process as it does elsewhere."""
    came: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        for each, handler in before.items():
            signal.signal(each, handler)
        came.append(number)
        machine.request_stop()

    before = {
        number: handler
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if wanted and (handler := signal.getsignal(number)) not in (signal.SIG_IGN, None)
    }
    for number in before:
        signal.signal(number, ask)
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell_where_it_is(machine: Machine) -> None:
    if machine.saved_to is not None:
        click.echo(f"ftvm: saved; to go on: ftvm resume {shlex.quote(str(machine.saved_to))}", err=True)
    if machine.not_saved is not None:
        click.echo(f"ftvm: {machine.not_saved.message}", err=True)


def _summary(result: RunResult) -> str:
    """One line for people: how it ended and what it took."""
    end = result.outcome if result.exit_code is None else f"{result.outcome} {result.exit_code}"
    count = len(result.modules)
    compared = f"{count} modules compared at {result.sync_points:,} sync points" if count > 1 else "one module"
    return f"ftvm: {end}; {compared}, {result.blocks:,} blocks in {result.wall_s:.2f} s"

"""``ftvm ctl``: look at a running machine and manage it."""

import re
from pathlib import Path
from types import NoneType
from typing import Any, BinaryIO

import click
import msgspec

from ftvm.cli._output import json_option, output_file, write_json
from ftvm.control import place
from ftvm.control.client import Client
from ftvm.control.describe import describe, describe_event
from ftvm.control.status import Status
from ftvm.control.verbs import LEG_PATTERN, subject_of
from ftvm.display.picture import png
from ftvm.display.screen import Screen
from ftvm.errors import UsageError
from ftvm.monitor.eventlog import Event
from ftvm.monitor.policing import Policy, Threshold


class _Verbs(click.Group):
    """The verbs, with the name of a machine before them; without one, the only machine that runs is meant."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        name, rest = self._split(args)
        ctx.obj = name
        return super().parse_args(ctx, rest)

    def _split(self, args: list[str]) -> tuple[str | None, list[str]]:
        """A machine that is called like a verb has its name followed by one."""
        named = args and not args[0].startswith("-")
        if named and (args[0] not in self.commands or (len(args) > 1 and args[1] in self.commands)):
            return args[0], args[1:]
        return None, args

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["[NAME]", *super().collect_usage_pieces(ctx)]


@click.group("ctl", cls=_Verbs, invoke_without_command=True, subcommand_metavar="[VERB] [ARGUMENTS]...")
@json_option
@click.pass_context
def command(ctx: click.Context, json_file: BinaryIO | None) -> None:
    """Look at the running machine NAME, or manage it.

    NAME is what 'ftvm run --name' gave, or its process id; it may be left out while only one machine runs. Without a
    verb: list the machines that run.

    \b
    Example:
      ftvm ctl
      ftvm ctl web status
      ftvm ctl web pull 1
    """
    if ctx.invoked_subcommand is not None:
        return
    if ctx.obj is not None:
        raise UsageError(f"what about the machine {ctx.obj!r}?", f"give a verb, as in: ftvm ctl {ctx.obj} status")
    machines = place.running()
    if json_file is not None:
        write_json(json_file, msgspec.json.encode(machines))
        return
    for machine in machines:
        click.echo(f"{machine.name}  (process {machine.pid})")
    if not machines:
        click.echo("no machine is running", err=True)


def _connect(ctx: click.Context) -> Client:
    name: str | None = ctx.obj
    if name is None:
        names = [machine.name for machine in place.running()]
        if len(names) != 1:
            raise UsageError(
                "which machine? " + ("several are running" if names else "none is running"),
                f"give its name: {', '.join(names)}" if names else "start one with 'ftvm run'",
            )
        name = names[0]
    try:
        return ctx.with_resource(Client(name))
    except place.NotRunning as error:
        names = [machine.name for machine in place.running()]
        hint = f"running: {', '.join(names)}" if names else "no machine is running; start one with 'ftvm run'"
        raise place.NotRunning(error.message, hint) from None


def _target(text: str) -> int | str:
    """A module by its number, or a leg by its name."""
    if text.isascii() and text.isdecimal():
        return int(text)
    if not re.match(LEG_PATTERN, text):
        raise UsageError(
            f"{text!r} is neither a module nor a leg", "modules are 0, 1, ...; legs are disk0.0, disk0.1, ..."
        )
    return text


@command.command("status")
@json_option
@click.pass_context
def status(ctx: click.Context, json_file: BinaryIO | None) -> None:
    """Show the state of the machine, its modules, and the legs of its disks and NICs.

    \b
    Example:
      ftvm ctl status
      ftvm ctl web status --json - | jq .state
    """
    answer = _connect(ctx).call("status", {}, Status)
    if json_file is not None:
        write_json(json_file, msgspec.json.encode(answer))
        return
    for line in describe(answer):
        click.echo(line)


@command.command("pull")
@click.argument("target", metavar="TARGET", type=_target)
@click.pass_context
def pull(ctx: click.Context, target: int | str) -> None:
    """Take TARGET, a module's number or a leg such as disk0.1, out of service; the machine goes on with the others.

    \b
    Example:
      ftvm ctl pull 1
      ftvm ctl web pull disk0.1
    """
    _connect(ctx).call("pull", {"target": target}, NoneType)


@command.command("insert")
@click.argument("target", metavar="TARGET", type=_target)
@click.option("--wait", is_flag=True, help="Return when it has everything again; show the progress.")
@click.pass_context
def insert(ctx: click.Context, target: int | str, wait: bool) -> None:
    """Bring TARGET, a module's number or a leg such as disk0.1, back into service while the guest runs.

    What had too many faults comes back only after 'clear'.

    \b
    Example:
      ftvm ctl insert 1
      ftvm ctl web insert disk0.1 --wait
    """
    subject = subject_of(target)

    def show(progress: dict[str, Any]) -> None:
        click.echo(f"{subject}: {progress.get('done', 0):.0%} of what it lacks is there", err=True)

    arguments = {"target": target, "wait": wait}
    if wait:
        _connect(ctx).call("insert", arguments, NoneType, forever=True, on_progress=show)
        click.echo(f"{subject} is in service", err=True)
    else:
        _connect(ctx).call("insert", arguments, NoneType)


@command.command("threshold")
@click.argument("target", metavar="TARGET", type=_target)
@click.option("--seconds", type=float, help="The shortest mean time between faults that is tolerated.")
@click.option("--samples", type=int, help="How many faults it takes to tell.")
@click.option("--policy", type=click.Choice([policy.value for policy in Policy]), help="What a fault leads to.")
@json_option
@click.pass_context
def threshold(
    ctx: click.Context,
    target: int | str,
    seconds: float | None,
    samples: int | None,
    policy: str | None,
    json_file: BinaryIO | None,
) -> None:
    """Show or change when TARGET has too many faults to stay in service.

    TARGET is the number of a module, or a leg such as disk0.1. What is not given stays as it is.

    \b
    Example:
      ftvm ctl threshold 1
      ftvm ctl web threshold 1 --seconds 60 --samples 3
      ftvm ctl web threshold disk0.1 --policy never-restart
    """
    given = {"target": target, "seconds": seconds, "samples": samples, "policy": policy}
    arguments = {name: value for name, value in given.items() if value is not None}
    now = _connect(ctx).call("threshold", arguments, Threshold)
    if json_file is not None:
        write_json(json_file, msgspec.json.encode(now))
        return
    click.echo(f"{target}: {now.policy}, MTBF of at least {now.seconds:g} s over {now.samples} faults")


@command.command("clear")
@click.argument("target", metavar="TARGET", type=_target)
@click.pass_context
def clear(ctx: click.Context, target: int | str) -> None:
    """Forget the faults of TARGET, a module's number or a leg such as disk0.1; it does not come back by that alone.

    \b
    Example:
      ftvm ctl clear 1
      ftvm ctl web clear disk0.1
    """
    _connect(ctx).call("clear", {"target": target}, NoneType)


class _PastEvents(msgspec.Struct):
    events: list[Event]


@command.command("events")
@click.option("--follow", is_flag=True, help="Go on with new events until the machine ends, or Ctrl-C.")
@click.option("--since", metavar="NUMBER", type=click.IntRange(min=0), default=0, help="Only those after this number.")
@json_option
@click.pass_context
def events(ctx: click.Context, follow: bool, since: int, json_file: BinaryIO | None) -> None:
    """Show what happened to the machine. With --json, one object per line.

    \b
    Example:
      ftvm ctl events --follow
      ftvm ctl web events --json - | jq .kind
    """
    client = _connect(ctx)
    arguments = {"since": since, "follow": follow}
    source = (
        client.stream("events", arguments, Event) if follow else client.call("events", arguments, _PastEvents).events
    )
    for event in source:
        if json_file is not None:
            write_json(json_file, msgspec.json.encode(event))
        else:
            click.echo(describe_event(event))


@command.command("suspend")
@click.argument("file", type=Path)
@click.pass_context
def suspend(ctx: click.Context, file: Path) -> None:
    """Save the machine to FILE and end it; 'ftvm resume FILE' goes on.

    \b
    Example:
      ftvm ctl suspend web.ftvm
      ftvm ctl web suspend web.ftvm
    """
    _connect(ctx).call("suspend", {"file": str(file.absolute())}, NoneType, forever=True)


@command.command("quit")
@click.pass_context
def quit_(ctx: click.Context) -> None:
    """End the machine at its next sync point, as Ctrl-A x on its console does.

    \b
    Example:
      ftvm ctl quit
      ftvm ctl web quit
    """
    _connect(ctx).call("quit", {}, NoneType)


@command.command("screendump")
@click.argument("file", type=output_file, required=False)
@click.pass_context
def screendump(ctx: click.Context, file: BinaryIO | None) -> None:
    """Draw the text screen as a picture into FILE (PNG; '-' is standard output). Without FILE: show it as text.

    \b
    Example:
      ftvm ctl screendump screen.png
      ftvm ctl web screendump
    """
    screen = _connect(ctx).call("screen", {}, Screen)
    if file is None:
        click.echo("\n".join(line.rstrip() for line in screen.lines()))
        return
    file.write(png(screen))
    file.flush()


@command.command("sendkeys")
@click.argument("keys")
@click.pass_context
def sendkeys(ctx: click.Context, keys: str) -> None:
    """Type KEYS on the machine's PS/2 keyboard: characters of a US keyboard, and keys by name in braces.

    {enter}, {esc}, {tab}, {up}, {f1}, {ctrl-c}, {ctrl-alt-del}; {left:down} holds a key until {left:up}; {{ and }} are
    the braces themselves. A guest that waits for keys alone must be --interactive, which it is on a terminal.

    \b
    Example:
      ftvm ctl sendkeys "root{enter}"
      ftvm ctl web sendkeys "{ctrl-alt-f2}"
    """
    _connect(ctx).call("sendkeys", {"keys": keys}, NoneType)

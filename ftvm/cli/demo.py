"""``ftvm demo``: what ftvm is for, in ten seconds."""

import os
import signal
import threading

import click

from ftvm.exitcodes import ExitCode
from ftvm.guests import catalogue
from ftvm.machine import Machine, MachineConfig, RunResult
from ftvm.module.fault import RegisterBit
from ftvm.monitor.eventlog import FAULT_INJECTED, Event

GUEST = "workload"
ROUNDS = 12
KILL_AFTER = b"chase"
"""The guest still has half its way to go when it writes this."""
FLIP_POSITION = 20_000_000
"""Somewhere in the third round."""


@click.command("demo")
def command() -> ExitCode:
    """Run a guest twice: undisturbed, and with one bit flipped in one module and the other module killed. Show that
    nobody outside could tell.

    \b
    Example:
      ftvm demo
    """
    guest = catalogue.find(GUEST)
    assert guest is not None, "the project's own kernels are part of the package"
    config = MachineConfig(image=guest.path, protocol=guest.kind, append=f"rounds={ROUNDS}", memory_bytes=64 << 20)

    click.secho(f"1. '{GUEST}' on two modules in lockstep, undisturbed", bold=True)
    golden, golden_console = _run(config, disturb=False)
    click.secho("\n2. The same, with a bit of RCX flipped in module 1, and 'kill -9' of module 0", bold=True)
    result, console = _run(config, disturb=True)

    click.secho("\nWhat the outside saw", bold=True)
    same = (console, result.state_digest) == (golden_console, golden.state_digest)
    for name, run, text in (("undisturbed", golden, golden_console), ("disturbed", result, console)):
        click.echo(f"  {name:12} {len(text):5} bytes of console, state {run.state_digest}")
    click.secho(f"  {'identical' if same else 'DIFFERENT'}", fg="green" if same else "red", bold=True)
    click.echo(f"  longest pause: {result.longest_pause_ms:.0f} ms; undisturbed {golden.longest_pause_ms:.0f} ms")
    return ExitCode.OK if same else ExitCode.GUEST_FAILURE


def _run(config: MachineConfig, disturb: bool) -> tuple[RunResult, bytes]:
    """A run of the guest, shown as it goes; its result and what it wrote."""
    shown = bytearray()
    killed = threading.Event()

    def show(channel: str, data: bytes) -> None:
        shown.extend(data)
        click.echo("".join(f"     {line}\n" for line in data.decode(errors="replace").splitlines()), nl=False)
        if disturb and KILL_AFTER in shown and not killed.is_set():
            killed.set()
            victim = machine.modules[0].pid
            click.secho(f"  -> kill -9 {victim} (module 0)", fg="red")
            os.kill(victim, signal.SIGKILL)

    def tell(event: Event) -> None:
        if event.kind != FAULT_INJECTED:  # the heading says that
            click.secho(f"  -> {event.subject}: {event.detail['reason']}", fg="yellow")

    machine = Machine(config, on_console=show, on_event=tell)
    if disturb:
        machine.inject(1, FLIP_POSITION, RegisterBit("rcx", 5))
    result = machine.run()
    pids = " and ".join(str(module.pid) for module in result.modules)
    click.echo(f"  processes {pids}: {result.sync_points} sync points, {result.blocks:,} blocks, {result.wall_s:.2f} s")
    return result, bytes(shown)

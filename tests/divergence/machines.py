"""Machines for the tests of this folder: the project's own kernels, run to their end, disturbed on the way."""

import functools
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ftvm
from ftvm.machine import Machine, MachineConfig, RunResult
from ftvm.monitor.eventlog import FAULT_INJECTED, MODULE_FILLING, Event
from ftvm.units import MIB
from tests.divergence.processes import children, ended

KERNELS = Path(ftvm.__file__).parent / "firmware" / "kernels"


def kernel(name: str) -> Path:
    return KERNELS / f"{name}.elf"


@dataclass
class Run:
    """A machine, what it showed on the serial port so far, what became of its modules, and how it ended.

    ``events`` are (kind, module); of a module that is being filled, only that it begins.
    """

    machine: Machine
    shown: bytearray = field(default_factory=bytearray)
    events: list[tuple[str, int]] = field(default_factory=list)
    strangers: list[int] = field(default_factory=lambda: children(os.getpid()))
    """Children that this process had before: helpers of what earlier tests imported."""
    ended: RunResult | None = None

    @property
    def result(self) -> RunResult:
        assert self.ended is not None
        return self.ended

    @property
    def console(self) -> bytes:
        return bytes(self.shown)

    @property
    def outside(self) -> tuple[str, int | None, bytes, str]:
        """What the outside can know of this run: equal for equal guests, whatever befell the modules."""
        return self.result.outcome, self.result.exit_code, self.console, self.result.state_digest

    @property
    def returning(self) -> int:
        """The process of the module on its way back, which has no place among the modules in service yet."""
        known = {*self.strangers, *(report.pid for report in self.machine.modules)}
        (pid,) = {pid for pid in children(os.getpid()) if not ended(pid)} - known
        return pid

    def kill(self, *modules: int, number: int = signal.SIGKILL) -> None:
        for module in modules:
            os.kill(self.machine.modules[module].pid, number)


def build(name: str, on_console: Callable[[str, bytes], None] | None = None, **options: Any) -> Machine:
    settings: dict[str, Any] = {"memory_bytes": 64 * MIB, "timeout_s": 120.0, **options}
    return Machine(MachineConfig(image=kernel(name), **settings), on_console)


def run(
    name: str,
    prepare: Callable[[Machine], object] = lambda machine: None,
    on_console: Callable[[Run, bytes], object] = lambda run, new: None,
    on_change: Callable[[Run, str, int], object] = lambda run, kind, module: None,
    **options: Any,
) -> Run:
    """Run the kernel ``name``. ``prepare`` may inject faults before, the others disturb it on the way."""

    def show(channel: str, data: bytes) -> None:
        this.shown.extend(data)
        on_console(this, data)

    def note(event: Event) -> None:
        if not event.subject.startswith("module ") or event.kind == FAULT_INJECTED:
            return
        if event.kind != MODULE_FILLING or event.detail["done"] == 0.0:
            module = int(event.subject.removeprefix("module "))
            this.events.append((event.kind, module))
            on_change(this, event.kind, module)

    settings: dict[str, Any] = {"memory_bytes": 64 * MIB, "timeout_s": 120.0, **options}
    this = Run(Machine(MachineConfig(image=kernel(name), **settings), show, note))
    prepare(this.machine)
    this.ended = this.machine.run()
    return this


@functools.cache
def golden(name: str, append: str = "") -> Run:
    """The same without faults, once for all tests."""
    return run(name, append=append)

"""Machines for the tests of this folder: the project's own kernels, run to their end."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ftvm
from ftvm.machine import Machine, MachineConfig, RunResult
from ftvm.units import MIB

KERNELS = Path(ftvm.__file__).parent / "firmware" / "kernels"


def kernel(name: str) -> Path:
    return KERNELS / f"{name}.elf"


@dataclass
class Run:
    """A machine that ran, its result, and what it showed on the serial port."""

    machine: Machine
    result: RunResult
    console: bytes


def build(name: str, on_console: Callable[[str, bytes], None] | None = None, **options: Any) -> Machine:
    settings: dict[str, Any] = {"memory_bytes": 64 * MIB, "timeout_s": 120.0, **options}
    return Machine(MachineConfig(image=kernel(name), **settings), on_console)


def run(name: str, prepare: Callable[[Machine], None] = lambda machine: None, **options: Any) -> Run:
    """Run the kernel ``name``; ``prepare`` may inject faults before."""
    shown: list[bytes] = []
    machine = build(name, lambda channel, data: shown.append(data), **options)
    prepare(machine)
    result = machine.run()
    return Run(machine, result, b"".join(shown))

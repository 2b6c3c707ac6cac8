"""How long a guest stands still when a fault is rolled back, a module dies, or comes back: see recovery.md.

python benchmarks/recovery.py [--memory 64M,256M,1G] [--repetitions 10]
"""

import argparse
import os
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from measure import report, spread, to_stderr
from resync import writer

from ftvm.errors import HostError
from ftvm.machine import Machine, MachineConfig
from ftvm.module.fault import RegisterBit
from ftvm.units import format_size, parse_size

STRETCH_BLOCKS = 5_000_000
PATIENCE_S = 120.0


def go_on(machine: Machine) -> None:
    """Some epochs more; the guest is one that does not end."""
    ending = machine.run_until(position=machine.position + STRETCH_BLOCKS)
    if ending is not None:
        raise HostError(f"the guest ended: {ending.outcome}")


def rollback_ms(machine: Machine, dice: random.Random) -> float:
    """A bit flips, and is put right."""
    before = len(machine.incidents)
    while len(machine.incidents) == before:  # a bit of RSI is overwritten at the end of each round
        position = machine.position + dice.randrange(1, STRETCH_BLOCKS)
        machine.inject(1, position, RegisterBit("rsi", dice.randrange(32)))
        go_on(machine)
    return machine.incidents[-1].recovered_in_ms or 0.0


def failover_ms(machine: Machine) -> float:
    """A module is killed in mid-run: what the others wait for, until they go on without it."""
    before = len(machine.incidents)
    os.kill(machine.modules[1].pid, signal.SIGKILL)
    while len(machine.incidents) == before:
        go_on(machine)
    return machine.incidents[-1].recovered_in_ms or 0.0


def return_s(machine: Machine) -> float:
    """Until it is back in service, while the guest runs."""
    began_s = time.monotonic()
    while any(module.state != "duplexed" for module in machine.modules):
        go_on(machine)
        if time.monotonic() - began_s > PATIENCE_S:
            raise HostError("the module did not come back")
    return time.monotonic() - began_s


def measure(ram_bytes: int, repetitions: int) -> dict[str, Any]:
    dice = random.Random(1)
    with tempfile.NamedTemporaryFile(suffix=".bin") as image:
        image.write(writer(ram_bytes))
        image.flush()
        with Machine(MachineConfig(Path(image.name), memory_bytes=ram_bytes)) as machine:
            machine.run_until(text=".")  # once through all of its memory
            start = machine.checkpoint()
            rollbacks, failovers, returns, joins = [], [], [], []
            for repetition in range(repetitions):
                machine.restore(start)  # with a clean record of faults
                rollbacks.append(rollback_ms(machine, dice))
                failovers.append(failover_ms(machine))
                returns.append(return_s(machine))
                joins.append(machine.modules[1].join_pause_ms or 0.0)
                to_stderr(f"{repetition + 1}/{repetitions} with {format_size(ram_bytes)}")
    return {
        "rollback_ms": spread(rollbacks),
        "failover_ms": spread(failovers),
        "joining_ms": spread(joins),
        "back_after_s": spread(returns),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Pauses of recovery, by size of RAM.")
    parser.add_argument("--memory", default="64M,256M,1G")
    parser.add_argument("--repetitions", type=int, default=10)
    arguments = parser.parse_args()

    def measure_all() -> dict[str, Any]:
        sizes = arguments.memory.split(",")
        results: dict[str, Any] = {text: measure(parse_size(text), arguments.repetitions) for text in sizes}
        series = {
            pause: [[parse_size(text) >> 20, results[text][f"{pause}_ms"]["median"]] for text in sizes]
            for pause in ("rollback", "failover", "joining")
        }
        plot = {"title": "Pause against RAM", "x": "MiB of RAM", "y": "ms, median", "series": series}
        return results | {"plots": [plot]}

    report("recovery", vars(arguments), measure_all)


if __name__ == "__main__":
    main()

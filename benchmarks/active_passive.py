"""Lockstep beside what is usual: one machine that is saved to a cold standby every N ms. See active_passive.md.

python benchmarks/active_passive.py [--intervals 50,200,1000] [--rounds 60] [--memory 64M]
"""

import argparse
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measure import KERNELS, report, spread, to_stderr

from ftvm.errors import HostError
from ftvm.machine import Machine, MachineConfig
from ftvm.monitor import savefile
from ftvm.units import parse_size

FAILOVERS = 5


def config(rounds: int, ram_bytes: int, modules: int) -> MachineConfig:
    return MachineConfig(KERNELS / "workload.elf", append=f"rounds={rounds}", memory_bytes=ram_bytes, modules=modules)


def saved_every(machine: Machine, interval_s: float, path: Path) -> Iterator[float]:
    """Run to the guest's end, and save the machine each time the interval is over: how long each saving took."""
    while (ending := machine.run_until(timeout_s=interval_s)) is not None and ending.outcome == "timeout":
        began_s = time.monotonic()
        machine.suspend(path)
        yield time.monotonic() - began_s
        machine.run_until(timeout_s=interval_s)  # suspending asks for a stop, which ends this stretch at once
    if ending is None or ending.outcome != "exit":
        raise HostError(f"the guest did not end well: {ending}")


def take_over_s(path: Path) -> float:
    """The standby resumes what was saved last: until its guest runs."""
    began_s = time.monotonic()
    with Machine(MachineConfig.resume(savefile.load(path), modules=1)) as machine:
        machine.run_until(position=machine.position + 1)
        return time.monotonic() - began_s


def active_passive(rounds: int, ram_bytes: int, interval_s: float, alone_s: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "standby.save"
        with Machine(config(rounds, ram_bytes, 1)) as machine:
            began_s = time.monotonic()
            pauses_s = list(saved_every(machine, interval_s, path))
            wall_s = time.monotonic() - began_s
        gaps_s = [take_over_s(path) for _ in range(FAILOVERS)]
        size = path.stat().st_size
    # What ran since the last saving is lost: half an interval on average. And it has been seen by the outside already,
    # or has waited for the next saving to be seen.
    return {
        "overhead": round(wall_s / alone_s, 3),
        "savings": len(pauses_s),
        "pause_ms": spread([pause * 1e3 for pause in pauses_s]),
        "saved_mib": round(size / 2**20, 2),
        "lost_work_ms": {"median": interval_s * 500, "min": 0.0, "max": interval_s * 1000},
        "failover_gap_ms": spread([gap * 1e3 for gap in gaps_s]),
    }


def lockstep(rounds: int, ram_bytes: int, alone_s: float) -> dict[str, Any]:
    """The same guest on two modules, one of which is killed now and then."""
    with Machine(config(rounds, ram_bytes, 2)) as machine:
        began_s = time.monotonic()
        ending = machine.run_until()
        wall_s = time.monotonic() - began_s
    gaps_ms = []
    with Machine(config(rounds, ram_bytes, 2)) as machine:
        start = machine.checkpoint()
        for _ in range(FAILOVERS):
            machine.restore(start)
            machine.run_until(position=5_000_000)
            os.kill(machine.modules[1].pid, signal.SIGKILL)
            while not machine.incidents:
                machine.run_until(position=machine.position + 1_000_000)
            gaps_ms.append(machine.incidents[0].recovered_in_ms or 0.0)
    assert ending is not None
    return {
        "overhead": round(wall_s / alone_s, 3),
        "lost_work_ms": {"median": 0.0, "min": 0.0, "max": 0.0},
        "failover_gap_ms": spread(gaps_ms),
    }


def alone(rounds: int, ram_bytes: int) -> float:
    """Seconds that the guest takes on one module, undisturbed."""
    with Machine(config(rounds, ram_bytes, 1)) as machine:
        began_s = time.monotonic()
        machine.run_until()
        return time.monotonic() - began_s


def main() -> None:
    parser = argparse.ArgumentParser(description="A cold standby and lockstep, in one table.")
    parser.add_argument("--intervals", default="50,200,1000", help="ms between two savings")
    parser.add_argument("--rounds", type=int, default=60, help="of the workload, some 60 ms each")
    parser.add_argument("--memory", type=parse_size, default="64M")
    arguments = parser.parse_args()

    def measure() -> dict[str, Any]:
        alone_s = statistics.median(alone(arguments.rounds, arguments.memory) for _ in range(3))
        results: dict[str, Any] = {"lockstep": lockstep(arguments.rounds, arguments.memory, alone_s)}
        for interval in arguments.intervals.split(","):
            to_stderr(f"saved every {interval} ms")
            results[f"standby, {interval} ms"] = active_passive(
                arguments.rounds, arguments.memory, int(interval) / 1e3, alone_s
            )
        return results

    report("active_passive", vars(arguments), measure)


if __name__ == "__main__":
    main()

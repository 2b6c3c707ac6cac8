"""What checkpoints, going back and recording cost: see travel.md.

python benchmarks/travel.py [--repetitions 30] [--guests workload,debian-cloud]  (needs: ftvm guests fetch debian-cloud)
"""

import argparse
import functools
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measure import report, spread, to_stderr

from ftvm.debug.session import Session
from ftvm.errors import FtvmError, UnusableFile
from ftvm.guests import catalogue
from ftvm.machine import Machine, MachineConfig
from ftvm.units import MIB

BETWEEN = (10_000, 100_000, 1_000_000)
"""Blocks that run between a checkpoint and going back to it."""
SPAN = 100_000_000
"""Blocks of the past in which places are gone to."""
WORK = b"while true; do md5sum /bin/busybox; done\n"


def config(name: str, **settings: Any) -> tuple[MachineConfig, str | None]:
    """A guest that works without end, and the text after which it is told to."""
    guest = catalogue.find(name)
    if guest is None:
        raise UnusableFile(f"the guest {name!r} is not here", f"get it with: ftvm guests fetch {name}")
    linux = guest.ready is not None
    append = guest.append if linux else "rounds=100000"
    memory = 128 * MIB if linux else 64 * MIB
    made = MachineConfig(guest.path, guest.initrd, append, memory, protocol=guest.kind, interactive=linux, **settings)
    return made, guest.ready


def begin(machine: Machine, ready: str | None) -> None:
    if ready is None:
        machine.run_until(position=3_000_000)
    else:
        machine.run_until(text=ready)
        machine.send_console(WORK)
        machine.run_until(position=machine.position + 20_000_000)


def timed(work: Callable[[], object]) -> float:
    """Milliseconds."""
    began_s = time.monotonic()
    work()
    return (time.monotonic() - began_s) * 1e3


def checkpoints(name: str, repetitions: int) -> dict[str, Any]:
    results: dict[str, Any] = {}
    made, ready = config(name)
    with Machine(made) as machine:
        begin(machine, ready)
        results["first_checkpoint_ms"] = round(timed(machine.checkpoint), 3)
        there = machine.checkpoint()
        results["first_checkpoint_mib"] = machine.checkpoint_bytes // MIB
        for blocks in BETWEEN:
            keeping, going_back = [], []
            for _ in range(repetitions):
                machine.run_until(position=there.position + blocks)
                keeping.append(timed(machine.checkpoint))
                going_back.append(timed(lambda: machine.restore(there)))
            results[f"after {blocks}"] = {"checkpoint_ms": spread(keeping), "restore_ms": spread(going_back)}
    return results


def travelling(name: str, repetitions: int) -> dict[str, Any]:
    chosen = random.Random(1)
    made, ready = config(name)
    with Machine(made) as machine:
        begin(machine, ready)
        session = Session(machine)
        began = session.position
        running_ms = timed(lambda: session.run(position=began + SPAN))
        places = [chosen.randrange(began, began + SPAN) for _ in range(repetitions)]
        going = [timed(functools.partial(session.goto, place)) for place in places]
        back = [timed(session.back_instructions) for _ in range(repetitions)]
        return {
            "run_ms": round(running_ms, 1),
            "checkpoints": len(session.checkpoints),
            "checkpoints_mib": machine.checkpoint_bytes // MIB,
            "goto_ms": spread(going),
            "back_one_instruction_ms": spread(back),
        }


def recording(name: str, repetitions: int) -> dict[str, Any]:
    """Running the same with and without a recording, in turn."""
    ratios, sizes = [], []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run"
        for _ in range(max(3, repetitions // 10)):
            made, ready = config(name)
            with Machine(made) as machine:
                begin(machine, ready)
                there = machine.checkpoint()
                to_the_end = functools.partial(machine.run_until, position=there.position + SPAN)
                plain = timed(to_the_end)
                machine.restore(there)
                recorder = machine.record(file)
                recorded = timed(to_the_end)
                recorder.close()
                ratios.append(recorded / plain)
                sizes.append(file.stat().st_size / MIB)
    return {"ratio": spread(ratios), "mib": spread(sizes)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Checkpoints, going back, recording.")
    parser.add_argument("--repetitions", type=int, default=30)
    parser.add_argument("--guests", default="workload,debian-cloud")
    arguments = parser.parse_args()

    def measure_all() -> dict[str, Any]:
        results: dict[str, Any] = {}
        for name in arguments.guests.split(","):
            for part in (checkpoints, travelling, recording):
                to_stderr(f"{name}: {part.__name__}")
                results[f"{name} {part.__name__}"] = part(name, arguments.repetitions)
        return results

    report("travel", vars(arguments), measure_all)


if __name__ == "__main__":
    try:
        main()
    except FtvmError as error:
        raise SystemExit(f"error: {error.message}\nhint: {error.hint}") from None

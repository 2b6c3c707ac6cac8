"""One bit stuck at 0 or 1 from a random position on, in a random module, until enough had an effect: see stuck.md.

python benchmarks/stuck.py [--count 60]
"""

import argparse
import random
from collections import Counter
from typing import Any

import flips
from measure import report, to_stderr

from ftvm.machine import Machine, MachineConfig


def conduct(seed: int, golden: flips.Golden) -> dict[str, Any]:
    """One run; ``verdict`` is masked when the bit had the value already, or nobody used it."""
    experiment = flips.sample(seed, golden.result.blocks)
    value = random.Random(seed).randrange(2)
    console = bytearray()
    config = MachineConfig(
        image=flips.KERNEL, memory_bytes=flips.MEMORY_BYTES, epoch_blocks=100_000, timeout_s=flips.TIMEOUT_S
    )
    machine = Machine(config, on_console=lambda channel, data: console.extend(data))
    machine.inject(experiment.module, experiment.position, experiment.target, value)
    result = machine.run()
    verdicts = [divergence.verdict for divergence in result.divergences]
    return {
        "seed": seed,
        "target": str(experiment.target),
        "verdict": "failed-over" if "failed-over" in verdicts else verdicts[0] if verdicts else "masked",
        "named": sorted({divergence.module for divergence in result.divergences} - {None}),
        "module": experiment.module,
        "as_golden": (bytes(console), result.state_digest) == (golden.console, golden.result.state_digest),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Stuck bits in one module of the workload kernel.")
    parser.add_argument("--count", type=int, default=60, help="runs in which the stuck bit had an effect")
    arguments = parser.parse_args()

    def measure() -> dict[str, Any]:
        golden = flips.golden()
        runs: list[dict[str, Any]] = []
        effective = 0
        while effective < arguments.count:
            runs.append(conduct(len(runs), golden))
            effective += runs[-1]["verdict"] != "masked"
            if len(runs) % 20 == 0:
                to_stderr(f"{len(runs)} runs, {effective} with an effect")
        caught = [run for run in runs if run["verdict"] != "masked"]
        return {
            "runs": len(runs),
            "with_effect": len(caught),
            "verdicts": dict(Counter(run["verdict"] for run in runs)),
            "named_right": sum(run["named"] == [run["module"]] for run in caught),
            "as_golden": sum(run["as_golden"] for run in runs),
            "odd": [run for run in runs if not run["as_golden"] or (run in caught and run["named"] != [run["module"]])],
        }

    report("stuck", vars(arguments), measure)


if __name__ == "__main__":
    main()

"""One flipped bit at a random position in a random module, run after run: see faults.md.

python benchmarks/faults.py [--count 400] [--first-seed 0] [--runs runs.jsonl]
"""

import argparse
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import flips
import msgspec
from measure import report, to_stderr

MACHINES = 2
"""At a time."""


def conduct_all(seeds: range) -> Iterator[flips.Outcome]:
    undisturbed = flips.golden()
    with ThreadPoolExecutor(MACHINES) as pool:
        yield from pool.map(
            lambda seed: flips.conduct(flips.sample(seed, undisturbed.result.blocks), undisturbed), seeds
        )


def summary(outcomes: Sequence[flips.Outcome]) -> dict[str, Any]:
    caught = [outcome for outcome in outcomes if outcome.verdict != flips.MASKED]
    latencies = sorted(outcome.recovered_in_ms for outcome in caught if outcome.verdict == "transient")
    return {
        "runs": len(outcomes),
        "wrong": [{"seed": o.experiment.seed, "what": o.wrong} for o in outcomes if o.wrong is not None],
        "verdicts": dict(Counter(outcome.verdict for outcome in outcomes)),
        "by_group": {
            group: dict(Counter(o.verdict for o in outcomes if o.experiment.group == group))
            for group in sorted({outcome.experiment.group for outcome in outcomes})
        },
        "charged_to_another_module": [
            outcome.experiment.seed for outcome in caught if outcome.charged != (outcome.experiment.module,)
        ],
        "transient_recovered_in_ms": {
            "median": statistics.median(latencies),
            "p99": latencies[min(len(latencies) - 1, int(len(latencies) * 0.99))],
            "max": latencies[-1],
        }
        if latencies
        else {},
        "wall_s_median": statistics.median(outcome.wall_s for outcome in outcomes),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Flip one bit in one module per run of the workload kernel.")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, help="write each run to this file, one JSON object per line")
    arguments = parser.parse_args()

    def measure() -> dict[str, Any]:
        outcomes: list[flips.Outcome] = []
        for outcome in conduct_all(range(arguments.first_seed, arguments.first_seed + arguments.count)):
            outcomes.append(outcome)
            if arguments.runs is not None:
                with arguments.runs.open("ab") as file:
                    file.write(msgspec.json.encode(outcome) + b"\n")
            if outcome.wrong is not None or len(outcomes) % 50 == 0:
                to_stderr(f"{len(outcomes)}/{arguments.count}  {outcome.experiment}  {outcome.wrong or 'as golden'}")
        return summary(outcomes)

    report("faults", {"count": arguments.count, "first_seed": arguments.first_seed}, measure)


if __name__ == "__main__":
    main()

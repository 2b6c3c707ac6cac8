"""How soon a flipped bit is seen, and what settling it takes, by what was hit and by epoch length: see divergence.md.

python benchmarks/divergence.py [--epochs 20k,100k,1M] [--experiments 100]
"""

import argparse
import statistics
from typing import Any

from measure import report, spread, to_stderr

from ftvm.campaign.experiment import Trial
from ftvm.campaign.guest import image_of
from ftvm.campaign.plan import parse_plan
from ftvm.campaign.rig import Rig
from ftvm.campaign.space import Space

TARGETS = {
    "general registers": ["general"],
    "rip and rflags": ["rip", "rflags"],
    "system registers": ["segments", "control", "msrs"],
    "x87 and SSE": ["x87", "sse"],
    "code": ["section:.text"],
    "data": ["section:.rodata", "section:.data", "section:.bss"],
}
ROUNDS = 2
"""Of the workload kernel: 15 million blocks, so that epochs are as long as they are told to be."""


def measure(epoch: str, experiments: int) -> dict[str, list[Trial]]:
    """The experiments on each kind of target, in duplex."""
    groups = "".join(f"[[fault]]\ntargets = {targets}\nweight = 1\n" for targets in TARGETS.values())
    plan = parse_plan(
        f'version = 1\nname = "divergence"\nseed = 1\nexperiments = 1\nepoch = "{epoch}"\ncolumns = ["duplex"]\n'
        f'[[guest]]\nimage = "workload"\nappend = "rounds={ROUNDS}"\nmemory = "4M"\n{groups}',
        "divergence",
    )
    rig = Rig(plan, 0)
    try:
        space = Space(plan, [rig.golden], [image_of(plan.guest[0])])
        drawn = sorted((space.experiment(n) for n in range(experiments * len(TARGETS))), key=lambda e: e.position)
        trials: dict[str, list[Trial]] = {name: [] for name in TARGETS}
        names = list(TARGETS)
        for done, experiment in enumerate(drawn, 1):
            trials[names[experiment.group]].append(rig.conduct(experiment, "duplex"))
            if done % 50 == 0:
                to_stderr(f"{done}/{len(drawn)} with epochs of {epoch}")
        return trials
    finally:
        rig.close()


def summary(trials: list[Trial]) -> dict[str, Any]:
    seen = [trial for trial in trials if trial.detected_after is not None]
    return {
        "faults": len(trials),
        "seen": len(seen),
        "blocks_to_detection": spread([float(trial.detected_after or 0) for trial in seen]),
        "ms_to_detection": spread([trial.detected_ms or 0.0 for trial in seen]),
        "ms_to_settle": spread([trial.recovered_ms or 0.0 for trial in seen]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Latency of detection and of recovery.")
    parser.add_argument("--epochs", default="20k,100k,1M")
    parser.add_argument("--experiments", type=int, default=100, help="on each kind of target and epoch length")
    arguments = parser.parse_args()

    def measure_all() -> dict[str, Any]:
        results: dict[str, Any] = {}
        plots: list[dict[str, Any]] = []
        for epoch in arguments.epochs.split(","):
            trials = measure(epoch, arguments.experiments)
            results |= {f"{epoch}, {name}": summary(members) for name, members in trials.items()}
            everything = [trial for members in trials.values() for trial in members if trial.detected_ms is not None]
            values = [trial.detected_ms for trial in everything]
            plots.append({"title": f"Detection, epochs of {epoch}", "x": "ms", "values": values})
            settled = statistics.median(trial.recovered_ms or 0.0 for trial in everything)
            to_stderr(f"{epoch}: settled in {settled:.1f} ms (median)")
        return results | {"plots": plots}

    report("divergence", vars(arguments), measure_all)


if __name__ == "__main__":
    main()

"""How soon a flipped bit is seen, what settling it takes, and how long it takes to find the first instruction that went
wrong, by what was hit and by epoch length: see divergence.md.

python benchmarks/divergence.py [--epochs 20k,100k,1M] [--experiments 60] [--localised 4]
"""

import argparse
import contextlib
import itertools
import statistics
from collections import Counter
from typing import Any

from measure import report, spread, to_stderr

from ftvm.campaign.experiment import Experiment, Trial
from ftvm.campaign.guest import config_of, image_of
from ftvm.campaign.plan import CampaignPlan, parse_plan
from ftvm.campaign.rig import Rig
from ftvm.campaign.space import Space, fault_of
from ftvm.campaign.work import Golden
from ftvm.debug.divergence.pair import Lost, Pair
from ftvm.debug.divergence.search import Finding, localise
from ftvm.machine import Machine
from ftvm.monitor.recovery import Incident

TARGETS = {
    "general registers": ["general"],
    "rip and rflags": ["rip", "rflags"],
    "system registers": ["segments", "control", "msrs"],
    "x87 and SSE": ["x87", "sse"],
    "code": ["section:.text"],
    "data": ["section:.rodata", "section:.data", "section:.bss"],
}
TRIES = 3
"""Most faults are where no instruction looks before they are put right."""

ROUNDS = 2
"""Of the workload kernel: 15 million blocks, so that epochs are as long as they are told to be."""


def plan_of(epoch: str) -> CampaignPlan:
    """One group of faults for each kind of target."""
    groups = "".join(f"[[fault]]\ntargets = {targets}\nweight = 1\n" for targets in TARGETS.values())
    return parse_plan(
        f'version = 1\nname = "divergence"\nseed = 1\nexperiments = 1\nepoch = "{epoch}"\ncolumns = ["duplex"]\n'
        f'[[guest]]\nimage = "workload"\nappend = "rounds={ROUNDS}"\nmemory = "4M"\n{groups}',
        "divergence",
    )


def draw(plan: CampaignPlan, golden: Golden, each: int) -> list[Experiment]:
    """So many on each kind of target, in the order of their positions."""
    space = Space(plan, [golden], [image_of(plan.guest[0])])
    chosen: list[Experiment] = []
    left = Counter(dict.fromkeys(range(len(TARGETS)), each))
    for number in itertools.count():
        if not left.total():
            return sorted(chosen, key=lambda experiment: experiment.position)
        experiment = space.experiment(number)
        if left[experiment.group]:
            left[experiment.group] -= 1
            chosen.append(experiment)


def measure(epoch: str, experiments: int) -> dict[str, list[Trial]]:
    """The experiments on each kind of target, in duplex."""
    plan = plan_of(epoch)
    rig = Rig(plan, 0)
    try:
        trials: dict[str, list[Trial]] = {name: [] for name in TARGETS}
        names = list(TARGETS)
        drawn = draw(plan, rig.golden, experiments)
        for done, experiment in enumerate(drawn, 1):
            trials[names[experiment.group]].append(rig.conduct(experiment, "duplex"))
            if done % 50 == 0:
                to_stderr(f"{done}/{len(drawn)} with epochs of {epoch}")
        return trials
    finally:
        rig.close()


def localise_all(epoch: str, each: int) -> dict[str, list[Finding]]:
    """What was found of faults that modules differed by: of each kind until an instruction went wrong by ``each`` of
    them, but of no more than TRIES times as many."""
    plan = plan_of(epoch)
    rig = Rig(plan, 0)
    golden = rig.golden
    rig.close()
    findings: dict[str, list[Finding]] = {name: [] for name in TARGETS}
    names = list(TARGETS)
    drawn = draw(plan, golden, TRIES * each)
    for done, experiment in enumerate(drawn, 1):
        of_kind = findings[names[experiment.group]]
        if sum(finding.wrong is not None for finding in of_kind) < each:
            finding = localise_one(plan, experiment, golden.ram_bytes)
            of_kind += [] if finding is None else [finding]
        to_stderr(f"{done}/{len(drawn)} localised")
    return findings


def localise_one(plan: CampaignPlan, experiment: Experiment, ram_bytes: int) -> Finding | None:
    """Run the guest with one fault up to the comparison that shows it; None if none does."""
    found: list[Finding] = []

    def look(incident: Incident) -> None:
        divergence = incident.divergence
        if found or incident.module is None or incident.epoch is None or None in divergence.reports:
            return
        reports = [report for report in divergence.reports if report is not None]
        inputs = incident.epoch.inputs
        with Pair(machine.verified, machine.board, incident.module, inputs) as pair, contextlib.suppress(Lost):
            end = max(report.position for report in reports)
            found.append(localise(pair, divergence.verified, end, reports[incident.module]))
        machine.request_stop()

    machine = Machine(config_of(plan, plan.guest[0], "duplex"))
    machine.follow_incidents(look)
    machine.inject(fault_of(experiment, ram_bytes))
    machine.run()
    return found[0] if found else None


def localised(findings: list[Finding]) -> dict[str, Any]:
    """``found``: of so many faults that were ``seen``, the first wrong instruction; nobody had used the others."""
    found_s = [finding.seconds for finding in findings if finding.wrong is not None]
    unused_s = [finding.seconds for finding in findings if finding.wrong is None]
    figures: dict[str, Any] = {"seen": len(findings), "found": len(found_s)}
    if found_s:
        figures["s_to_first_wrong_instruction"] = spread(found_s)
    if unused_s:
        figures["s_to_nobody_used_it"] = spread(unused_s)
    return figures


def summary(trials: list[Trial]) -> dict[str, Any]:
    seen = [trial for trial in trials if trial.detected_after is not None]
    if not seen:
        return {"faults": len(trials), "seen": 0}
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
    parser.add_argument("--experiments", type=int, default=60, help="on each kind of target and epoch length")
    parser.add_argument(
        "--localised", type=int, default=4, help="of each kind of target, with the second of the epochs"
    )
    arguments = parser.parse_args()

    def measure_all() -> dict[str, Any]:
        results: dict[str, Any] = {}
        plots: list[dict[str, Any]] = []
        epochs = arguments.epochs.split(",")
        for epoch in epochs:
            trials = measure(epoch, arguments.experiments)
            results |= {f"{epoch}, {name}": summary(members) for name, members in trials.items()}
            everything = [trial for members in trials.values() for trial in members if trial.detected_ms is not None]
            values = [trial.detected_ms for trial in everything]
            plots.append({"title": f"Detection, epochs of {epoch}", "x": "ms", "values": values})
            if everything:
                settled = statistics.median(trial.recovered_ms or 0.0 for trial in everything)
                to_stderr(f"{epoch}: settled in {settled:.1f} ms (median)")
        findings = localise_all(epochs[min(1, len(epochs) - 1)], arguments.localised)
        results |= {f"first wrong instruction, {name}": localised(members) for name, members in findings.items()}
        values = [each.seconds for members in findings.values() for each in members if each.wrong is not None]
        plots.append({"title": "Time to the first wrong instruction", "x": "s", "values": values})
        return results | {"plots": plots}

    report("divergence", vars(arguments), measure_all)


if __name__ == "__main__":
    main()

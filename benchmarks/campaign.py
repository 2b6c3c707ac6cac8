"""Experiments per second on a snapshot of a booted Linux, by their length: see campaign.md.

python benchmarks/campaign.py [--lengths 100k,1M,4M] [--experiments 100]      (needs: ftvm guests fetch debian-cloud)
"""

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any

from measure import report, spread, to_stderr

from ftvm.campaign.guest import image_of
from ftvm.campaign.plan import Column, parse_plan
from ftvm.campaign.rig import Rig, Stand
from ftvm.campaign.space import Space
from ftvm.errors import FtvmError
from ftvm.units import parse_blocks

PLAN = Path(__file__).with_name("campaign-debian.toml")
COLUMNS: tuple[Column, ...] = ("duplex", "simplex")
RESTORES = 30


def cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def processes(stand: Stand) -> list[int]:
    return [os.getpid(), *(module.pid for module in stand.machine.modules)]


def measure(length: int, experiments: int) -> dict[str, Any]:
    """Of experiments that can strike, and run, within ``length`` blocks from the snapshot."""
    text = PLAN.read_text().replace('stop_on = "end-42"\n', f"blocks = {length}\n")
    plan = parse_plan(text, str(PLAN))
    rig = Rig(plan, 0)
    try:
        space = Space(plan, [rig.golden], [image_of(plan.guest[0])])
        drawn = sorted((space.experiment(number) for number in range(experiments)), key=lambda e: e.position)
        return {column: _column(rig, column, drawn) for column in COLUMNS}
    finally:
        rig.close()


def _column(rig: Rig, column: Column, drawn: list[Any]) -> dict[str, Any]:
    stand = rig.stand(column)
    restores_ms = []
    for _ in range(RESTORES):
        began_s = time.monotonic()
        stand.go(rig.golden.start)
        restores_ms.append((time.monotonic() - began_s) * 1e3)
    before = {pid: cpu_s(pid) for pid in processes(stand)}
    began_s = time.monotonic()
    trials = [rig.conduct(experiment, column) for experiment in drawn]
    wall_s = time.monotonic() - began_s
    # A machine that lost a module has been replaced: its processes began within this time.
    used_s = [cpu_s(pid) - before.get(pid, 0.0) for pid in processes(rig.stand(column))]
    to_stderr(f"{column}: {len(trials) / wall_s:.1f} experiments per second")
    return {
        "experiments": len(trials),
        "per_s": round(len(trials) / wall_s, 2),
        "per_s_and_core": round(len(trials) / sum(used_s), 2),
        "cpu_ms_monitor": round(used_s[0] / len(trials) * 1e3, 2),
        "cpu_ms_modules": round(sum(used_s[1:]) / len(trials) * 1e3, 2),
        "restore_ms": spread(restores_ms),
        "after_fault_ms": spread([trial.wall_ms for trial in trials]),
        "before_fault_ms": round((wall_s * 1e3 - sum(t.wall_ms for t in trials)) / len(trials), 2),
        "blocks": statistics.median(trial.blocks for trial in trials),
        "converged": sum(trial.converged for trial in trials),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Experiments per second, by their length.")
    parser.add_argument("--lengths", default="100k,1M,4M")
    parser.add_argument("--experiments", type=int, default=100, help="of each length")
    arguments = parser.parse_args()

    def measure_all() -> dict[str, Any]:
        results: dict[str, Any] = {}
        for text in arguments.lengths.split(","):
            to_stderr(f"{text} blocks")
            for column, figures in measure(parse_blocks(text), arguments.experiments).items():
                results[f"{text} {column}"] = figures
        lengths = {text: parse_blocks(text) for text in arguments.lengths.split(",")}
        series = {
            column: [[blocks, results[f"{text} {column}"]["per_s_and_core"]] for text, blocks in lengths.items()]
            for column in COLUMNS
        }
        title = "Experiments by length"
        results["plots"] = [{"title": title, "x": "blocks", "y": "per second and core", "series": series}]
        return results

    report("campaign", vars(arguments), measure_all)


if __name__ == "__main__":
    try:
        main()
    except FtvmError as error:
        raise SystemExit(f"error: {error.message}\nhint: {error.hint}") from None

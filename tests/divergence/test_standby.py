"""What a death costs, as benchmarks/active_passive.py measures it: with a cold standby, and in lockstep."""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "active_passive.py"


def test_lockstep_loses_nothing_that_was_heard_and_a_standby_goes_on_from_what_was_saved() -> None:
    command = [sys.executable, BENCHMARK, "--kills", "1", "--intervals", "300", "--memory", "8M", "--seconds", "0.5"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    results = json.loads(ran.stdout)["results"]
    assert results["lockstep"]["lost_counts"]["max"] == 0
    assert results["standby, 300 ms"]["saved_mib"] > 0
    assert all(results[name]["failover_gap_ms"]["min"] > 0 for name in ("lockstep", "standby, 300 ms"))

"""Modules that go on having faults, modules that try to get out, and a machine that is managed while it runs."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ftvm.machine import Machine
from ftvm.module.fault import RamBit, RegisterBit, Target
from tests.divergence.machines import run

GUEST = {"append": "rounds=2", "epoch_blocks": 200_000}

SABOTAGE = """
import os, sys
if "ftvm.module.process" in sys.orig_argv:
    from ftvm.module.board import Board
    run, calls, armed = Board.run, [], not os.path.exists({flag!r})
    def sabotaged(self, position):
        calls.append(position)
        if len(calls) == 5 and armed:
            {attempt}
        return run(self, position)
    Board.run = sabotaged
"""


def test_a_module_with_too_many_transient_faults_leaves_service() -> None:
    def prepare(machine: Machine) -> None:
        for number in range(8):
            machine.inject(1, 1_000_000 * (number + 1), RegisterBit("r15", 7))

    golden = run("workload", **GUEST)
    hit = run("workload", prepare, **GUEST)
    assert (hit.console, hit.result.state_digest) == (golden.console, golden.result.state_digest)
    verdicts = [divergence.verdict for divergence in hit.result.divergences]
    assert verdicts == ["transient"] * 5 + ["failed-over"], "six faults in no time are below any sensible MTBF"
    assert [module.state for module in hit.result.modules] == ["online", "failed"]


@pytest.mark.parametrize("seed", range(6))
def test_a_stuck_bit_is_blamed_on_its_module_and_the_guest_goes_on(seed: int) -> None:
    chosen = random.Random(seed)
    target: Target
    if seed % 2:
        target = RegisterBit(chosen.choice(["rax", "rcx", "rdi", "rsp", "cr3", "xmm1"]), chosen.randrange(32))
    else:
        target = RamBit(chosen.randrange(0x100000, 0x108000), chosen.randrange(8))
    module, position, value = chosen.randrange(2), chosen.randrange(200_000, 6_000_000), chosen.randrange(2)

    golden = run("workload", **GUEST)
    hit = run("workload", lambda machine: machine.inject(module, position, target, value), **GUEST)
    assert (hit.console, hit.result.state_digest) == (golden.console, golden.result.state_digest)
    assert {divergence.module for divergence in hit.result.divergences} <= {module}
    if any(divergence.verdict == "failed-over" for divergence in hit.result.divergences):
        assert hit.result.modules[module].state == "failed"


@pytest.mark.parametrize(
    "attempt",
    [
        "open('/etc/passwd')",
        "os.fork()",
        "os.kill(os.getppid(), 9)",
        "os.execv('/bin/true', ['true'])",
        "__import__('_socket').socket()",
    ],
)
def test_a_module_that_tries_to_get_out_is_killed_and_the_machine_goes_on(attempt: str, tmp_path: Path) -> None:
    flag = tmp_path / "once"
    # All modules try it; those that come back find the flag that the test puts there.
    (tmp_path / "sitecustomize.py").write_text(SABOTAGE.format(flag=str(flag), attempt=attempt))
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "ftvm", "run", "workload", "--append", "rounds=30", "--json", str(report)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}", "PATH": "/usr/bin:/bin"},
    )
    assert process.stderr is not None
    first = process.stderr.readline().decode()
    flag.touch()
    process.communicate(timeout=120)
    assert "tried a forbidden system call" in first
    result = json.loads(report.read_text())
    assert (process.returncode, result["outcome"], result["exit_code"]) == (0, "exit", 0)
    assert {divergence["kind"] for divergence in result["divergences"]} == {"death"}


def ctl(*arguments: str) -> str:
    command = [sys.executable, "-m", "ftvm", "ctl", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_a_running_machine_is_looked_at_and_managed(tmp_path: Path) -> None:
    name = f"test-{tmp_path.name[-40:]}"
    events = tmp_path / "events.jsonl"
    command = [sys.executable, "-m", "ftvm", "run", "spin", "--name", name, "--event-log", str(events)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as machine:
        try:
            while name not in ctl():
                assert machine.poll() is None
                time.sleep(0.05)
            status = json.loads(ctl(name, "status", "--json", "-"))
            assert (status["state"], [module["state"] for module in status["modules"]]) == ("duplex", ["duplexed"] * 2)
            ctl(name, "pull", "1")
            status = json.loads(ctl(name, "status", "--json", "-"))
            assert (status["state"], status["modules"][1]["state"]) == ("simplex", "offline")
            ctl(name, "insert", "1", "--wait")
            status = json.loads(ctl(name, "status", "--json", "-"))
            assert (status["state"], status["modules"][1]["restarts"]) == ("duplex", 1)
            ctl(name, "quit")
            assert machine.wait(timeout=60) == 0
        finally:
            machine.kill()
    kinds = [json.loads(line)["kind"] for line in events.read_text().splitlines()]
    assert kinds[0] == "module-pulled"
    assert kinds[-1] == "module-joined"
    assert name not in ctl()

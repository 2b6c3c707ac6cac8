"""``ftvm run --fault`` and ``--plan`` as a user meets them: the same plan and guest, the same run."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ftvm.exitcodes import ExitCode
from ftvm.guests.catalogue import find

COMMAND = [sys.executable, "-m", "ftvm", "run", "workload", "--memory", "64M", "--epoch", "100k"]

PLAN = """version = 1
seed = 11

[[fault]]
module = 1
target = "mem:buffer+16:0-3"
at = "exec:crc32"

[[fault]]
module = 0
target = "rbp"
kind = "random"
at = "random:1M-2M"

[[fault]]
module = 1
target = "skip"
at = "text:chase"

[[fault]]
module = 0
target = "r12:3"
kind = "stuck-at-1"
at = 7_000_000
"""


def run(*arguments: str) -> tuple["subprocess.CompletedProcess[str]", dict[str, Any]]:
    """A run, and its result without what the clock on the wall says."""
    done = subprocess.run([*COMMAND, *arguments, "--json", "-"], capture_output=True, text=True, timeout=240)
    if not done.stdout:
        return done, {}
    result = json.loads(done.stdout)
    for module in result["modules"]:
        del module["pid"]
    for divergence in result["divergences"]:
        del divergence["recovered_in_ms"]
    return done, {name: value for name, value in result.items() if name not in ("wall_s", "longest_pause_ms")}


def test_the_same_plan_and_guest_give_the_same_run(tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN)
    (first, result), (_, again) = run("--plan", str(plan)), run("--plan", str(plan))
    assert first.returncode == ExitCode.OK
    assert result == again
    assert [fault["fault"].split(",")[1] for fault in result["faults"]] == [
        "target=rbp:0-63",
        "target=skip",
        "target=mem:0x104010:0-3",
        "target=r12:3",
    ]
    assert result["state_digest"] == run()[1]["state_digest"]


def test_the_faults_of_a_result_are_those_of_another_run(tmp_path: Path) -> None:
    """With all that was left to chance filled in."""
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN)
    result = run("--plan", str(plan))[1]
    lines = [argument for fault in result["faults"] for argument in ("--fault", fault["fault"])]
    assert run(*lines)[1] == result


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("skip", "skim"), "plan.toml:17: fault 3, field target: no register is named 'skim'"),
        (("buffer", "bufer"), "plan.toml:6: fault 1, field target: no symbol is called 'bufer'"),
        (("version = 1", "version = 9"), "plan.toml:1: field version"),
        (("seed = 11", "seed = "), "line 2"),
    ],
)
def test_a_plan_that_cannot_be_used(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN.replace(*change))
    done, _ = run("--plan", str(plan))
    assert done.returncode == ExitCode.UNUSABLE_FILE
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_fault_that_the_machine_cannot_have() -> None:
    done, _ = run("--fault", "module=2,target=rax:5,at=1000")
    assert done.returncode == ExitCode.USAGE
    assert "the fault module=2,target=rax:5,kind=flip,at=1000: a fault in module 2" in done.stderr


def test_linux_boots_whatever_goes_wrong_in_one_module() -> None:
    guest = find("debian-cloud")
    assert guest is not None, "make guests"
    faults = [
        "module=0,target=rip:3,at=text:Linux version",
        "module=1,target=chip:pit.counters[0].initial:7,at=text:Memory:",
        "module=0,target=opcode:0-7,at=20000000+2",
        "module=1,target=pte:0xffffffff81000000:63,at=40000000",
        "module=1,target=rsp:12,kind=stuck-at-1,at=port:0x3f8/write,nth=9000",
        "module=0,target=module,kind=kill,at=text:Run /init",
    ]
    command = [
        sys.executable,
        "-m",
        "ftvm",
        "run",
        "debian-cloud",
        "--stop-on",
        "~ #",
        "--timeout",
        "240",
        "--json",
        "-",
    ]
    done = subprocess.run(
        [*command, *(argument for fault in faults for argument in ("--fault", fault))],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == ExitCode.OK, done.stderr[-3000:]
    result = json.loads(done.stdout)
    assert result["outcome"] == "stopped"
    assert len(result["faults"]) >= 5
    assert result["divergences"]

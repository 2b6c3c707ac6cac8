"""Each of the project's own kernels runs, by name and through the command line, as its expect.toml says."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ftvm.exitcodes import ExitCode
from ftvm.storage.admin import create
from ftvm.units import parse_size

KERNELS = Path(__file__).parents[2] / "firmware" / "kernels"
NAMES = sorted(path.parent.name for path in KERNELS.glob("*/expect.toml"))

PROCESS_EXIT_CODE = {
    "crash": ExitCode.GUEST_STUCK,
    "halted": ExitCode.GUEST_STUCK,
    "timeout": ExitCode.TIMEOUT,
}


def ftvm_run(name: str, folder: Path, *options: str) -> tuple[int, dict[str, Any], str]:
    """The exit code of ``ftvm run``, its report, and the guest's console without carriage returns."""
    console = folder / "console"
    command = [sys.executable, "-m", "ftvm", "run", name, "--json", "-", "--console", str(console), *options]
    process = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert process.stdout, process.stderr
    return process.returncode, json.loads(process.stdout), console.read_text().replace("\r", "")


@pytest.mark.parametrize("modules", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_kernel_does_what_it_must(name: str, modules: int, tmp_path: Path) -> None:
    expected = tomllib.loads((KERNELS / name / "expect.toml").read_text())
    options = ["--modules", str(modules), "--timeout", str(expected.get("timeout", 60))]
    if "input" in expected:
        (tmp_path / "input").write_text(expected["input"])
        options += ["--input", str(tmp_path / "input")]
    for bay, size in enumerate(expected.get("disks", ())):
        legs = [tmp_path / f"disk{bay}.{leg}" for leg in (0, 1)]
        create(legs, parse_size(size))
        options += ["--disk", ",".join(map(str, legs))]

    for nic in expected.get("nics", ()):
        options += ["--nic", nic]

    exit_code, report, console = ftvm_run(name, tmp_path, *options)

    assert console == expected["console"]
    assert (report["outcome"], report["exit_code"]) == (expected["outcome"], expected.get("exit_code"))
    assert report["divergences"] == []
    assert [module["state"] for module in report["modules"]] == (["online"] if modules == 1 else ["duplexed"] * modules)
    if expected["outcome"] == "exit":
        assert exit_code == (ExitCode.GUEST_FAILURE if expected["exit_code"] else ExitCode.OK)
    else:
        assert exit_code == PROCESS_EXIT_CODE[expected["outcome"]]


@pytest.mark.parametrize(
    ("protocol", "says"), [("multiboot1", "multiboot 1"), ("multiboot2", "multiboot 2"), ("pvh", "PVH")]
)
def test_every_protocol_loads_the_same_kernel(protocol: str, says: str, tmp_path: Path) -> None:
    _, _, console = ftvm_run("hello", tmp_path, "--protocol", protocol)
    assert console == f"Hello from 64-bit mode, loaded by {says}.\n"


def test_a_command_line_reaches_the_kernel(tmp_path: Path) -> None:
    _, once, first = ftvm_run("workload", tmp_path, "--modules", "1")
    _, twice, second = ftvm_run("workload", tmp_path, "--modules", "1", "--append", "rounds=2")
    assert first.split()[::2] == second.split()[::2]
    assert set(first.split()[1::2]).isdisjoint(second.split()[1::2])
    assert twice["blocks"] > 1.9 * once["blocks"]

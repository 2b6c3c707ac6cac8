"""What the benchmarks share: timing commands in turn, comparing them within a repetition, describing the host."""

import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ftvm
from ftvm.monitor.build_id import build_id

KERNELS = Path(ftvm.__file__).parent / "firmware" / "kernels"
BARE = [sys.executable, str(Path(__file__).with_name("bare.py"))]
QEMU = "qemu-system-x86_64"
FTVM = [sys.executable, "-m", "ftvm", "run", "--no-interactive"]


@dataclass(frozen=True)
class Subject:
    """One contestant. ``count`` of it run side by side, and the slowest counts.

    ``command`` takes ``--json FILE`` and ends by itself, unless there is a ``text``: then it is ended when it has
    written that to standard output.
    """

    name: str
    command: list[str]
    text: bytes | None = None
    count: int = 1


@dataclass(frozen=True)
class Times:
    """Wall times in seconds: of the whole command, and of the machine in it, from the loaded image to the end."""

    command_s: float
    machine_s: float | None


def pair(epoch: str, guest: list[str]) -> Subject:
    """Two modules in lockstep, with epochs of a length that ``--epoch`` takes, or ``auto``."""
    length = [] if epoch == "auto" else ["--epoch", epoch]
    return Subject(f"pair-{epoch}", [*FTVM, *length, *guest])


def run(subject: Subject) -> Times:
    """Raises RuntimeError when the command fails, or ends before its text."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as running:
        results = [Path(folder) / str(index) for index in range(subject.count)]
        began_s = time.monotonic()
        processes = []
        for result in results:
            options = [] if subject.text else ["--json", str(result)]
            process = subprocess.Popen([*subject.command, *options], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
            running.enter_context(process)
            running.callback(process.kill)
            processes.append(process)
        for process in processes:
            _watch(process, subject)
        command_s = time.monotonic() - began_s
        machine_s = [json.loads(result.read_text())["wall_s"] for result in results if result.exists()]
        return Times(command_s, max(machine_s, default=None))


def _watch(process: "subprocess.Popen[bytes]", subject: Subject) -> None:
    """Read what it writes, to its end or to the text."""
    assert process.stdout is not None
    seen = b""
    while data := os.read(process.stdout.fileno(), 65536):
        seen = seen[-4096:] + data
        if subject.text is not None and subject.text in seen:
            return
    if subject.text is not None or process.wait() != 0:
        raise RuntimeError(f"{subject.name} failed; the end of its output: {seen[-300:]!r}")


def compare(subjects: Sequence[Subject], repetitions: int, progress: Callable[[str], None]) -> dict[str, Any]:
    """Time all subjects in turn, ``repetitions`` times. Ratios are to the first subject, within one repetition each."""
    times: dict[str, list[Times]] = {subject.name: [] for subject in subjects}
    for repetition in range(repetitions):
        for subject in subjects:
            took = run(subject)
            times[subject.name].append(took)
            machine = "" if took.machine_s is None else f"{took.machine_s:8.3f} s in the machine"
            progress(f"{repetition + 1}/{repetitions}  {subject.name:<12} {took.command_s:8.3f} s {machine}")
    baseline = times[subjects[0].name]
    return {name: _summary(values, baseline) for name, values in times.items()}


def _summary(values: list[Times], baseline: list[Times]) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "command_s": spread([value.command_s for value in values]),
        "command_ratio": spread([a.command_s / b.command_s for a, b in zip(values, baseline, strict=True)]),
    }
    pairs = [(a.machine_s, b.machine_s) for a, b in zip(values, baseline, strict=True)]
    machine = [(a, b) for a, b in pairs if a is not None and b is not None]
    if machine:
        summary["machine_s"] = spread([a for a, _ in machine])
        summary["machine_ratio"] = spread([a / b for a, b in machine])
    return summary


def spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
    }


def steal_ticks() -> tuple[int, int]:
    """(stolen, all) clock ticks of all cores so far: what a hypervisor took from us."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return ticks[7], sum(ticks[:8])


def report(benchmark: str, settings: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> None:
    """Measure, and write one JSON object to standard output: what was run, where, how noisy it was, the figures."""
    load_before = os.getloadavg()[0]
    stolen_before, all_before = steal_ticks()
    results = measure()
    stolen, ticks = steal_ticks()
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    document = {
        "benchmark": benchmark,
        "ftvm": ftvm.__version__,
        "build": build_id(),
        "python": platform.python_version(),
        "qemu": _qemu_version(),
        "host": {
            "cpu": cpu.partition(":")[2].strip(),
            "cores": len(os.sched_getaffinity(0)),
            "kernel": platform.release(),
            "load_before": round(load_before, 2),
            "stolen": round((stolen - stolen_before) / max(1, ticks - all_before), 4),
        },
        "settings": settings,
        "results": results,
    }
    json.dump(document, sys.stdout, indent=2)
    print()


def _qemu_version() -> str | None:
    """What is compared with, where something is."""
    qemu = shutil.which(QEMU)
    if qemu is None:
        return None
    first = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=False).stdout.partition("\n")[0]
    return first.strip()


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

"""What the benchmarks share: timing a command up to a text on its output, comparing in pairs, describing the host."""

import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ftvm

KERNELS = Path(ftvm.__file__).parent / "firmware" / "kernels"
BARE = [sys.executable, str(Path(__file__).with_name("bare.py"))]
FTVM = [sys.executable, "-m", "ftvm", "run", "--no-interactive"]


@dataclass(frozen=True)
class Subject:
    """One contestant: ``command`` is timed from its start until it has written ``text`` to standard output.

    With ``count`` above 1 so many of it run side by side, and the slowest counts.
    """

    name: str
    command: list[str]
    text: bytes
    count: int = 1


def pair(epoch: str, guest: list[str], text: bytes) -> Subject:
    """Two modules in lockstep, with epochs of a length that ``--epoch`` takes, or ``auto``."""
    length = [] if epoch == "auto" else ["--epoch", epoch]
    return Subject(f"pair-{epoch}", [*FTVM, *length, *guest], text)


def seconds_until(subject: Subject) -> float:
    """Wall time from the start of the processes until each has written the text. RuntimeError if one never does."""
    began_s = time.monotonic()
    with contextlib.ExitStack() as running:
        processes = []
        for _ in range(subject.count):
            process = subprocess.Popen(
                subject.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            running.enter_context(process)
            running.callback(process.terminate)
            processes.append(process)
        for process in processes:
            _read_until(process, subject)
        return time.monotonic() - began_s


def _read_until(process: "subprocess.Popen[bytes]", subject: Subject) -> None:
    assert process.stdout is not None and process.stderr is not None
    seen = b""
    while subject.text not in seen:
        data = os.read(process.stdout.fileno(), 65536)
        if not data:
            message = process.stderr.read().decode(errors="replace")
            raise RuntimeError(f"{subject.name} ended without {subject.text!r}:\n{message}")
        seen = seen[-4096:] + data


def compare(subjects: Sequence[Subject], repetitions: int, progress: Callable[[str], None]) -> dict[str, Any]:
    """Time all subjects in turn, ``repetitions`` times. Ratios are to the first subject, within one repetition each."""
    seconds: dict[str, list[float]] = {subject.name: [] for subject in subjects}
    for repetition in range(repetitions):
        for subject in subjects:
            seconds[subject.name].append(seconds_until(subject))
            progress(f"{repetition + 1}/{repetitions}  {subject.name:<24} {seconds[subject.name][-1]:8.3f} s")
    baseline = seconds[subjects[0].name]
    return {
        name: {
            "seconds": [round(value, 4) for value in values],
            "median_s": round(statistics.median(values), 4),
            f"ratio_to_{subjects[0].name}": spread(
                [value / base for value, base in zip(values, baseline, strict=True)]
            ),
        }
        for name, values in seconds.items()
    }


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
        "python": platform.python_version(),
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


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

"""Where the benchmarks are, and how one is run."""

import collections
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

import ftvm
from ftvm.errors import HostError, UsageError

LAST_LINES = 5
"""Of a failed benchmark's messages, kept for the error."""

_COUNT = re.compile(r"^(\d+)/(\d+)\b")

Progress = Callable[[str, int, int], None]
"""Called with each line of progress, and how much of how much it says is done (0 of 0: it does not say)."""


@dataclass(frozen=True)
class Benchmark:
    """``about`` is the first line of what its .md says."""

    name: str
    script: Path
    about: str


def folder() -> Path:
    """In the package where that was built from a release, else beside it, in the repository."""
    package = Path(ftvm.__file__).parent
    for place in (package / "benchmarks", package.parent / "benchmarks"):
        if place.is_dir():
            return place
    raise HostError("the benchmarks are not here", "install ftvm again, or run from its repository")


def available() -> list[Benchmark]:
    """All benchmarks, by name."""
    return [
        Benchmark(script.stem, script, text.read_text(encoding="utf-8").partition("\n")[0].lstrip("# "))
        for script in sorted(folder().glob("*.py"))
        if (text := script.with_suffix(".md")).exists()
    ]


def find(name: str) -> Benchmark:
    """Raises UsageError for a name that no benchmark has."""
    there = available()
    for benchmark in there:
        if benchmark.name == name:
            return benchmark
    raise UsageError(f"no benchmark is named {name!r}", f"there are {', '.join(each.name for each in there)}")


def run(benchmark: Benchmark, arguments: list[str], progress: Progress) -> dict[str, Any]:
    """The JSON object that it writes. Raises HostError, with the last it said, when it fails."""
    command = [sys.executable, str(benchmark.script), *arguments]
    last: collections.deque[str] = collections.deque(maxlen=LAST_LINES)
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            for line in process.stderr:  # what it writes to standard output comes in one piece at its end
                last.append(line.strip())
                count = _COUNT.match(line.strip())
                progress(line.strip(), *(map(int, count.groups()) if count else (0, 0)))
            output = process.stdout.read()
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        raise HostError(f"the benchmark {benchmark.name} failed: {' | '.join(last)}", "what it needs is in its .md")
    try:
        document: dict[str, Any] = msgspec.json.decode(output, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise HostError(f"the benchmark {benchmark.name} wrote no report: {error}") from None
    return document

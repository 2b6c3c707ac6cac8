"""Lockstep beside what is usual: one machine that is saved for a cold standby every N ms. See active_passive.md.

python benchmarks/active_passive.py [--intervals 50,200,1000] [--kills 5] [--seconds 3]
"""

import argparse
import itertools
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measure import report, spread, to_stderr
from resync import FIRST_GPA, multiboot

from ftvm.errors import HostError
from ftvm.machine import Machine, MachineConfig
from ftvm.monitor import savefile
from ftvm.units import MIB, PAGE_BYTES, parse_size

"""The guest writes all of RAM from here, except the last MiB."""

PAGES_PER_COUNT = 64
BLOCKS_PER_PAGE = 1500
"""So a number comes each millisecond or less."""
DIGITS = 8

AFTERWARDS_S = 1.5
"""Lockstep is watched for so long after a kill."""
PATIENCE_S = 120.0


def counter(ram_bytes: int) -> bytes:
    """A multiboot kernel that writes a word of each page of RAM, round after round, and counts aloud on COM1: a number
    of DIGITS hexadecimal digits and a line feed each PAGES_PER_COUNT pages."""
    code = struct.pack(
        "<BB BI BI BI BBB BI BB BBI BBI BB BI B BB B BB BI BBB BB BB BB BB BB BB B BB BB B BB",
        0x31, 0xFF,                                 #        xor   edi, edi
        0xBA, 0x3F8,                                #        mov   edx, COM1
        0xBE, FIRST_GPA,                            #        mov   esi, FIRST_GPA
        0xBD, PAGES_PER_COUNT,                      # count: mov   ebp, PAGES_PER_COUNT
        0x83, 0x06, 0x01,                           # page:  add   dword [esi], 1
        0xB9, BLOCKS_PER_PAGE - 2,                  #        mov   ecx, BLOCKS_PER_PAGE - 2
        0xE2, 0xFE,                                 # wait:  loop  wait
        0x81, 0xC6, PAGE_BYTES,                     #        add   esi, PAGE_BYTES
        0x81, 0xFE, ram_bytes - MIB,                #        cmp   esi, end
        0x72, 0x05,                                 #        jb    next
        0xBE, FIRST_GPA,                            #        mov   esi, FIRST_GPA
        0x4D,                                       # next:  dec   ebp
        0x75, 0xE0,                                 #        jnz   page
        0x47,                                       #        inc   edi
        0x89, 0xFB,                                 #        mov   ebx, edi
        0xB9, DIGITS,                               #        mov   ecx, DIGITS
        0xC1, 0xC3, 0x04,                           # digit: rol   ebx, 4
        0x88, 0xD8,                                 #        mov   al, bl
        0x24, 0x0F,                                 #        and   al, 15
        0x04, ord("0"),                             #        add   al, '0'
        0x3C, ord("9"),                             #        cmp   al, '9'
        0x76, 0x02,                                 #        jbe   put
        0x04, 0x07,                                 #        add   al, 'A' - '9' - 1
        0xEE,                                       # put:   out   dx, al
        0xE2, 0xEE,                                 #        loop  digit
        0xB0, ord("\n"),                            #        mov   al, '\n'
        0xEE,                                       #        out   dx, al
        0xEB, 0xBC,                                 #        jmp   count
    )  # fmt: skip
    return multiboot(code)


# ---- the machine that will be hurt: a process of its own ----


def serve(image: Path, ram_bytes: int, modules: int, interval_s: float | None, saved: Path) -> None:
    """Run the guest for ever. Its console is standard output; standard error has the modules' process ids, then how
    long each saving took, in seconds."""

    def show(channel: str, data: bytes) -> None:
        os.write(1, data)

    with Machine(MachineConfig(image, memory_bytes=ram_bytes, modules=modules), show) as machine:
        print(*(module.pid for module in machine.modules), file=sys.stderr, flush=True)
        while True:
            machine.run_until(timeout_s=interval_s)
            if interval_s is not None:
                began_s = time.monotonic()
                machine.save(saved)
                print(time.monotonic() - began_s, file=sys.stderr, flush=True)


# ---- the outside ----


@dataclass
class Heard:
    """The numbers that came, with the monotonic time of each. What is no whole line is left out."""

    counts: list[tuple[int, float]] = field(default_factory=list)
    _rest: bytes = b""

    def hear(self, data: bytes) -> None:
        now_s = time.monotonic()
        *lines, self._rest = (self._rest + data).split(b"\n")
        self.counts += [(int(line, 16), now_s) for line in lines if len(line) == DIGITS]

    @property
    def last(self) -> int:
        return self.counts[-1][0] if self.counts else 0

    def moment(self, count: int) -> float:
        """When it was first there, or one after it."""
        return next(moment_s for number, moment_s in self.counts if number >= count)


@dataclass
class Run:
    """Of one machine that was hurt. ``lost``: numbers that the outside had heard, and the guest did not know any more;
    ``gap_s``: from the kill to the next number that the outside had not heard; ``running_s``: to the first at all."""

    pace_s: float
    pauses_s: list[float]
    lost: int = 0
    gap_s: float = 0.0
    running_s: float = 0.0
    saved_bytes: int = 0


@dataclass(frozen=True)
class Subject:
    name: str
    modules: int
    interval_s: float | None = None


@dataclass(frozen=True)
class Setup:
    """``seconds``: for which each machine works undisturbed, once its guest has been through all of its memory."""

    image: Path
    ram_bytes: int
    seconds: float
    dice: random.Random


def observe(subject: Subject, setup: Setup, kill: bool = True) -> Run:
    """Start a machine, let it work for a while, and kill what is to be killed at a random time."""
    ram_bytes, dice = setup.ram_bytes, setup.dice
    round_counts = ram_bytes // PAGE_BYTES // PAGES_PER_COUNT + 1
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as notes:
        saved = Path(folder) / "standby.save"
        interval = "" if subject.interval_s is None else str(subject.interval_s)
        command = [sys.executable, __file__, "--serve", str(setup.image), str(subject.modules), interval, str(saved)]
        with subprocess.Popen([*command, "--memory", str(ram_bytes)], stdout=subprocess.PIPE, stderr=notes) as process:
            assert process.stdout is not None
            heard = Heard()
            try:
                for _ in _hear(process.stdout.fileno(), heard):
                    if heard.last > round_counts:
                        break
                first, began_s = heard.counts[-1]
                _wait(process.stdout.fileno(), heard, setup.seconds)
                last, ended_s = heard.counts[-1]
                if last == first:
                    raise HostError(f"the guest says nothing for {setup.seconds} s", "give it more --seconds")
                run = Run((ended_s - began_s) / (last - first), [])
                while kill and subject.interval_s is not None and not saved.exists():
                    _wait(process.stdout.fileno(), heard, subject.interval_s)
                if kill:
                    _wait(process.stdout.fileno(), heard, dice.random() * (subject.interval_s or 0.1))
                    notes.seek(0)
                    victim = process.pid if subject.modules == 1 else int(notes.readline().split()[1])
                    os.kill(victim, signal.SIGKILL)
                    killed_s = time.monotonic()
                    _wait(process.stdout.fileno(), heard, AFTERWARDS_S)  # to its end, or what the other module shows
                    if subject.modules == 1:
                        _take_over(saved, heard, run)
                    else:
                        _go_on(heard, run, killed_s)
            finally:
                process.kill()
        notes.seek(0)
        run.pauses_s = [float(line) for line in notes.readlines()[1:] if line.endswith(b"\n")]
        run.saved_bytes = saved.stat().st_size if saved.exists() else 0
        return run


def _hear(descriptor: int, heard: Heard) -> Iterator[None]:
    until_s = time.monotonic() + PATIENCE_S
    while data := os.read(descriptor, 65536):
        heard.hear(data)
        yield
        if time.monotonic() > until_s:
            raise HostError("the guest is too slow for this benchmark", "give it less --memory")
    raise HostError("the machine ended")


def _wait(descriptor: int, heard: Heard, seconds: float) -> None:
    """Listen for so long."""
    until_s = time.monotonic() + seconds
    os.set_blocking(descriptor, False)
    while (left_s := until_s - time.monotonic()) > 0:
        try:
            data = os.read(descriptor, 65536)
        except BlockingIOError:
            time.sleep(min(left_s, 0.0005))
            continue
        if not data:
            return
        heard.hear(data)


def _take_over(saved: Path, heard: Heard, run: Run) -> None:
    """The standby resumes what was saved last, at once: the death is known."""
    known_s = time.monotonic()
    before = heard.last
    again = Heard()
    with Machine(
        MachineConfig.resume(savefile.load(saved), modules=1), lambda channel, data: again.hear(data)
    ) as standby:
        while again.last <= before:
            standby.run_until(timeout_s=0.05)
            if time.monotonic() - known_s > PATIENCE_S:
                raise HostError("the standby does not come to where the active machine was")
    run.lost = max(0, before - (again.counts[0][0] - 1))
    run.running_s = again.counts[0][1] - known_s
    run.gap_s = again.moment(before + 1) - known_s


def _go_on(heard: Heard, run: Run, killed_s: float) -> None:
    """The other module went on. What did not come in order, or not once, would be lost."""
    numbers = [number for number, _ in heard.counts]
    expected = range(numbers[0], numbers[0] + len(numbers))
    run.lost = sum(number != right for number, right in zip(numbers, expected, strict=True))
    later = [moment_s for _, moment_s in heard.counts if moment_s > killed_s]
    if not later:
        raise HostError(f"nothing was heard for {AFTERWARDS_S} s after a module was killed")
    # What had been released before arrives at once: the pause is the longest silence from the kill on.
    moments = [killed_s, *later]
    run.gap_s = run.running_s = max(b - a for a, b in itertools.pairwise(moments))


def summary(runs: list[Run], alone: list[Run]) -> dict[str, Any]:
    pauses_ms = [pause * 1e3 for run in runs for pause in run.pauses_s]
    figures: dict[str, Any] = {
        "overhead": spread([run.pace_s / base.pace_s for run, base in zip(runs, alone, strict=True)]),
        "lost_work_ms": spread([run.lost * run.pace_s * 1e3 for run in runs]),
        "lost_counts": spread([float(run.lost) for run in runs]),
        "failover_gap_ms": spread([run.gap_s * 1e3 for run in runs]),
        "running_again_ms": spread([run.running_s * 1e3 for run in runs]),
    }
    if pauses_ms:
        figures["saving_pause_ms"] = spread(pauses_ms)
        figures["saved_mib"] = round(max(run.saved_bytes for run in runs) / 2**20, 2)
    return figures


def measure(intervals: list[int], kills: int, ram_bytes: int, seconds: float) -> dict[str, Any]:
    subjects = [Subject("lockstep", 2), *(Subject(f"standby, {each} ms", 1, each / 1e3) for each in intervals)]
    alone: list[Run] = []
    runs: dict[str, list[Run]] = {subject.name: [] for subject in subjects}
    with tempfile.NamedTemporaryFile(suffix=".bin") as image:
        image.write(counter(ram_bytes))
        image.flush()
        setup = Setup(Path(image.name), ram_bytes, seconds, random.Random(1))
        for kill in range(kills):
            alone.append(observe(Subject("alone", 1), setup, kill=False))
            for subject in subjects:
                run = observe(subject, setup)
                runs[subject.name].append(run)
                to_stderr(
                    f"{kill + 1}/{kills} {subject.name}: {run.pace_s / alone[-1].pace_s:.2f} times alone,"
                    f" lost {run.lost * run.pace_s * 1e3:.0f} ms, gap {run.gap_s * 1e3:.0f} ms"
                )
    results: dict[str, Any] = {name: summary(of_name, alone) for name, of_name in runs.items()}
    series = {
        figure: [[each, results[f"standby, {each} ms"][figure]["median"]] for each in intervals]
        for figure in ("lost_work_ms", "failover_gap_ms")
    }
    series |= {
        f"lockstep: {figure}": [[each, results["lockstep"][figure]["median"]] for each in (intervals[0], intervals[-1])]
        for figure in ("lost_work_ms", "failover_gap_ms")
    }
    plot = {"title": "What a death costs", "x": "ms between two savings", "y": "ms, median", "series": series}
    return results | {"ms_per_count_alone": spread([run.pace_s * 1e3 for run in alone]), "plots": [plot]}


def main() -> None:
    parser = argparse.ArgumentParser(description="A cold standby and lockstep, in one table.")
    parser.add_argument("--intervals", default="50,200,1000", help="ms between two savings")
    parser.add_argument("--kills", type=int, default=5, help="of each")
    parser.add_argument("--memory", type=parse_size, default="64M")
    parser.add_argument("--seconds", type=float, default=3.0, help="of undisturbed work, for the overhead")
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        image, modules, interval, saved = arguments.serve
        interval_s = float(interval) if interval else None
        serve(Path(image), arguments.memory, int(modules), interval_s, Path(saved))
        return
    settings = {name: value for name, value in vars(arguments).items() if name != "serve"}
    intervals = [int(each) for each in arguments.intervals.split(",")]
    report("active_passive", settings, lambda: measure(intervals, arguments.kills, arguments.memory, arguments.seconds))


if __name__ == "__main__":
    main()

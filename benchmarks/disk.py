"""A guest's disk against QEMU's, same kernel, same initrd, fresh files of the same size: see disk.md.

python benchmarks/disk.py [--repetitions 3] [--blocks 2000]      (needs: ftvm guests fetch debian-cloud)
"""

import argparse
import gzip
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import FTVM, report, spread, to_stderr

from ftvm.errors import FtvmError, HostError, UnusableFile
from ftvm.guests import catalogue, cpio
from ftvm.storage.admin import create
from ftvm.units import MIB

GUEST = "debian-cloud"
MEMORY = "256M"
DISK_BYTES = 128 * MIB
SEQUENTIAL_MIB = 64

# What is measured, and how the guest does it. /dev/vda has no file system.
WORKLOADS = {
    "write-64M": f"dd if=/dev/zero of=/dev/vda bs=1M count={SEQUENTIAL_MIB} conv=fsync 2>/dev/null",
    "read-64M": f"dd if=/dev/vda of=/dev/null bs=1M count={SEQUENTIAL_MIB} iflag=direct 2>/dev/null",
    "random-reads": "/randio read /dev/vda {blocks}",
    "random-writes": "/randio write /dev/vda {blocks}",
}


@dataclass(frozen=True)
class Subject:
    """A way to run the guest: ``command(kernel options, disk folder)``, the guest's console on standard input and
    output. ``legs``: of how many files its disk is."""

    name: str
    legs: int
    command: Callable[["Setup", list[Path]], list[str]]


@dataclass(frozen=True)
class Setup:
    kernel: Path
    initrd: Path
    append: str
    ready: str
    script: Path


def _ftvm(modules: int) -> Callable[[Setup, list[Path]], list[str]]:
    def command(setup: Setup, legs: list[Path]) -> list[str]:
        linux = [str(setup.kernel), "--initrd", str(setup.initrd), "--append", setup.append, "--memory", MEMORY]
        keys = ["--input", str(setup.script), "--input-after", setup.ready]
        return [*FTVM, *linux, *keys, "--modules", str(modules), "--disk", ",".join(map(str, legs))]

    return command


def _qemu(setup: Setup, legs: list[Path]) -> list[str]:
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        raise HostError("qemu-system-x86_64 is missing", "Debian: apt-get install qemu-system-x86")
    machine = ["-accel", "tcg", "-smp", "1", "-m", MEMORY, "-display", "none", "-serial", "stdio", "-no-reboot"]
    kernel = ["-kernel", str(setup.kernel), "-initrd", str(setup.initrd), "-append", setup.append]
    disk = ["-drive", f"file={legs[0]},if=none,id=disk,format=raw,cache=writeback,discard=unmap"]
    return [qemu, *machine, *kernel, *disk, "-device", "virtio-blk-pci,disable-legacy=on,drive=disk"]


SUBJECTS = (
    Subject("qemu-tcg", 1, _qemu),
    Subject("one-module", 1, _ftvm(1)),
    Subject("pair", 1, _ftvm(2)),
    Subject("pair-mirror", 2, _ftvm(2)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Disk throughput and latency of a guest, against QEMU.")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--blocks", type=int, default=2000, help="of 4 KiB, for the random workloads")
    parser.add_argument("--subjects", default=",".join(subject.name for subject in SUBJECTS))
    arguments = parser.parse_args()
    guest = catalogue.find(GUEST)
    if guest is None or guest.initrd is None or guest.ready is None:
        raise UnusableFile(f"the guest {GUEST} is not here yet", f"get it with: ftvm guests fetch {GUEST}")
    chosen = [subject for subject in SUBJECTS if subject.name in arguments.subjects.split(",")]
    with tempfile.TemporaryDirectory(prefix="ftvm-disk-") as folder:
        setup = prepare(guest, Path(folder), arguments.blocks)
        report("disk", vars(arguments), lambda: measure(setup, chosen, arguments.repetitions, Path(folder)))


def prepare(guest: catalogue.Guest, folder: Path, blocks: int) -> Setup:
    """Kernel, an initrd with our program in it, and what to type: each workload between two lines that name it."""
    program = folder / "randio"
    source = Path(__file__).with_name("randio.c")
    subprocess.run(["gcc", "-O2", "-static", "-o", program, source], check=True)
    assert guest.initrd is not None and guest.ready is not None
    initrd = folder / "initrd"
    ours = gzip.compress(cpio.archive([cpio.file("randio", program.read_bytes(), 0o755)]), mtime=0)
    initrd.write_bytes(guest.initrd.read_bytes() + ours)
    script = folder / "script"
    # The terminal's echo of this must not look like its output.
    lines = ['p() { echo "== $1 $2 =="; }']
    for name, work in WORKLOADS.items():
        lines.append(f"p begin {name}; {work.format(blocks=blocks)} && p end {name}")
    script.write_text("\n".join([*lines, "poweroff -f", ""]))
    return Setup(guest.path, initrd, guest.append, guest.ready, script)


def measure(setup: Setup, subjects: list[Subject], repetitions: int, folder: Path) -> dict[str, Any]:
    """Seconds of each workload. Ratios are to QEMU, within one repetition each."""
    times: dict[str, dict[str, list[float]]] = {s.name: {name: [] for name in WORKLOADS} for s in subjects}
    for repetition in range(repetitions):
        for subject in subjects:
            took = run(setup, subject, folder)
            for name, seconds in took.items():
                times[subject.name][name].append(seconds)
            shown = "  ".join(f"{name} {seconds:.3f} s" for name, seconds in took.items())
            to_stderr(f"{repetition + 1}/{repetitions}  {subject.name:<12} {shown}")
    baseline = times[subjects[0].name]
    return {
        subject: {
            name: {
                "s": spread(values),
                "ratio": spread([a / b for a, b in zip(values, baseline[name], strict=True)]),
            }
            for name, values in of.items()
        }
        for subject, of in times.items()
    }


def run(setup: Setup, subject: Subject, folder: Path) -> dict[str, float]:
    """One boot on a new disk, whose blocks are all there; how long each workload took."""
    legs = [folder / f"leg{number}.img" for number in range(subject.legs)]
    for leg in legs:
        for path in (leg, leg.with_name(leg.name + ".ftvm")):
            path.unlink(missing_ok=True)
    create(legs, DISK_BYTES)
    for leg in legs:
        with leg.open("r+b") as file:
            for _ in range(DISK_BYTES // MIB):
                file.write(bytes(MIB))
            os.fsync(file.fileno())
    if subject.legs > 1:  # they were written behind the mirror's back, with equal contents
        for leg in legs:
            leg.with_name(leg.name + ".ftvm").unlink()
    process = subprocess.Popen(
        subject.command(setup, legs), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    with process:
        try:
            return _watch(process, setup, types=subject.name == "qemu-tcg")
        finally:
            process.kill()


def _watch(process: "subprocess.Popen[bytes]", setup: Setup, *, types: bool) -> dict[str, float]:
    """Times between the lines that the guest prints. ``types``: it must be told what to do, when it is ready."""
    assert process.stdout is not None and process.stdin is not None
    began: dict[str, float] = {}
    took: dict[str, float] = {}
    seen = b""
    while data := os.read(process.stdout.fileno(), 65536):
        now = time.monotonic()
        seen += data
        for name in WORKLOADS:
            if name not in began and f"== begin {name} ==".encode() in seen:
                began[name] = now
            if name in began and name not in took and f"== end {name} ==".encode() in seen:
                took[name] = now - began[name]
        if types and setup.ready.encode() in seen:
            process.stdin.write(setup.script.read_bytes())
            process.stdin.flush()
            types = False
        if len(took) == len(WORKLOADS):
            return took
    raise RuntimeError(f"the guest ended too early: {seen[-500:]!r}")


if __name__ == "__main__":
    try:
        main()
    except FtvmError as error:
        sys.exit(f"error: {error.message}\nhint: {error.hint}")

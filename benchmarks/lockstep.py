"""What lockstep costs, by epoch length and workload: see lockstep.md.

python benchmarks/lockstep.py [--rounds 50] [--passes 15] [--repetitions 3] [--epochs auto,100k,300k,1M,10M]
"""

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import BARE, FTVM, KERNELS, QEMU, Subject, compare, pair, report, to_stderr
from resync import writer

from ftvm.units import parse_blocks, parse_size

DEFAULT_EPOCHS = "auto,100k,300k,1M,10M"
MEMORY = "64M"


@dataclass(frozen=True)
class Workload:
    """A guest: its image and the rest of its command line, for ftvm and for QEMU, which both end with its ``text``."""

    name: str
    image: Path
    append: str
    text: str

    def subjects(self, epochs: Sequence[str]) -> list[Subject]:
        guest = [str(self.image), "--append", self.append, "--memory", MEMORY, "--stop-on", self.text]
        bare = [*BARE, *guest]
        found = [Subject("bare", bare), Subject("two-bare", bare, count=2)]
        found.append(Subject("one-module", [*FTVM, "--modules", "1", *guest]))
        found += [pair(epoch, guest) for epoch in epochs]
        if shutil.which(QEMU) is not None:
            machine = ["-accel", "tcg", "-smp", "1", "-m", MEMORY, "-display", "none", "-serial", "stdio", "-no-reboot"]
            kernel = ["-kernel", str(self.image), "-append", self.append]
            found.append(Subject("qemu-tcg", [QEMU, *machine, *kernel], self.text.encode()))
        return found


def plot(workloads: Sequence[Workload], epochs: Sequence[str], results: dict[str, Any]) -> dict[str, Any]:
    """Overhead against epoch length."""
    lengths = [epoch for epoch in epochs if epoch != "auto"]
    series = {
        workload.name: [
            [parse_blocks(epoch), results[f"{workload.name}: pair-{epoch}"]["machine_ratio"]["median"]]
            for epoch in lengths
        ]
        for workload in workloads
    }
    return {"title": "The pair, by length of epochs", "x": "blocks", "y": "times one bare engine", "series": series}


def main() -> None:
    parser = argparse.ArgumentParser(description="The lockstep pair against one bare engine, and QEMU.")
    parser.add_argument("--rounds", type=int, default=50, help="of the workload kernel, some 60 ms each")
    parser.add_argument("--passes", type=int, default=15, help="over all memory, of the one that writes it")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--epochs", default=DEFAULT_EPOCHS)
    arguments = parser.parse_args()
    epochs = arguments.epochs.split(",")

    def measure() -> dict[str, Any]:
        results: dict[str, Any] = {}
        with tempfile.NamedTemporaryFile(suffix=".bin") as image:
            image.write(writer(parse_size(MEMORY)))
            image.flush()
            workloads = [
                Workload("computing", KERNELS / "workload.elf", f"rounds={arguments.rounds}", "matmul "),
                Workload("writing", Path(image.name), "", "." * arguments.passes),
            ]
            for workload in workloads:
                to_stderr(f"{workload.name}: {workload.image.name}")
                compared = compare(workload.subjects(epochs), arguments.repetitions, to_stderr)
                results |= {f"{workload.name}: {name}": figures for name, figures in compared.items()}
        return results | {"plots": [plot(workloads, epochs, results)]}

    report("lockstep", vars(arguments), measure)


if __name__ == "__main__":
    main()

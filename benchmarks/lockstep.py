"""What lockstep costs on a CPU-bound guest, by epoch length: see lockstep.md.

python benchmarks/lockstep.py [--rounds 100] [--repetitions 5] [--epochs auto,100k,300k,1M,3M,10M]
"""

import argparse

from measure import BARE, FTVM, KERNELS, Subject, compare, pair, report, to_stderr

DEFAULT_EPOCHS = "auto,100k,300k,1M,3M,10M"


def main() -> None:
    parser = argparse.ArgumentParser(description="The lockstep pair against one bare engine, on the workload kernel.")
    parser.add_argument("--rounds", type=int, default=100, help="of the workload, some 60 ms each")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--epochs", default=DEFAULT_EPOCHS)
    arguments = parser.parse_args()

    guest = [str(KERNELS / "workload.elf"), "--append", f"rounds={arguments.rounds}"]
    bare = [*BARE, *guest]
    subjects = [Subject("bare", bare), Subject("two-bare", bare, count=2)]
    subjects.append(Subject("one-module", [*FTVM, "--modules", "1", *guest]))
    subjects += [pair(epoch, guest) for epoch in arguments.epochs.split(",")]
    report("lockstep", vars(arguments), lambda: compare(subjects, arguments.repetitions, to_stderr))


if __name__ == "__main__":
    main()

"""Debian's cloud kernel to its shell: one bare engine, the lockstep pair, and QEMU: see boot.md.

python benchmarks/boot.py [--repetitions 5] [--epochs auto,1M]      (needs: ftvm guests fetch debian-cloud)
"""

import argparse
import shutil

from measure import BARE, FTVM, Subject, compare, pair, report, to_stderr

from ftvm.errors import FtvmError, HostError, UnusableFile
from ftvm.guests import catalogue

GUEST = "debian-cloud"
MEMORY = "256M"


def main() -> None:
    parser = argparse.ArgumentParser(description="Boot Debian's cloud kernel to its shell, three ways.")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--epochs", default="auto,1M")
    arguments = parser.parse_args()
    guest = catalogue.find(GUEST)
    if guest is None or guest.ready is None or guest.initrd is None:
        raise UnusableFile(f"the guest {GUEST} is not here yet", f"get it with: ftvm guests fetch {GUEST}")
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        raise HostError("qemu-system-x86_64 is missing", "Debian: apt-get install qemu-system-x86")

    linux = [str(guest.path), "--initrd", str(guest.initrd), "--append", guest.append, "--memory", MEMORY]
    stop = ["--stop-on", guest.ready]
    bare = [*BARE, *linux, *stop]
    subjects = [Subject("bare", bare), Subject("two-bare", bare, count=2)]
    subjects.append(Subject("one-module", [*FTVM, "--modules", "1", *linux, *stop]))
    subjects += [pair(epoch, [*linux, *stop]) for epoch in arguments.epochs.split(",")]
    machine = ["-smp", "1", "-m", MEMORY, "-display", "none", "-serial", "stdio", "-no-reboot"]
    kernel = ["-kernel", str(guest.path), "-initrd", str(guest.initrd), "-append", guest.append]
    subjects.append(Subject("qemu-tcg", [qemu, "-accel", "tcg", *machine, *kernel], guest.ready.encode()))
    report("boot", vars(arguments), lambda: compare(subjects, arguments.repetitions, to_stderr))


if __name__ == "__main__":
    try:
        main()
    except FtvmError as error:
        raise SystemExit(f"error: {error.message}\nhint: {error.hint}") from None

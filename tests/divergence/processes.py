"""What /proc says of processes."""

import contextlib
import os
from pathlib import Path


def children(pid: int) -> list[int]:
    """Of all threads of ``pid``, so that it does not matter which of them started a child."""
    try:
        files = sorted(Path(f"/proc/{pid}/task").glob("*/children"))
        return [int(child) for file in files for child in file.read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def ended(pid: int) -> bool:
    """Gone, or a zombie that waits for whoever adopted it: neither has memory or descriptors any more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def memory_files(pid: int) -> set[int]:
    """Inodes of ftvm's anonymous files that the process has open or mapped; none for one that has ended."""
    process = Path(f"/proc/{pid}")
    inodes = set()
    try:
        for fd in (process / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                if os.readlink(fd).startswith("/memfd:ftvm-"):
                    inodes.add(fd.stat().st_ino)
        for line in (process / "maps").read_text().splitlines():
            if "/memfd:ftvm-" in line:
                inodes.add(int(line.split()[4]))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return set()
    return inodes

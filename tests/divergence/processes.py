"""What /proc says of processes."""

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

"""Files and programs of this host for a Linux guest: an archive to be appended to its initrd."""

import gzip
import re
import shutil
import subprocess
from pathlib import Path

from ftvm.guests import cpio

FOLDER = "host"
"""Where they are in the guest."""

RUN = f"/{FOLDER}/loader --library-path /{FOLDER} /{FOLDER}/"
"""Goes before the name of a program."""


def find(program: str) -> str:
    """Its path; programs for administrators are not on everybody's PATH."""
    path = shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin")
    assert path is not None, f"{program} is not installed"
    return path


def overlay(programs: tuple[str, ...], files: dict[str, bytes] | None = None) -> bytes:
    """``programs`` by name, with the libraries they need; they must be installed here."""
    entries = {name: cpio.file(f"{FOLDER}/{name}", data) for name, data in (files or {}).items()}
    for program in programs:
        path = find(program)
        entries[program] = cpio.file(f"{FOLDER}/{program}", Path(path).read_bytes(), 0o755)
        listed = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
        for library in re.findall(r"(/\S+) \(0x", listed):
            name = "loader" if "/ld-linux" in library else Path(library).name
            entries[name] = cpio.file(f"{FOLDER}/{name}", Path(library).read_bytes(), 0o755)
    return gzip.compress(cpio.archive([cpio.directory(FOLDER), *entries.values()]), 1, mtime=0)

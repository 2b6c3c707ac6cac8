"""The program is killed while a Linux guest writes to a mirror, and flushes, and says so: what it said is true."""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ftvm.guests.catalogue import Guest
from ftvm.storage.admin import create
from ftvm.storage.blocking import BlockingDisk
from ftvm.storage.opening import open_disk
from ftvm.units import MIB

FTVM = [sys.executable, "-m", "ftvm"]
ROUNDS = 20
SLOTS = 4096
SECTOR = 512

SESSION = """\
w() { printf '%08d' $1 | dd of=/dev/vda bs=512 seek=$(($1*7%SLOTS)) conv=sync,fsync,notrunc 2>/dev/null; }
i=FIRST; while i=$((i+1)); do w $i && echo flushed-$i; done
"""


def life(guest: Guest, paths: list[Path], first: int, chance: random.Random) -> int:
    """One machine, killed at some moment after its guest has begun, while legs come and go. The last number that the
    guest said was flushed."""
    name = f"kill-{os.getpid()}"
    session = paths[0].with_name("session")
    session.write_text(SESSION.replace("FIRST", str(first)).replace("SLOTS", str(SLOTS)))
    command = [*FTVM, "run", guest.name, "--disk", ",".join(map(str, paths)), "--name", name]
    flushed, kill_at = first, None
    with subprocess.Popen(
        [*command, "--input", str(session), "--input-after", guest.ready or ""],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            for number in re.findall(rb"^flushed-(\d+)\r?\n", line):
                flushed = int(number)
                if kill_at is None:
                    kill_at = time.monotonic() + chance.uniform(0, 4)
                if chance.random() < 0.03:
                    verb, leg = chance.choice(["pull", "insert"]), chance.randrange(2)
                    subprocess.Popen([*FTVM, "ctl", name, verb, f"disk0.{leg}"], stderr=subprocess.DEVNULL).wait()
            if kill_at is not None and time.monotonic() > kill_at:
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    return flushed


@pytest.mark.campaign
def test_what_a_guest_has_flushed_is_there_whenever_the_program_is_killed(
    fetched: Callable[[str], Guest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    paths = [tmp_path / "a.img", tmp_path / "b.img"]
    create(paths, 4 * MIB)
    chance = random.Random(4)
    held = dict.fromkeys(range(SLOTS), 0)
    first = 0
    for _ in range(ROUNDS):
        flushed = life(fetched("debian-cloud"), paths, first, chance)
        assert flushed > first, "it was killed before it had flushed anything"
        for number in range(first + 1, flushed + 1):
            held[number * 7 % SLOTS] = number
        with contextlib.closing(BlockingDisk(open_disk(paths))) as disk:
            disk.resync()
            assert [leg.state.value for leg in disk.mirror.status().legs] == ["duplexed", "duplexed"]
        contents = paths[0].read_bytes()
        assert contents == paths[1].read_bytes()
        last = flushed
        for slot, number in held.items():
            sector = contents[slot * SECTOR : (slot + 1) * SECTOR]
            found = int(sector[:8]) if any(sector) else 0
            assert found == number or found > flushed, f"slot {slot} was {number}, and is {found}"
            held[slot] = found
            last = max(last, found)
        first = last

"""``kill -9`` of the program while a guest writes: the mirror comes up whole, and nothing acknowledged is lost."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ftvm.storage.regions import REGION_BYTES
from tests.storage.disks import SIZE, images_equal, legs_in, make, opened

SECTOR = 512
SLOTS = SIZE // SECTOR

WRITER = """
import random, sys
from functools import partial
from pathlib import Path
from ftvm.storage.opening import open_disk
from ftvm.storage.request import Operation, Request

seed, first, *paths = sys.argv[1:]
chance = random.Random(int(seed))
mirror = open_disk([Path(path) for path in paths])
number, in_flight = int(first), 0

def wrote(number, slot, completion):
    global in_flight
    in_flight -= 1
    print("wrote", number, slot, flush=True)

while True:
    if chance.random() < 0.02:
        leg = chance.randrange(len(paths))
        if mirror.status().state == "duplex":
            mirror.pull(leg)
        else:
            for status in mirror.status().legs:
                if status.state in ("offline", "failed"):
                    mirror.insert(status.index, lambda error: None)
    mirror.resync_step(1 << 20)
    number, slot = number + 1, chance.randrange(SLOTS)
    print("writes", number, slot, flush=True)
    data = number.to_bytes(8, "little") * 64
    in_flight += 1
    mirror.submit(Request(Operation.WRITE, partial(wrote, number, slot), slot * 512, 512, [data]))
    mirror.wait(lambda: in_flight < 16)
"""


def life(paths: list[Path], seed: int, first: int, kill_after: int) -> tuple[dict[int, int], dict[int, set[int]], int]:
    """A writer that is killed after so many lines of output. Returns what is acknowledged by slot, what may be there
    besides, and the last number it used."""
    code = WRITER.replace("SLOTS", str(SLOTS))
    command = [sys.executable, "-c", code, str(seed), str(first), *map(str, paths)]
    acknowledged: dict[int, int] = {}
    possible: dict[int, set[int]] = {}
    last = first
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for count, line in enumerate(process.stdout):
            if count == kill_after:
                process.send_signal(signal.SIGKILL)
            if not line.endswith("\n"):
                break
            what, number, slot = line.split()
            last = max(last, int(number))
            if what == "writes":
                possible.setdefault(int(slot), set()).add(int(number))
            else:
                acknowledged[int(slot)] = max(int(number), acknowledged.get(int(slot), 0))
    assert process.returncode == -signal.SIGKILL
    return acknowledged, possible, last


def check_lives(folder: Path, rounds: int, seed: int) -> None:
    paths = make(folder)
    held = dict.fromkeys(range(SLOTS), 0)
    chance = random.Random(seed)
    last = 0
    for round_ in range(rounds):
        acknowledged, possible, last = life(paths, seed + round_, last, chance.randint(0, 1500))
        with opened(paths) as disk:
            found = [disk.read(at, REGION_BYTES) for at in range(0, SIZE, REGION_BYTES)]
            disk.resync()
            for leg in disk.mirror.status().legs:
                assert leg.state == "duplexed"
        assert images_equal(paths)
        content = b"".join(map(bytes, found))
        assert content == paths[0].read_bytes(), "bringing legs in sync changed what was read"
        for slot in range(SLOTS):
            sector = content[slot * SECTOR : (slot + 1) * SECTOR]
            number = int.from_bytes(sector[:8], "little")
            assert sector == number.to_bytes(8, "little") * 64
            newest = acknowledged.get(slot, held[slot])
            later = {number for number in possible.get(slot, ()) if number > newest}
            assert number == newest or number in later
            held[slot] = number


def test_killing_the_program_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    check_lives(tmp_path, rounds=4, seed=1)


@pytest.mark.campaign
def test_killing_the_program_again_and_again_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    check_lives(tmp_path, rounds=200, seed=1000)


def test_a_killed_program_leaves_no_lock_behind(tmp_path: Path) -> None:
    paths = make(tmp_path)
    life(paths, 1, 0, 100)
    with opened(legs_in(tmp_path)) as disk:
        assert set(disk.states()) <= {"online", "duplexed", "duplexing"}

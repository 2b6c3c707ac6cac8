"""An unmodified Linux with its own virtio driver makes a file system on a mirrored disk and works on it, while legs and
modules come and go."""

import hashlib
import os
import random
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from ftvm.guests.catalogue import Guest
from ftvm.machine import Machine, MachineConfig
from ftvm.monitor.bays import DiskFiles
from ftvm.monitor.eventlog import LEG_JOINED, LEG_PULLED, MODULE_FAILED, MODULE_JOINED
from ftvm.storage.admin import create
from ftvm.units import MIB
from tests.guest.host_programs import RUN, find, overlay

PARTS = 4
PART_BYTES = 16 * MIB
PIECE = random.Random(1).randbytes(MIB)

# The terminal shows what is typed; so no marker stands here as the guest will show it.
SESSION = f"""\
p() {{ echo "phase $1"; }}
t() {{ for i in $(seq 16); do echo $1 $i; cat /host/piece; done | head -c {PART_BYTES}; }}
w() {{ t $1 >> /mnt/file; sync; p wrote-$1; }}
{RUN}mke2fs -q -t ext4 /dev/vda && mount /dev/vda /mnt && p made
w 1
w 2
w 3
w 4
umount /mnt && mount -o ro /dev/vda /mnt && md5sum /mnt/file
umount /mnt && poweroff -f
"""


def checksum() -> str:
    """Of the file that the session makes."""
    digest = hashlib.md5(usedforsecurity=False)
    for part in range(1, PARTS + 1):
        text = b"".join(b"%d %d\n" % (part, number) + PIECE for number in range(1, 17))
        digest.update(text[:PART_BYTES])
    return digest.hexdigest()


def test_ext4_on_a_mirror_survives_the_loss_of_a_leg_and_of_a_module(
    fetched: Callable[[str], Guest], tmp_path: Path
) -> None:
    """64 MiB are written while leg 0 is pulled, put back and copied, and module 1 is killed and replaced."""
    guest = fetched("debian-cloud")
    assert guest.initrd is not None
    initrd = tmp_path / "initrd"
    initrd.write_bytes(guest.initrd.read_bytes() + overlay(("mke2fs",), {"piece": PIECE}))
    legs = [tmp_path / "a.img", tmp_path / "b.img"]
    create(legs, 128 * MIB)
    config = MachineConfig(
        image=guest.path,
        initrd=initrd,
        append=guest.append,
        disks=(DiskFiles(tuple(legs)),),
        input=SESSION.encode(),
        input_after=guest.ready,
        timeout_s=900,
    )
    shown = bytearray()
    with Machine(config, lambda channel, data: shown.extend(data)) as machine:
        disk = machine.disks[0]

        def until(text: str) -> None:
            assert machine.run_until(text=text) is None, shown[-2000:]

        until("phase made")
        disk.legs.pull(0)
        until("phase wrote-1")
        os.kill(machine.modules[1].pid, signal.SIGKILL)
        until("phase wrote-2")
        disk.legs.insert(0)
        result = machine.run()
        kinds = [event.kind for event in machine.events]
    assert result.outcome == "exit", shown[-2000:]
    assert f"{checksum()}  /mnt/file" in shown.decode(errors="replace")
    assert {LEG_PULLED, LEG_JOINED, MODULE_FAILED, MODULE_JOINED} <= set(kinds)
    assert [module.state for module in result.modules] == ["duplexed", "duplexed"]
    for leg in legs:
        check = subprocess.run([find("e2fsck"), "-f", "-n", leg], capture_output=True, text=True, check=False)
        assert check.returncode == 0, check.stdout + check.stderr
    assert legs[0].read_bytes() == legs[1].read_bytes()

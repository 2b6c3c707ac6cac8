"""A stock Debian root file system, made by debootstrap, boots with systemd from a mirrored disk in lockstep, and works
on while either module and either leg is lost.

It takes the debootstrap program, root, and Debian's archive; and many minutes: `make campaign`.
"""

import gzip
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftvm.guests import cpio
from ftvm.guests.catalogue import Guest
from ftvm.machine import Machine, MachineConfig
from ftvm.monitor.bays import DiskFiles
from ftvm.monitor.eventlog import LEG_JOINED, MODULE_JOINED
from ftvm.units import GIB, MIB
from tests.guest.host_programs import find

pytestmark = pytest.mark.campaign

INIT = """\
#!/bin/sh
mount -t proc proc /proc
mount -t devtmpfs devtmpfs /dev
while read -r module; do
	insmod "/lib/modules/$module"
done </lib/modules/order
mount /dev/vda /mnt
umount /proc
exec switch_root /mnt /sbin/init
"""


@pytest.fixture(scope="module")
def legs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """Two equal images of a minimal Debian with systemd, whose root has no password."""
    folder = tmp_path_factory.mktemp("debian")
    root = folder / "root"
    subprocess.run(
        [find("debootstrap"), "--variant=minbase", "--include=systemd-sysv,udev", "bookworm", root], check=True
    )
    shadow = root / "etc" / "shadow"
    shadow.write_text(re.sub(r"^root:[^:]*:", "root::", shadow.read_text(), flags=re.MULTILINE))
    (root / "etc" / "hostname").write_text("debian\n")
    shutil.rmtree(root / "var" / "cache" / "apt", ignore_errors=True)
    images = [folder / "a.img", folder / "b.img"]
    subprocess.run([find("mke2fs"), "-q", "-t", "ext4", "-d", root, images[0], "1G"], check=True)
    shutil.rmtree(root)
    subprocess.run(["cp", "--sparse=always", images[0], images[1]], check=True)
    yield images


def test_systemd_comes_up_and_goes_on_whatever_is_lost(
    legs: list[Path], fetched: Callable[[str], Guest], tmp_path: Path
) -> None:
    guest = fetched("debian-cloud")
    assert guest.initrd is not None
    initrd = tmp_path / "initrd"
    ours = gzip.compress(cpio.archive([cpio.file("init", INIT.encode(), 0o755)]), mtime=0)
    initrd.write_bytes(guest.initrd.read_bytes() + ours)
    config = MachineConfig(
        image=guest.path,
        initrd=initrd,
        append=f"{guest.append} systemd.show_status=1",
        memory_bytes=512 * MIB,
        disks=(DiskFiles(tuple(legs)),),
        interactive=True,
        timeout_s=3600,
    )
    shown = bytearray()
    with Machine(config, lambda channel, data: shown.extend(data)) as machine:
        disk = machine.disks[0]

        def until(text: str) -> None:
            assert machine.run_until(text=text) is None, shown[-3000:].decode(errors="replace")

        def do(command: str, answer: str) -> None:
            machine.send_console(f"{command}\n".encode())
            until(answer)

        until("Welcome to")
        disk.legs.pull(0)
        os.kill(machine.modules[0].pid, signal.SIGKILL)
        until("login: ")
        disk.legs.insert(0)
        do("root", "# ")
        do("head -c 4M /bin/bash > /root/one; sync; echo wrote-$((1+0))", "wrote-1")
        while {LEG_JOINED, MODULE_JOINED} - {event.kind for event in machine.events}:
            do("sleep 1; echo waited-$((1+0))", "waited-1")
        disk.legs.pull(1)
        os.kill(machine.modules[1].pid, signal.SIGKILL)
        do("cp /root/one /root/two; sync; cmp /root/one /root/two && echo equal-$((1+0))", "equal-1")
        disk.legs.insert(1)
        do("systemctl is-system-running --wait; echo asked-$((1+0))", "asked-1")
        machine.send_console(b"poweroff\n")
        result = machine.run()
    assert result.outcome == "exit", shown[-3000:].decode(errors="replace")
    for leg in legs:
        check = subprocess.run([find("e2fsck"), "-f", "-n", leg], capture_output=True, text=True, check=False)
        assert check.returncode == 0, check.stdout + check.stderr
    subprocess.run(["cmp", *legs], check=True)
    assert legs[0].stat().st_size == GIB

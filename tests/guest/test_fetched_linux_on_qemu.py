"""The Linux guests that are fetched do what the tests of lockstep ask of them, on a machine that is not ours."""

import os
import re
import select
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from ftvm.guests.catalogue import Guest

SILENCE_S = 120
"""A guest that prints nothing for so long is stuck."""


class Session:
    """A shell on the guest's serial console."""

    def __init__(self, guest: Guest, process: "subprocess.Popen[bytes]") -> None:
        self._ready = (guest.ready or "").encode()
        self._process = process

    def until_ready(self) -> str:
        """Everything up to the next prompt."""
        return self._read(lambda seen: self._ready in seen)

    def run(self, command: str) -> str:
        self.send(command)
        return self.until_ready()

    def send(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n".encode())
        self._process.stdin.flush()

    def until_end(self) -> str:
        return self._read(lambda seen: False)

    def _read(self, enough: Callable[[bytes], bool]) -> str:
        assert self._process.stdout is not None
        seen = b""
        while not enough(seen):
            readable, _, _ = select.select([self._process.stdout], [], [], SILENCE_S)
            assert readable, f"silence after: {seen[-2000:].decode(errors='replace')}"
            data = os.read(self._process.stdout.fileno(), 65536)
            if not data:
                break
            seen += data
        return seen.decode(errors="replace")


@contextmanager
def booted(guest: Guest) -> Iterator[Session]:
    command = ["qemu-system-x86_64", "-accel", "tcg", "-m", "256", "-nographic", "-no-reboot"]
    command += ["-kernel", str(guest.path), "-initrd", str(guest.initrd), "-append", guest.append]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield Session(guest, process)
        finally:
            process.kill()


@pytest.mark.parametrize("name", ["debian-cloud", "debian"])
def test_a_scripted_session_gives_the_right_answers(name: str, fetched: Callable[[str], Guest]) -> None:
    with booted(fetched(name)) as session:
        assert re.search(r"Linux 6\.\S+ is up", session.until_ready())
        assert "{init} /bin/sh /init" in session.run("ps")
        assert "5d41402abc4b2a76b9719d911017c592" in session.run("printf hello | md5sum")
        harmonic = "awk 'BEGIN { for (i = 1; i <= 1000; i++) s += 1 / i; printf \"%.12f\\n\", s }'"
        assert "7.485470860550" in session.run(harmonic)
        assert "waited 0" in session.run("sleep 1; echo waited $?")
        # Job control: the shell has a terminal of its own.
        assert "/dev/ttyS0" in session.run("tty")
        session.send("poweroff -f")
        assert "reboot: Power down" in session.until_end()


@pytest.mark.parametrize("name", ["debian-cloud", "debian"])
def test_the_drivers_for_disk_network_and_file_system_are_there(name: str, fetched: Callable[[str], Guest]) -> None:
    with booted(fetched(name)) as session:
        assert "insmod:" not in session.until_ready()
        drivers = session.run("ls /sys/bus/virtio/drivers /sys/bus/pci/drivers; grep -w ext4 /proc/filesystems")
        for driver in ("virtio_blk", "virtio_net", "virtio-pci", "ext4"):
            assert driver in drivers
        assert "crc32c" in session.run("grep crc32c /proc/crypto")

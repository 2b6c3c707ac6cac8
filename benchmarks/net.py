"""TCP throughput in both directions and ping times of a Linux guest on TAP, against QEMU: see net.md.

python benchmarks/net.py [--repetitions 5] [--mebibytes 32] [--pings 100]
(as root, in a network namespace of its own; needs: ftvm guests fetch debian-cloud)
"""

import argparse
import contextlib
import os
import re
import shutil
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from measure import FTVM, report, spread, to_stderr

from ftvm.errors import FtvmError, HostError, UnusableFile
from ftvm.guests import catalogue

GUEST = "debian-cloud"
MEMORY = "256M"
TAP, HOST, INSIDE = "bench0", "192.0.2.1", "192.0.2.2"
PIECE = bytes(1 << 20)
IN_NAMESPACE = "FTVM_BENCHMARK_IN_NAMESPACE"
"""Set in the environment of the copy of this program that runs in a namespace of its own."""
LIMIT_S = 600.0
"""For anything that a guest does: more is a failure, not a figure."""

_PING = re.compile(r"time=([\d.]+) ms")


@dataclass(frozen=True)
class Contestant:
    """One that boots the guest with its console on standard input and output, and its NIC on TAP."""

    name: str
    command: list[str]


class Console:
    """A running guest's shell."""

    def __init__(self, process: "subprocess.Popen[bytes]", prompt: bytes) -> None:
        self._process = process
        self._prompt = prompt

    def wait(self, text: bytes | None = None) -> None:
        """For ``text``, by default the prompt. Raises RuntimeError when the guest ends before it."""
        assert self._process.stdout is not None
        seen = b""
        while (text or self._prompt) not in seen:
            data = os.read(self._process.stdout.fileno(), 65536)
            if not data:
                raise RuntimeError(f"the guest ended; its last words: {seen[-300:]!r}")
            seen = seen[-4096:] + data

    def type(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()


@contextlib.contextmanager
def booted(contestant: Contestant, prompt: bytes) -> Iterator[Console]:
    """A guest at its shell, with its NIC up."""
    process = subprocess.Popen(contestant.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        try:
            console = Console(process, prompt)
            console.wait()
            console.type(f"ip address add {INSIDE}/24 dev eth0; ip link set eth0 up; echo is-$((1+1))-up")
            console.wait(b"is-2-up")
            yield console
        finally:
            process.kill()


def to_guest(console: Console, size: int) -> float:
    """MB/s from a web server on the host: until the guest has read all and closed."""
    with socket.create_server((HOST, 9001)) as server:
        server.settimeout(LIMIT_S)
        console.type(f"wget -q -O /dev/null http://{HOST}:9001/")
        connection, _ = server.accept()
        with connection:
            connection.settimeout(LIMIT_S)
            connection.recv(4096)
            connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            began_s = time.monotonic()
            for _ in range(size // len(PIECE)):
                connection.sendall(PIECE)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass
            return size / 1e6 / (time.monotonic() - began_s)


def from_guest(console: Console, size: int) -> float:
    """MB/s from a web server in the guest, of a file in its memory: from the first byte to the last one."""
    blocks = size // len(PIECE)
    console.type(f"dd if=/dev/zero of=/tmp/file bs=1M count={blocks}; httpd -p 80 -h /tmp; echo is-$((1+2))-ready")
    console.wait(b"is-3-ready")
    with socket.create_connection((INSIDE, 80), timeout=LIMIT_S) as connection:
        connection.sendall(b"GET /file HTTP/1.0\r\n\r\n")
        received, began_s = 0, 0.0
        while data := connection.recv(1 << 20):
            began_s = began_s or time.monotonic()
            received += len(data)
        if received < size:
            raise RuntimeError(f"the guest closed the connection after {received} bytes")
        return size / 1e6 / (time.monotonic() - began_s)


def ping(pings: int) -> float:
    """Median round trip in milliseconds, of an idle guest."""
    until_s = time.monotonic() + LIMIT_S
    answers = False
    while not answers:  # Linux takes up to a second to believe that a link is up
        if time.monotonic() > until_s:
            raise RuntimeError("the guest does not answer")
        answers = subprocess.run(["ping", "-c", "1", INSIDE], stdout=subprocess.DEVNULL, check=False).returncode == 0
    command = ["ping", "-c", str(pings), "-i", "0.02", INSIDE]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=LIMIT_S).stdout
    return statistics.median(float(time_ms) for time_ms in _PING.findall(output))


def compare(contestants: list[Contestant], arguments: argparse.Namespace, prompt: bytes) -> dict[str, object]:
    """All in turn, so that what the host does meanwhile hits all alike."""
    size = arguments.mebibytes << 20
    figures: dict[str, dict[str, list[float]]] = {each.name: {} for each in contestants}
    for repetition in range(arguments.repetitions):
        for contestant in contestants:
            with booted(contestant, prompt) as console:
                measures: list[tuple[str, Callable[[], float]]] = [
                    ("ping_ms", lambda: ping(arguments.pings)),
                    ("to_guest_mb_s", lambda console=console: to_guest(console, size)),  # type: ignore[misc]
                    ("from_guest_mb_s", lambda console=console: from_guest(console, size)),  # type: ignore[misc]
                ]
                for name, measure in measures:
                    figure = measure()
                    figures[contestant.name].setdefault(name, []).append(figure)
                    to_stderr(
                        f"{repetition + 1}/{arguments.repetitions}  {contestant.name:<12} {name:<16} {figure:9.3f}"
                    )
    return {name: {measure: spread(values) for measure, values in found.items()} for name, found in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="TCP throughput and ping times on TAP, against QEMU.")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--mebibytes", type=int, default=32)
    parser.add_argument("--pings", type=int, default=100)
    arguments = parser.parse_args()
    guest = catalogue.find(GUEST)
    if guest is None or guest.ready is None or guest.initrd is None:
        raise UnusableFile(f"the guest {GUEST} is not here yet", f"get it with: ftvm guests fetch {GUEST}")
    for program, package in (("qemu-system-x86_64", "qemu-system-x86"), ("ip", "iproute2"), ("ping", "iputils-ping")):
        if shutil.which(program) is None:
            raise HostError(f"{program} is missing", f"Debian: apt-get install {package}")
    if IN_NAMESPACE not in os.environ:
        if os.geteuid() != 0:
            raise HostError("a network namespace takes root", "run it as root")
        os.environ[IN_NAMESPACE] = "1"
        os.execvp("unshare", ["unshare", "--net", *_self()])

    for command in (
        f"tuntap add {TAP} mode tap",
        f"address add {HOST}/24 dev {TAP}",
        f"link set {TAP} up",
        "link set lo up",
    ):
        subprocess.run(["ip", *command.split()], check=True)
    linux = [str(guest.path), "--initrd", str(guest.initrd), "--append", guest.append, "--memory", MEMORY]
    ftvm = [*FTVM[:-1], "--interactive", *linux, "--nic", f"tap:{TAP}"]
    qemu = ["qemu-system-x86_64", "-accel", "tcg", "-smp", "1", "-m", MEMORY, "-display", "none", "-serial", "stdio"]
    qemu += ["-kernel", str(guest.path), "-initrd", str(guest.initrd), "-append", guest.append]
    qemu += ["-netdev", f"tap,id=n0,ifname={TAP},script=no,downscript=no", "-device", "virtio-net-pci,netdev=n0"]
    contestants = [
        Contestant("pair", ftvm),
        Contestant("one-module", [*ftvm, "--modules", "1"]),
        Contestant("qemu-tcg", qemu),
    ]
    report("net", vars(arguments), lambda: compare(contestants, arguments, guest.ready.encode()))


def _self() -> list[str]:
    """The command line that this program was started with."""
    with open("/proc/self/cmdline", "rb") as file:
        return [part.decode() for part in file.read().split(b"\0")[:-1]]


if __name__ == "__main__":
    try:
        main()
    except FtvmError as error:
        raise SystemExit(f"error: {error.message}\nhint: {error.hint}") from None

"""An unmodified Linux with its own virtio driver on real networks, in namespaces of our own: hosts that answer,
transfers that survive the loss of legs and modules, and passt for those who are not root."""

import contextlib
import hashlib
import os
import pwd
import random
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftvm.guests.catalogue import Guest
from ftvm.machine import Machine, MachineConfig
from ftvm.monitor.eventlog import LEG_FAILED, LEG_JOINED, MODULE_FAILED, MODULE_JOINED
from ftvm.network.spec import parse_nic
from ftvm.network.tap import in_namespace
from ftvm.units import MIB
from tests.network.namespaces import inside, ip, namespace

BYTES = 16 * MIB
DATA = random.Random(4).randbytes(BYTES)
SUM = hashlib.sha256(DATA).hexdigest()
LIMIT_S = 280.0


def machine(guest: Guest, session: str, *nics: str) -> tuple[Machine, bytearray]:
    """One that types ``session`` into its shell, and what it shows."""
    shown = bytearray()
    config = MachineConfig(
        image=guest.path,
        initrd=guest.initrd,
        append=guest.append,
        input=session.encode(),
        input_after=guest.ready,
        nics=tuple(map(parse_nic, nics)),
        timeout_s=LIMIT_S,
    )
    return Machine(config, lambda channel, data: shown.extend(data)), shown


class Host:
    """Port 9001 is a web server that has DATA, port 9002 takes what comes; each once, on one connection."""

    def __init__(self, network: str, address: str) -> None:
        self.received = b""
        self.trouble: list[BaseException] = []
        self.moved: Callable[[int], object] = lambda count: None
        """Called with the number of bytes sent and received so far."""
        self._servers = [
            in_namespace(network, lambda port=port: socket.create_server((address, port)))  # type: ignore[misc]
            for port in (9001, 9002)
        ]
        self._threads = [
            threading.Thread(target=self._serve, args=(server, serve), daemon=True)
            for server, serve in zip(self._servers, (self._send, self._receive), strict=True)
        ]
        for thread in self._threads:
            thread.start()

    def _serve(self, server: socket.socket, serve: Callable[[socket.socket], None]) -> None:
        try:
            with server:
                server.settimeout(LIMIT_S)
                connection, _ = server.accept()
                with connection:
                    connection.settimeout(LIMIT_S)
                    serve(connection)
        except OSError as error:
            self.trouble.append(error)

    def _send(self, connection: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += connection.recv(4096)
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % BYTES)
        for at in range(0, BYTES, 65536):
            connection.sendall(DATA[at : at + 65536])
            self.moved(at + 65536)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass

    def _receive(self, connection: socket.socket) -> None:
        while data := connection.recv(MIB):
            self.received += data
            self.moved(BYTES + len(self.received))

    def join(self) -> None:
        for thread in self._threads:
            thread.join(LIMIT_S)
            assert not thread.is_alive()


@pytest.fixture
def net() -> Iterator[str]:
    with namespace() as name:
        yield name


def test_a_guest_is_the_router_between_two_hosts(fetched: Callable[[str], Guest], net: str) -> None:
    """Two hosts on two NICs ping each other through the guest, which pings both."""
    session = """\
ip address add 192.0.2.1/24 dev eth0; ip address add 198.51.100.1/24 dev eth1
ip link set eth0 up; ip link set eth1 up; echo 1 >/proc/sys/net/ipv4/ip_forward
ping -c 2 192.0.2.2 && ping -c 2 198.51.100.2 && echo both-$((1+1))
read line; poweroff -f
"""
    with namespace() as other:
        ours, shown = machine(fetched("debian-cloud"), session, f"tap:{net}/left", f"tap:{other}/right")
        with ours:
            for where, name, address, gateway, far in (
                (net, "left", "192.0.2.2", "192.0.2.1", "198.51.100.0/24"),
                (other, "right", "198.51.100.2", "198.51.100.1", "192.0.2.0/24"),
            ):
                ip("-n", where, "address", "add", f"{address}/24", "dev", name)
                ip("-n", where, "route", "add", far, "via", gateway)
            assert ours.run_until(text="both-2") is None, shown[-2000:]
            pings = subprocess.Popen(
                inside(net, "ping", "-c", "3", "-W", "60", "198.51.100.2"), stdout=subprocess.PIPE, text=True
            )
            answered = threading.Thread(target=lambda: (pings.wait(), ours.send_console(b"\n")))
            answered.start()
            result = ours.run()
            answered.join()
            assert pings.stdout is not None
            with pings.stdout as output:
                assert " 3 received" in output.read()
        assert result.outcome == "exit"


def test_transfers_in_and_out_survive_the_loss_of_each_leg_and_each_module(
    fetched: Callable[[str], Guest], net: str
) -> None:
    """16 MiB each way on one connection each, over a bridge; two legs and two modules fail in turn."""
    session = """\
ip address add 192.0.2.2/24 dev eth0; ip link set eth0 up
wget -q -O /tmp/file http://192.0.2.1:9001/; sha256sum /tmp/file
nc 192.0.2.1 9002 </tmp/file; poweroff -f
"""
    ip("-n", net, "link", "add", "switch", "type", "bridge")
    ip("-n", net, "address", "add", "192.0.2.1/24", "dev", "switch")
    ip("-n", net, "link", "set", "switch", "up")
    ours, shown = machine(fetched("debian-cloud"), session, f"tap:{net}/left,tap:{net}/right")
    with ours:
        for leg in ("left", "right"):
            ip("-n", net, "link", "set", leg, "master", "switch")
        host = Host(net, "192.0.2.1")

        def kill(index: int) -> None:
            os.kill(ours.modules[index].pid, signal.SIGKILL)

        failures: list[tuple[int, Callable[[], object]]] = [
            (2 * MIB, lambda: ip("-n", net, "link", "set", "left", "down")),
            (6 * MIB, lambda: kill(0)),
            (10 * MIB, lambda: ip("-n", net, "link", "set", "left", "up")),
            (14 * MIB, lambda: ip("-n", net, "link", "set", "right", "down")),
            (BYTES + 2 * MIB, lambda: ip("-n", net, "link", "set", "right", "up")),
            (BYTES + 6 * MIB, lambda: kill(1)),
            (BYTES + 10 * MIB, lambda: ip("-n", net, "link", "set", "left", "down")),
        ]
        host.moved = lambda count: failures.pop(0)[1]() if failures and count >= failures[0][0] else None
        result = ours.run()
        kinds = [event.kind for event in ours.events]
        nic = ours.nics[0].team.status()
    host.join()
    assert not host.trouble, host.trouble
    assert not failures
    assert f"{SUM}  /tmp/file" in shown.decode(errors="replace")
    assert hashlib.sha256(host.received).hexdigest() == SUM
    assert result.outcome == "exit"
    assert kinds.count(LEG_FAILED) == 3 and kinds.count(LEG_JOINED) == 2 and kinds.count("nic-active") == 3
    assert kinds.count(MODULE_FAILED) >= 2 and MODULE_JOINED in kinds
    assert [leg.faults for leg in nic.legs] == [{"link down": 2}, {"link down": 1}]


@contextlib.contextmanager
def passt(network: str, folder: Path) -> Iterator[Path]:
    """The path of its socket. It goes to the network of that namespace, as the user nobody."""
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    path = folder / "socket"
    command = inside(network, "passt", "--foreground", "--quiet", "--stderr", "--socket", str(path))
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr is not None
            said = b""
            while b"bound at" not in said:
                line = process.stderr.readline()
                assert line, said
                said += line
            drain = threading.Thread(target=process.stderr.read, daemon=True)
            drain.start()
            yield path
        finally:
            process.kill()


def test_passt_is_a_network_without_root(fetched: Callable[[str], Guest], net: str) -> None:
    """DHCP from passt, and a transfer from a server on the loopback interface behind it."""
    session = """\
ip link set eth0 up; udhcpc -i eth0 -n -q -s /tmp/dhcp
ip address add $(cat /tmp/lease) dev eth0
wget -q -O /tmp/file http://192.0.2.1:9001/; sha256sum /tmp/file
nc 192.0.2.1 9002 </tmp/file; poweroff -f
"""
    script = "printf '#!/bin/sh\\n[ $1 = bound ] && echo $ip/$mask >/tmp/lease\\n' >/tmp/dhcp; chmod +x /tmp/dhcp\n"
    # passt offers the guest the address of the interface with the default route; its gateway is then the host.
    ip("-n", net, "tuntap", "add", "uplink", "mode", "tap")
    ip("-n", net, "address", "add", "192.0.2.9/24", "dev", "uplink")
    ip("-n", net, "link", "set", "uplink", "up")
    ip("-n", net, "route", "add", "default", "via", "192.0.2.1")
    host = Host(net, "127.0.0.1")
    with folder_for_all() as folder, passt(net, folder) as path:
        ours, shown = machine(fetched("debian-cloud"), script + session, f"stream:{path}")
        result = ours.run()
    host.join()
    assert not host.trouble, (host.trouble, shown[-1000:])
    assert result.outcome == "exit", shown[-2000:]
    assert f"{SUM}  /tmp/file" in shown.decode(errors="replace"), shown[-2000:]
    assert hashlib.sha256(host.received).hexdigest() == SUM


@contextlib.contextmanager
def folder_for_all() -> Iterator[Path]:
    """pytest's own folders are for their owner only."""
    with tempfile.TemporaryDirectory(prefix="ftvm-passt-") as name:
        os.chmod(name, 0o755)
        yield Path(name)

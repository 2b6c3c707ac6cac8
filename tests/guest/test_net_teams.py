"""An unmodified Linux on real switches, one for each leg of its NIC: what the team does for it, seen from the wire."""

import os
import re
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType

import pytest

from ftvm.guests.catalogue import Guest
from ftvm.monitor.eventlog import LEG_FAILED, LEG_JOINED
from ftvm.network.announcement import frame as announcement
from ftvm.network.spec import default_mac
from ftvm.network.tap import TapLeg, in_namespace
from ftvm.network.team import ANNOUNCE_AFTER_S, Team, TeamMode
from ftvm.units import MIB
from tests.guest.test_net_linux import BYTES, DATA, SUM, Host, machine
from tests.network.namespaces import inside, ip, namespace

MAC = default_mac(0)
RARP = 0x8035


@pytest.fixture
def net() -> Iterator[str]:
    with namespace() as name:
        yield name


def switch(net: str, name: str, *ports: str) -> None:
    ip("-n", net, "link", "add", name, "type", "bridge")
    ip("-n", net, "link", "set", name, "up")
    for port in ports:
        ip("-n", net, "link", "set", port, "master", name)


def set_link(net: str, name: str, state: str) -> None:
    ip("-n", net, "link", "set", name, state)


class RedundantHost:
    """A host with a port at a switch in each of ``networks`` that does as the guest's NIC does: it sends by both, and
    keeps the first copy. Its network stack is that of the namespace ``net``, at the interface ``peer``."""

    def __init__(self, net: str, networks: tuple[str, ...]) -> None:
        self._stack = TapLeg("peer", namespace=net, offload=False)
        ip("-n", net, "address", "add", "192.0.2.1/24", "dev", "peer")
        mac = bytes.fromhex(ip("-n", net, "-br", "link", "show", "peer").split()[2].replace(":", ""))
        places = [(name, lambda name=name: TapLeg("port", namespace=name, offload=False)) for name in networks]
        self._team = Team(mac, places, TeamMode.BROADCAST, lambda event: None)
        self._end = os.eventfd(0)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "RedundantHost":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.eventfd_write(self._end, 1)
        self._thread.join()
        self._team.close()
        self._stack.close()
        os.close(self._end)

    def _run(self) -> None:
        poll = select.poll()
        for descriptor in (self._team.fileno(), self._stack.fileno(), self._end):
            poll.register(descriptor, select.POLLIN)
        while self._end not in [descriptor for descriptor, _ in poll.poll()]:
            self._stack.send(self._team.receive(256))
            self._team.send(self._stack.receive(256))


class Pings:
    """Several a second from the namespace to the guest, until it is asked what came of them."""

    def __init__(self, net: str) -> None:
        command = inside(net, "ping", "-i", "0.2", "192.0.2.2")
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def __call__(self) -> str:
        self._process.send_signal(signal.SIGINT)
        assert self._process.stdout is not None
        with self._process.stdout as output:
            said = output.read()
        self._process.wait()
        return said


def test_in_broadcast_mode_a_switch_may_die_and_nothing_is_lost_or_comes_twice(
    fetched: Callable[[str], Guest], net: str
) -> None:
    """16 MiB each way on one connection each, and pings. One switch passes nothing on for a while, which no link tells;
    later the other leg loses its link."""
    session = """\
ip address add 192.0.2.2/24 dev eth0; ip link set eth0 up
wget -q -O /tmp/file http://192.0.2.1:9001/; sha256sum /tmp/file
nc 192.0.2.1 9002 </tmp/file; echo sent-$((1+0))
read line; poweroff -f
"""
    with ExitStack() as undo:
        # Each switch has a network stack of its own: one that knew the host's address would answer for it.
        left, right = undo.enter_context(namespace()), undo.enter_context(namespace())
        ours, shown = machine(fetched("debian-cloud"), session, f"tap:{left}/leg,tap:{right}/leg,mode=broadcast")
        undo.enter_context(RedundantHost(net, (left, right)))
        undo.enter_context(ours)
        for network in (left, right):
            switch(network, "switch", "leg", "port")
        host = Host(net, "192.0.2.1")
        pings: list[Pings] = []
        happens: list[tuple[int, Callable[[], object]]] = [
            (MIB, lambda: pings.append(Pings(net))),
            (4 * MIB, lambda: set_link(left, "switch", "down")),
            (12 * MIB, lambda: set_link(left, "switch", "up")),
            (BYTES + 4 * MIB, lambda: set_link(right, "leg", "down")),
            (BYTES + 12 * MIB, lambda: set_link(right, "leg", "up")),
        ]
        host.moved = lambda count: happens.pop(0)[1]() if happens and count >= happens[0][0] else None
        assert ours.run_until(text="sent-1") is None, shown[-2000:]
        said = pings[0]()
        ours.send_console(b"\n")
        result = ours.run()
        legs = [(event.kind, event.subject) for event in ours.events if event.kind in (LEG_FAILED, LEG_JOINED)]
    host.join()
    assert not host.trouble, host.trouble
    assert not happens
    assert result.outcome == "exit"
    assert f"{SUM}  /tmp/file" in shown.decode(errors="replace")
    assert host.received == DATA
    assert legs == [(LEG_FAILED, "nic0.1"), (LEG_JOINED, "nic0.1")]
    counts = re.search(r"(\d+) packets transmitted, (\d+) received", said)
    assert counts is not None and "DUP!" not in said and "duplicates" not in said, said
    sent, answered = map(int, counts.groups())
    assert sent - 1 <= answered <= sent and sent > 3, said  # the last one may be under way


@contextmanager
def announcements(net: str) -> Iterator[Callable[[], list[bytes]]]:
    """What the switch has heard of them since it was asked last."""

    def listen() -> socket.socket:
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(RARP))
        wire.bind(("switch", RARP))
        return wire

    def heard() -> list[bytes]:
        frames = []
        while select.select([wire], [], [], 0)[0]:
            frames.append(wire.recv(2048))
        return frames

    with in_namespace(net, listen) as wire:
        yield heard


def where_it_is(net: str) -> str:
    """The port at which the switch has learned the guest's address."""
    listed = subprocess.run(
        ["bridge", "-n", net, "fdb", "show", "br", "switch"], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    (port,) = re.findall(rf"^{MAC.hex(':')} dev (\S+) master", listed, flags=re.MULTILINE)
    return str(port)


def test_a_failover_is_announced_to_the_switch_and_a_guest_without_any_link_knows_it(
    fetched: Callable[[str], Guest], net: str
) -> None:
    ours, shown = machine(fetched("debian-cloud"), "echo there-$((1+0))\n", f"tap:{net}/left,tap:{net}/right")
    with ours:
        switch(net, "switch", "left", "right")
        assert ours.run_until(text="there-1") is None, shown[-2000:]

        def do(command: str, answer: str) -> None:
            ours.send_console(f"{command}; echo {answer}-$((1+0))\n".encode())
            assert ours.run_until(text=f"{answer}-1") is None, shown[-2000:]

        def until_carrier(state: int) -> str:
            return f"until [ $(cat /sys/class/net/eth0/carrier) = {state} ]; do sleep 0.1; done"

        with announcements(net) as heard:
            do(f"ip link set eth0 up; {until_carrier(1)}", "up")
            assert heard() == []
            set_link(net, "left", "down")
            do("sleep 1; cat /sys/class/net/eth0/carrier", "moved")
            assert heard() == len(ANNOUNCE_AFTER_S) * [announcement(MAC)]
            assert where_it_is(net) == "right"
            set_link(net, "right", "down")
            do(until_carrier(0), "alone")
            set_link(net, "left", "up")
            do(f"{until_carrier(1)}; sleep 1", "back")
            assert heard() == len(ANNOUNCE_AFTER_S) * [announcement(MAC)]
            assert where_it_is(net) == "left"
    states = re.findall(r"moved-1|^([01])\r?$", shown.decode(errors="replace"), flags=re.MULTILINE)
    assert "1" in states and "0" not in states, "the guest saw a link as long as one leg had one"

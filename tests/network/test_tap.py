"""TAP interfaces in namespaces of our own: frames to and from a real network stack, and the state of the link."""

import contextlib
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from ftvm.errors import HostError, UsageError
from ftvm.network.frame import NEEDS_CHECKSUM, Frame, Offload
from ftvm.network.leg import LegFailed, Reason
from ftvm.network.tap import TapLeg
from tests.network.namespaces import ip, namespace

PEER = bytes.fromhex("020000000001")


@pytest.fixture
def net() -> Iterator[str]:
    with namespace() as name:
        yield name


def arp_request(sender: str, target: str) -> Frame:
    ends = PEER + socket.inet_aton(sender) + bytes(6) + socket.inet_aton(target)
    return Frame(6 * b"\xff" + PEER + b"\x08\x06" + bytes.fromhex("0001080006040001") + ends)


def wait_for(leg: TapLeg, wanted: Callable[[list[Frame]], bool]) -> list[Frame]:
    """What has come, when it is what was wanted."""
    frames: list[Frame] = []
    while not wanted(frames):
        select.select([leg], [], [])
        frames += leg.receive(100)
    return frames


def is_arp_reply(frame: Frame) -> bool:
    return frame.data[12:14] == b"\x08\x06" and frame.data[20:22] == b"\0\2"


def test_an_interface_that_is_not_there_is_made_is_up_and_goes_with_the_leg(net: str) -> None:
    leg = TapLeg("t0", namespace=net, offload=True)
    assert leg.link_up
    assert "t0" in ip("-n", net, "-br", "link")
    leg.close()
    assert "t0" not in ip("-n", net, "-br", "link")


def test_a_network_stack_answers(net: str) -> None:
    with contextlib.closing(TapLeg("t0", namespace=net, offload=True)) as leg:
        ip("-n", net, "address", "add", "192.0.2.1/24", "dev", "t0")
        leg.send([arp_request("192.0.2.2", "192.0.2.1")])
        frames = wait_for(leg, lambda frames: any(map(is_arp_reply, frames)))
        (reply,) = filter(is_arp_reply, frames)
        assert reply.data[:6] == PEER and reply.data[28:32] == socket.inet_aton("192.0.2.1")


def udp_frame(body: bytes, target: bytes) -> Frame:
    """To port 9 of 192.0.2.1, with the checksum left to be done."""
    addresses = socket.inet_aton("192.0.2.2") + socket.inet_aton("192.0.2.1")
    length = 8 + len(body)
    pseudo = struct.unpack(">6H", addresses + struct.pack(">HH", 17, length))
    total = sum(pseudo)
    udp = struct.pack(">HHHH", 9, 9, length, (total & 0xFFFF) + (total >> 16)) + body
    ip_header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, 0, 0, 64, 17, 0) + addresses
    words = sum(struct.unpack(">10H", ip_header))
    check = ~((words & 0xFFFF) + (words >> 16)) & 0xFFFF
    ip_header = ip_header[:10] + check.to_bytes(2, "big") + ip_header[12:]
    return Frame(target + PEER + b"\x08\x00" + ip_header + udp, Offload(NEEDS_CHECKSUM, 0, 0, 0, 34, 6))


def test_a_checksum_can_be_left_to_the_interface(net: str) -> None:
    with contextlib.closing(TapLeg("t0", namespace=net, offload=True)) as leg:
        ip("-n", net, "address", "add", "192.0.2.1/24", "dev", "t0")
        leg.send([arp_request("192.0.2.2", "192.0.2.1")])
        (reply,) = filter(is_arp_reply, wait_for(leg, lambda frames: any(map(is_arp_reply, frames))))
        # Nobody listens at that port, and the stack says so only of a datagram that arrived in good order.
        leg.send([udp_frame(b"hello", reply.data[6:12])])
        unreachable = b"\x03\x03"
        frames = wait_for(leg, lambda frames: any(each.data[34:36] == unreachable for each in frames))
        assert frames


def test_the_link_follows_the_interface(net: str) -> None:
    with contextlib.closing(TapLeg("t0", namespace=net, offload=True)) as leg:
        ip("-n", net, "link", "set", "t0", "down")
        wait_for(leg, lambda frames: not leg.link_up)
        leg.send([Frame(bytes(60))])
        assert leg.dropped == 1
        ip("-n", net, "link", "set", "t0", "up")
        wait_for(leg, lambda frames: leg.link_up)


def test_an_interface_that_is_deleted_is_a_leg_that_is_gone(net: str) -> None:
    with contextlib.closing(TapLeg("t0", namespace=net, offload=True)) as leg:
        ip("-n", net, "link", "delete", "t0")
        with pytest.raises(LegFailed) as failure:
            wait_for(leg, lambda frames: False)
        assert failure.value.reason is Reason.GONE and not leg.link_up
        assert not select.select([leg], [], [], 0)[0]


def test_nonsense_in_the_offload_is_a_dropped_frame(net: str) -> None:
    with contextlib.closing(TapLeg("t0", namespace=net, offload=True)) as leg:
        leg.send([Frame(bytes(60), Offload(1, 77, 65535, 0, 65535, 65535))])
        assert leg.dropped == 1 and leg.link_up


def test_what_the_host_refuses_is_told_with_what_helps(net: str) -> None:
    with contextlib.closing(TapLeg("t0", namespace=net, offload=True)), pytest.raises(HostError, match="busy") as error:
        TapLeg("t0", namespace=net, offload=True)
    assert error.value.hint == "another program uses it"
    with pytest.raises(HostError, match="cannot be used"):
        TapLeg("lo", namespace=net, offload=True)
    with pytest.raises(HostError, match="cannot be entered"):
        TapLeg("t0", namespace="no-such-namespace", offload=True)
    with pytest.raises(UsageError):
        TapLeg("t0", namespace="..", offload=True)


def test_a_leg_in_a_namespace_leaves_this_process_where_it_was(net: str) -> None:
    before = os.readlink("/proc/self/ns/net")
    with contextlib.closing(TapLeg("t0", namespace=net, offload=False)):
        assert os.readlink("/proc/self/ns/net") == before
        assert "t0" not in (name for _, name in socket.if_nameindex())

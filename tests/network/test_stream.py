"""Frames over a Unix socket, with QEMU's framing: whole, in order, and nothing that a peer does harms us."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftvm.network.frame import MAX_FRAME_BYTES, Frame
from ftvm.network.leg import LegFailed, Reason
from ftvm.network.stream import MAX_OUTGOING_BYTES, StreamLeg

FRAMES = st.lists(st.binary(min_size=14, max_size=3000), max_size=20)


def framed(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


class Peer:
    """The listening side, as passt is."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self.path = str(path)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()

    def accept(self) -> socket.socket:
        self._listener.settimeout(60)
        connection, _ = self._listener.accept()
        connection.settimeout(60)
        return connection

    def close(self) -> None:
        self._listener.close()
        Path(self.path).unlink()


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    made = Peer(tmp_path / "s")
    yield made
    with contextlib.suppress(FileNotFoundError):
        made.close()


def receive(leg: StreamLeg, count: int) -> list[bytes]:
    return [each.data for each in until(lambda: leg.receive(count), count)]


def until(receive: Callable[[], list[Frame]], count: int) -> list[Frame]:
    frames: list[Frame] = []
    while len(frames) < count:
        frames += receive()
    return frames


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(frames=FRAMES, cuts=st.lists(st.integers(1, 4000), min_size=1, max_size=10))
def test_frames_come_whole_however_the_stream_is_cut(peer: Peer, frames: list[bytes], cuts: list[int]) -> None:
    leg = StreamLeg(peer.path)
    with contextlib.closing(leg), peer.accept() as other:
        stream = b"".join(map(framed, frames))
        got: list[bytes] = []
        turn = 0
        while stream:
            size = cuts[turn % len(cuts)]
            other.sendall(stream[:size])
            stream = stream[size:]
            got += [each.data for each in leg.receive(3)]
            turn += 1
        got += receive(leg, len(frames) - len(got))
        assert got == frames


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(frames=FRAMES)
def test_frames_leave_with_their_length_before_them(peer: Peer, frames: list[bytes]) -> None:
    leg = StreamLeg(peer.path)
    with contextlib.closing(leg), peer.accept() as other, other.makefile("rb") as stream:
        leg.send([Frame(data) for data in frames])
        expected = b"".join(map(framed, frames))
        assert stream.read(len(expected)) == expected


@pytest.mark.parametrize("length", [0, 13, MAX_FRAME_BYTES + 1, 0xFFFF_FFFF])
def test_a_peer_that_announces_an_impossible_length_is_dropped(peer: Peer, length: int) -> None:
    leg = StreamLeg(peer.path)
    with contextlib.closing(leg), peer.accept() as other:
        other.sendall(framed(bytes(14)) + length.to_bytes(4, "big") + bytes(100))
        with pytest.raises(LegFailed) as failure:
            leg.receive(10)
        assert failure.value.reason is Reason.BAD_FRAME and str(length) in failure.value.detail
        assert not leg.link_up
        assert other.recv(1) == b""


def test_a_peer_that_goes_away_is_a_link_that_is_down_until_it_is_back(peer: Peer) -> None:
    leg = StreamLeg(peer.path)
    with contextlib.closing(leg):
        peer.accept().close()
        peer.close()
        with pytest.raises(LegFailed) as failure:
            leg.receive(10)
        assert failure.value.reason is Reason.LINK_DOWN
        leg.send([Frame(bytes(20))])
        assert (leg.link_up, leg.dropped) == (False, 1)
        assert leg.receive(10) == [] and leg.deadline_s() is not None

        again = Peer(Path(peer.path))
        while not leg.link_up:
            time.sleep(0.05)
            leg.receive(10)
        with again.accept() as other:
            other.sendall(framed(b"x" * 20))
            assert receive(leg, 1) == [b"x" * 20]
        again.close()


def test_a_peer_that_does_not_read_costs_a_bounded_amount_of_memory_and_gets_whole_frames(peer: Peer) -> None:
    leg = StreamLeg(peer.path)
    data = [number.to_bytes(4, "big") * 8000 for number in range(400)]
    with contextlib.closing(leg), peer.accept() as other, other.makefile("rb") as stream:
        for each in data:
            leg.send([Frame(each)])
        assert 0 < leg.dropped < 400
        assert leg._outgoing_bytes <= MAX_OUTGOING_BYTES + 2 * 32004
        for number in range(400 - leg.dropped):
            leg.receive(1)  # there may be room now
            assert int.from_bytes(stream.read(4), "big") == 32000
            assert stream.read(32000) == data[number]


def test_a_path_that_cannot_be_a_socket_is_a_link_that_is_down(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path / ("x" * 200)):
        leg = StreamLeg(str(path))
        assert not leg.link_up
        leg.close()

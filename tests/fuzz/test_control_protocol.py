"""Whatever clients send to a control socket, in whatever pieces and order, the machine serves the next one."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ftvm.control.protocol import REQUEST_BYTES
from ftvm.control.server import LOST_BYTES, MAX_CALLS, MAX_CLIENTS
from tests.unit.control_machine import Running, Wire

VERBS = ["help", "status", "pull", "insert", "threshold", "clear", "events", "suspend", "quit"]
NAMES = ["module", "target", "seconds", "samples", "policy", "since", "follow", "wait", "file", "more"]

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)


def encoded(value: object) -> bytes:
    return msgspec.json.encode(value, enc_hook=str) + b"\n"


PLAUSIBLE = st.fixed_dictionaries(
    {"id": st.integers(-1, 5) | st.text(max_size=3), "verb": st.sampled_from([*VERBS, "nonsense"])},
    optional={
        "arguments": st.dictionaries(
            st.sampled_from(NAMES), st.integers(-1, 3) | st.booleans() | st.sampled_from(["/x", "never-restart"]) | JSON
        )
    },
).map(encoded)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A request with bytes changed, taken out or put in."""
    line = bytearray(draw(PLAUSIBLE))
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(line)))
        line[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(line)


LONG = st.builds(
    lambda byte, times: byte * times, st.sampled_from([b"x", b"[", b'{"a":', b"\n", b"\0"]), st.just(20_000)
)
TRAFFIC = st.lists(PLAUSIBLE | damaged() | st.binary(max_size=100) | LONG | JSON.map(encoded), max_size=20).map(
    b"".join
)


@pytest.fixture(autouse=True, scope="module")
def runtime_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("runtime")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        yield folder


def assert_well(running: Running) -> None:
    """Another client gets its answer."""
    wire = Wire(running)
    wire.ask("status", 4711)
    assert [line["id"] for line in wire.received() if "id" in line] == [4711]
    wire.close()


@contextlib.contextmanager
def machine() -> Iterator[Running]:
    running = Running("fuzzed")
    try:
        yield running
    finally:
        running.close()
        running.hang_up()


@given(TRAFFIC, st.data())
@settings(max_examples=200)
def test_any_traffic_gets_whole_lines_and_harms_nobody(traffic: bytes, data: st.DataObject) -> None:
    with machine() as running:
        wire = Wire(running)
        (_, *lines) = wire.received()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while traffic:
                size = data.draw(st.integers(1, max(1, len(traffic))))
                wire.send(traffic[:size])
                traffic = traffic[size:]
                lines += wire.received()  # which decodes every line
        for line in lines + wire.received():
            assert ("ok" in line) + ("event" in line) + ("progress" in line) == 1
            assert line.get("error", {}).get("code") != "internal"
        assert_well(running)


@given(st.lists(PLAUSIBLE, min_size=1, max_size=10))
def test_each_request_has_exactly_one_answer_at_the_end(requests: list[bytes]) -> None:
    running = Running("fuzzed")
    wire = Wire(running)
    wire.received()
    wire.send(b"".join(requests))
    running.close()
    ends = [line for line in wire.received() if "ok" in line]
    running.hang_up()
    assert len(ends) == len(requests)


class Crowd(RuleBasedStateMachine):
    """Clients that come, talk, stop reading, half-close and vanish, while things happen to the machine."""

    def __init__(self) -> None:
        super().__init__()
        self.running = Running("fuzzed")
        self.sockets: list[socket.socket] = []

    @rule()
    def come(self) -> None:
        if len(self.sockets) < 3 * MAX_CLIENTS:
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            client.connect(str(self.running.server._claim.path))
            self.sockets.append(client)
            self.running.turn(2)

    @precondition(lambda self: self.sockets)
    @rule(who=st.integers(0, 1000), what=PLAUSIBLE | damaged() | LONG, times=st.integers(1, 40))
    def talk(self, who: int, what: bytes, times: int) -> None:
        with contextlib.suppress(OSError):
            self.sockets[who % len(self.sockets)].send(what * times)

    @precondition(lambda self: self.sockets)
    @rule(who=st.integers(0, 1000))
    def read(self, who: int) -> None:
        with contextlib.suppress(OSError):
            self.sockets[who % len(self.sockets)].recv(1 << 20)

    @precondition(lambda self: self.sockets)
    @rule(who=st.integers(0, 1000))
    def half_close(self, who: int) -> None:
        with contextlib.suppress(OSError):
            self.sockets[who % len(self.sockets)].shutdown(socket.SHUT_WR)

    @precondition(lambda self: self.sockets)
    @rule(who=st.integers(0, 1000))
    def vanish(self, who: int) -> None:
        self.sockets.pop(who % len(self.sockets)).close()

    @rule(rounds=st.integers(1, 5))
    def sync_points(self, rounds: int) -> None:
        self.running.turn(rounds)

    @rule(size=st.sampled_from([1, 1000, 100_000]))
    def happen(self, size: int) -> None:
        self.running.log.emit("note", "machine", text="x" * size)

    @rule()
    def finish_something(self) -> None:
        if self.running.machine.later:
            self.running.machine.later.pop(0)()

    @invariant()
    def costs_are_bounded(self) -> None:
        clients = self.running.server._clients
        assert len(clients) <= MAX_CLIENTS
        for client in clients.values():
            assert len(client.incoming) < REQUEST_BYTES + 4096
            assert len(client.calls) <= MAX_CALLS
            # One answer may come on top: all kept events, of which these rules make few but large ones.
            assert len(client.outgoing) < 2 * LOST_BYTES + 50 * 100_000

    def teardown(self) -> None:
        for client in self.sockets:
            client.close()
        self.running.turn()
        assert not self.running.server._clients
        assert not self.running.log._observers
        assert_well(self.running)
        self.running.close()
        self.running.hang_up()


Crowd.TestCase.settings = settings(max_examples=60, stateful_step_count=50)
TestCrowd = Crowd.TestCase

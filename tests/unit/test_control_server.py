"""The control socket: every request is answered once, and no client can harm the machine."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ftvm.control import place, server
from ftvm.control.protocol import PROTOCOL, REQUEST_BYTES
from ftvm.control.server import LATER, MAX_CALLS, MAX_CLIENTS, Call, Later
from ftvm.errors import UnusableFile
from tests.unit.control_machine import Running, Wire


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    running = Running("web")
    yield running
    running.close()
    running.hang_up()


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """Takes nothing."""


class Delayed:
    """A verb that answers when the test says so."""

    def __init__(self, running: Running) -> None:
        self.calls: list[Call] = []
        self.over = 0
        running.server.register("delayed", Nothing, self.do)

    def do(self, arguments: Nothing, call: Call) -> Later:
        self.calls.append(call)
        call.on_end(self.ended)
        return LATER

    def ended(self) -> None:
        self.over += 1


def greeted(running: Running) -> Wire:
    wire = Wire(running)
    (hello,) = wire.received()
    assert hello["protocol"] == PROTOCOL
    return wire


def error_codes(lines: list[dict[str, Any]]) -> list[str]:
    return [line["error"]["code"] for line in lines]


def is_well(running: Running) -> bool:
    """Another client is served as if nothing had happened."""
    wire = greeted(running)
    wire.ask("status", 99)
    (line,) = wire.received()
    wire.close()
    return bool(line["ok"] and line["id"] == 99)


def test_the_first_line_says_who_speaks_what(machine: Running) -> None:
    wire = Wire(machine)
    (hello,) = wire.received()
    assert (hello["name"], hello["pid"], hello["protocol"]) == ("web", os.getpid(), PROTOCOL)


def test_answers_carry_the_id_of_their_request(machine: Running) -> None:
    wire = greeted(machine)
    wire.ask("clear", 7, target=0)
    wire.ask("clear", "seven", target=1)
    assert wire.received() == [{"id": 7, "ok": True, "result": None}, {"id": "seven", "ok": True, "result": None}]


def test_an_error_of_a_verb_is_a_value(machine: Running) -> None:
    def fail(arguments: Nothing, call: Call) -> None:
        raise UnusableFile("no good", "take another")

    machine.server.register("fail", Nothing, fail)
    wire = greeted(machine)
    wire.ask("fail")
    error = {"code": "unusable-file", "message": "no good", "hint": "take another"}
    assert wire.received() == [{"id": 1, "ok": False, "error": error}]


def test_a_defect_in_a_verb_is_an_answer_and_the_machine_goes_on(machine: Running) -> None:
    machine.server.register("defect", Nothing, lambda arguments, call: 1 // 0)
    wire = greeted(machine)
    wire.ask("defect")
    assert error_codes(wire.received()) == ["internal"]
    assert is_well(machine)


@pytest.mark.parametrize(
    ("line", "code", "number"),
    [
        (b"hello", "bad-request", None),
        (b"{", "bad-request", None),
        (b"[]", "bad-request", None),
        (b"\xff\xfe\x00", "bad-request", None),
        (b'{"id": 1, "verb": "\xff"}', "bad-request", 1),
        (b'{"id": 1, "verb": "\\ud800"}', "bad-request", None),
        (b'{"verb": "status"}', "bad-request", None),
        (b'{"id": 5}', "bad-request", 5),
        (b'{"id": 5, "verb": "status", "more": 1}', "bad-request", 5),
        (b'{"id": -1, "verb": "status"}', "bad-request", None),
        (b'{"id": 1e400, "verb": "status"}', "bad-request", None),
        (b'{"id": 123456789012345678901234567890, "verb": "status"}', "bad-request", None),
        (b'{"id": null, "verb": "status"}', "bad-request", None),
        (b'{"id": 5, "verb": ["status"]}', "bad-request", 5),
        (b'{"id": 5, "verb": "nonsense"}', "unknown-verb", 5),
        (b'{"id": 5, "verb": "__class__"}', "unknown-verb", 5),
        (b'{"id": 5, "verb": "status", "arguments": []}', "bad-arguments", 5),
        (b'{"id": 5, "verb": "status", "arguments": {"x": 1}}', "bad-arguments", 5),
        (b'{"id": 5, "verb": "pull", "arguments": {}}', "bad-arguments", 5),
        (b'{"id": 5, "verb": "pull", "arguments": {"target": "1"}}', "bad-arguments", 5),
        (b'{"id": 5, "verb": "threshold", "arguments": {"target": 1, "policy": "maybe"}}', "bad-arguments", 5),
        (b'{"id": 5, "verb": "threshold", "arguments": {"target": 1, "samples": 1}}', "usage", 5),
        (b'{"id": 5, "verb": "pull", "arguments": {"target": 10}}', "usage", 5),
        (b'{"id": 5, "verb": "pull", "arguments": {"target": 1' + b"0" * 1000 + b"}}", "bad-arguments", 5),
    ],
)
def test_what_is_no_request_is_refused_and_the_next_one_served(
    machine: Running, line: bytes, code: str, number: int | None
) -> None:
    wire = greeted(machine)
    wire.send(line + b"\n")
    (answer,) = wire.received()
    assert (answer["ok"], answer["error"]["code"], answer["id"]) == (False, code, number)
    wire.ask("clear", target=0)
    assert wire.received()[0]["ok"]


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_nesting_without_end_is_no_request(machine: Running, opening: bytes) -> None:
    wire = greeted(machine)
    wire.send(b'{"id": 1, "verb": "status", "arguments": ' + opening * 10_000 + b"\n")
    assert error_codes(wire.received()) == ["bad-request"]
    assert is_well(machine)


def test_empty_lines_and_white_space_mean_nothing(machine: Running) -> None:
    wire = greeted(machine)
    wire.send(b'\n \r\n\n{"id": 1, "verb": "clear", "arguments": {"target": 0}}\r\n')
    assert len(wire.received()) == 1


def test_a_request_may_come_byte_by_byte(machine: Running) -> None:
    wire = greeted(machine)
    for byte in b'{"id": 1, "verb": "clear", "arguments": {"target": 0}}\n':
        wire.socket.send(bytes([byte]))
        machine.poller.wait(0)
    assert wire.received()[0]["ok"]


def test_the_longest_request_is_served_and_a_longer_one_hangs_up(machine: Running) -> None:
    request = b'{"id": 1, "verb": "clear", "arguments": {"target": 0}}'
    wire = greeted(machine)
    wire.send(request + b" " * (REQUEST_BYTES - len(request) - 1) + b"\n")
    assert wire.received()[0]["ok"]
    wire.send(request + b" " * (REQUEST_BYTES - len(request)) + b"\n")
    assert error_codes(wire.received()) == ["too-long"]
    assert wire.is_closed()
    assert is_well(machine)


def test_a_line_without_end_is_bounded(machine: Running) -> None:
    wire = greeted(machine)
    sent = 0
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        while sent < 100 * REQUEST_BYTES:
            wire.send(b"x" * 4096)
            sent += 4096
    assert sent < 2 * REQUEST_BYTES + (1 << 20)
    assert is_well(machine)


def test_one_round_serves_only_so_many_requests(machine: Running) -> None:
    wire = greeted(machine)
    wire.socket.send(b'{"id":1,"verb":"x"}\n' * 100)
    machine.poller.wait(0)
    assert wire.socket.recv(1 << 20).count(b"\n") == server.REQUESTS_PER_ROUND
    machine.turn()
    wire.received()
    wire.ask("clear", 2, target=0)
    assert wire.received()[-1]["id"] == 2


def test_a_client_that_does_not_read_its_answers_is_not_read_either(machine: Running) -> None:
    wire = greeted(machine)
    with pytest.raises(BlockingIOError):
        for _ in range(100_000):
            wire.socket.send(b'{"id": 1, "verb": "help"}\n')
            machine.poller.wait(0)
    (client,) = machine.server._clients.values()
    assert len(client.outgoing) < 2 * server.UNREAD_BYTES
    assert is_well(machine)
    before = len(wire.received())
    assert before > 0
    wire.close()


def test_a_follower_that_does_not_read_is_lost_and_nobody_else(machine: Running) -> None:
    slow, quick = greeted(machine), greeted(machine)
    slow.ask("events", follow=True)
    quick.ask("events", follow=True)
    seen = 0
    for _ in range(400):
        machine.log.emit("note", "machine", text="x" * 10_000)
        seen += len(quick.received())
    assert seen == 400
    assert len(machine.server._clients) == 1
    slow.received()
    assert slow.is_closed()


def test_clients_may_leave_at_any_moment(machine: Running) -> None:
    delayed = Delayed(machine)
    for sent in (b"", b'{"id": 1', b'{"id": 1, "verb": "delayed"}\n', b'{"id": 1, "verb": "status"}\n' * 1000):
        wire = Wire(machine)
        wire.socket.send(sent)
        wire.close()
    assert not machine.server._clients
    assert delayed.over == len(delayed.calls) == 1
    delayed.calls[0].progress(1)
    delayed.calls[0].answer(2)
    assert is_well(machine)


def test_what_was_sent_before_leaving_is_done(machine: Running) -> None:
    wire = greeted(machine)
    wire.socket.send(b'{"id": 1, "verb": "quit"}\n')
    wire.close()
    assert machine.machine.ended


def test_a_client_that_sends_nothing_more_still_gets_its_answers(machine: Running) -> None:
    delayed = Delayed(machine)
    wire = greeted(machine)
    wire.socket.send(b'{"id": 1, "verb": "delayed"}\n{"id": 2, "verb": "clear", "arguments": {"target": 0}}\n')
    wire.socket.shutdown(socket.SHUT_WR)
    machine.turn()
    assert [line["id"] for line in wire.received()] == [2]
    assert not wire.is_closed()
    delayed.calls[0].answer("done")
    machine.turn()
    assert wire.received() == [{"id": 1, "ok": True, "result": "done"}]
    assert wire.is_closed()


def test_a_verb_can_answer_later_and_tell_its_progress(machine: Running) -> None:
    delayed = Delayed(machine)
    wire = greeted(machine)
    wire.ask("delayed", 1)
    wire.ask("clear", 2, target=0)
    (call,) = delayed.calls
    call.progress({"done": 0.5})
    call.answer([1])
    call.answer([2])
    call.fail(UnusableFile("too late"))
    assert wire.received() == [
        {"id": 2, "ok": True, "result": None},
        {"id": 1, "progress": {"done": 0.5}},
        {"id": 1, "ok": True, "result": [1]},
    ]
    assert delayed.over == 1


def test_the_end_of_the_machine_ends_what_is_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    running = Running("web")
    delayed = Delayed(running)
    wire = greeted(running)
    wire.ask("delayed")
    running.close()
    assert error_codes(wire.received()) == ["gone"]
    assert delayed.over == 1
    assert place.running() == []
    running.hang_up()


def test_one_client_has_only_so_many_requests_under_way(machine: Running) -> None:
    delayed = Delayed(machine)
    wire = greeted(machine)
    for number in range(MAX_CALLS + 3):
        wire.ask("delayed", number)
    assert error_codes(wire.received()) == ["busy"] * 3
    delayed.calls[0].answer(None)
    wire.ask("delayed", 100)
    assert len(delayed.calls) == MAX_CALLS + 1


def test_those_who_say_nothing_make_room_for_others(machine: Running) -> None:
    silent = [Wire(machine) for _ in range(3 * MAX_CLIENTS)]
    assert len(machine.server._clients) == MAX_CLIENTS
    assert is_well(machine)
    for wire in silent:
        wire.close()


def test_those_who_wait_for_something_are_not_pushed_out(machine: Running) -> None:
    followers = [greeted(machine) for _ in range(MAX_CLIENTS)]
    for follower in followers:
        follower.ask("events", follow=True)
    late = Wire(machine)
    hello, refusal = late.received()
    assert hello["protocol"] == PROTOCOL
    assert refusal["error"]["code"] == "busy"
    assert late.is_closed()
    machine.log.emit("note", "machine")
    assert [len(follower.received()) for follower in followers] == [1] * MAX_CLIENTS


def test_strangers_are_not_talked_to(machine: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "peer", lambda connection: (1, os.geteuid() + 1))
    wire = Wire(machine)
    assert wire.received() == []
    assert wire.is_closed()


def test_help_describes_every_verb_and_its_arguments(machine: Running) -> None:
    wire = greeted(machine)
    wire.ask("help")
    (line,) = wire.received()
    verbs = line["result"]
    assert set(verbs) >= {"help", "status", "pull", "insert", "threshold", "clear", "events", "suspend", "quit"}
    assert all(verb["about"] and verb["arguments"] for verb in verbs.values())


def test_two_verbs_cannot_have_one_name(machine: Running) -> None:
    with pytest.raises(AssertionError):
        Delayed(machine)
        Delayed(machine)


def test_nothing_is_left_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    before = len(os.listdir("/proc/self/fd"))
    running = Running("web")
    for _ in range(5):
        Wire(running)
    running.close()
    running.hang_up()
    assert len(os.listdir("/proc/self/fd")) == before

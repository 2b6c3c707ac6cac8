"""``ftvm ctl`` against a machine that listens: what people and scripts get to see."""

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftvm.cli import _frame as cli
from ftvm.control import client as client_module
from ftvm.control import place
from ftvm.exitcodes import ExitCode
from tests.unit.control_machine import Running, in_background


@pytest.fixture(autouse=True)
def runtime_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def web() -> Iterator[Running]:
    with in_background("web") as running:
        yield running


Ctl = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ctl(capsys: pytest.CaptureFixture[str]) -> Ctl:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.execute(["ctl", *arguments])
        streams = capsys.readouterr()
        return code, streams.out, streams.err

    return run


def test_without_a_name_the_running_machines_are_listed(ctl: Ctl, web: Running) -> None:
    assert ctl() == (ExitCode.OK, f"web  (process {os.getpid()})\n", "")
    code, out, _ = ctl("--json", "-")
    assert code == ExitCode.OK
    assert json.loads(out) == [{"name": "web", "pid": os.getpid()}]


def test_nothing_runs(ctl: Ctl) -> None:
    assert ctl() == (ExitCode.OK, "", "no machine is running\n")
    assert ctl("--json", "-")[1] == "[]\n"
    code, _, err = ctl("status")
    assert (code, err) == (ExitCode.USAGE, "error: which machine? none is running\nhint: start one with 'ftvm run'\n")


def test_a_name_nobody_has_is_answered_with_those_that_are(ctl: Ctl, web: Running) -> None:
    assert ctl("wbe", "status") == (
        ExitCode.USAGE,
        "",
        "error: no machine named 'wbe' is running\nhint: running: web\n",
    )


def test_a_name_without_a_verb_is_wrong_usage(ctl: Ctl, web: Running) -> None:
    code, _, err = ctl("web")
    assert code == ExitCode.USAGE
    assert "ftvm ctl web status" in err


def test_the_name_may_be_left_out_while_it_is_clear(ctl: Ctl, web: Running) -> None:
    assert ctl("status")[0] == ExitCode.OK
    with in_background("other"):
        code, _, err = ctl("status")
        assert code == ExitCode.USAGE
        assert "other, web" in err
        assert ctl("other", "status")[0] == ExitCode.OK


def test_a_machine_may_be_called_like_a_verb(ctl: Ctl) -> None:
    with in_background("status"), in_background("web"):
        code, out, _ = ctl("status", "status")
        assert code == ExitCode.OK
        assert out.startswith("status: duplex")


def test_status_is_a_table_for_people_without_control_characters(ctl: Ctl, web: Running) -> None:
    web.machine.records[1].record_fault("memory", 0)
    web.machine.records[1].record_fault("memory", 10)
    code, out, _ = ctl("web", "status")
    assert code == ExitCode.OK
    lines = out.splitlines()
    assert lines[0].startswith(f"web: duplex, process {os.getpid()}, position 123,456")
    assert lines[2].split() == [
        *("MODULE", "STATE", "FAULTS", "MTBF", "LAST", "FAULT", "PID", "POSITION"),
        *("DIRTY", "PAGES", "RESTARTS", "PAUSE", "AT", "RETURN"),
    ]
    assert lines[3].split() == ["0", "duplexed", "none", "-", "-", "1000", "123,456", "7", "0", "-"]
    assert lines[4].split() == ["1", "duplexed", "2", "memory", "-", "-", "1001", "123,456", "7", "0", "-"]
    assert lines[7].split() == ["disk0.0", "online", "none", "-", "-", r"'/images/\x1b[2Jdisk'"]


def test_status_as_json_is_what_went_over_the_wire(ctl: Ctl, web: Running, tmp_path: Path) -> None:
    code, out, _ = ctl("web", "status", "--json", str(tmp_path / "status"))
    assert (code, out) == (ExitCode.OK, "")
    status = json.loads((tmp_path / "status").read_text())
    assert status["state"] == "duplex"
    assert [module["index"] for module in status["modules"]] == [0, 1]


def test_pull_and_insert(ctl: Ctl, web: Running) -> None:
    assert ctl("web", "pull", "1") == (ExitCode.OK, "", "")
    assert web.machine.states == ["online", "offline"]
    code, _, err = ctl("web", "pull", "1")
    assert (code, err) == (ExitCode.USAGE, "error: module 1 is not in service\n")
    assert ctl("web", "insert", "1", "--wait") == (
        ExitCode.OK,
        "",
        "module 1: 50% of what it lacks is there\nmodule 1 is in service\n",
    )
    assert web.machine.states == ["duplexed", "duplexed"]


def test_threshold_and_clear(ctl: Ctl, web: Running) -> None:
    assert ctl("web", "threshold", "1", "--seconds", "60", "--policy", "always-restart") == (
        ExitCode.OK,
        "1: always-restart, MTBF of at least 60 s over 6 faults\n",
        "",
    )
    assert json.loads(ctl("web", "threshold", "1", "--json", "-")[1])["seconds"] == 60
    web.machine.records[1].record_fault("death", 0)
    assert ctl("web", "clear", "1")[0] == ExitCode.OK
    assert web.machine.records[1].counts == {}
    code, _, err = ctl("web", "clear", "disk7.1")
    assert (code, err) == (ExitCode.USAGE, "error: there is no 'disk7.1'\nhint: 0 and 1 are there\n")


def test_events_for_people_and_for_scripts(ctl: Ctl, web: Running) -> None:
    web.log.emit("module-failed", "module 1", reason="\x1b[31mdeath")
    code, out, _ = ctl("web", "events")
    assert code == ExitCode.OK
    assert out.rstrip().endswith(r"123,456  module 1: module-failed  reason='\x1b[31mdeath'")
    web.log.emit("note", "machine")
    lines = ctl("web", "events", "--since", "1", "--json", "-")[1].splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["note"]


def test_following_events_ends_well_with_the_machine(ctl: Ctl) -> None:
    running = Running("web")
    over = threading.Event()

    def live() -> None:
        """Until somebody follows; then something happens, and the machine ends."""
        while not running.log._observers:
            running.poller.wait(1)
        running.log.emit("note", "machine", n=2)
        running.close()
        over.set()

    running.log.emit("note", "machine", n=1)
    thread = threading.Thread(target=live)
    thread.start()
    code, out, _ = ctl("web", "events", "--follow")
    thread.join()
    assert code == ExitCode.OK
    assert [line[-3:] for line in out.splitlines()] == ["n=1", "n=2"]


def test_suspend_names_the_file_from_the_users_folder(
    ctl: Ctl, web: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ctl("web", "suspend", "file")[0] == ExitCode.OK
    assert web.log.since(0)[0].detail == {"file": str(tmp_path / "file")}


def test_a_file_name_that_json_cannot_carry_is_wrong_usage(ctl: Ctl, web: Running) -> None:
    code, _, err = ctl("web", "suspend", os.fsdecode(b"a\xffb"))
    assert code == ExitCode.USAGE
    assert "not UTF-8" in err


def test_quit(ctl: Ctl, web: Running) -> None:
    assert ctl("web", "quit")[0] == ExitCode.OK
    assert web.machine.ended


@pytest.mark.parametrize(
    "arguments",
    [
        ["web", "nonsense"],
        ["web", "pull"],
        ["web", "pull", "one"],
        ["web", "threshold", "1", "--policy", "maybe"],
        ["web", "events", "--since", "-1"],
        ["a/b", "status"],
        ["", "status"],
    ],
)
def test_wrong_usage_is_one_line_and_a_hint(ctl: Ctl, web: Running, arguments: list[str]) -> None:
    code, out, err = ctl(*arguments)
    assert (code, out) == (ExitCode.USAGE, "")
    assert [line.partition(":")[0] for line in err.splitlines()] == ["error", "hint"]


class Impostor:
    """Listens as ``web`` and says only ``words`` to whoever comes."""

    def __init__(self, words: bytes, *, hang_up: bool) -> None:
        self._claim = place.Claim("web")
        self._claim.listener.setblocking(True)
        self._connections: list[socket.socket] = []
        self._words, self._hang_up = words, hang_up
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        connection, _ = self._claim.listener.accept()
        connection.send(self._words)
        if self._hang_up:
            connection.close()
        else:
            self._connections.append(connection)

    def close(self) -> None:
        self._thread.join()
        for connection in self._connections:
            connection.close()
        self._claim.close()


@pytest.mark.parametrize(
    ("words", "hang_up", "error"),
    [
        (b'{"ftvm":"9.9","protocol":2,"name":"web","pid":1}\n', False, "version 2 of the control protocol"),
        (b"SSH-2.0-OpenSSH\n", False, "is no machine"),
        (b'["list"]\n', False, "is no machine"),
        (b'{"protocol":1}\n', False, "is no machine"),
        (b"", False, "does not answer"),
        (b"", True, "ended before it answered"),
        (b'{"ftvm":"1","protocol":1,"name":"web","pid":1}\n', False, "does not answer"),
        (b'{"ftvm":"1","protocol":1,"name":"web","pid":1}\n', True, "ended before it answered"),
        (b'{"ftvm":"1","protocol":1,"name":"web","pid":1}\n{"id":1,"o', True, "ended before it answered"),
        (
            b'{"ftvm":"1","protocol":1,"name":"web","pid":1}\n{"id":null,"ok":false,"error":{"code":"busy","message":"full"}}\n',
            True,
            "error: full",
        ),
    ],
)
def test_a_machine_that_does_not_keep_to_the_protocol_is_one_line(
    ctl: Ctl, monkeypatch: pytest.MonkeyPatch, words: bytes, hang_up: bool, error: str
) -> None:
    monkeypatch.setattr(client_module, "PATIENCE_S", 0.2)
    impostor = Impostor(words, hang_up=hang_up)
    code, _, err = ctl("web", "status")
    impostor.close()
    assert code == ExitCode.HOST
    assert error in err.splitlines()[0]


def test_a_socket_that_may_not_be_entered_is_one_line(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    code, _, err = ctl("web", "status")
    assert code == ExitCode.HOST
    assert "cannot be reached: Permission denied" in err


def test_the_screen_is_dumped_as_text_and_as_a_picture(ctl: Ctl, web: Running, tmp_path: Path) -> None:
    code, out, _ = ctl("web", "screendump")
    assert (code, out) == (ExitCode.OK, 25 * (80 * "A" + "\n"))
    assert ctl("screendump", str(tmp_path / "screen.png"))[0] == ExitCode.OK
    assert (tmp_path / "screen.png").read_bytes().startswith(b"\x89PNG")
    code, _, err = ctl("screendump", "/")
    assert code == ExitCode.HOST
    assert "/" in err


def test_keys_are_sent(ctl: Ctl, web: Running) -> None:
    assert ctl("sendkeys", "a")[0] == ExitCode.OK
    assert web.machine.typed == [[b"\x1e\x9e"]]
    code, _, err = ctl("sendkeys", "{nokey}")
    assert code == ExitCode.USAGE
    assert "nokey" in err and "hint" in err

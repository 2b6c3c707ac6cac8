"""A machine for tests of the control socket: everything but modules, on a thread that sleeps in a poller."""

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from ftvm.control import verbs
from ftvm.control.place import Claim
from ftvm.control.server import ControlServer
from ftvm.control.status import DeviceStatus, LegStatus, ModuleStatus, Status, machine_state
from ftvm.display.keyboard import strokes
from ftvm.display.screen import COLUMNS, ROWS, Cursor, Screen
from ftvm.errors import UsageError
from ftvm.monitor.eventlog import MODULE_FAILED, MODULE_FILLING, MODULE_JOINED, SUSPENDED, EventLog
from ftvm.monitor.policing import Policing
from ftvm.monitor.poller import Poller


class PretendMachine:
    """Two modules with states; what is asked of it happens at once, except what ``later`` collects."""

    def __init__(self, name: str, log: EventLog) -> None:
        self.name = name
        self.log = log
        self.states = ["duplexed", "duplexed"]
        self.records = [Policing(), Policing()]
        self.later: list[Callable[[], None]] = []
        self.typed: list[list[bytes]] = []
        self.ended = False

    def status(self) -> Status:
        modules = [
            ModuleStatus(
                index=index,
                state=state,
                faults=record.counts,
                mtbf_s=record.mtbf_s,
                threshold=record.threshold,
                pid=1000 + index,
                position=123_456,
                dirty_pages=7,
                longest_pause_ms=None,
                restarts=0,
            )
            for index, (state, record) in enumerate(zip(self.states, self.records, strict=True))
        ]
        leg = LegStatus(index=0, state="online", threshold=Policing().threshold, where="/images/\x1b[2Jdisk")
        return Status(
            name=self.name,
            pid=os.getpid(),
            state=machine_state(self.states),
            position=123_456,
            sync_points=10,
            wall_s=1.5,
            virtual_s=1.25,
            longest_pause_ms=0.5,
            modules=modules,
            disks=[DeviceStatus(name="disk0", state="simplex", legs=[leg])],
        )

    def policing(self, target: verbs.Target) -> Policing:
        if target not in (0, 1):
            raise UsageError(f"there is no {target!r}", "0 and 1 are there")
        return self.records[int(target)]

    def pull(self, target: verbs.Target) -> None:
        self.policing(target)
        module = int(target)
        if self.states[module] != "duplexed":
            raise UsageError(f"module {module} is not in service")
        self.states[module], self.states[1 - module] = "offline", "online"
        self.log.emit("module-pulled", f"module {module}")

    def insert(self, target: verbs.Target) -> None:
        module = int(target)
        self.states[module] = "duplexing"
        self.later.append(lambda: self.log.emit(MODULE_FILLING, f"module {module}", done=0.5))
        self.later.append(lambda: self._joined(module))

    def _joined(self, module: int) -> None:
        if self.ended:
            self.log.emit(MODULE_FAILED, f"module {module}", reason="it died")
            return
        self.states = ["duplexed", "duplexed"]
        self.log.emit(MODULE_JOINED, f"module {module}")

    def suspend(self, path: str) -> None:
        self.later.append(lambda: self.log.emit(SUSPENDED, "machine", file=path))

    def quit(self) -> None:
        self.ended = True

    def screen(self) -> Screen:
        return Screen(b"A\x1e" * (ROWS * COLUMNS), Cursor(1, 2, 13, 14))

    def send_keys(self, keys: str) -> None:
        self.typed.append(strokes(keys))


class Running:
    """A machine that listens under ``name``."""

    def __init__(self, name: str) -> None:
        self.poller = Poller()
        self.wires: list[Wire] = []
        self.alive = True
        self.log = EventLog(lambda: 123_456)
        self.machine = PretendMachine(name, self.log)
        self.server = ControlServer(Claim(name), self.poller)
        verbs.register(self.server, self.machine, self.log)

    def turn(self, rounds: int = 50) -> None:
        """As many sync points as a conversation can need."""
        for _ in range(rounds if self.alive else 0):
            self.poller.wait(0)

    def close(self) -> None:
        """The machine ends; its clients can still read what they got."""
        self.alive = False
        self.server.close()
        self.poller.close()

    def hang_up(self) -> None:
        """The clients end too."""
        for wire in self.wires:
            wire.socket.close()


@contextlib.contextmanager
def in_background(name: str) -> Iterator[Running]:
    """A machine that goes on by itself, and does one of the things that come later after each request."""
    running = Running(name)
    over = threading.Event()

    def run() -> None:
        while not over.is_set():
            running.poller.wait(None)
            if running.machine.later:
                running.machine.later.pop(0)()
                running.poller.wake()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield running
    finally:
        over.set()
        running.poller.wake()
        thread.join()
        running.close()


class Wire:
    """The bytes of one client, while the machine runs only when it is told to."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(socket_of(running)))
        self.socket.setblocking(False)
        self._received = b""
        running.wires.append(self)
        running.turn()

    def send(self, data: bytes) -> None:
        """All of it, however long it takes the machine."""
        while data:
            with contextlib.suppress(BlockingIOError):
                data = data[self.socket.send(data) :]
            self.running.turn(1)
        self.running.turn()

    def ask(self, verb: str, number: int | str = 1, **arguments: Any) -> None:
        self.send(msgspec.json.encode({"id": number, "verb": verb, "arguments": arguments}) + b"\n")

    def received(self) -> list[dict[str, Any]]:
        """Whole lines that came since the last call."""
        with contextlib.suppress(BlockingIOError, ConnectionResetError):
            while data := self.socket.recv(65536):
                self._received += data
                self.running.turn(1)
        *lines, self._received = self._received.split(b"\n")
        return [msgspec.json.decode(line) for line in lines]

    def is_closed(self) -> bool:
        """Whether the machine hung up; all it sent must have been received before."""
        self.running.turn()
        try:
            return self.socket.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.socket.close()
        self.running.turn()


def socket_of(running: Running) -> Path:
    return running.server._claim.path

"""The text screen and the keyboard of real guests: in pictures, on a terminal, through the control socket."""

import codecs
import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ftvm.display import painter
from ftvm.guests import catalogue
from ftvm.guests.catalogue import Guest
from ftvm.machine import Machine, MachineConfig
from ftvm.monitor import savefile
from tests.unit.test_display_screen import Terminal

ALIENS_THERE = 1_500_000
CYAN, MAGENTA = (0, 170, 170), (170, 0, 170)
SHIP = "/ \\"


def config(guest: Guest) -> MachineConfig:
    return MachineConfig(image=guest.path, protocol=guest.kind, memory_bytes=16 << 20, interactive=True)


def echo() -> MachineConfig:
    guest = catalogue.find("echo")
    assert guest is not None
    return config(guest)


@pytest.fixture
def invaders(fetched: Callable[[str], Guest]) -> Guest:
    return fetched("grub-invaders")


def ship(machine: Machine) -> int:
    """The column it is in."""
    return machine.screen().lines()[24].index(SHIP)


def test_a_picture_of_the_screen_has_its_text_in_its_colours(invaders: Guest) -> None:
    with Machine(config(invaders)) as machine:
        machine.run_until(position=ALIENS_THERE)
        picture = Image.open(io.BytesIO(machine.screenshot())).convert("RGB")
        column = ship(machine)
    assert picture.size == (720, 400)
    colours = {colour: count for count, colour in picture.getcolors()}
    assert colours.keys() == {(0, 0, 0), CYAN, MAGENTA}
    assert colours[CYAN] > 1000
    hull = picture.crop((9 * column, 16 * 24, 9 * (column + 3), 16 * 25))
    assert {colour for _, colour in hull.getcolors()} == {(0, 0, 0), MAGENTA}


def test_keys_that_stay_down_steer_the_ship(invaders: Guest) -> None:
    with Machine(config(invaders)) as machine:
        machine.run_until(position=ALIENS_THERE)
        middle = ship(machine)
        machine.send_keys("{left:down}")
        machine.run_until(position=machine.position + 500_000)
        left = ship(machine)
        machine.send_keys("{left:up}")
        machine.run_until(position=machine.position + 100_000)
        stopped = ship(machine)
        machine.run_until(position=machine.position + 500_000)
        assert left < middle
        assert ship(machine) == stopped


def test_typed_keys_reach_the_guest_on_all_modules() -> None:
    with Machine(echo()) as machine:
        assert machine.run_until(text="q ends") is None
        machine.send_keys("hello{enter}")
        assert machine.run_until(text="hello\r\n", timeout_s=60) is None
        machine.send_keys("q")
        result = machine.run()
    assert (result.outcome, result.exit_code, result.divergences) == ("exit", 0, [])


def test_keys_that_wait_when_a_machine_is_saved_are_typed_when_it_goes_on(tmp_path: Path) -> None:
    with Machine(echo()) as machine:
        machine.run_until(text="q ends")
        machine.send_keys("saved")
        machine.suspend(tmp_path / "echo.save")
    resumed = MachineConfig.resume(savefile.load(tmp_path / "echo.save"), interactive=True)
    with Machine(resumed) as machine:
        assert machine.run_until(text="saved", timeout_s=60) is None


class Session:
    """``ftvm`` on a terminal of its own, as a person uses it."""

    def __init__(self, *arguments: str) -> None:
        self.terminal = Terminal(100, 30)
        self.raw = b""
        self._unread = ""
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._controller, child = pty.openpty()
        fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("4H", 30, 100, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ftvm", *arguments],
            stdin=child,
            stdout=child,
            stderr=child,
            start_new_session=True,
            env={**os.environ, "COLORTERM": ""},
        )
        os.close(child)

    def type(self, keys: bytes) -> None:
        os.write(self._controller, keys)

    def until(self, seen: Callable[[], bool], patience_s: float = 120) -> None:
        """Read what comes until ``seen``."""
        end_s = time.monotonic() + patience_s
        while not seen():
            assert time.monotonic() < end_s, self.raw[-2000:]
            if select.select([self._controller], [], [], 0.1)[0]:
                try:
                    data = os.read(self._controller, 65536)
                except OSError:  # the other end is closed
                    data = b""
                assert data, self.raw[-2000:]
                self.raw += data
                if painter.LEAVE.encode() not in self.raw:
                    self._show(data)

    def _show(self, data: bytes) -> None:
        """A read may end in the middle of a sequence."""
        match = re.fullmatch(r"(.*?)((?:\x1b[^A-Za-z]*)?)", self._unread + self._decode(data), re.DOTALL)
        assert match is not None
        self._unread = match[2]
        self.terminal.write(match[1].replace("\x1b[?1049h", ""))

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._controller)


def ctl(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "ftvm", "ctl", *arguments], capture_output=True, text=True, check=True, timeout=120
    ).stdout


def test_a_person_plays_on_a_terminal_while_a_module_is_pulled(
    invaders: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with Session("run", "grub-invaders", "--memory", "16M", "--display", "--name", "game") as session:
        screen = session.terminal
        session.until(lambda: SHIP in screen.line(24) and "Ctrl-A x" in screen.line(25))
        assert screen.line(25).startswith(" duplexed, duplexed |")
        before = screen.line(24).index(SHIP)

        def moved() -> bool:
            session.type(b"\x1b[D")
            return SHIP in screen.line(24) and screen.line(24).index(SHIP) < before

        session.until(moved)
        ctl("game", "pull", "1")
        session.until(lambda: "out of service by hand" in screen.line(25))
        ctl("game", "sendkeys", "{right:down}")
        ctl("game", "screendump", str(tmp_path / "game.png"))
        with Image.open(tmp_path / "game.png") as picture:
            assert picture.size == (720, 400)
        session.type(b"\x01x")
        session.until(lambda: painter.LEAVE.encode() in session.raw and b"ftvm: stopped" in session.raw)
        assert session.process.wait(120) == 0

"""``--display``: the machine's text screen on this terminal, and the terminal's keys on the machine's keyboard."""

import contextlib
import os
import time
from typing import BinaryIO

from ftvm import terminal
from ftvm.display import painter
from ftvm.display.keyboard import halves
from ftvm.display.terminal_keys import TerminalKeys
from ftvm.errors import UsageError
from ftvm.machine import Machine, RunResult
from ftvm.monitor.eventlog import (
    FAULT_INJECTED,
    LEG_FAILED,
    LEG_FAULT,
    LEG_JOINED,
    LEG_PULLED,
    MODULE_FAILED,
    MODULE_FAULT,
    MODULE_JOINED,
    MODULE_PULLED,
    RECORD_FAILED,
    Event,
)

FRAME_S = 0.04
"""The screen is looked at so often; between two looks the guest may change it as it likes."""
HOLD_S = 0.15
"""A key stays down so long after the terminal told of it, as games need it; or until the next one comes."""

SHOWN = frozenset(
    {MODULE_FAILED, MODULE_FAULT, MODULE_JOINED, MODULE_PULLED, LEG_FAILED, LEG_FAULT, LEG_JOINED, LEG_PULLED}
    | {FAULT_INJECTED, RECORD_FAILED}
)
"""Events that a person at the console should see at once."""


class LiveDisplay:
    """Shows a machine on the terminal ``out`` while it runs. ``keyboard``: the descriptor of its keys, None: none."""

    def __init__(self, out: BinaryIO, keyboard: int | None) -> None:
        self._out = out
        self._keyboard = keyboard
        self._keys = terminal.KeyFilter()
        self._strokes = TerminalKeys()
        true_colour = os.environ.get("COLORTERM", "") in ("truecolor", "24bit")
        self._painter = painter.Painter(true_colour)
        self._news = terminal.KEYS_HINT
        self._held = b""
        self._held_until_s = 0.0

    def tell(self, event: Event) -> None:
        """An event of the machine, in the status line."""
        if event.kind in SHOWN:
            self._news = f"{event.subject}: {event.detail['reason']}"

    def run(self, machine: Machine) -> RunResult:
        """Run it to its end; the terminal is as it was before, whatever ends this."""
        stop_looking = machine.every(FRAME_S, lambda: self._look(machine))
        if self._keyboard is not None:
            machine.watch(self._keyboard, lambda: self._type(machine))
        self._write(painter.ENTER)
        try:
            with contextlib.nullcontext() if self._keyboard is None else terminal.RawTerminal(self._keyboard):
                return machine.run()
        finally:
            stop_looking()
            self._write(painter.LEAVE)

    def _look(self, machine: Machine) -> None:
        if self._held and time.monotonic() >= self._held_until_s:
            self._release(machine)
        columns, rows = os.get_terminal_size(self._out.fileno())
        self._painter.resize(columns, rows)
        states = ", ".join(module.state for module in machine.modules)
        self._write(self._painter.paint(machine.screen(), f" {states} | {self._news}"))

    def _write(self, text: str) -> None:
        if text:
            self._out.write(text.encode())
            self._out.flush()

    def _type(self, machine: Machine) -> None:
        assert self._keyboard is not None
        data = os.read(self._keyboard, 4096)
        if not data:
            machine.unwatch(self._keyboard)
            return
        for_guest, commands = self._keys.feed(data)
        try:
            for stroke in self._strokes.feed(for_guest):
                self._press(machine, stroke)
        except UsageError as error:
            self._news = error.message
        for asked in commands:
            if asked is terminal.Command.QUIT:
                machine.request_stop()
            else:
                self._news = "; ".join(" ".join(line.split()) for line in terminal.KEYS_HELP.splitlines())

    def _press(self, machine: Machine, stroke: bytes) -> None:
        down, up = halves(stroke)
        if up != self._held:  # the same again is a key that repeats
            self._release(machine)
        machine.press([down])
        self._held, self._held_until_s = up, time.monotonic() + HOLD_S

    def _release(self, machine: Machine) -> None:
        if self._held:
            machine.press([self._held])
            self._held = b""

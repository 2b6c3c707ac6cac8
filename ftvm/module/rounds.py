"""Epochs that native code does by itself (native/rounds.c): a device has done what its driver asked for, the guest goes
on, and its driver asks for more. A module comes to thousands of them a second, and most of the board has no part in it.
"""

from functools import partial
from typing import Any

import msgspec

from ftvm._native import ffi, lib
from ftvm.module.board import Board, StopKind
from ftvm.module.cpu import Cpu
from ftvm.module.events import DeviceIn, Input, Output, Placed, QueueKick
from ftvm.module.link import Command, CommandKind, LinkFault, ModuleEnd

_encode = msgspec.msgpack.Encoder().encode
_NEVER = (1 << 64) - 1
_MORE_BYTES = 1024
"""The state of a board can be so much longer than it is at first: numbers grow."""


class Stopped(msgspec.Struct, frozen=True):
    """A command that was begun. The CPU stopped for ``stop``, and the board is to go on from there to ``target``."""

    stop: int
    target: int


class Rounds:
    """Of the module with this ``link``, ``cpu`` and ``board``."""

    def __init__(self, link: ModuleEnd, cpu: Cpu, board: Board) -> None:
        self._link = link
        self._cpu = cpu
        self._board = board
        self._native = ffi.new("ft_rounds *")
        self._native.cpu, self._native.link = cpu.native, link.native
        self._native.command, self._native.stops_for = CommandKind.RUN, StopKind.OUTPUT
        self._held: list[Any] = []  # by pointers in it
        self.device: str | None = None
        """Whose rounds the next commands may be."""

    def look_at(self, inputs: list[Input], stop: StopKind, outputs: list[Output], quiet: bool) -> None:
        """An epoch that is reported began with these inputs and ended so. ``quiet``: nobody wants to see what happens
        inside of one."""
        self.device = None
        if not quiet or stop != StopKind.OUTPUT or len(outputs) != 1 or not inputs:
            return
        kick, served = outputs[0], inputs[-1]
        if not isinstance(kick, QueueKick) or not isinstance(served, DeviceIn) or kick != QueueKick(served.device, 0):
            return
        if all(isinstance(event, Placed) for event in inputs[:-1]):
            self._set_up(served.device)

    def _set_up(self, name: str) -> None:
        plan = self._board.round_of(name)
        if plan is None:
            return
        native, queue = self._native, self._board.devices[name].state.queues[0]
        device, kick = ffi.from_buffer(_encode(name)), ffi.from_buffer(_encode([QueueKick(name, 0)]))
        board = [ffi.from_buffer(part) for part in plan.board]
        room = ffi.new("uint8_t[]", sum(map(len, board)) + lib.FT_LAPIC_BYTES + _MORE_BYTES)
        self._held = [device, kick, *board, room]
        native.device, native.device_bytes = device, len(device)
        native.kick, native.kick_bytes = kick, len(kick)
        native.room, native.room_bytes = room, len(room)
        for index, part in enumerate(board):
            native.board[index], native.board_bytes[index] = part, len(part)
        native.notify = plan.notify
        native.slow_ns = _NEVER if plan.slow_ns is None else plan.slow_ns
        native.destination, native.logical, native.delivery, native.vector, native.level = plan.message
        native.next_avail, native.next_used = queue.next_avail, queue.next_used
        self.device = name

    def run(self, spins: int, lifeline: int) -> Command | Stopped | None:
        """Do commands that are rounds of ``device``. Returns the first that is none, or one that turned out to be none;
        None when the monitor is gone. Raises LinkFault, and what a chip raised."""
        name, native, command = self.device, self._native, self._link.command
        assert name is not None
        self.device = None
        self._board.begin_rounds(name, partial(lib.ft_cpu_take_signal, self._cpu.native))
        try:
            outcome = lib.ft_rounds_run(native, spins, lifeline, command)
        finally:
            self._board.end_rounds(name, native.next_avail, native.next_used)
        match outcome:
            case lib.FT_ROUND_COMMAND:
                return self._link.taken()
            case lib.FT_ROUND_STOPPED:
                return Stopped(self._cpu.checked(native.stop), command.target)
            case lib.FT_ROUND_CLOSED:
                return None
            case _:
                raise LinkFault("a round could not be reported")

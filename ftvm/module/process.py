"""A module's process: it waits for a command, does it, reports. It touches nothing but its memory and its mailbox.

Started by the monitor as ``python -m ftvm.module.process SOCKET MONITOR``: the number of an inherited socket, on which
a Setup comes, with Descriptors, and a SetupAnswer goes, and the monitor's process id.
"""

import gc
import mmap
import os
import signal
import socket
import sys

import msgspec

from ftvm._native import lib
from ftvm.errors import FtvmError
from ftvm.module import events, jail
from ftvm.module.board import Board, Stop, StopKind
from ftvm.module.cpu import Cpu, map_ram
from ftvm.module.injector import Injector
from ftvm.module.link import (
    LENGTH_BYTES,
    Command,
    CommandKind,
    Descriptors,
    Load,
    ModuleEnd,
    Setup,
    SetupAnswer,
    Snapshot,
    TraceSpec,
    mailbox_bytes,
)
from ftvm.module.rounds import Rounds, Stopped

_decode_setup = msgspec.msgpack.Decoder(Setup).decode
_decode_load = msgspec.msgpack.Decoder(Load).decode
_decode_trace = msgspec.msgpack.Decoder(TraceSpec).decode
_encode = msgspec.msgpack.Encoder().encode


MAX_BLOCK = 512
"""Instructions of a block, at most."""
GARBAGE = 50_000
"""New objects that may be garbage in cycles, of which a board makes next to none, until Python looks for it."""


class Module:
    """A board with its CPU and RAM, driven by commands."""

    def __init__(self, setup: Setup, inherited: Descriptors) -> None:
        self._spins = setup.spins
        self._ram = mmap.mmap(inherited.ram, setup.ram_bytes)
        mailbox = mmap.mmap(inherited.mailbox, mailbox_bytes(setup.ram_bytes))
        self._link = ModuleEnd(mailbox, setup.ram_bytes, inherited.command_doorbell, inherited.report_doorbell)
        self._cpu = Cpu(map_ram(inherited.ram, setup.ram_bytes))
        self._cpu.set_dirty_log(self._link.written_pages, self._link.written_count)
        self._board = Board(setup.board, self._cpu)
        self._injector = Injector(setup.index, self._board, self._cpu, self._ram)
        self._rounds = Rounds(self._link, self._cpu, self._board)
        self._inputs: list[events.Input] = []  # of the last epoch
        self._load(setup.start)

    def serve(self, lifeline: int) -> None:
        """Do commands until ``lifeline``, the socket to the monitor, is closed at its other end."""
        while (command := self._await_command(lifeline)) is not None:
            kind, target, payload = command
            if kind is CommandKind.RUN:  # nearly always
                self._report(self._run(target, payload, again=False))
                continue
            match kind:
                case CommandKind.RUN_AGAIN:
                    self._report(self._run(target, payload, again=True))
                case CommandKind.LOAD:
                    load = _decode_load(payload)
                    self._load(load.snapshot, load.pages)
                    self._injector.release(load.release)
                    self._report(self._here())
                case CommandKind.FLUSH_TLB:
                    self._cpu.flush_tlb()
                    self._report(self._here())
                case CommandKind.TRACE:
                    self._trace(target, _decode_trace(payload))
                case CommandKind.TRACE_BLOCKS:
                    self._trace_blocks(target, _decode_trace(payload))
                case CommandKind.STEP:
                    self._report(self._step(target, payload))

    def _await_command(self, lifeline: int) -> Command | None:
        while self._rounds.device is not None:
            command = self._rounds.run(self._spins, lifeline)
            if not isinstance(command, Stopped):
                return command
            self._report(self._board.go_on(command.stop, command.target))
        return self._link.await_command(self._spins, lifeline)

    def _here(self) -> Stop:
        return Stop(StopKind.POSITION)

    def _run(self, target: int, payload: bytes | memoryview, again: bool) -> Stop:
        self._cpu.rearm_dirty_log()  # not earlier: the monitor reads the log after the report
        self._inputs = [*events.decode_inputs(payload)] if payload else []
        self._board.put(self._inputs)
        return self._injector.run(target, again)

    def _step(self, count: int, payload: bytes | memoryview) -> Stop:
        self._cpu.rearm_dirty_log()
        self._inputs = []
        if payload:
            self._board.put([*events.decode_inputs(payload)])
        return self._injector.step(count)

    def _trace(self, count: int, spec: TraceSpec) -> None:
        trace = self._cpu.trace(count + MAX_BLOCK, spec.arch, spec.ram, by_block=False)
        stop = self._step(count, b"")
        if stop.kind == StopKind.POSITION and (left := self._cpu.instructions_left()):
            stop = self._injector.step(left)
        self._report(stop, trace.end())

    def _trace_blocks(self, target: int, spec: TraceSpec) -> None:
        trace = self._cpu.trace(max(0, target - self._cpu.position()), spec.arch, spec.ram, by_block=True)
        stop = self._run(target, b"", again=False)
        self._report(stop, trace.end())

    def _report(self, stop: Stop, detail: bytes | None = None) -> None:
        self._cpu.save(self._link.arch)
        outputs = self._board.take_outputs()
        if detail is None:
            detail = stop.detail.encode()
        instruction, board = self._cpu.instruction(), self._board.save()
        self._link.publish(stop.kind, stop.wake_ns or 0, board, events.encode(outputs), detail, instruction)
        self._rounds.look_at(self._inputs, stop.kind, outputs, self._injector.idle and not instruction)

    def _load(self, snapshot: Snapshot, pages: bytes | None = None) -> None:
        self._cpu.load(snapshot.arch)
        self._board.load(snapshot.board)
        if pages is None:
            self._cpu.invalidate_code(0, len(self._ram))
        else:
            self._cpu.invalidate_pages(pages)
        self._cpu.rearm_dirty_log()


def main() -> int:
    """Exit status 0 when the monitor ended first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the monitor, which ends its modules
    lib.ft_link_take_short_turns()
    lib.ft_link_keep_memory()
    lifeline, monitor = int(sys.argv[1]), int(sys.argv[2])
    if lib.ft_link_die_with(monitor) != 0:
        return 0
    with socket.socket(fileno=lifeline) as connection:
        length, descriptors, _, _ = socket.recv_fds(connection, LENGTH_BYTES, len(Descriptors.__struct_fields__))
        with connection.makefile("rb") as incoming:
            message = incoming.read(int.from_bytes(length, "little"))
        if not message:
            return 0
        setup, inherited = _decode_setup(message), Descriptors(*descriptors)
        answer = SetupAnswer()
        try:
            module = Module(setup, inherited)
            gc.freeze()  # what there is now stays: no need to look at it again
            gc.set_threshold(GARBAGE)
            jail.enter(setup.jail, (inherited.command_doorbell, inherited.report_doorbell, lifeline))
        except FtvmError as error:
            answer = SetupAnswer(error.message)
        os.write(lifeline, _encode(answer))
        if answer.error is None:
            module.serve(lifeline)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What the monitor and a module say to each other, and the mailbox (native/link.c) as either side holds it.

A module gets a ``Setup`` over a socket, after LENGTH_BYTES of its length, and answers it there. From then on commands
and reports alternate in the mailbox; the socket stays open as long as the monitor lives.
"""

from enum import IntEnum, StrEnum
from typing import Any

import msgspec

from ftvm._native import ffi, lib
from ftvm.module.board import BoardConfig

LENGTH_BYTES = 8
ANSWER_BYTES = 65536
"""The longest SetupAnswer."""
COMMAND_BYTES: int = lib.ft_link_command_capacity()
"""The longest payload of a command."""
BOARD_BYTES: int = lib.ft_link_board_capacity()
"""The longest state of a board that a module can report, or be told to load."""


class CommandKind(IntEnum):
    """What a module can be told. Each command is answered by one report."""

    RUN = 1  # take the inputs in the payload, then run to the target
    LOAD = 2  # become the state in the Load in the payload; the monitor has put RAM right
    FLUSH_TLB = 3  # start with a cold TLB, because another module does (UNICORN: accessed bits)
    RUN_AGAIN = 4  # as RUN, but the faults that are due were there when this epoch ran before
    TRACE = 8  # as STEP, and on to the end of a block, and report the effect of each; the payload is a TraceSpec
    TRACE_BLOCKS = 9  # as RUN, from a block entry on, and report the effect of each block; the payload is a TraceSpec
    STEP = 5  # take the inputs, then run so many instructions as the target says; see Board.step


_KINDS = {int(kind): kind for kind in CommandKind}
Command = tuple[CommandKind, int, memoryview]
"""Kind, target, payload, which is valid until the next one is waited for."""


class Snapshot(msgspec.Struct, frozen=True):
    """A module's state beside its RAM: ft_arch, and what Board.save() gave."""

    arch: bytes
    board: bytes


class Release(StrEnum):
    """Of bits that faults hold in a module. Rolling back lets none go."""

    NONE = "none"
    LATER = "later"  # those that were not held yet at the position that it comes to: it goes back in time
    ALL = "all"  # it is other hardware


class Load(msgspec.Struct, frozen=True):
    """What a module becomes. ``pages``: the only ones in which RAM may differ from what the module saw there before, as
    ``uint32_t`` in native order; None: all may. ``release``: which of the bits that faults hold in it are let go."""

    snapshot: Snapshot
    pages: bytes | None = None
    release: Release = Release.NONE


class TraceSpec(msgspec.Struct, frozen=True):
    """How to trace. Bits of bytes, by offset in ft_arch and in RAM, that are expected to differ between modules.

    The report's ``detail`` is an array of ft_effect (native/ftvm.h), EFFECT_BYTES each: of the state at the beginning,
    then of each instruction or block.
    """

    arch: dict[int, int] = {}
    ram: dict[int, int] = {}


EFFECT_BYTES: int = ffi.sizeof("ft_effect")


class Descriptors(msgspec.Struct, frozen=True):
    """What comes with the length of a module's Setup, in this order."""

    ram: int
    mailbox: int
    command_doorbell: int
    report_doorbell: int


class Setup(msgspec.Struct, frozen=True):
    """All that a module is ever told about itself. ``start`` is where it stands at first; ``jail`` is what
    jail.filter_program() gave."""

    index: int
    ram_bytes: int
    board: BoardConfig
    start: Snapshot
    spins: int
    jail: bytes


class SetupAnswer(msgspec.Struct, frozen=True):
    """``error`` is None when the module is ready for commands, else one line that says why it never will be."""

    error: str | None = None


class Report(msgspec.Struct, frozen=True):
    """Where a module stands after a command: everything but its RAM that the monitor compares.

    ``instruction`` counts those done in the block that was entered at ``position``; 0 is before the block. Elsewhere
    ``arch`` is no state to give to a module: it does not say where the block ends. Its own position counts the block.

    ``stop`` is a StopKind; ``wake_ns`` the virtual time of the next timer event of an idle guest, 0 if only input can
    wake it; ``detail`` says more about a crash or a failure of the engine.
    """

    stop: int
    position: int
    wake_ns: int
    arch: bytes
    board: bytes
    outputs: bytes
    detail: bytes
    instruction: int = 0


class LinkFault(Exception):
    """What stands in a mailbox cannot be: the module that writes it is faulty."""


def mailbox_bytes(ram_bytes: int) -> int:
    return int(lib.ft_link_mailbox_bytes(ram_bytes))


def _open(memory: Any, ram_bytes: int, command_doorbell: int, report_doorbell: int) -> Any:
    link = lib.ft_link_open(ffi.from_buffer(memory), ram_bytes, command_doorbell, report_doorbell)
    if link == ffi.NULL:
        raise MemoryError
    return ffi.gc(link, lib.ft_link_close)


class MonitorEnd:
    """The monitor's side of one mailbox, which is mapped at ``memory``. ``process``: the module's, if it is one."""

    def __init__(
        self, memory: Any, ram_bytes: int, command_doorbell: int, report_doorbell: int, process: int = 0
    ) -> None:
        self._memory = memory  # the mapping lives as long as this
        self._link = _open(memory, ram_bytes, command_doorbell, report_doorbell)
        lib.ft_link_set_process(self._link, process)
        self._command = ffi.new("ft_command *")
        self._report = ffi.new("ft_report *")
        self._arch = ffi.buffer(ffi.addressof(self._report, "arch"))
        self._payload = ffi.buffer(lib.ft_link_report_payload(self._link), lib.ft_link_report_capacity())
        self.written_pages: Any = lib.ft_link_written_pages(self._link)
        """uint32_t *: the module's dirty log, which it may write at any time."""

    def post(self, kind: CommandKind, target: int = 0, payload: bytes = b"") -> None:
        """Raises LinkFault when the payload is longer than a mailbox takes."""
        self._command.kind = kind
        self._command.target = target
        self._command.payload_bytes = len(payload)
        if lib.ft_link_post(self._link, self._command, payload) != 0:
            raise LinkFault(f"a command with {len(payload)} bytes cannot be posted")

    def reported(self, spins: int = 0) -> bool:
        """Whether the report to the newest command is there. If not, its doorbell will ring."""
        return bool(lib.ft_link_reported(self._link, spins))

    @property
    def native(self) -> Any:
        """The ``ft_link *``."""
        return self._link

    def collect(self) -> tuple[Report, int]:
        """A private copy of the report, and the number of pages in the dirty log. Raises LinkFault."""
        head = self._report
        if lib.ft_link_collect(self._link, head) != 0:
            raise LinkFault("the report's lengths are impossible")
        outputs_at = head.board_bytes
        detail_at = outputs_at + head.output_bytes
        report = Report(
            head.stop,
            head.position,
            head.wake_ns,
            self._arch[:],
            self._payload[:outputs_at],
            self._payload[outputs_at:detail_at],
            self._payload[detail_at : detail_at + head.detail_bytes],
            head.instruction,
        )
        return report, head.written_count


class ModuleEnd:
    """The module's side of its mailbox, which is mapped at ``memory``."""

    def __init__(self, memory: Any, ram_bytes: int, command_doorbell: int, report_doorbell: int) -> None:
        self._memory = memory  # the mapping lives as long as this
        self.native: Any = _open(memory, ram_bytes, command_doorbell, report_doorbell)
        self.command: Any = ffi.new("ft_command *")
        self._report = ffi.new("ft_report *")
        self._payload = memoryview(
            ffi.buffer(lib.ft_link_command_payload(self.native), lib.ft_link_command_capacity())
        ).toreadonly()
        self.arch: Any = ffi.addressof(self._report, "arch")
        self.written_pages: Any = lib.ft_link_written_pages(self.native)
        self.written_count: Any = lib.ft_link_written_count(self.native)

    def await_command(self, spins: int, lifeline: int) -> Command | None:
        """The next command, None when the monitor is gone. Raises OSError, LinkFault."""
        ended = lib.ft_link_await_command(self.native, spins, lifeline, self.command)
        if ended == 0:
            return self.taken()
        if ended == 1:
            return None
        raise LinkFault("waiting for a command failed")

    def taken(self) -> Command:
        """The command that is in ``command`` now."""
        command = self.command
        return _KINDS[command.kind], command.target, self._payload[: command.payload_bytes]

    def publish(
        self, stop: int, wake_ns: int, board: bytes, outputs: bytes, detail: bytes, instruction: int = 0
    ) -> None:
        """Report; the architectural state was put into ``arch`` before.

        Raises LinkFault when the report is longer than a mailbox takes.
        """
        head = self._report
        head.stop = stop
        head.position = self.arch.position - (instruction > 0)
        head.instruction = instruction
        head.wake_ns = wake_ns
        head.board_bytes = len(board)
        head.output_bytes = len(outputs)
        head.detail_bytes = len(detail)
        if lib.ft_link_publish(self.native, head, board, outputs, detail) != 0:
            raise LinkFault(f"a report with {len(board)} bytes of state cannot be published")

"""The pair of modules as one CPU that gdb looks at: its registers, its memory, how it goes forward and back."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field

from ftvm.debug.gdb.registers import GDB_REGISTERS, change, value
from ftvm.debug.repl.desk import Desk, Leave
from ftvm.debug.repl.interpreter import Interpreter
from ftvm.debug.repl.output import Output
from ftvm.errors import FtvmError, UsageError
from ftvm.memory_map import ram_offset
from ftvm.module.cpu import ACCESS_READ, ACCESS_WRITE
from ftvm.module.events import DebugWatch
from ftvm.units import PAGE_BYTES

MAX_POINTS = 4096
MAX_WATCHES = 16
_KINDS = {"2": ACCESS_WRITE, "3": ACCESS_READ, "4": ACCESS_READ | ACCESS_WRITE}
"""By the number of a Z packet."""
_NAMES = {ACCESS_WRITE: "watch", ACCESS_READ: "rwatch", ACCESS_READ | ACCESS_WRITE: "awatch"}


@dataclass(frozen=True)
class Stopped:
    """Why the guest stands still: ``reason`` as a stop reply has it, and what to tell the user."""

    reason: str = ""
    told: str = ""


@dataclass
class Points:
    """What gdb wants to stop at: addresses, and (address, size, access)."""

    breakpoints: list[int] = field(default_factory=list)
    watches: list[tuple[int, int, int]] = field(default_factory=list)

    def watch(self) -> DebugWatch | None:
        if not self.breakpoints and not self.watches:
            return None
        return DebugWatch(breakpoints=self.breakpoints[:], linear=self.watches[:])


class Target:
    """What gdb asks of the machine on ``desk``. Methods raise UsageError for what cannot be."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._points = Points()
        self._interpreter = Interpreter(desk)

    # ---- registers and memory ----

    def registers(self) -> bytes:
        values = self._desk.module().registers
        return b"".join(value(register, values) for register in GDB_REGISTERS)

    def register(self, number: int) -> bytes:
        if not 0 <= number < len(GDB_REGISTERS):
            raise UsageError(f"no register {number}")
        return value(GDB_REGISTERS[number], self._desk.module().registers)

    def write_registers(self, data: bytes) -> None:
        """All of them; those that gdb may not change must be as they are."""
        values = self._desk.module().registers
        if len(data) != sum(register.size for register in GDB_REGISTERS):
            raise UsageError("registers of another machine")
        changed: dict[str, bytes] = {}
        at = 0
        for register in GDB_REGISTERS:
            content = data[at : at + register.size]
            at += register.size
            if content != value(register, values):
                ours = change(register, content, values)
                if ours is None:
                    raise UsageError(f"{register.name} cannot be changed")
                changed[ours[0]] = ours[1]
        if changed:
            self._desk.session.poke(registers=changed)

    def write_register(self, number: int, data: bytes) -> None:
        if not 0 <= number < len(GDB_REGISTERS):
            raise UsageError(f"no register {number}")
        changed = change(GDB_REGISTERS[number], data, self._desk.module().registers)
        if changed is None:
            raise UsageError(f"{GDB_REGISTERS[number].name} cannot be changed")
        self._desk.session.poke(registers=dict([changed]))

    def read_memory(self, address: int, size: int) -> bytes:
        """As much as is mapped of it. Raises UsageError where nothing is."""
        module = self._desk.module()
        data = b""
        while len(data) < size:
            at = (address + len(data)) & (1 << 64) - 1
            part = min(size - len(data), PAGE_BYTES - at % PAGE_BYTES)
            try:
                data += module.read_virtual(at, part)
            except UsageError:
                break
        if not data and size:
            raise UsageError(f"nothing is mapped at {address:#x}")
        return data

    def write_memory(self, address: int, data: bytes) -> None:
        """Into all modules alike. Raises UsageError unless all of it is mapped RAM."""
        module, ram_bytes = self._desk.module(), self._desk.machine.memory_bytes
        writes = []
        at = 0
        while at < len(data):
            part = min(len(data) - at, PAGE_BYTES - (address + at) % PAGE_BYTES)
            offset = ram_offset(module.physical(address + at), ram_bytes)
            if offset is None or offset + part > ram_bytes:
                raise UsageError(f"no RAM is mapped at {address + at:#x}")
            writes.append((offset, data[at : at + part]))
            at += part
        if writes:
            self._desk.session.poke(memory=writes)

    # ---- where to stop ----

    def add_point(self, kind: str, address: int, size: int) -> bool:
        """False: a kind that there is not."""
        if kind in "01":
            if address not in self._points.breakpoints:
                self._room()
                self._points.breakpoints.append(address)
            return True
        access = _KINDS.get(kind)
        if access is None:
            return False
        if not 1 <= size <= PAGE_BYTES or address + size > 1 << 64:
            raise UsageError(f"a watch of {size} bytes")
        if (address, size, access) not in self._points.watches:
            if len(self._points.watches) == MAX_WATCHES:
                raise UsageError(f"more than {MAX_WATCHES} watches")
            self._points.watches.append((address, size, access))
        return True

    def remove_point(self, kind: str, address: int, size: int) -> bool:
        if kind in "01":
            if address in self._points.breakpoints:
                self._points.breakpoints.remove(address)
            return True
        access = _KINDS.get(kind)
        if access is not None and (address, size, access) in self._points.watches:
            self._points.watches.remove((address, size, access))
        return access is not None

    def _room(self) -> None:
        if len(self._points.breakpoints) == MAX_POINTS:
            raise UsageError(f"more than {MAX_POINTS} breakpoints")

    # ---- going ----

    def go(self) -> Stopped:
        """On, to a breakpoint or watch, to the guest's end, or until somebody asks the machine to stop."""
        session = self._desk.session
        ending = session.run(watch=self._points.watch())
        if ending is not None and ending.outcome not in ("stopped", "timeout"):
            code = "" if ending.exit_code is None else f" {ending.exit_code}"
            return Stopped("replaylog:end;", f"the guest is at its end: {ending.outcome}{code}\n")
        return self._hit(forward=True)

    def go_back(self) -> Stopped:
        """Back to where a breakpoint or watch was met last, or to the first place that is known."""
        session = self._desk.session
        if not session.back_to(self._points.watch() or DebugWatch()):
            return Stopped("replaylog:begin;")
        return self._hit(forward=False)

    def step(self) -> Stopped:
        ending = self._desk.session.step_instructions()
        return (
            Stopped() if ending is None else Stopped("replaylog:end;", f"the guest is at its end: {ending.outcome}\n")
        )

    def step_back(self) -> Stopped:
        try:
            self._desk.session.back_instructions()
        except UsageError:
            return Stopped("replaylog:begin;")
        return Stopped()

    def _hit(self, forward: bool) -> Stopped:
        session = self._desk.session
        hit = session.hit
        if hit is None:
            return Stopped()
        if hit.kind != "linear":
            return Stopped("hwbreak:;")
        address, size, access = self._points.watches[hit.index]
        if forward and access == ACCESS_WRITE:
            self._come_to_write(address, size)
        return Stopped(f"{_NAMES[access]}:{address:x};")

    def _come_to_write(self, address: int, size: int) -> None:
        """It stands behind the block that wrote there; behind the instruction is better, where the value changed."""
        session = self._desk.session
        end = session.position
        try:
            session.goto(end - 1)
            before = self.read_memory(address, size)
            while session.position < end:
                session.step_instructions()
                if self.read_memory(address, size) != before:
                    return
        except UsageError:
            pass
        session.goto(end)

    # ---- the rest ----

    def command(self, line: str) -> str:
        """A command of the REPL, and what it says."""
        heard = io.StringIO()
        out, self._desk.out = self._desk.out, Output(heard)
        try:
            self._interpreter.execute(line)
        except Leave:
            self._desk.out.line("'detach' or 'kill' end what gdb does here")
        finally:
            self._desk.out = out
        return heard.getvalue()

    def watch(self, fd: int, on_readable: Callable[[], None]) -> None:
        """Call this while the guest runs and ``fd`` can be read."""
        self._desk.machine.watch(fd, on_readable)

    def every(self, interval_s: float, callback: Callable[[], object]) -> Callable[[], None]:
        """Call this so often while the guest runs; the result ends that."""
        return self._desk.machine.every(interval_s, callback)

    def unwatch(self, fd: int) -> None:
        self._desk.machine.unwatch(fd)

    def interrupt(self) -> None:
        """Whoever runs the guest comes back."""
        self._desk.machine.request_stop()

    def release(self) -> None:
        """gdb goes: the guest is to go on from the present."""
        self._points = Points()
        try:
            self._desk.session.goto_present()
        except FtvmError as error:
            self._desk.out.error(error)

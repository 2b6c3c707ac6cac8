"""One place for a module as the user of a machine sees it: who is there now, and what that module itself holds."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from ftvm.errors import UsageError
from ftvm.memory_map import ram_range
from ftvm.module.link import Report
from ftvm.module.paging import LinearMemory
from ftvm.module.registers import REGISTERS, Register, register
from ftvm.monitor.module_handle import ModuleHandle
from ftvm.monitor.service import Service, State

_LEGACY = ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di")
_FLAGS = {"cf": 0, "pf": 2, "af": 4, "zf": 6, "sf": 7, "tf": 8, "if": 9, "df": 10, "of": 11}


def _parts() -> Iterator[tuple[str, tuple[str, int, int]]]:
    """(name, (register, lowest bit, bits)) for every part of a register that has a name of its own."""
    for name in _LEGACY:
        yield f"e{name}", (f"r{name}", 0, 32)
        yield name, (f"r{name}", 0, 16)
    for letter in "acdb":
        yield f"{letter}l", (f"r{letter}x", 0, 8)
        yield f"{letter}h", (f"r{letter}x", 8, 8)
    for name in _LEGACY[4:]:
        yield f"{name}l", (f"r{name}", 0, 8)
    for number in range(8, 16):
        for suffix, bits in (("d", 32), ("w", 16), ("b", 8)):
            yield f"r{number}{suffix}", (f"r{number}", 0, bits)
    yield from (("eip", ("rip", 0, 32)), ("ip", ("rip", 0, 16)), ("eflags", ("rflags", 0, 32)))
    for name in ("es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"):
        yield name, (f"{name}.selector", 0, 32)
    for name, bit in _FLAGS.items():
        yield name, ("rflags", bit, 1)


PARTS: Mapping[str, tuple[str, int, int]] = dict(_parts())
"""Familiar names beside those of ftvm/module/registers.py: ``eax``, ``ah``, ``r8d``, ``cs``, ``zf``."""


class Registers(Mapping[str, int]):
    """An architectural state by name, unsigned. It iterates over the names of ftvm/module/registers.py; those of PARTS
    are understood too. Raises UsageError for any other name."""

    def __init__(self, arch: bytes) -> None:
        self._arch = arch

    def __getitem__(self, name: str) -> int:
        whole, shift, bits = PARTS.get(name, (name, 0, 0))
        where: Register = register(whole)
        value = where.of(self._arch)
        return value >> shift & ((1 << bits) - 1) if bits else value

    def __contains__(self, name: object) -> bool:
        return name in PARTS or name in REGISTERS

    def __iter__(self) -> Iterator[str]:
        return iter(REGISTERS)

    def __len__(self) -> int:
        return len(REGISTERS)


class ModuleView:
    """The module with this ``index``, whatever process it is just now.

    Registers and memory are what the module itself holds, verified or not; they can be asked for while the machine
    stands still. Raises UsageError when there is no module in service here.
    """

    def __init__(self, service: Service, index: int) -> None:
        self._service = service
        self._slot = service.slot(index)

    @property
    def index(self) -> int:
        return self._slot.index

    @property
    def in_service(self) -> bool:
        """There is a module here, and it can be looked into."""
        handle = self._slot.handle
        return handle is not None and not handle.closed and handle.report is not None

    @property
    def state(self) -> State:
        return self._service.state_of(self._slot)

    @property
    def pid(self) -> int:
        """Of its process, or the last one it had."""
        return self._slot.pid

    @property
    def faults(self) -> dict[str, int]:
        """Those it was charged with, by kind."""
        return dict(self._slot.policing.counts)

    @property
    def restarts(self) -> int:
        """Processes after the first."""
        return self._slot.restarts

    @property
    def join_pause_ms(self) -> float | None:
        """How long the guest stood still when the module last came back; None if it never did."""
        return self._slot.join_pause_ms

    @property
    def registers(self) -> Registers:
        return Registers(self._arch())

    @property
    def position(self) -> int:
        """Where it stands: at the entry of a block, or ``instruction`` instructions behind it."""
        return self._report().position

    @property
    def instruction(self) -> int:
        """How many instructions of the block at ``position`` are done."""
        return self._report().instruction

    @property
    def chips(self) -> dict[str, Any]:
        """The state of each chip by its name, as the fields that it has."""
        try:
            return msgspec.msgpack.decode(self._report().board, type=dict[str, Any])
        except msgspec.DecodeError:
            raise UsageError(f"the chips of module {self.index} are in no state that makes sense") from None

    def read_physical(self, gpa: int, size: int) -> bytes:
        """``size`` bytes of its memory. Raises UsageError where there is no RAM."""
        memory = self._handle().memory()
        first = ram_range(gpa, size, len(memory))
        if first is None:
            raise UsageError(f"{size} bytes at {gpa:#x} are not RAM of this machine")
        return bytes(memory[first : first + size])

    def read_virtual(self, address: int, size: int) -> bytes:
        """``size`` bytes at a linear address, through the page tables that this module uses now. Raises UsageError
        where nothing is mapped."""
        data = LinearMemory(self._handle().memory(), self._arch()).read(address, size)
        if len(data) != size:
            raise UsageError(f"nothing is mapped at {address + len(data):#x}")
        return data

    def physical(self, address: int) -> int:
        """Where a linear address is, through the page tables that this module uses now. Raises UsageError."""
        gpa = LinearMemory(self._handle().memory(), self._arch()).translate(address)
        if gpa is None:
            raise UsageError(f"nothing is mapped at {address:#x}")
        return gpa

    def _handle(self) -> ModuleHandle:
        handle = self._slot.handle
        if handle is None or handle.closed:
            raise UsageError(f"module {self.index} is not in service", "its registers and memory are gone")
        return handle

    def _arch(self) -> bytes:
        return self._report().arch

    def _report(self) -> Report:
        report = self._handle().report
        if report is None:
            raise UsageError(f"module {self.index} has not begun to run")
        return report

"""What a loader hands to the machine: bytes for RAM and the place where the CPU starts.

The CPU always starts as a PC's CPU does, in real mode. A guest whose entry is defined in protected or long mode
is entered through a boot stub (firmware/stubs/) that makes the change of mode itself, in guest code.
"""

import msgspec

from ftvm.units import Gpa


class Segment(msgspec.Struct, frozen=True):
    """``data`` goes to guest physical address ``gpa``. Segments never overlap and lie inside RAM."""

    gpa: Gpa
    data: bytes | memoryview


class BootPlan(msgspec.Struct, frozen=True):
    """A start state. ``kind`` names the protocol: linux, flat, multiboot2, multiboot1, pvh, elf64, elf32.

    ``cs``:``ip`` is a real-mode address (base = cs * 16); ``registers`` holds initial general registers by lower-case
    name (``rdx``: boot drive, for example), all others are zero. ``symbols`` maps names to addresses for the debugger.
    """

    kind: str
    segments: tuple[Segment, ...]
    cs: int
    ip: int
    registers: dict[str, int] = msgspec.field(default_factory=dict)
    symbols: dict[str, int] = msgspec.field(default_factory=dict)

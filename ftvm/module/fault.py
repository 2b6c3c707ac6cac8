"""Faults that are injected on purpose, as values: in whom, when, what goes wrong, how, and for how long.

All modules are told of all faults and wait for them in the same way, since a fault is due when the guest has come to a
certain place; only those whom it concerns are hurt. Everything here is resolved: no symbols, no chance.
ftvm/faults/ makes these values from what people write.
"""

from enum import StrEnum

import msgspec

ALWAYS = -1
"""As ``Fault.lasting``: for as long as the module's process lives."""


# ---- what ----


class RegisterBit(msgspec.Struct, frozen=True, tag="register"):
    """Bit ``bit`` of the register ``name`` (ftvm/module/registers.py)."""

    name: str
    bit: int


class RamBit(msgspec.Struct, frozen=True, tag="ram"):
    """Bit ``bit`` (0..7) of the byte at ``offset`` in RAM.

    ``logged``: enter the page in the dirty log, as no store does it. Otherwise the change stays unseen until the page
    is written, its content is read into a register, or a scrub compares it.
    """

    offset: int
    bit: int
    logged: bool = False


class LinearBit(msgspec.Struct, frozen=True, tag="linear"):
    """The same for the byte at a linear address, which is translated when the fault is due; nothing happens where no
    RAM is mapped then."""

    address: int
    bit: int
    logged: bool = False


class PageTableBit(msgspec.Struct, frozen=True, tag="page-table"):
    """Bit ``bit`` of the page-table entry that maps the linear ``address``, in RAM.

    ``level`` 1 is the entry of the page itself, up to 4 for the top; a large page has no levels below its own. What a
    TLB holds of it stays as it is.
    """

    address: int
    level: int
    bit: int
    logged: bool = False


class TlbBit(msgspec.Struct, frozen=True, tag="tlb"):
    """A bit of what the TLB holds for the linear ``address``: 12 to 39 of the physical address, or 1 (may be written).

    Nothing happens when the TLB has no entry for it. The fault lasts as long as the entry.
    """

    address: int
    bit: int


class ChipBit(msgspec.Struct, frozen=True, tag="chip"):
    """Bit ``bit`` of a field of a chip's state, such as ``pit.counters[0].initial`` (see ftvm/module/chip_state.py)."""

    path: str
    bit: int


class OpcodeBit(msgspec.Struct, frozen=True, tag="opcode"):
    """Bit ``bit`` of the instruction that comes next, as it is fetched this once; bit 8 is the lowest of its second
    byte. What stands in memory is not touched."""

    bit: int


class Skip(msgspec.Struct, frozen=True, tag="skip"):
    """The instruction that comes next is passed over."""


class ReadBit(msgspec.Struct, frozen=True, tag="read"):
    """Bit ``bit`` (0..7) of the byte at a linear ``address``, as the instruction that comes next reads it."""

    address: int
    bit: int


class WrittenBit(msgspec.Struct, frozen=True, tag="written"):
    """Bit ``bit`` (0..7) of the byte at a linear ``address``, as the instruction that comes next leaves it."""

    address: int
    bit: int


class Process(msgspec.Struct, frozen=True, tag="process"):
    """The module as a whole: ``kill`` ends its process, ``hang`` lets it never answer again, ``slow`` lets it wait
    ``milliseconds`` before it goes on."""

    how: str
    milliseconds: int = 0


class Leg(msgspec.Struct, frozen=True, tag="leg"):
    """Something outside the modules, which the monitor does at the position of the fault: ``model`` goes wrong in leg
    ``leg`` of ``device`` (``disk0``, ``nic0``), with the ``settings`` that this model has."""

    device: str
    leg: int
    model: str
    settings: dict[str, int | float | str] = {}


OfInstruction = OpcodeBit | Skip | ReadBit | WrittenBit
Target = RegisterBit | RamBit | LinearBit | PageTableBit | TlbBit | ChipBit | OfInstruction | Process | Leg


# ---- how ----


class Operation(StrEnum):
    """What becomes of the bits."""

    FLIP = "flip"
    SET = "set"
    CLEAR = "clear"
    VALUE = "value"


class Change(msgspec.Struct, frozen=True):
    """``operation`` on ``width`` neighbouring bits, from the target's bit upwards. ``value``, little endian, is what
    VALUE puts there."""

    operation: Operation = Operation.FLIP
    width: int = 1
    value: bytes = b""

    def mask(self, bit: int) -> int:
        """The bits that it may change, from ``bit`` on."""
        return ((1 << self.width) - 1) << bit

    def of(self, old: int, bit: int) -> int:
        """What it makes of ``old``."""
        mask = self.mask(bit)
        match self.operation:
            case Operation.FLIP:
                return old ^ mask
            case Operation.SET:
                return old | mask
            case Operation.CLEAR:
                return old & ~mask
            case Operation.VALUE:
                return old & ~mask | int.from_bytes(self.value, "little") << bit & mask


# ---- when ----


class AtPosition(msgspec.Struct, frozen=True, tag="position"):
    """When the module stands at this block entry; or after so many instructions of that block, at its end at latest."""

    position: int
    instruction: int = 0


class AtTime(msgspec.Struct, frozen=True, tag="time"):
    """At the first block entry that is not before this virtual time, in ns; a guest at HLT wakes for it in no way."""

    ns: int


class OnText(msgspec.Struct, frozen=True, tag="text"):
    """At the block entry after ``text`` came on the serial console for the ``nth`` time, counted from when the fault
    was told."""

    text: bytes
    nth: int = 1


class OnExecution(msgspec.Struct, frozen=True, tag="execution"):
    """Right before the instruction at a linear ``address`` is executed for the ``nth`` time."""

    address: int
    nth: int = 1


class Access(StrEnum):
    """Which accesses count."""

    READ = "read"
    WRITE = "write"
    ANY = "any"


class OnPort(msgspec.Struct, frozen=True, tag="port"):
    """At the block entry after the ``nth`` access to an I/O port."""

    port: int
    access: Access = Access.ANY
    nth: int = 1


class OnMmio(msgspec.Struct, frozen=True, tag="mmio"):
    """The same for a guest physical address that belongs to a device."""

    address: int
    access: Access = Access.ANY
    nth: int = 1


When = AtPosition | AtTime | OnText | OnExecution | OnPort | OnMmio


class Fault(msgspec.Struct, frozen=True):
    """``change`` what is at ``target`` in ``module`` when it is time, in all modules alike if that is None.

    ``lasting`` 0: once, and whoever writes there next undoes it. Else the bits keep the value that they get then for so
    many blocks of this module's own work, or ALWAYS, whatever is written; rolling back does not help. ``every`` so many
    blocks it happens again, ``times`` in all (0: for ever). ``number`` tells the faults of one machine apart.
    """

    module: int | None
    when: When
    target: Target
    change: Change = Change()
    lasting: int = 0
    every: int = 0
    times: int = 1
    number: int = 0

    def hurts(self, module: int) -> bool:
        return self.module is None or self.module == module

    @property
    def in_every_run(self) -> bool:
        """It is part of the run that all modules agree on, so an epoch that is run again has it again."""
        return self.module is None and not self.lasting and not isinstance(self.target, Process)

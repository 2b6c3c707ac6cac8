"""Which faults can be: what a fault names must be there, and its numbers must make sense."""

from collections.abc import Mapping
from typing import Any

from ftvm.errors import UsageError
from ftvm.module.chip_state import INTEGER_BITS, ChipField
from ftvm.module.fault import (
    ALWAYS,
    AtPosition,
    AtTime,
    Change,
    ChipBit,
    Fault,
    Leg,
    LinearBit,
    OnExecution,
    OnMmio,
    OnPort,
    OnText,
    OpcodeBit,
    Operation,
    PageTableBit,
    Process,
    RamBit,
    ReadBit,
    RegisterBit,
    Skip,
    TlbBit,
    When,
    WrittenBit,
)
from ftvm.module.registers import register

MAX_WIDTH = 128
"""Neighbouring bits that one fault may change: those of the widest register."""
MAX_HOLD = 1 << 40
"""Blocks."""
MIN_EVERY = 1000
"""Blocks between two times that a fault happens."""
MAX_TEXT_BYTES = 1000
TLB_BITS = (1, *range(12, 40))


def check(fault: Fault, ram_bytes: int, chips: Mapping[str, Any]) -> None:
    """Raises UsageError for a fault that a board with this RAM and these ``chips`` cannot have."""
    _check_when(fault.when)
    change = fault.change
    if not 1 <= change.width <= MAX_WIDTH:
        raise UsageError(f"a fault in {change.width} bits", f"give 1 to {MAX_WIDTH} neighbouring bits")
    if not (fault.lasting == ALWAYS or 0 <= fault.lasting <= MAX_HOLD):
        raise UsageError(f"a fault that lasts {fault.lasting} blocks", f"give 0 to {MAX_HOLD}, or always")
    if fault.every and fault.every < MIN_EVERY:
        raise UsageError(f"a fault every {fault.every} blocks", f"give at least {MIN_EVERY}")
    if fault.times < 0 or (fault.times != 1 and not fault.every):
        raise UsageError(f"a fault {fault.times} times", "say also every how many blocks it happens again")
    match fault.target:
        case RegisterBit(name, bit):
            _check_bits(f"register {name}", bit, change, register(name).size * 8)
        case RamBit(offset, bit):
            if not (0 <= offset < ram_bytes and 0 <= bit < 8):
                raise UsageError(f"no bit {bit} of a byte at RAM offset {offset:#x}", "bits are 0 to 7 of each byte")
            _check_bits("RAM", offset * 8 + bit, change, ram_bytes * 8)
        case LinearBit(address, bit):
            _check_address(address)
            if not 0 <= bit < 8:
                raise UsageError(f"no bit {bit} of a byte", "bits are 0 to 7 of each byte")
        case PageTableBit(address, level, bit):
            _check_address(address)
            _check_bits("a page-table entry", bit, change, 64)
            if not 0 <= level <= 4:
                raise UsageError(f"page tables of level {level}", "1 maps pages, 4 is the top, 0 the last of the walk")
        case TlbBit(address, bit):
            _check_address(address)
            if not all(bit + more in TLB_BITS for more in range(change.width)):
                raise UsageError(f"bit {bit} of a TLB entry", "bits are 1 (may be written) and 12 to 39 of the address")
            if change.operation != Operation.FLIP or fault.lasting:
                raise UsageError("a TLB entry can be flipped, and lasts as long as it lasts")
        case OpcodeBit(bit):
            _check_bits("an instruction", bit, change, 15 * 8)
            _check_once(fault)
        case ReadBit(address, bit) | WrittenBit(address, bit):
            _check_address(address)
            if not 0 <= bit < 8:
                raise UsageError(f"no bit {bit} of a byte", "bits are 0 to 7 of each byte")
            _check_once(fault)
        case Skip():
            _check_no_bits(fault)
        case ChipBit(path, bit):
            _check_bits(path, bit, change, ChipField(chips, path).bits() or INTEGER_BITS)
        case Process(how, milliseconds):
            if how not in ("kill", "hang", "slow"):
                raise UsageError(f"no way to {how!r} a module", "there are kill, hang and slow")
            if not 0 <= milliseconds <= 60_000:
                raise UsageError(f"a module that waits {milliseconds} ms", "give up to 60000")
            _check_no_bits(fault)
        case Leg(_, leg):
            if leg < 0:
                raise UsageError(f"leg {leg}", "legs count from 0")
            _check_no_bits(fault)


def _check_when(when: When) -> None:
    match when:
        case AtPosition(position) if not 0 <= position < 1 << 63:
            raise UsageError(f"a fault at position {position}", "positions count blocks from 0")
        case AtTime(ns) if not 0 <= ns < 1 << 63:
            raise UsageError(f"a fault after {ns} ns", "virtual time begins at 0")
        case OnText(text) if not 0 < len(text) <= MAX_TEXT_BYTES:
            raise UsageError("a fault that waits for a text", f"give a text of up to {MAX_TEXT_BYTES} bytes")
        case OnPort(port) if not 0 <= port < 1 << 16:
            raise UsageError(f"a fault at port {port:#x}", "ports are 0 to 0xffff")
        case OnMmio(address) | OnExecution(address):
            _check_address(address)
        case AtPosition(_, instruction) if instruction < 0:
            raise UsageError(f"a fault after {instruction} instructions", "they count from 0")
    if isinstance(when, OnText | OnPort | OnMmio | OnExecution) and when.nth < 1:
        raise UsageError(f"a fault at the {when.nth}th time", "count from 1")


def _check_address(address: int) -> None:
    if not 0 <= address < 1 << 64:
        raise UsageError(f"no address {address:#x}", "addresses have 64 bits")


def _check_bits(what: str, bit: int, change: Change, bits: int) -> None:
    if not 0 <= bit <= bits - change.width:
        last = bit + change.width - 1
        raise UsageError(f"{what} has no bit {last if bit >= 0 else bit}", f"it has {bits} bits")


def _check_once(fault: Fault) -> None:
    if fault.lasting:
        raise UsageError("a fault in one instruction is over with it", "leave out how long it lasts")


def _check_no_bits(fault: Fault) -> None:
    if fault.lasting or fault.change != Change():
        raise UsageError("this fault has no bits to change or to hold", "leave out for, and kinds of changes")

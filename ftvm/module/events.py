"""What crosses the border of a module: outputs it produced in an epoch, inputs it is given at a sync point.

Both are values in a stable encoding (msgpack of tagged structs), so that the monitor can compare the outputs of
all modules byte for byte and write the inputs into a log.
"""

from collections.abc import Iterator
from typing import Annotated

import msgspec

from ftvm.module.fault import Fault

U16 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
RamOffset = Annotated[int, msgspec.Meta(ge=0)]
Size = Annotated[int, msgspec.Meta(ge=0)]


class Output(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Something the guest did that the outside may learn of, once all modules agree that it was done."""


class ConsoleOut(Output, frozen=True, array_like=True, tag="console"):
    """Bytes that the guest wrote to the serial port (``serial``) or to the debug console (``debug``)."""

    channel: str
    data: bytes


class GuestExit(Output, frozen=True, array_like=True, tag="exit"):
    """The guest wrote ``code`` to the debug-exit port."""

    code: int


class PowerOff(Output, frozen=True, array_like=True, tag="poweroff"):
    """The guest entered ACPI S5."""


class ResetRequest(Output, frozen=True, array_like=True, tag="reset"):
    """The guest pulled a reset line; ``source`` names it: ``i8042``, ``port-cf9``, ``port-92``."""

    source: str


class StopText(Output, frozen=True, array_like=True, tag="stop-text"):
    """The text the user asked to stop at came on the console."""


class QueueKick(Output, frozen=True, array_like=True, tag="kick"):
    """The driver put something into queue ``queue`` of ``device``. It ends the epoch at the next block entry."""

    device: str
    queue: U16


class DriverFault(Output, frozen=True, array_like=True, tag="driver-fault"):
    """The driver of ``device`` did what no driver may do; the device waits for its reset."""

    device: str
    reason: str


class FaultStruck(Output, frozen=True, array_like=True, tag="fault"):
    """``fault`` was due at ``position``."""

    fault: Fault
    position: int


class Input(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Something from outside that enters all modules at one position."""


class ConsoleIn(Input, frozen=True, array_like=True, tag="console"):
    """Bytes for the serial port's receiver."""

    data: bytes


class KeyboardIn(Input, frozen=True, array_like=True, tag="keyboard"):
    """Scan codes (set 1) for the keyboard controller."""

    scancodes: bytes


class TimePassed(Input, frozen=True, array_like=True, tag="time"):
    """The wall clock moved on while the guest was halted: virtual time may advance to ``until_ns``."""

    until_ns: int


class QueueProgress(msgspec.Struct, frozen=True, array_like=True):
    """How far a device is in the rings of queue ``index``, and whether the driver is to be interrupted."""

    index: U16
    next_avail: U16
    next_used: U16
    interrupt: bool


class Bulk(msgspec.Struct, frozen=True, array_like=True):
    """``data``, written into ``segments`` one after the other: (offset in RAM, bytes) each, as many bytes together."""

    segments: list[tuple[RamOffset, Size]]
    data: bytes


class DeviceIn(Input, frozen=True, array_like=True, tag="device"):
    """What ``device`` did: it wrote into memory, first ``bulk``, then ``writes``, (offset in RAM, bytes); and it went
    on in its queues."""

    device: str
    writes: list[tuple[RamOffset, bytes]] = []
    queues: list[QueueProgress] = []
    bulk: list[Bulk] = []

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """All that it wrote, in order: (offset in RAM, bytes)."""
        for bulk in self.bulk:
            at = 0
            for offset, size in bulk.segments:
                yield offset, bulk.data[at : at + size]
                at += size
        yield from self.writes


class Placed(Input, frozen=True, array_like=True, tag="placed"):
    """The monitor has written to these places in RAM already: code that was translated from there is none any more.

    ``places``: (offset, bytes) of each, as two ``uint64_t`` in native order. It stands for what devices wrote, whose
    inputs follow in the same command and say nothing of that; see ftvm/monitor/delivery.py. It is in no log.
    """

    places: bytes


class DeviceBroken(Input, frozen=True, array_like=True, tag="device-broken"):
    """What the driver put into a queue of ``device`` cannot be served: the device waits for its reset."""

    device: str


class ColdTlb(Input, frozen=True, array_like=True, tag="cold-tlb"):
    """The TLBs are empty from here on, as some module's is: accessed bits in page tables depend on what a TLB holds."""


class LinkState(Input, frozen=True, array_like=True, tag="link"):
    """The cable of the NIC ``device`` was pulled, or put back."""

    device: str
    up: bool


class TextWatch(Input, frozen=True, array_like=True, tag="text-watch"):
    """The epoch ends at the block entry after ``text`` came on the serial console; ``matched`` bytes of it came before.

    It changes where the modules are compared and nothing that the guest can see, so it is in no log.
    """

    text: bytes
    matched: int


class DebugHit(msgspec.Struct, frozen=True):
    """Why an epoch ended with StopKind.DEBUG: a Report's ``detail``.

    ``kind`` names a list of DebugWatch, ``index`` the place in it. ``where`` is the address of the breakpoint or of the
    access, or where what changed begins.
    """

    kind: str
    index: int
    where: int

    def encode(self) -> str:
        return msgspec.json.encode(self).decode()

    @classmethod
    def decode(cls, detail: bytes) -> "DebugHit":
        """Raises msgspec.DecodeError."""
        return msgspec.json.decode(detail, type=cls)


class DebugWatch(Input, frozen=True, array_like=True, tag="debug-watch"):
    """What ends the epoch for somebody who looks on, with StopKind.DEBUG: at a block entry, see native/debug.c.

    It ends before a block that has an instruction at one of the linear addresses ``breakpoints``, except where the
    epoch begins if that is ``passed``, a (position, linear address); or after a block that changed bytes in ``memory``,
    (RAM offset, size), or in one of ``registers``; or that accessed one of ``ports``, of ``devices`` (guest physical
    addresses), of ``linear`` addresses, or of RAM offsets whoever ``accesses`` them, page walks and the decoding of
    code included: (first, size, access), see ACCESS_READ and ACCESS_WRITE in cpu.py. Nothing that the guest can see, so
    it is in no log.
    """

    breakpoints: list[int] = []
    passed: tuple[int, int] | None = None
    memory: list[tuple[int, int]] = []
    registers: list[str] = []
    ports: list[tuple[int, int, int]] = []
    devices: list[tuple[int, int, int]] = []
    linear: list[tuple[int, int, int]] = []
    accesses: list[tuple[int, int, int]] = []


class ExpectFaults(Input, frozen=True, array_like=True, tag="faults"):
    """Faults that are to happen from now on."""

    faults: list[Fault]


class Poke(Input, frozen=True, array_like=True, tag="poke"):
    """What somebody who looks on changes: ``memory``, (RAM offset, bytes), and ``registers`` by name, little endian.

    So many ``instructions`` of the block that is entered here are run before; the block ends behind them.
    """

    instructions: int = 0
    memory: list[tuple[int, bytes]] = []
    registers: dict[str, bytes] = {}


class TimeWatch(Input, frozen=True, array_like=True, tag="time-watch"):
    """The epoch ends when the guest waits and virtual time has come to ``virtual_ns``. In no log either."""

    virtual_ns: int


_outputs = msgspec.msgpack.Decoder(
    list[ConsoleOut | GuestExit | PowerOff | ResetRequest | StopText | QueueKick | DriverFault | FaultStruck]
)
_inputs = msgspec.msgpack.Decoder(
    list[
        ConsoleIn
        | KeyboardIn
        | TimePassed
        | DeviceIn
        | Placed
        | DeviceBroken
        | Poke
        | LinkState
        | ColdTlb
        | TextWatch
        | TimeWatch
        | DebugWatch
        | ExpectFaults
    ]
)

encode = msgspec.msgpack.Encoder().encode
decode_outputs = _outputs.decode
decode_inputs = _inputs.decode


def portion(inputs: list[Input], room_bytes: int) -> list[Input]:
    """Take the first of ``inputs`` away, as many as one command can bring into a module: at least one."""
    taken: list[Input] = []
    size = 0
    while inputs and (not taken or size + len(encode(inputs[0])) <= room_bytes):
        taken.append(inputs.pop(0))
        size += len(encode(taken[-1]))
    return taken

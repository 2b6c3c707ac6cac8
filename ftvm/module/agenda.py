"""The faults that a machine has been told of and that are not due yet: a part of the board, as a chip is.

Whether a fault is due follows from what the guest does, so all modules know it alike; it is compared, saved and rolled
back with the chips. That a module was hurt is no part of it, and is not undone by rolling back: see injector.py.
"""

from collections.abc import Callable

import msgspec

from ftvm.module.console_script import Text
from ftvm.module.fault import Access, AtPosition, AtTime, Fault, OnExecution, OnMmio, OnPort, OnText

PART = "faults"
"""Its name among the parts of a board; not there while no fault is expected."""


class Expected(msgspec.Struct, eq=False):
    """A fault, and how far the guest has come towards it."""

    fault: Fault
    seen: int = 0
    """How often what it waits for has happened; or how much of the text has come."""
    texts: int = 0
    """How often the text has come."""
    ripe: bool = False
    """It is to happen at the next block entry."""
    position: int | None = None
    """Where it happens again: it has happened before."""
    happened: int = 0


class AgendaState(msgspec.Struct):
    expected: list[Expected] = msgspec.field(default_factory=list)


class Agenda:
    """``stop`` asks the CPU to stop at the next block entry. What is due then is given out by ``take_due``."""

    def __init__(self, position: Callable[[], int], stop: Callable[[], None]) -> None:
        self.state = AgendaState()
        self._position = position
        self._stop = stop
        self.due = False
        """Something is ripe."""
        self._texts: list[tuple[Expected, Text]] = []

    def expect(self, faults: list[Fault]) -> None:
        """Wait for these too."""
        self.state.expected += [Expected(fault) for fault in faults]
        self.loaded()

    def loaded(self) -> None:
        """The state is another one. Raises ValueError for one that cannot be."""
        self.due = any(expected.ripe for expected in self.state.expected)
        self._texts = [
            (expected, Text(when.text))
            for expected in self._waiting()
            if isinstance(when := expected.fault.when, OnText)
        ]
        if not all(0 <= expected.seen < len(text) for expected, text in self._texts):
            raise ValueError("more of a text has come than it has")

    def next_position(self) -> int | None:
        """The nearest position at which a fault is due, or the block entered in which one is."""
        positions = [p for expected in self.state.expected if (p := _position_of(expected)) is not None]
        entered = [when.position for e in self._waiting() if isinstance(when := e.fault.when, AtPosition)]
        return min(positions + entered, default=None)

    def next_ns(self) -> int | None:
        """The nearest virtual time at which a fault is due."""
        if not self.state.expected:  # asked at nearly every access to a device
            return None
        times = [when.ns for expected in self._waiting() if isinstance(when := expected.fault.when, AtTime)]
        return min(times, default=None)

    def awaited(self) -> dict[int, int]:
        """Linear addresses before whose execution a fault may come due, and how often they will be executed before."""
        awaited: dict[int, int] = {}
        for expected in self._waiting() if self.state.expected else ():
            if isinstance(when := expected.fault.when, OnExecution):
                before = max(0, when.nth - expected.seen - 1)
                awaited[when.address] = min(before, awaited.get(when.address, before))
        return awaited

    @property
    def watches_devices(self) -> bool:
        return any(isinstance(expected.fault.when, OnPort | OnMmio) for expected in self._waiting())

    # ---- what happens ----

    def pass_time(self, now_ns: int) -> None:
        """Virtual time has come to ``now_ns``, at a block entry."""
        for expected in self._waiting():
            when = expected.fault.when
            if isinstance(when, AtTime) and when.ns <= now_ns:
                expected.ripe = self.due = True

    def see_text(self, byte: int) -> None:
        """The guest wrote ``byte`` to the serial console."""
        for expected, text in self._texts:
            expected.seen = text.advance(expected.seen, byte)
            if expected.seen == len(text):
                expected.seen = 0
                expected.texts += 1
                when = expected.fault.when
                if isinstance(when, OnText) and expected.texts == when.nth:
                    self._comes_due(expected)

    def see_port(self, port: int, size: int, access: Access) -> None:
        """The CPU is about to access ``size`` ports from ``port`` on."""
        for expected in self._waiting():
            when = expected.fault.when
            if isinstance(when, OnPort) and port <= when.port < port + size and when.access in (access, Access.ANY):
                self._count(expected, when.nth)

    def see_mmio(self, address: int, size: int, access: Access) -> None:
        """The same for memory that belongs to a device."""
        for expected in self._waiting():
            when = expected.fault.when
            inside = isinstance(when, OnMmio) and address <= when.address < address + size
            if isinstance(when, OnMmio) and inside and when.access in (access, Access.ANY):
                self._count(expected, when.nth)

    def awaits_inside(self, position: int) -> bool:
        """Something is due inside the block that is entered at this position."""
        whens = [expected.fault.when for expected in self._waiting()]
        return any(isinstance(when, AtPosition) and when.position == position and when.instruction for when in whens)

    def see_instruction(self, position: int, instruction: int, address: int) -> None:
        """The CPU is about to execute the instruction at this linear address: that many are done of the block that was
        entered at ``position``."""
        for expected in self._waiting():
            match expected.fault.when:
                case OnExecution(at, nth) if at == address:
                    expected.seen += 1
                    expected.ripe |= expected.seen == nth
                case AtPosition(at, after) if at == position and after and after <= instruction:
                    expected.ripe = True
        self.due = any(expected.ripe for expected in self.state.expected)

    def see_executions(self, address: int, count: int) -> None:
        """The instruction at this linear address was executed so often, and no fault was due before it."""
        for expected in self._waiting():
            if isinstance(when := expected.fault.when, OnExecution) and when.address == address:
                expected.seen += count

    def take_due(self, at_entry: bool) -> list[Fault]:
        """The faults that are due now, in the order in which they were told: inside a block only those for which just
        that was said. They are not expected any more, unless they happen again."""
        position = self._position()
        due = [
            expected
            for expected in self.state.expected
            if expected.ripe or (at_entry and (at := _position_of(expected)) is not None and at <= position)
        ]
        if not due:
            return []
        for expected in due:
            expected.happened += 1
            expected.ripe = False
            fault = expected.fault
            if fault.every and expected.happened != fault.times:
                expected.position = position + fault.every
            else:
                self.state.expected.remove(expected)
        self.loaded()
        return [expected.fault for expected in due]

    def _count(self, expected: Expected, wanted: int) -> None:
        expected.seen += 1
        if expected.seen == wanted:
            self._comes_due(expected)

    def _comes_due(self, expected: Expected) -> None:
        expected.ripe = self.due = True
        self._stop()

    def _waiting(self) -> list[Expected]:
        """Those that have not happened yet."""
        return [expected for expected in self.state.expected if expected.happened == 0]


def _position_of(expected: Expected) -> int | None:
    """The block entry at which it is due in any case."""
    if expected.happened:
        return expected.position
    when = expected.fault.when
    if not isinstance(when, AtPosition):
        return None
    return when.position + 1 if when.instruction else when.position


def without_faults(board: bytes, numbers: frozenset[int] | None = None) -> bytes:
    """A saved board that expects no faults, or none of those ``numbers``; else the same bytes."""
    if PART.encode() not in board:
        return board
    parts = msgspec.msgpack.decode(board, type=dict[str, msgspec.Raw])
    if PART not in parts:
        return board
    state = msgspec.msgpack.decode(parts.pop(PART), type=AgendaState)
    state.expected = [e for e in state.expected if numbers is not None and e.fault.number not in numbers]
    if state.expected:
        parts[PART] = msgspec.Raw(msgspec.msgpack.encode(state))
    return msgspec.msgpack.encode(parts)


def expected_faults(board: bytes) -> list[Fault]:
    """The faults that a saved board expects."""
    parts = msgspec.msgpack.decode(board, type=dict[str, msgspec.Raw]) if PART.encode() in board else {}
    if PART not in parts:
        return []
    return [expected.fault for expected in msgspec.msgpack.decode(parts[PART], type=AgendaState).expected]

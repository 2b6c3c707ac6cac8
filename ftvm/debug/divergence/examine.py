"""Look into the divergences of a machine while it runs: each is localised before the machine goes on.

The guest notices nothing of it: its time stands still meanwhile.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from ftvm.debug.code import Instruction, code_address, instructions
from ftvm.debug.divergence import report as values
from ftvm.debug.divergence.pair import Lost, Pair, Place
from ftvm.debug.divergence.report import After, At, Dump, Item, Line, Report, Reports, State, WrongOutput
from ftvm.debug.divergence.search import Aftermath, Finding, Sides, localise
from ftvm.debug.symbols import Symbols
from ftvm.errors import FtvmError, HostError, UsageError
from ftvm.faults.notation import format_fault
from ftvm.machine import Machine
from ftvm.module import events
from ftvm.module.events import ConsoleOut, ExpectFaults, FaultStruck, Output
from ftvm.module.fault import AtPosition, Fault
from ftvm.module.link import Report as ModuleReport
from ftvm.module.paging import LinearMemory
from ftvm.monitor.build_id import build_id
from ftvm.monitor.compare import Difference, Value
from ftvm.monitor.module_view import Registers
from ftvm.monitor.recovery import Incident

MAX_REPORTS = 16
MAX_ITEMS = 64
MAX_DUMPS = 8
DUMP_BYTES = 64
LINES_AFTER = 6
SHOWN_BYTES = 32
_PLACE = ("position", "instruction")
"""Differences that follow from others: a module that goes another way is soon elsewhere."""


class Examiner:
    """Collects a report for each divergence of ``machine`` in which a module gave a result, before it is run."""

    def __init__(self, machine: Machine, guest: str, symbols: Symbols) -> None:
        self._examination = Examination(machine, symbols)
        self._guest = guest
        self._reports: list[Report] = []
        self._left_out = 0
        machine.follow_incidents(self._examine)

    def reports(self) -> Reports:
        """So far."""
        return Reports(values.VERSION, self._guest, build_id(), self._reports[:], self._left_out)

    def _examine(self, incident: Incident) -> None:
        if len(self._reports) == MAX_REPORTS:
            self._left_out += 1
            return
        self._reports.append(self._examination.report(incident))


class Examination:
    """Of incidents of ``machine``, while its verified state is that from which the epoch began."""

    def __init__(self, machine: Machine, symbols: Symbols) -> None:
        self._machine = machine
        self._symbols = symbols

    def report(self, incident: Incident) -> Report:
        """What there is to be said of it. Raises nothing of what its modules do."""
        divergence = incident.divergence
        compared = [report for report in divergence.reports if report is not None]
        found = max((report.position for report in compared), default=divergence.verified)
        report = Report(
            module=incident.module,
            verdict=incident.verdict,
            kind=divergence.differences[0].kind,
            where=divergence.differences[0].where,
            verified=divergence.verified,
            found=found,
            faults=[format_fault(fault) for fault in self._faults(incident)],
            conclusion="",
            comparison=[_first_two(difference) for difference in divergence.differences[:MAX_ITEMS]],
        )
        return msgspec.structs.replace(report, **self._localised(incident, found))

    def _localised(self, incident: Incident, found: int) -> dict[str, object]:
        """The fields that come out of doing the epoch again."""
        if incident.module is None:
            return {"conclusion": "Nobody can say which module was wrong, so that nothing could be done again."}
        if incident.epoch is None:
            return {
                "conclusion": "A scrub found it in memory that nobody had used; there is no instruction to look for."
            }
        lost = incident.divergence.differences[0].kind in ("death", "hang")
        try:
            fields = self._again(incident, incident.module, found)
            if lost and not fields["reproduced"]:
                fields["conclusion"] = "The module was lost as a whole: there is no instruction to look for."
            return fields
        except (Lost, HostError) as error:
            reason = error.message if isinstance(error, FtvmError) else str(error)
            return {"conclusion": f"It could not be done again: {reason}."}

    def _again(self, incident: Incident, module: int, found: int) -> dict[str, object]:
        assert incident.epoch is not None
        machine = self._machine
        image = machine.verified
        start = incident.divergence.verified
        inputs = [*incident.epoch.inputs]
        held = [_from(fault, start) for fault in self._held(module)]
        if held:
            inputs.insert(0, ExpectFaults(held))
        before = incident.divergence.report_of(module)
        with Pair(image, machine.board, module, inputs) as pair:
            finding = localise(pair, start, found, before)
            return self._fields(pair, finding)

    # ---- what is known of faults that were injected ----

    def _faults(self, incident: Incident) -> list[Fault]:
        """Those in the module, as far as they can have to do with it."""
        struck = [entry.fault for entry in self._machine.struck if entry.fault.lasting or entry.fault.every]
        for report in incident.divergence.reports:
            if report is not None:
                with contextlib.suppress(msgspec.DecodeError):  # a module whose outputs make no sense
                    outputs = events.decode_outputs(report.outputs)
                    struck += [o.fault for o in outputs if isinstance(o, FaultStruck) and o.fault not in struck]
        return [fault for fault in struck if incident.module is None or fault.hurts(incident.module)]

    def _held(self, module: int) -> list[Fault]:
        """Faults of this module that had begun before the epoch, and lasted."""
        return [entry.fault for entry in self._machine.struck if entry.fault.lasting and entry.fault.hurts(module)]

    # ---- what came out ----

    def _fields(self, pair: Pair, finding: Finding) -> dict[str, object]:
        fields: dict[str, object] = {
            "conclusion": self._conclusion(finding),
            "reproduced": finding.reproduced,
            "as_before": finding.as_before,
            "looked_until": finding.looked_until,
        }
        if finding.origin is not None:
            fields["origin"] = self._state("where they first differ", finding.origin)
        if finding.wrong is not None:
            fields["before"] = self._state("before the wrong instruction", finding.wrong.before)
            fields["after"] = self._state("after it", finding.wrong.after)
            fields["aftermath"] = [self._after(aftermath) for aftermath in finding.aftermath]
            fields["dumps"] = self._dumps(pair, finding.wrong.after)
            fields["listing"] = self._listing(pair, finding.wrong.before)
        if finding.output is not None:
            found = finding.output
            fields["output"] = WrongOutput(
                found.after, found.position, _output_text(found.sound), _output_text(found.faulty)
            )
        return fields

    def _conclusion(self, finding: Finding) -> str:
        if not finding.reproduced:
            return (
                "It did not happen again when the epoch was run again: nothing that is known of the module explains it."
            )
        assert finding.origin is not None
        if finding.wrong is not None:
            before = finding.wrong.before
            address = code_address(Registers(before.sound.arch))
            symbol = self._symbols.describe(address)
            name = f"{address:#x}" + (f" ({symbol})" if symbol else "")
            telling = [difference for difference in finding.wrong.new if difference.where not in _PLACE]
            new = _item((telling or finding.wrong.new)[0], self._symbols)
            found = (
                f"The first wrong instruction is at {name}, {_at(before.place)}: it made {new.kind} {new.where}"
                f" {new.faulty} instead of {new.sound}."
            )
            far = " It is far from the fault: an earlier one whose effect did not last may have been missed."
            return found + (far if finding.skimmed else "")
        if finding.masked:
            return "What differed was overwritten before any instruction used it."
        if finding.block is not None:
            return f"The first wrong instruction is in the block before position {finding.block.place.position:,}."
        until = f"No instruction up to position {finding.searched_until:,} used what differs"
        return f"{until}{' for anything that lasted' if finding.skimmed else ''}: it was found lying there."

    def _state(self, what: str, sides: Sides) -> State:
        items = [_item(difference, self._symbols) for difference in sides.differences]
        faulty = {} if sides.faulty is None else _registers(sides.faulty)
        return State(what, _at(sides.place), _registers(sides.sound), faulty, items[:MAX_ITEMS], len(items[MAX_ITEMS:]))

    def _after(self, aftermath: Aftermath) -> After:
        sides = aftermath.sides
        kinds = [difference.kind for difference in sides.differences]
        faulty = None if sides.faulty is None else At(sides.faulty.position, sides.faulty.instruction)
        return After(
            aftermath.instructions,
            _at(sides.place),
            faulty,
            kinds.count("register"),
            kinds.count("memory"),
            [_item(difference, self._symbols) for difference in sides.differences[:MAX_ITEMS]],
        )

    def _dumps(self, pair: Pair, after: Sides) -> list[Dump]:
        offsets = [int(d.where.removeprefix("ram "), 16) for d in after.differences if d.kind == "memory"]
        starts = sorted({offset & ~(DUMP_BYTES - 1) for offset in offsets})[:MAX_DUMPS]
        if not starts:
            return []
        pair.goto(after.place)
        sound, faulty = (module.memory() for module in pair.modules)
        return [
            Dump(start, sound[start : start + DUMP_BYTES].hex(), faulty[start : start + DUMP_BYTES].hex())
            for start in starts
        ]

    def _listing(self, pair: Pair, before: Sides) -> list[Line]:
        """The block of the wrong instruction, and a little more."""
        reports = pair.goto(Place(before.place.position))
        if reports[0] is None:
            return []
        view = _View(reports[0].arch, pair.sound.memory())
        wrong = code_address(Registers(before.sound.arch))
        start = code_address(view.registers)
        count = before.place.instruction + LINES_AFTER
        found = list(instructions(view, start, count)) if start <= wrong < start + 15 * count else []
        if not any(line.address == wrong for line in found):
            found = list(instructions(_View(before.sound.arch, pair.sound.memory()), wrong, LINES_AFTER))
        return [self._line(line, line.address == wrong) for line in found]

    def _line(self, line: Instruction, wrong: bool) -> Line:
        symbol = self._symbols.describe(line.address)
        target = "" if line.target is None else self._symbols.describe(line.target)
        text = f"{line.mnemonic} {line.operands}".rstrip() + (f"  ; {target}" if target else "")
        return Line(f"{line.address:#x}", line.code.hex(" "), text, symbol, wrong)


class _View:
    """A module's code as its page tables show it."""

    def __init__(self, arch: bytes, memory: memoryview) -> None:
        self.registers: Mapping[str, int] = Registers(arch)
        self._memory = LinearMemory(memory, arch)

    def read_virtual(self, address: int, size: int) -> bytes:
        data = self._memory.read(address, size)
        if len(data) != size:
            raise UsageError(f"nothing is mapped at {address + len(data):#x}")
        return data


def _from(fault: Fault, position: int) -> Fault:
    """The same fault, beginning at another position: where a module that has it is made again."""
    return Fault(fault.module, AtPosition(position), fault.target, fault.change, fault.lasting, number=fault.number)


def _at(place: Place) -> At:
    return At(place.position, place.instruction)


def _registers(report: ModuleReport) -> dict[str, str]:
    return {name: f"{value:#x}" for name, value in Registers(report.arch).items()}


def _value_text(value: Value) -> str:
    match value:
        case int():
            return f"{value:#x}"
        case bytes():
            return value[:SHOWN_BYTES].hex(" ") + (f" ... ({len(value)} bytes)" if len(value) > SHOWN_BYTES else "")
        case str():
            return value


def _bits(sound: Value, faulty: Value) -> list[int]:
    if isinstance(sound, bytes) and isinstance(faulty, bytes) and len(sound) == len(faulty) == 1:
        sound, faulty = sound[0], faulty[0]
    if isinstance(sound, int) and isinstance(faulty, int) and 0 < (sound ^ faulty).bit_count() <= 8:
        return [bit for bit in range((sound ^ faulty).bit_length()) if (sound ^ faulty) >> bit & 1]
    return []


def _item(difference: Difference, symbols: Symbols) -> Item:
    sound, faulty = difference.values
    symbol = symbols.describe(faulty) if isinstance(faulty, int) and difference.where == "rip" else ""
    return Item(
        difference.kind, difference.where, _value_text(sound), _value_text(faulty), _bits(sound, faulty), symbol
    )


def _first_two(difference: Difference) -> Item:
    """Of what the machine's comparison found, the first value and the first that is another one."""
    first: Sequence[Value] = difference.values[:1]
    other = next(iter(_others(difference)), difference.values[-1] if difference.values else "")
    sound = first[0] if first else ""
    return Item(difference.kind, difference.where, _value_text(sound), _value_text(other), _bits(sound, other))


def _others(difference: Difference) -> Iterator[Value]:
    yield from (value for value in difference.values if value != difference.values[0])


def _output_text(output: Output | None) -> str:
    match output:
        case None:
            return "nothing"
        case ConsoleOut(channel, data):
            return f"on the {channel} console: {data[:SHOWN_BYTES]!r}" + (" ..." if len(data) > SHOWN_BYTES else "")
        case FaultStruck():
            return "a fault"
        case _:
            return repr(output)

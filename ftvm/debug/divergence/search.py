"""Find the instruction that first went wrong, and follow what it did.

Where the modules begin to differ is found by bisection over positions: two modules that are alike in everything stay
alike, so once they differ they do for as long as it takes until they are found out. What differs there is the fault
itself, if it was put in between two blocks: a bit of a register or of memory. The instruction that goes wrong is the
first one after which something differs that did not differ before it, or not in this way. It is found by comparing what
each instruction does from there on (CommandKind.TRACE).

Nobody steps through what cannot be wrong. A bit of memory: the run goes on at full speed until somebody accesses it. A
register: what whole blocks do is compared, at many times the pace of stepping, up to one that did another thing, or
whose code names the register (uses.py).
"""

import contextlib
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from ftvm.debug.divergence.pair import Lost, Pair, Place, Traced
from ftvm.debug.divergence.uses import Uses
from ftvm.module.board import StopKind
from ftvm.module.cpu import ACCESS_READ, ACCESS_WRITE
from ftvm.module.events import ConsoleOut, DebugWatch, FaultStruck, Output, decode_outputs
from ftvm.module.link import Report, TraceSpec
from ftvm.module.registers import REGISTERS
from ftvm.monitor.compare import Difference

FIRST_CHUNK, LAST_CHUNK = 256, 65_536
"""Instructions, or blocks, that are traced at a time: more and more, since most faults are met soon."""
HORIZON_S = 0.5
"""Wall time of running on beyond the epoch, if nobody used in it what differs."""
TRACED = 2_000_000
"""Steps, blocks and instructions, up to which every instruction that may be wrong is looked at. After them, only what
lasts is looked for: as many by comparing what blocks do, and then by bisection."""
GOING_BACK = 20_000
"""Steps that take as long as going back to some place."""
AFTERMATH = (1, 10, 100, 1000, 10_000, 100_000)
"""Instructions after the wrong one at which the modules are compared again."""
AFTERMATH_S = 0.5
OUTPUT_S = 0.5
"""Wall time for which the modules run on beyond the epoch, to see which output would have been wrong."""
SLICES = 32
MAX_WATCHES = 64
MAX_EXCEPTED = 512
_GOES_ON = (StopKind.POSITION, StopKind.OUTPUT)
_EVERYTHING = ACCESS_READ | ACCESS_WRITE


@dataclass(frozen=True)
class Sides:
    """Both modules at one place: reports of the sound and of the faulty one, and in what they differ."""

    place: Place
    sound: Report
    faulty: Report | None
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Wrong:
    """The first wrong instruction: the modules before and after it; ``new`` differs since then."""

    before: Sides
    after: Sides
    new: tuple[Difference, ...]


@dataclass(frozen=True)
class Aftermath:
    """What differs so many instructions after the wrong one."""

    instructions: int
    sides: Sides


@dataclass(frozen=True)
class WrongOutput:
    """The first output of the faulty module that would have been another one; None: there was none (more).

    It was made between the positions ``after`` and ``position``, which are neighbours unless time was short.
    """

    after: int
    position: int
    sound: Output | None
    faulty: Output | None


@dataclass
class Finding:
    """What came out. ``reproduced`` False: the modules did not differ when all was done again.

    ``as_before``: the faulty module came to what it came to in the machine. ``origin``: where the modules first differ;
    ``between_blocks``: that came in before a block, not by an instruction. ``wrong`` None: nobody used what differed
    (``latent``), or it was gone before anybody did (``masked``), or the instruction was not found in time, but it is in
    the block that ends at ``block``. ``searched_until``: for it. ``skimmed``: it was far; an earlier instruction
    would have been missed if its effect did not last to the end of its block. ``looked_until``: for a wrong output.
    """

    reproduced: bool = False
    as_before: bool = False
    origin: Sides | None = None
    between_blocks: bool = False
    wrong: Wrong | None = None
    latent: bool = False
    masked: bool = False
    block: Sides | None = None
    searched_until: int = 0
    skimmed: bool = False
    aftermath: list[Aftermath] = field(default_factory=list)
    output: WrongOutput | None = None
    looked_until: int = 0
    seconds: float = 0.0


def localise(pair: Pair, start: int, end: int, found: Report | None = None) -> Finding:
    """Find out what happened to the faulty module of ``pair`` between the verified position ``start`` and ``end``.

    ``found`` is its report in the machine. Raises HostError; Lost when the sound module fails.
    """
    began_s = time.monotonic()
    search = _Search(pair, start, end)
    search.run(found)
    search.finding.seconds = time.monotonic() - began_s
    return search.finding


class _Hunt:
    """For the first use of what differs at ``origin``, up to position ``reached``, with so many ``steps_left``."""

    def __init__(self, origin: Sides, reached: int) -> None:
        self.reached = reached
        self.steps_left = TRACED
        self.spec = _exceptions(origin.differences)
        self.uses = Uses(origin.differences)
        ranges = _memory_ranges(origin.differences)
        watched = 0 < len(ranges) <= MAX_WATCHES
        self.watch = DebugWatch(accesses=[(start, size, _EVERYTHING) for start, size in ranges]) if watched else None
        self.only_memory = watched and len(ranges) == len(origin.differences)


class _Search:
    def __init__(self, pair: Pair, start: int, end: int) -> None:
        self._pair = pair
        self._start = start
        self._end = end
        self._pages: list[int] = []
        self._here: Place | None = None
        """Where both modules stand, if that is known."""
        self.finding = Finding()

    def run(self, found: Report | None) -> None:
        pair, finding = self._pair, self.finding
        reports = pair.goto(Place(self._end))
        pair.suspects |= set(pair.different_pages())
        self._pages = sorted(pair.touched | pair.suspects)
        here = self._sides(Place(self._end), reports)
        if not here.differences:
            return
        finding.reproduced = True
        finding.as_before = here.faulty is not None and found is not None and here.faulty.arch == found.arch
        reached = max(report.position for report in reports if report is not None)
        before, finding.origin = self._origin(min(self._end, reached + 1), _struck([*reports, found]))
        if before is None:
            finding.between_blocks = True
            finding.searched_until, lasts = self._horizon(finding.origin, here, reached)
            self._first_wrong(finding.origin, finding.searched_until, lasts)
        else:
            finding.wrong = Wrong(self._at(before), finding.origin, finding.origin.differences)
        self._follow()
        self._look_for_output()

    # ---- looking ----

    def _sides(self, place: Place, reports: Sequence[Report | None]) -> Sides:
        sound, faulty = reports
        if sound is None:
            raise Lost("it gave no report")
        return Sides(place, sound, faulty, self._pair.differences(reports, self._pages))

    def _at(self, place: Place) -> Sides:
        return self._sides(place, self._pair.goto(place))

    def _stepped(self, reports: Sequence[Report | None]) -> Sides:
        sound = reports[0]
        if sound is None:
            raise Lost("it gave no report")
        return self._sides(Place(sound.position, sound.instruction), reports)

    # ---- where it begins ----

    def _origin(self, differ_at: int, struck: Sequence[int]) -> tuple[Place | None, Sides]:
        """The first place at which the modules differ; and the one before it, if an instruction made the difference.
        ``struck``: positions at which that is likely."""
        low, high = self._start - 1, differ_at
        at_high = self._at(Place(high))
        likely = [position for at in struck for position in (at, at - 1)]
        while high - low > 1:
            middle = next((position for position in likely if low < position < high), (low + high) // 2)
            sides = self._at(Place(middle))
            if sides.differences:
                high, at_high = middle, sides
            else:
                low = middle
        if high == self._start:
            return None, at_high
        place = Place(high - 1)
        self._pair.goto(place)
        while True:
            sides = self._stepped(self._pair.step(1))
            if sides.place == place or sides.place >= Place(high):
                return None, at_high
            if sides.differences:
                return place, sides
            place = sides.place

    # ---- the first wrong instruction ----

    def _horizon(self, origin: Sides, end: Sides, reached: int) -> tuple[int, bool]:
        """How far to look for it: if what differs at the end of the epoch is still what differed at first, beyond. And
        whether it left something there that lasts."""
        known = set(_atoms(origin.differences))
        if not known.issuperset(_atoms(end.differences)):
            return reached, True
        until_s = time.monotonic() + HORIZON_S
        self._pair.goto(Place(reached))
        blocks = max(1, reached - self._start)
        while time.monotonic() < until_s:
            reports = self._pair.run(reached + blocks)
            self._pages = sorted(self._pair.touched | self._pair.suspects)
            here = self._stepped(reports)
            if here.place.position == reached:
                break
            reached, blocks = here.place.position, 2 * blocks
            if not known.issuperset(_atoms(here.differences)):
                return reached, True
        return reached, False

    def _first_wrong(self, origin: Sides, reached: int, lasts: bool) -> None:
        """Step through whatever may be wrong, from ``origin`` on. ``lasts``: there is something that lasts."""
        pair, finding = self._pair, self.finding
        hunt = _Hunt(origin, reached)
        place = self._next_use(hunt, origin.place) if hunt.only_memory else origin.place
        chunk = FIRST_CHUNK
        while place is not None and place.position < reached:
            if hunt.steps_left < 0:
                over = finding.skimmed or not lasts
                finding.skimmed = True
                if over:
                    break
                hunt.steps_left = TRACED
            self._stand(place, hunt)
            sound, faulty = pair.trace(chunk, hunt.spec)
            hunt.steps_left -= len(sound)
            self._here = None
            number = _first_difference(sound, faulty)
            if number is not None:
                if self._is_wrong(sound.place(number - 1)):
                    return
                place = sound.place(number)  # what looked new was not: go on behind it
                continue
            if len(sound) < 2:
                break
            self._here = here = sound.place(-1)
            place = self._next_use(hunt, here)
            chunk = min(4 * chunk, LAST_CHUNK) if place == here else FIRST_CHUNK
        if lasts:
            self._bisect_block(place or origin.place, origin, reached)
        else:
            finding.latent = True

    def _stand(self, place: Place, hunt: "_Hunt") -> None:
        if self._here != place:
            hunt.steps_left -= GOING_BACK
            self._pair.goto(place)

    def _next_use(self, hunt: "_Hunt", place: Place) -> Place | None:
        """The block, not before ``place``, in which something may go wrong next, or as far as was looked; None: there
        is none."""
        access, end = None, hunt.reached
        if hunt.watch is not None:
            self._stand(place, hunt)
            self._here = None
            reports = self._pair.run(hunt.reached, hunt.watch)
            hits = [report.position for report in reports if report is not None and report.stop == StopKind.DEBUG]
            access = max(place, Place(min(hits) - 1)) if hits else None
            end = end if access is None else access.position
            if hunt.only_memory:
                return access
        blocks = FIRST_CHUNK
        while place.position < end:
            if hunt.steps_left < 0:
                return place
            self._stand(place, hunt)
            blocks = min(4 * blocks, LAST_CHUNK)
            sound, faulty = self._pair.trace_blocks(min(place.position + blocks, end), hunt.spec)
            hunt.steps_left -= len(sound)
            self._here = None
            number = _first_difference(sound, faulty)
            suspects = [] if number is None else [number - 1]
            if not self.finding.skimmed:
                used = hunt.uses.first(sound, self._pair.sound.memory(), self._pair.written)
                suspects += [] if used is None else [used]
            if suspects:
                return sound.place(min(suspects))
            if len(sound) < 2:
                return None
            self._here = place = sound.place(-1)
        return access

    def _is_wrong(self, place: Place) -> bool:
        """Look in full at the instruction at ``place``. False: nothing new differs after it."""
        before = self._at(place)
        after = self._stepped(self._pair.step(1))
        known = set(_atoms(before.differences))
        new = tuple(difference for difference in after.differences if not known.issuperset(_atoms([difference])))
        if new:
            self.finding.wrong = Wrong(before, after, new)
        elif not after.differences:
            self.finding.masked = True
        return bool(new) or self.finding.masked

    def _bisect_block(self, place: Place, origin: Sides, reached: int) -> None:
        """Too far away: a block after which something else differs, and what is wrong in it."""
        self.finding.skimmed = True
        known = set(_atoms(origin.differences))
        low, high = place.position, max(place.position + 1, reached)
        at_high = self._at(Place(high))
        if known.issuperset(_atoms(at_high.differences)):
            self.finding.latent = True
            return
        while high - low > 1:
            middle = (low + high) // 2
            sides = self._at(Place(middle))
            if known.issuperset(_atoms(sides.differences)):
                low = middle
            else:
                high, at_high = middle, sides
        self.finding.block = at_high
        place = Place(low)
        spec = _exceptions(origin.differences)
        self._pair.goto(place)
        sound, faulty = self._pair.trace(FIRST_CHUNK, spec)
        number = _first_difference(sound, faulty)
        if number is not None:
            self._is_wrong(sound.place(number - 1))

    # ---- what became of it ----

    def _follow(self) -> None:
        wrong = self.finding.wrong
        if wrong is None:
            return
        until_s = time.monotonic() + AFTERMATH_S
        self._pair.goto(wrong.after.place)
        self.finding.aftermath.append(Aftermath(0, wrong.after))
        for instructions, before in zip(AFTERMATH, (0, *AFTERMATH), strict=False):
            sides = self._stepped(self._pair.step(instructions - before))
            self.finding.aftermath.append(Aftermath(instructions, sides))
            if time.monotonic() > until_s or sides.faulty is None or sides.sound.stop != StopKind.POSITION:
                return

    def _look_for_output(self) -> None:
        """Which output would have been wrong, had nobody compared; beyond the epoch nothing enters any more."""
        until_s = time.monotonic() + OUTPUT_S
        low, high, slices = self._start, self._end, 1
        bracket = self._wrong_output_between(low, high, slices)
        while bracket is None and time.monotonic() < until_s:
            low, high = high, high + max(1, high - self._start)
            bracket = self._wrong_output_between(low, high, slices)
            if not self._going:
                break
        self.finding.looked_until = high
        until_s = time.monotonic() + OUTPUT_S
        while bracket is not None:
            self.finding.output = bracket
            if bracket.position - bracket.after <= 1 or time.monotonic() > until_s:
                return
            bracket = self._wrong_output_between(bracket.after, bracket.position, SLICES)

    def _wrong_output_between(self, low: int, high: int, slices: int) -> WrongOutput | None:
        """Run from the start to ``low``, and on to ``high`` in slices: the one that has the first wrong output."""
        told: list[list[Output]] = [[], []]
        self._listen(self._pair.goto(Place(low)), low, told)
        after = low
        for number in range(1, slices + 1):
            position = low + (high - low) * number // slices
            if position == after:
                continue
            self._listen(self._pair.run(position), position, told)
            wrong = _first_wrong_output(_joined(told[0]), _joined(told[1]))
            if wrong is not None:
                return WrongOutput(after, position, *wrong)
            after = position
        return None

    def _listen(self, reports: Sequence[Report | None], position: int, told: list[list[Output]]) -> None:
        """Take the modules to ``position``, past whatever only their own output stops them for."""
        while True:
            for side, report in enumerate(reports):
                told[side] += [] if report is None else decode_outputs(report.outputs)
            self._going = any(report is not None and report.stop in _GOES_ON for report in reports)
            if not any(r is not None and r.stop == StopKind.OUTPUT and r.position < position for r in reports):
                return
            reports = self._pair.run(position)


def _atoms(differences: Sequence[Difference]) -> Iterator[tuple[str, str, object]]:
    """Differences in their smallest parts, so that they can be told apart: bytes of memory, bits of the flags."""
    for difference in differences:
        match difference:
            case Difference("memory", where, (bytes() as sound, bytes() as faulty)):
                start = int(where.removeprefix("ram "), 16)
                for at, pair in enumerate(zip(sound, faulty, strict=True)):
                    if pair[0] != pair[1]:
                        yield "memory", f"ram {start + at:#x}", pair
            case Difference("register", "rflags", (int() as sound_flags, int() as faulty_flags)):
                for bit in range(64):
                    if (sound_flags ^ faulty_flags) >> bit & 1:
                        yield "register", f"rflags bit {bit}", sound_flags >> bit & 1
            case _:
                yield difference.kind, difference.where, difference.values


def _memory_ranges(differences: Sequence[Difference]) -> list[tuple[int, int]]:
    """(offset, size) of each run of memory that differs."""
    return [
        (int(difference.where.removeprefix("ram "), 16), len(difference.values[0]))
        for difference in differences
        if difference.kind == "memory" and isinstance(difference.values[0], bytes)
    ]


def _struck(reports: Sequence[Report | None]) -> list[int]:
    """Where faults did their work, as far as modules told so."""
    found: set[int] = set()
    for report in reports:
        if report is not None:
            with contextlib.suppress(msgspec.DecodeError):  # it may be out of its mind
                outputs = decode_outputs(report.outputs)
                found |= {output.position for output in outputs if isinstance(output, FaultStruck)}
    return sorted(found)


def _exceptions(differences: Sequence[Difference]) -> TraceSpec:
    """A trace that leaves out what differs anyway."""
    arch: dict[int, int] = {}
    for difference in differences:
        if difference.kind == "register":
            where = REGISTERS[difference.where]
            sound, faulty = difference.values
            for byte in range(where.size):
                arch[where.offset + byte] = 0xFF
            if difference.where == "rflags" and isinstance(sound, int) and isinstance(faulty, int):
                for byte in range(where.size):
                    arch[where.offset + byte] = (sound ^ faulty) >> 8 * byte & 0xFF
    ram = {offset + at: 0xFF for offset, size in _memory_ranges(differences) for at in range(size)}
    return TraceSpec(dict(list(arch.items())[:MAX_EXCEPTED]), dict(list(ram.items())[:MAX_EXCEPTED]))


def _first_difference(sound: Traced, faulty: Traced) -> int | None:
    """The number of the first instruction that did another thing in the faulty module; or that changed in one of them
    what was expected to differ."""
    count = min(len(sound), len(faulty))
    if sound.effects == faulty.effects and _constant(sound.excepted) and _constant(faulty.excepted):
        return None
    for number in range(1, count):
        if (
            sound.effects[number] != faulty.effects[number]
            or sound.place(number) != faulty.place(number)
            or sound.excepted[number] != sound.excepted[number - 1]
            or faulty.excepted[number] != faulty.excepted[number - 1]
        ):
            return number
    return count if 0 < count < len(sound) or 0 < count < len(faulty) else None


def _constant(values: "array[int]") -> bool:
    return not values or values.count(values[0]) == len(values)


def _joined(outputs: Sequence[Output]) -> list[Output]:
    """Console output in one piece, wherever the modules stopped while they wrote it."""
    joined: list[Output] = []
    for output in outputs:
        last = joined[-1] if joined else None
        if isinstance(output, ConsoleOut) and isinstance(last, ConsoleOut) and last.channel == output.channel:
            joined[-1] = ConsoleOut(output.channel, last.data + output.data)
        else:
            joined.append(output)
    return joined


def _first_wrong_output(
    sound: Sequence[Output], faulty: Sequence[Output]
) -> tuple[Output | None, Output | None] | None:
    """The first pair of outputs that contradict each other, from the first byte on that does; None if none do. What one
    module has not said yet is no contradiction."""
    for ours, theirs in zip(sound, faulty, strict=False):
        if ours == theirs:
            continue
        if isinstance(ours, ConsoleOut) and isinstance(theirs, ConsoleOut) and ours.channel == theirs.channel:
            pairs = zip(ours.data, theirs.data, strict=False)
            wrong = next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(ours.data), len(theirs.data)))
            left, instead = ours.data[wrong:], theirs.data[wrong:]
            if not (left and instead) and (ours is sound[-1] or theirs is faulty[-1]):
                return None
            return ConsoleOut(ours.channel, left), ConsoleOut(theirs.channel, instead)
        return ours, theirs
    return None

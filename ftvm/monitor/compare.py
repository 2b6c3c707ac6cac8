"""The verdict at a sync point: do all modules say the same, and if not, what exactly differs.

The quick question is whether reports are equal as bytes; only when they are not is every register, chip field and
output looked at by name.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from ftvm.module.board import StopKind
from ftvm.module.link import Report
from ftvm.module.registers import REGISTERS
from ftvm.monitor.image import MAX_RUNS, BadDirtyLog, ByteRun, VerifiedImage, WrittenMemory
from ftvm.units import PAGE_BYTES

Value = int | bytes | str
"""What one module holds: a number, bytes, or a description."""


class Difference(msgspec.Struct, frozen=True):
    """One thing in which modules differ; ``values`` has one entry per module.

    ``kind`` is register, memory, chip, output, stop, death, hang or link; ``where`` names the thing.
    """

    kind: str
    where: str
    values: tuple[Value, ...]


class Divergence(msgspec.Struct, frozen=True):
    """Why a sync point was not reached in agreement.

    ``verified`` is the position of the last agreement; ``modules`` has the number of each module that was compared,
    ``reports`` what it reported, or None where it gave none. ``pages`` counts the pages of memory that differ;
    ``culprit`` is the number of the module that one look tells to be faulty.
    """

    verified: int
    differences: tuple[Difference, ...]
    modules: tuple[int, ...]
    reports: tuple[Report | None, ...]
    pages: int = 0
    culprit: int | None = None

    def report_of(self, module: int) -> Report | None:
        """What the module with this number reported, if it was compared and did."""
        return self.reports[self.modules.index(module)] if module in self.modules else None


def _differ(values: Sequence[Any]) -> bool:
    return any(value != values[0] for value in values)


def _stops(reports: Sequence[Report]) -> Iterator[Difference]:
    stops = [StopKind(r.stop).name.lower() if r.stop in set(StopKind) else f"unknown ({r.stop})" for r in reports]
    if _differ(stops):
        yield Difference("stop", "reason", tuple(stops))
    if _differ([r.position for r in reports]):
        yield Difference("stop", "position", tuple(r.position for r in reports))
    if _differ([r.instruction for r in reports]):
        yield Difference("stop", "instruction", tuple(r.instruction for r in reports))
    if _differ([r.wake_ns for r in reports]):
        yield Difference("stop", "wake_ns", tuple(r.wake_ns for r in reports))
    if _differ([r.detail for r in reports]):
        yield Difference("stop", "detail", tuple(r.detail.decode(errors="replace") for r in reports))


def _registers(reports: Sequence[Report]) -> Iterator[Difference]:
    for register in REGISTERS.values():
        values = tuple(register.of(report.arch) for report in reports)
        if _differ(values):
            yield Difference("register", register.name, values)


def _fields(path: str, values: Sequence[Any]) -> Iterator[tuple[str, Sequence[Any]]]:
    """Paths below which decoded states differ, down to single values: ``pic.master.irr``, ``uart.fifo[3]``."""
    if not _differ(values):
        return
    if all(isinstance(value, dict) for value in values):
        for key in sorted({key for value in values for key in value}):
            below = [value.get(key, "absent") for value in values]
            yield from _fields(f"{path}.{key}" if path else str(key), below)
    elif all(isinstance(value, list) for value in values) and not _differ([len(value) for value in values]):
        for index in range(len(values[0])):
            yield from _fields(f"{path}[{index}]", [value[index] for value in values])
    else:
        yield path, values


def _packed(kind: str, states: Sequence[bytes]) -> Iterator[Difference]:
    """Differences between msgpack values, field by field; as raw bytes if one of them is not msgpack any more."""
    if not _differ(states):
        return
    try:
        decoded = [msgspec.msgpack.decode(state) for state in states]
    except msgspec.DecodeError:
        yield Difference(kind, "encoding", tuple(states))
        return
    for path, values in _fields("", decoded):
        yield Difference(kind, path, tuple(v if isinstance(v, int | bytes | str) else repr(v) for v in values))


def _memory(runs: Sequence[ByteRun], memories: Sequence[WrittenMemory]) -> Iterator[Difference]:
    for run in runs:
        values = tuple(memory.read(run.offset, run.size) for memory in memories)
        yield Difference("memory", f"ram {run.offset:#x}", values)


def differences_now(
    reports: Sequence[Report], memories: Sequence[memoryview], pages: Iterable[int]
) -> tuple[Difference, ...]:
    """What differs between modules that stand still, wherever they do: registers, chips, and memory in these pages.

    They are looked at as they are; this is for people, and no verdict.
    """
    places = [(report.position, report.instruction) for report in reports]
    return (
        *([Difference("stop", "place", tuple(f"{p} +{i}" for p, i in places))] if _differ(places) else ()),
        *_registers(reports),
        *_packed("chip", [report.board for report in reports]),
        *memory_differences(memories, pages),
    )


def memory_differences(
    memories: Sequence[memoryview], pages: Iterable[int], limit: int = MAX_RUNS
) -> tuple[Difference, ...]:
    """The first ``limit`` runs of bytes in these pages that differ now."""
    runs: list[tuple[int, int]] = []
    for page in pages:
        first = page * PAGE_BYTES
        contents = [memory[first : first + PAGE_BYTES].tobytes() for memory in memories]
        if _differ(contents):
            runs += _differing_runs(first, contents)
            if len(runs) >= limit:
                break
    return tuple(
        Difference("memory", f"ram {at:#x}", tuple(memory[at : at + size].tobytes() for memory in memories))
        for at, size in runs[:limit]
    )


def _differing_runs(first: int, contents: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """(offset, bytes) of each stretch of a page in which the contents differ."""
    start = None
    for at, column in enumerate(zip(*contents, strict=True)):
        differs = len(set(column)) > 1
        if differs and start is None:
            start = at
        elif not differs and start is not None:
            yield first + start, at - start
            start = None
    if start is not None:
        yield first + start, PAGE_BYTES - start


def state_differences(reports: Sequence[Report]) -> tuple[Difference, ...]:
    """In what the reports differ: where the modules stopped, registers, chips, outputs."""
    return (
        *_stops(reports),
        *_registers(reports),
        *_packed("chip", [report.board for report in reports]),
        *_packed("output", [report.outputs for report in reports]),
    )


def compare(
    image: VerifiedImage, reports: Sequence[Report], memories: Sequence[WrittenMemory], modules: Sequence[int]
) -> Divergence | None:
    """None when all modules agree about everything; then the image may be committed with any of the reports.

    ``modules`` are the modules' numbers.
    """
    try:
        pages, runs = image.compare(memories)
    except BadDirtyLog as fault:
        culprit = int(fault.args[0])
        values = tuple("names a page outside RAM" if i == culprit else "sound" for i in range(len(reports)))
        bad = Difference("link", "dirty log", values)
        return Divergence(image.position, (bad,), tuple(modules), tuple(reports), 0, modules[culprit])
    if pages == 0 and all(report == reports[0] for report in reports[1:]):
        return None
    differences = (*state_differences(reports), *_memory(runs, memories))
    if not differences:  # a module that should stand still wrote between the two looks
        changing = tuple("changing" for _ in reports)
        differences = (Difference("memory", "a page that changes while it is compared", changing),)
    return Divergence(image.position, differences, tuple(modules), tuple(reports), pages)

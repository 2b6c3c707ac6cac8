"""A divergence for people: what differs, side by side, and the code that each module was about to run."""

from collections.abc import Iterator, Sequence

from ftvm.module.link import Report
from ftvm.module.paging import LinearMemory
from ftvm.module.registers import register
from ftvm.monitor.compare import Difference, Divergence, Value
from ftvm.monitor.image import VerifiedImage
from ftvm.monitor.recovery import (
    VERDICT_FAIL_STOP,
    VERDICT_FAILED_OVER,
    VERDICT_RESTARTED,
    VERDICT_TRANSIENT,
    Incident,
)

MAX_DIFFERENCES = 32
INSTRUCTIONS = 8
LONGEST_INSTRUCTION = 15
LOSSES = ("death", "hang", "link")
"""Kinds of differences that are the loss of a module, where no module gave a report."""

CONTEXT_BYTES = 16
"""Of memory around differing bytes: one line of the hex dump."""

_VERDICTS = {
    VERDICT_TRANSIENT: "had a transient fault",
    VERDICT_FAILED_OVER: "left service",
    VERDICT_RESTARTED: "was the last one, and a fresh one goes on",
}

_RIP, _CS_BASE, _CS_FLAGS, _EFER = (register(name) for name in ("rip", "cs.base", "cs.flags", "efer"))
_CS_LONG = 1 << 21
_CS_32_BIT = 1 << 22
_EFER_LMA = 1 << 10


def _code_bits(arch: bytes) -> int:
    """16, 32 or 64: how the CPU decodes what CS:RIP points at."""
    flags = _CS_FLAGS.of(arch)
    if _EFER.of(arch) & _EFER_LMA and flags & _CS_LONG:
        return 64
    return 32 if flags & _CS_32_BIT else 16


def disassemble(arch: bytes, ram: memoryview) -> list[str]:
    """The next instructions at CS:RIP of ``arch``, as code stands in ``ram``: address, bytes, mnemonic, operands."""
    import capstone  # 60 ms that only a divergence is worth

    bits = _code_bits(arch)
    mode = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}[bits]
    address = _RIP.of(arch) + (0 if bits == 64 else _CS_BASE.of(arch))
    code = LinearMemory(ram, arch).read(address, INSTRUCTIONS * LONGEST_INSTRUCTION)
    if not code:
        return [f"{address:#x}: nothing is mapped here"]
    decoder = capstone.Cs(capstone.CS_ARCH_X86, mode)
    lines = [
        f"{at:#x}: {code[at - address : at - address + size].hex(' '):<32} {mnemonic} {operands}".rstrip()
        for at, size, mnemonic, operands in decoder.disasm_lite(code, address, INSTRUCTIONS)
    ]
    return lines or [f"{address:#x}: {code[:LONGEST_INSTRUCTION].hex(' ')} (not an instruction)"]


def _text(value: Value) -> str:
    match value:
        case int():
            return f"{value:#x}"
        case bytes():
            shown = value[:CONTEXT_BYTES].hex(" ")
            return shown if len(value) <= CONTEXT_BYTES else f"{shown} ... ({len(value)} bytes)"
        case str():
            return value


def _bits(values: Sequence[Value]) -> str:
    """For two numbers that differ in few bits: which, because a single one smells of hardware."""
    match values:
        case (int() as a, int() as b) if 0 < (a ^ b).bit_count() <= 3:
            bits = [str(bit) for bit in range((a ^ b).bit_length()) if (a ^ b) >> bit & 1]
            return f"  (bit {', '.join(bits)})"
        case (bytes() as a, bytes() as b) if len(a) == len(b) == 1:
            return _bits((a[0], b[0]))
        case _:
            return ""


def _difference(difference: Difference, modules: Sequence[int]) -> Iterator[str]:
    yield f"  {difference.kind} {difference.where}{_bits(difference.values)}"
    for module, value in zip(modules, difference.values, strict=True):
        yield f"    module {module}: {_text(value)}"


def _place(module: int, report: Report | None) -> str:
    if report is None:
        return f"  module {module}: gave no report"
    return f"  module {module}: position {report.position}, rip {_RIP.of(report.arch):#x}"


def _listing(divergence: Divergence, image: VerifiedImage) -> Iterator[str]:
    """Code at every place where a module stands, each place once; then where they last agreed.

    The image has moved on since when the machine recovered, and what it holds now is said to be of now.
    """
    still = image.position == divergence.verified
    memory = "verified memory" if still else f"memory at position {image.position}"
    with memoryview(image.ram) as ram:
        places: dict[tuple[str, ...], list[str]] = {}
        for module, report in zip(divergence.modules, divergence.reports, strict=True):
            if report is not None:
                places.setdefault(tuple(disassemble(report.arch, ram)), []).append(str(module))
        for lines, modules in places.items():
            yield f"code at rip of module {' and '.join(modules)} (from {memory}):"
            yield from (f"  {line}" for line in lines)
        if image.arch and still:
            yield f"code at the last agreement, position {image.position}:"
            yield from (f"  {line}" for line in disassemble(image.arch, ram))


def _blame(incident: Incident) -> str:
    if incident.verdict == VERDICT_FAIL_STOP:
        return "nobody can say which module is right"
    if incident.module is None:
        return "run again they agree, and nobody can say who was wrong"
    return f"module {incident.module} {_VERDICTS[incident.verdict]}"


def explain(incident: Incident, image: VerifiedImage) -> str:
    """The report of a divergence, or of the loss of a module, as plain text."""
    divergence = incident.divergence
    first = divergence.differences[0]
    if first.kind in LOSSES and not any(divergence.reports):  # there is nothing to compare
        head = f"LOSS after position {divergence.verified}: {first.where}, {first.kind}: {_text(first.values[0])}"
        return "\n".join([head, *_listing(divergence, image)])
    lines = [f"DIVERGENCE after position {divergence.verified}: {first.kind} {first.where}; {_blame(incident)}"]
    if any(divergence.reports):
        lines.append("where the modules stand:")
        lines += map(_place, divergence.modules, divergence.reports)
        lines.append(f"  last agreement: position {divergence.verified}")
    lines.append("what differs:")
    for difference in divergence.differences[:MAX_DIFFERENCES]:
        lines += _difference(difference, divergence.modules)
    hidden = len(divergence.differences) - MAX_DIFFERENCES
    if hidden > 0:
        lines.append(f"  and {hidden} more")
    if divergence.pages:
        lines.append(f"  pages of memory that differ: {divergence.pages}")
    lines += _listing(divergence, image)
    return "\n".join(lines)

"""A divergence report for people, as plain text."""

from collections.abc import Iterator, Sequence

from ftvm.debug.divergence.report import At, Dump, Item, Report, Reports, State

GENERAL = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"),
    *(f"r{n}" for n in range(8, 16)),
    *("rip", "rflags"),
)
MAX_LINES = 16


def text(reports: Reports) -> str:
    """All of them, one after the other."""
    parts = ["\n".join(report_lines(number, report)) for number, report in enumerate(reports.reports, 1)]
    if not parts:
        parts = ["No divergence."]
    if reports.left_out:
        parts.append(f"{reports.left_out} more were not looked at.")
    return f"Divergences of {reports.guest}\n\n" + "\n\n".join(parts) + "\n"


def report_lines(number: int, report: Report) -> Iterator[str]:
    """One of them."""
    who = "nobody knows whose fault" if report.module is None else f"module {report.module}"
    yield f"{number}. {report.kind} {report.where}: {who}, {report.verdict}"
    yield f"   agreed at position {report.verified:,}, found at {report.found:,}"
    yield from (f"   injected: {fault}" for fault in report.faults)
    yield f"   {report.conclusion}"
    if report.reproduced and not report.as_before:
        yield "   (Done again, the module did not come to quite the same as in the machine.)"
    if report.origin is not None:
        yield from _items(f"Where they first differ, {report.origin.at}:", report.origin.items, report.origin.hidden)
    if report.listing:
        yield "   The code:"
        for line in report.listing:
            arrow = "=>" if line.wrong else "  "
            yield f"   {arrow} {line.address:<18} {line.code:<24} {line.text:<40} {line.symbol}".rstrip()
    if report.before is not None and report.after is not None:
        yield from _registers(report.before, report.after)
        yield from _items(f"After it, {report.after.at}:", report.after.items, report.after.hidden)
    yield from _dumps(report.dumps)
    if report.aftermath:
        yield "   What became of it:"
        for after in report.aftermath:
            where = places(after.sound, after.faulty)
            yield (
                f"     after {after.instructions:>7,} instructions, {where}: {after.registers} registers and"
                f" {after.memory} runs of memory differ"
            )
    if report.output is not None:
        yield f"   The first wrong output, {between(report.output.after, report.output.position)}:"
        yield f"     should be {report.output.sound}"
        yield f"     would be  {report.output.faulty}"
    elif report.reproduced:
        yield f"   No output would have been wrong up to position {report.looked_until:,}."
    if not report.reproduced:
        yield from _items("What the comparison found:", report.comparison, 0)


def between(after: int, position: int) -> str:
    return f"before position {position:,}" if position - after <= 1 else f"between positions {after:,} and {position:,}"


def places(sound: At, faulty: At | None) -> str:
    if faulty is None:
        return f"{sound}, the module had ended"
    return str(sound) if faulty == sound else f"{sound} and {faulty}"


def _items(title: str, items: Sequence[Item], hidden: int) -> Iterator[str]:
    yield f"   {title}"
    for item in items[:MAX_LINES]:
        bits = f"  (bit {', '.join(map(str, item.bits))})" if item.bits else ""
        symbol = f"  {item.symbol}" if item.symbol else ""
        values = item.faulty if item.sound == item.faulty else f"{item.sound} should be, {item.faulty} was"
        yield f"     {item.kind} {item.where}: {values}{bits}{symbol}"
    more = len(items[MAX_LINES:]) + hidden
    if more:
        yield f"     and {more} more"


def _registers(before: State, after: State) -> Iterator[str]:
    """Both modules side by side, before and after; '*' where they differ, '+' where the instruction made a change."""
    yield f"   {'Registers':<10}{'before: sound':<22}{'faulty':<22}{'after: sound':<22}faulty"
    for name in GENERAL:
        cells = [side.get(name, "-") for state in (before, after) for side in (state.sound, state.faulty)]
        mark = ("*" if cells[0] != cells[1] else " ", "*" if cells[2] != cells[3] else " ")
        yield f"   {name:<10}{cells[0]:<22}{cells[1] + mark[0]:<22}{cells[2]:<22}{cells[3] + mark[1]}".rstrip()


def _dumps(dumps: Sequence[Dump]) -> Iterator[str]:
    for dump in dumps:
        yield f"   RAM from {dump.offset:#x}, sound and faulty:"
        sound, faulty = bytes.fromhex(dump.sound), bytes.fromhex(dump.faulty)
        for at in range(0, len(sound), 16):
            ours, theirs = sound[at : at + 16], faulty[at : at + 16]
            yield f"     {dump.offset + at:08x}  {ours.hex(' ')}"
            if ours != theirs:
                marked = " ".join(f"{b:02x}" if a != b else "  " for a, b in zip(ours, theirs, strict=True))
                yield f"     {'':8}  {marked}".rstrip()

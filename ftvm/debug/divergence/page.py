"""A divergence report as one HTML page that needs nothing else."""

from collections.abc import Iterable, Sequence
from html import escape

from ftvm.debug.divergence.report import Dump, Item, Report, Reports, State
from ftvm.debug.divergence.text import GENERAL, between, places

_STYLE = """
:root { color-scheme: light dark; --edge: #8884; --wrong: #c22; --note: #777; --mark: #fd06; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; }
h2 { font-size: 1.15rem; margin-top: 2.5rem; border-top: 1px solid var(--edge); padding-top: 1rem; }
h3 { font-size: 1rem; margin-bottom: .3rem; }
table { border-collapse: collapse; font: 13px/1.4 ui-monospace, monospace; }
th, td { padding: .1rem .7rem; text-align: left; border-bottom: 1px solid var(--edge); vertical-align: top; }
.wrong { background: var(--mark); } .differs { color: var(--wrong); font-weight: 600; } .note { color: var(--note); }
.conclusion { font-size: 1.05rem; border-left: 4px solid var(--wrong); padding: .3rem .8rem; }
"""


def page(reports: Reports) -> str:
    """The whole document."""
    title = f"Divergences of {escape(reports.guest)}"
    body = "".join(_report(number, report) for number, report in enumerate(reports.reports, 1))
    if reports.left_out:
        body += f"<p class=note>{reports.left_out} more were not looked at.</p>"
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style></head>"
        f"<body><h1>{title}</h1>{body or '<p>No divergence.</p>'}</body></html>\n"
    )


def _report(number: int, report: Report) -> str:
    who = "nobody knows whose fault" if report.module is None else f"module {report.module}"
    parts = [
        f"<h2>{number}. {escape(report.kind)} {escape(report.where)}: {who}, {escape(report.verdict)}</h2>",
        f"<p class=conclusion>{escape(report.conclusion)}</p>",
        f"<p>The modules agreed at position {report.verified:,}; the difference was found at {report.found:,}.</p>",
    ]
    if report.faults:
        parts.append("<p>Injected: " + ", ".join(f"<code>{escape(fault)}</code>" for fault in report.faults) + "</p>")
    if report.reproduced and not report.as_before:
        parts.append("<p class=note>Done again, the module did not come to quite the same as in the machine.</p>")
    if report.origin is not None:
        parts.append(_items(f"Where they first differ, {report.origin.at}", report.origin.items, report.origin.hidden))
    if report.listing:
        rows = [
            (["wrong"] if line.wrong else [], [line.address, line.code, line.text, line.symbol])
            for line in report.listing
        ]
        parts.append("<h3>The code</h3>" + _table((), rows))
    if report.before is not None and report.after is not None:
        parts.append(_registers(report.before, report.after))
        parts.append(_items(f"After it, {report.after.at}", report.after.items, report.after.hidden))
    parts += [_dump(dump) for dump in report.dumps]
    if report.aftermath:
        after_rows = [
            (
                list[str](),
                [
                    f"{after.instructions:,}",
                    places(after.sound, after.faulty),
                    str(after.registers),
                    str(after.memory),
                    ", ".join(item.where for item in after.items[:12]),
                ],
            )
            for after in report.aftermath
        ]
        heads = ("instructions later", "at", "registers", "runs of memory", "what differs")
        parts.append("<h3>What became of it</h3>" + _table(heads, after_rows))
    if report.output is not None:
        output_rows = [
            (list[str](), ["should be", report.output.sound]),
            (["wrong"], ["would be", report.output.faulty]),
        ]
        where = between(report.output.after, report.output.position)
        parts.append(f"<h3>The first wrong output, {where}</h3>" + _table((), output_rows))
    elif report.reproduced:
        parts.append(f"<p>No output would have been wrong up to position {report.looked_until:,}.</p>")
    if not report.reproduced:
        parts.append(_items("What the comparison found", report.comparison, 0))
    return "".join(parts)


def _table(heads: Sequence[str], rows: Iterable[tuple[Sequence[str], Sequence[str]]]) -> str:
    """``rows``: classes and cells."""
    head = "<tr>" + "".join(f"<th>{escape(text)}</th>" for text in heads) + "</tr>" if heads else ""
    lines = "".join(
        f'<tr class="{" ".join(classes)}">' + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
        for classes, cells in rows
    )
    return f"<table>{head}{lines}</table>"


def _items(title: str, items: Sequence[Item], hidden: int) -> str:
    rows = [
        (
            list[str](),
            [f"{item.kind} {item.where}", item.sound, item.faulty, ", ".join(map(str, item.bits)), item.symbol],
        )
        for item in items
    ]
    more = f"<p class=note>and {hidden} more</p>" if hidden else ""
    return f"<h3>{escape(title)}</h3>" + _table(("what", "should be", "was", "bits", ""), rows) + more


def _registers(before: State, after: State) -> str:
    names = [*GENERAL, *(name for name in before.sound if name not in GENERAL)]
    rows = []
    for name in names:
        cells = [side.get(name, "-") for state in (before, after) for side in (state.sound, state.faulty)]
        differs = cells[0] != cells[1] or cells[2] != cells[3]
        if name in GENERAL or differs:
            rows.append((["differs"] if differs else [], [name, *cells]))
    heads = ("register", "before: sound", "faulty", "after: sound", "faulty")
    return "<h3>Registers</h3>" + _table(heads, rows)


def _dump(dump: Dump) -> str:
    sound, faulty = bytes.fromhex(dump.sound), bytes.fromhex(dump.faulty)
    lines = []
    for at in range(0, len(sound), 16):
        ours, theirs = sound[at : at + 16], faulty[at : at + 16]
        cells = [
            " ".join(
                f"<span class=differs>{byte:02x}</span>" if byte != other else f"{byte:02x}"
                for byte, other in zip(side, against, strict=True)
            )
            for side, against in ((ours, theirs), (theirs, ours))
        ]
        lines.append(f"<tr><td>{dump.offset + at:08x}</td><td>{cells[0]}</td><td>{cells[1]}</td></tr>")
    head = "<tr><th>RAM</th><th>sound</th><th>faulty</th></tr>"
    return f"<h3>Memory from {dump.offset:#x}</h3><table>{head}{''.join(lines)}</table>"

"""A campaign's figures for people and for programs: as plain text, one HTML page, CSV, Parquet."""

import csv
import io
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import msgspec

from ftvm import charts
from ftvm.campaign.store import Store
from ftvm.campaign.summary import BIT_COLUMNS, Share, Spread, Summary, Table, Vulnerability
from ftvm.errors import HostError
from ftvm.faults.outcome import Outcome

COLOURS = {
    Outcome.MASKED: "#BBBBBB",
    Outcome.RECOVERED: "#009E73",
    Outcome.FAILED_OVER: "#56B4E9",
    Outcome.SDC: "#D55E00",
    Outcome.CRASH: "#E69F00",
    Outcome.HANG: "#CC79A7",
    Outcome.MACHINE_CRASH: "#000000",
}
SHOWN_REGISTERS = 60
SHOWN_SYMBOLS = 40


def percent(share: Share) -> str:
    """The share with its interval."""
    return f"{share.share:7.2%} [{share.low:.2%}, {share.high:.2%}]"


def _side_by_side(tables: Sequence[Table]) -> list[list[str]]:
    """Rows of outcome classes, a column for each table; classes that never came are left out unless they matter."""
    rows = []
    for outcome in Outcome:
        shares = [table.outcomes[outcome] for table in tables]
        if any(share.count for share in shares) or outcome in (Outcome.SDC, Outcome.MACHINE_CRASH):
            rows.append([str(outcome), *(f"{share.count:,}  {percent(share).strip()}" for share in shares)])
    rows.append(["(of these: output right, final state not)", *(f"{table.latent:,}" for table in tables)])
    return rows


def _lines(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table as aligned text."""
    widths = [max(len(row[place]) for row in [heads, *rows]) for place in range(len(heads))]
    for row in [heads, *rows]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        yield "  ".join(cells).rstrip()


def text(summary: Summary, results: Path) -> str:
    """The whole report as plain text."""
    lines = [
        f"Campaign {summary.name}: {summary.complete:,} of {summary.planned:,} experiments complete",
        f"planned {summary.facts.get('planned_at', '?')} by ftvm {summary.facts.get('ftvm', '?')},"
        f" out of {int(summary.facts.get('faults', '0')):,} possible faults;"
        f" intervals: Wilson, {summary.confidence:.0%}",
        "",
    ]
    for title, tables in (
        ("Outcomes", summary.totals),
        ("By guest", summary.by_guest),
        ("By target", summary.by_group),
    ):
        lines += [title, ""]
        for name in dict.fromkeys(table.title for table in tables):
            of_name = [table for table in tables if table.title == name]
            heads = [name, *(f"{table.column} ({table.trials:,})" for table in of_name)]
            lines += [*_lines(heads, _side_by_side(of_name)), ""]
    lines += ["Detection and recovery (duplex)", "", *_lines(_SPREAD_HEADS, _spread_rows(summary)), ""]
    lines.append(f"faults charged to a module that did not have them: {summary.charged_wrongly}")
    if summary.pruned:
        lines.append(f"not injected because they cannot have an effect (counted as masked): {summary.pruned:,}")
    for title, found in (("registers", summary.registers), ("symbols", summary.symbols)):
        lines += ["", f"Most vulnerable {title} (share of faults not masked in simplex)", ""]
        rows = [[v.name, f"{v.trials:,}", percent(v.avf).strip()] for v in found[:20]]
        lines += _lines(["", "trials", "AVF"], rows)
    lines += ["", "Worst experiments", ""]
    lines += [f"  {replay(results, bad.experiment):<50} {_describe(bad)}" for bad in summary.worst[:20]]
    return "\n".join(lines) + "\n"


def outcomes(summary: Summary) -> str:
    """Only the table of all outcomes."""
    heads = ["", *(f"{table.column} ({table.trials:,})" for table in summary.totals)]
    return "\n".join(_lines(heads, _side_by_side(summary.totals))) + "\n"


def replay(results: Path, experiment: int) -> str:
    """The command that opens one experiment."""
    return f"ftvm campaign replay {results} {experiment}"


def _describe(bad: Any) -> str:
    bit = "" if bad.bit is None else f" bit {bad.bit}"
    where = f" in {bad.symbol}" if bad.symbol else ""
    return f"{bad.column} {bad.outcome}: {bad.guest}, {bad.target}{bit} at {bad.position}{where} ({bad.ending})"


_SPREAD_HEADS = ["", "count", "median", "99 %", "longest"]


def _spread_rows(summary: Summary) -> list[list[str]]:
    rows: list[tuple[str, Spread | None]] = [
        ("blocks from fault to detection", summary.detected_after_blocks),
        ("ms from fault to detection", summary.detected_ms),
        ("ms to recover", summary.recovered_ms),
    ]
    return [
        [name, f"{spread.count:,}", f"{spread.median:,}", f"{spread.p99:,}", f"{spread.max:,}"]
        for name, spread in rows
        if spread is not None
    ]


def html(summary: Summary, results: Path) -> str:
    """The whole report as one page that needs nothing else."""
    parts = [
        f'<p class="note">{summary.complete:,} of {summary.planned:,} experiments complete, drawn from'
        f" {int(summary.facts.get('faults', '0')):,} possible faults. Intervals: Wilson, {summary.confidence:.0%}."
        f"<br><code>{escape(summary.facts.get('command', ''))}</code><br>"
        f"ftvm {escape(summary.facts.get('ftvm', ''))}, {escape(summary.facts.get('planned_at', ''))}</p>",
        "<h2>Outcomes</h2>",
        _bars(summary.totals, lambda table: table.column),
        _outcome_table(summary.totals),
    ]
    for title, tables in (("By guest", summary.by_guest), ("By target", summary.by_group)):
        parts += [f"<h2>{title}</h2>", _bars(tables, lambda table: f"{table.title[:12]} {table.column}")]
        for name in dict.fromkeys(table.title for table in tables):
            parts += [f"<h3>{escape(name)}</h3>", _outcome_table([t for t in tables if t.title == name])]
    parts += [
        "<h2>Detection and recovery in duplex</h2>",
        charts.table(_SPREAD_HEADS, _spread_rows(summary)),
        charts.histogram(summary.detected_after, "blocks from fault to detection"),
        f"<p>Faults charged to a module that did not have them: {summary.charged_wrongly}.</p>",
        "<h2>Vulnerability of registers</h2>",
        '<p class="note">Share of faults that were not masked in simplex (AVF), by bits, lowest first.</p>',
        _heat_map(summary.registers[:SHOWN_REGISTERS]),
        "<h2>Vulnerability of symbols</h2>",
        '<p class="note">The function that was about to run when the fault struck, or the datum that was hit.</p>',
        _heat_map(summary.symbols[:SHOWN_SYMBOLS]),
        "<h2>Worst experiments</h2>",
        charts.table(["", "look at it"], [[_describe(bad), replay(results, bad.experiment)] for bad in summary.worst]),
    ]
    return charts.page(f"Campaign {summary.name}", "\n".join(parts))


def _bars(tables: Sequence[Table], label: Any) -> str:
    rows = [(str(label(table)), {str(o): table.outcomes[o].share for o in Outcome}) for table in tables]
    return charts.bars(rows, {str(outcome): colour for outcome, colour in COLOURS.items()})


def _outcome_table(tables: Sequence[Table]) -> str:
    return charts.table(["", *(f"{table.column} ({table.trials:,})" for table in tables)], _side_by_side(tables))


def _heat_map(found: Sequence[Vulnerability]) -> str:
    rows, styles = [], []
    for v in found:
        parts = ["" if part is None else f"{part:.0%}" for part in v.parts]
        rows.append([v.name, f"{v.trials:,}", percent(v.avf).strip(), *parts])
        heat = ["" if part is None else charts.heat(part) for part in v.parts]
        styles.append(["", "", charts.heat(v.avf.share), *heat])
    return charts.table(["", "trials", "AVF", *(f"{n + 1}/{BIT_COLUMNS}" for n in range(BIT_COLUMNS))], rows, styles)


# ---- one row for each trial ----


def rows(store: Store) -> Iterator[dict[str, Any]]:
    """Every result with its experiment, flat."""
    experiments = {experiment.id: experiment for experiment in store.experiments()}
    guests = [guest.image for guest in store.plan.guest]
    for trial in store.trials():
        experiment = msgspec.structs.asdict(experiments[trial.experiment])
        del experiment["fault"], experiment["id"]
        experiment["guest"] = guests[experiment["guest"]]
        yield {**msgspec.structs.asdict(trial), **experiment}


def to_csv(store: Store) -> str:
    """All results as CSV with a head."""
    file = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    for row in rows(store):
        if writer is None:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            writer.writeheader()
        writer.writerow(row)
    return file.getvalue()


def to_parquet(store: Store, path: Path) -> None:
    """All results as a Parquet file. Raises HostError without pyarrow."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise HostError("Parquet needs pyarrow, which is not installed", "pip install 'ftvm[parquet]'") from None
    try:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows(store))), path)
    except OSError as error:
        raise HostError(f"{path} cannot be written: {error}") from None

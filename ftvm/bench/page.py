"""The results of benchmarks as one HTML page.

Every figure of a result is in a table: those with a median and a spread, side by side. What it has under
``plots`` is drawn: {"title", "x", "y", "series": {name: [[x, y], ...]}} as lines, {"title", "x", "values": [...]} as a
histogram.
"""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from ftvm import charts

Document = Mapping[str, Any]


def page(documents: Sequence[Document]) -> str:
    """One section for each result."""
    return charts.page("ftvm benchmarks", "\n".join(_section(document) for document in documents))


def _section(document: Document) -> str:
    host = document.get("host", {})
    facts = (
        f"ftvm {document.get('ftvm')} (build {document.get('build')}), Python {document.get('python')},"
        f" {document.get('qemu') or 'no QEMU'}; {host.get('cpu')}, {host.get('cores')} cores,"
        f" Linux {host.get('kernel')}; load before {host.get('load_before')}, stolen {host.get('stolen')};"
        f" {', '.join(f'{name} {value}' for name, value in document.get('settings', {}).items())}"
    )
    results = document.get("results", {})
    plots = results.get("plots", [])
    return "\n".join(
        [
            f"<h2>{escape(str(document.get('benchmark')))}</h2>",
            f'<p class="note">{escape(facts)}</p>',
            *_plots(plots),
            *_tables({key: value for key, value in results.items() if key != "plots"}),
        ]
    )


def _plots(plots: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for plot in plots:
        yield f"<h3>{escape(plot['title'])}</h3>"
        if "series" in plot:
            series = {name: [(x, y) for x, y in points] for name, points in plot["series"].items()}
            yield charts.lines(series, plot["x"], plot["y"])
        else:
            yield charts.histogram(charts.bins(plot["values"]), plot["x"])


def _tables(results: Mapping[str, Any]) -> Iterator[str]:
    """Tables where values are objects, those of one kind together; a list of facts elsewhere."""
    tables: list[_Table] = []
    for name, value in results.items():
        if isinstance(value, Mapping):
            row = dict(_flat("", value))
            table = next((table for table in tables if table.takes(row)), None)
            if table is None:
                tables.append(table := _Table())
            table.add(name, row)
    for table in tables:
        yield charts.table(["", *table.heads], table.cells())
    rest = [[name, _text(value)] for name, value in results.items() if not isinstance(value, Mapping)]
    if rest:
        yield charts.table(["", ""], rest)


class _Table:
    """Rows of which each has all columns of the others, or some of them."""

    def __init__(self) -> None:
        self.heads: list[str] = []
        self._rows: dict[str, dict[str, Any]] = {}

    def takes(self, row: Mapping[str, Any]) -> bool:
        return set(row) <= set(self.heads) or set(self.heads) <= set(row)

    def add(self, name: str, row: dict[str, Any]) -> None:
        self.heads += [head for head in row if head not in self.heads]
        self._rows[name] = row

    def cells(self) -> list[list[str]]:
        return [[name, *(_text(row.get(head, "")) for head in self.heads)] for name, row in self._rows.items()]


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A spread becomes one cell; any other object its members."""
    if isinstance(value, Mapping) and not {"median", "min", "max"} <= set(value):
        for key, below in value.items():
            yield from _flat(f"{path} {key}".strip(), below)
    else:
        yield path, value


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{_number(value['median'])} ({_number(value['min'])} to {_number(value['max'])})"
    return _number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _number(value: float) -> str:
    """Four digits are enough, and all of a whole number."""
    return f"{value:,}" if isinstance(value, int) else f"{float(f'{value:.4g}'):,}".removesuffix(".0")

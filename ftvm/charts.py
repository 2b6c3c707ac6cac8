"""Pictures for reports, as SVG that stands in an HTML page and needs nothing from outside.

For all eyes: series differ in shape and dash as well as in colour (palette: M. Okabe and K. Ito, Color Universal
Design, 2008), heat goes from light to dark, and every figure stands beside its number.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from html import escape

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LETTER = 8
"""Room for one, in the type of the pictures."""
_DASHES = ("none", "6 3", "2 2", "8 3 2 3", "1 3", "10 4", "4 1")

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 72em; padding: 0 1em; color: #111; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 2em; }
table { border-collapse: collapse; margin: 0.7em 0; }
th, td { padding: 0.2em 0.6em; border-bottom: 1px solid #ccc; text-align: right; }
th:first-child, td:first-child { text-align: left; } td.text { text-align: left; }
code, pre { font: 13px ui-monospace, monospace; } pre { background: #f4f4f4; padding: 0.6em; overflow-x: auto; }
svg { max-width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: #111; }
.note { color: #444; }
"""


def page(title: str, body: str) -> str:
    """A whole HTML page."""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n<h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], styles: Sequence[Sequence[str]] | None = None) -> str:
    """An HTML table; ``styles`` has one CSS declaration (or '') for each cell. All text is escaped."""
    lines = ["<table><thead><tr>", *(f"<th>{escape(head)}</th>" for head in heads), "</tr></thead><tbody>"]
    for at, row in enumerate(rows):
        cells = []
        for place, cell in enumerate(row):
            style = styles[at][place] if styles else ""
            cells.append(f'<td style="{escape(style)}">{escape(cell)}</td>' if style else f"<td>{escape(cell)}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return "".join([*lines, "</tbody></table>"])


def heat(share: float) -> str:
    """CSS for a cell: white for 0, dark blue for 1, in equal steps of lightness; text stays readable."""
    share = min(max(share, 0.0), 1.0)
    red, green, blue = (round(255 + (end - 255) * share) for end in (8, 48, 107))
    return f"background: rgb({red},{green},{blue}); color: {'#fff' if share > 0.5 else '#111'}"


def bars(rows: Sequence[tuple[str, Mapping[str, float]]], colours: Mapping[str, str]) -> str:
    """One bar of whole length for each row, divided into shares; a share's name is in the legend and its tooltip."""
    left, width, height = 120, 640, 22
    parts = []
    for row, (label, shares) in enumerate(rows):
        y = 4 + row * (height + 6)
        parts.append(f'<text x="{left - 8}" y="{y + 15}" text-anchor="end">{escape(label)}</text>')
        x = float(left)
        for name, share in shares.items():
            tip = f"{label}, {name}: {share:.2%}"
            parts.append(
                f'<rect x="{x:.2f}" y="{y}" width="{share * width:.2f}" height="{height}" fill="{colours[name]}"'
                f' stroke="#fff" stroke-width="0.5"><title>{escape(tip)}</title></rect>'
            )
            x += share * width
    y = 4 + len(rows) * (height + 6) + 6
    x = float(left)
    for name, colour in colours.items():
        parts.append(f'<rect x="{x:.0f}" y="{y}" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{x + 16:.0f}" y="{y + 11}">{escape(name)}</text>')
        x += 30 + LETTER * len(name)
    return _svg(max(left + width + 10, x), y + 20, parts)


FEW_BINS = 10
"""Not more can all have their number below."""


def bins(values: Sequence[float]) -> dict[int, int]:
    """How often values of each size came: bin n is for those from 10^(n/4) on, up to the next. Only what is above 0."""
    return dict(sorted(Counter(math.floor(math.log10(value) * 4) for value in values if value > 0).items()))


def histogram(bins: Mapping[int, int], label: str) -> str:
    """Those counts as columns."""
    if not bins:
        return '<p class="note">Nothing to show.</p>'
    first, last, most = min(bins), max(bins), max(bins.values())
    left, top, height, step = 60, 10, 180, max(12, min(60, 640 // (last - first + 1)))
    parts = [_axis_text(left - 6, top + 8, f"{most:,}", "end"), _axis_text(left - 6, top + height, "0", "end")]
    for place in range(first, last + 1):
        count = bins.get(place, 0)
        tall = height * count / most
        x = left + (place - first) * step
        tip = f"{_short(10 ** (place / 4))} to {_short(10 ** ((place + 1) / 4))} {label}: {count:,}"
        parts.append(
            f'<rect x="{x}" y="{top + height - tall:.1f}" width="{step - 1}" height="{tall:.1f}" fill="{PALETTE[0]}">'
            f"<title>{escape(tip)}</title></rect>"
        )
        if place % 4 == 0 or last - first < FEW_BINS:
            parts.append(_axis_text(x, top + height + 16, _short(10 ** (place / 4)), "middle"))
    width = (last - first + 1) * step
    parts.append(f'<path d="M{left} {top}v{height}h{width}" fill="none" stroke="#111"/>')
    parts.append(_axis_text(left + width / 2, top + height + 34, label, "middle"))
    return _svg(left + width + 40, top + height + 44, parts)


def lines(series: Mapping[str, Sequence[tuple[float, float]]], x_label: str, y_label: str) -> str:
    """Points that belong together, joined: x on a logarithmic scale when it spans more than a factor of twenty."""
    points = [point for values in series.values() for point in values]
    if not points:
        return '<p class="note">Nothing to show.</p>'
    xs, ys = [x for x, _ in points], [y for _, y in points]
    logarithmic = min(xs) > 0 and max(xs) / min(xs) > 20
    scale: Callable[[float], float] = math.log10 if logarithmic else float
    low, high = scale(min(xs)), scale(max(xs))
    bottom, ceiling = min(0.0, min(ys)), max(ys) * 1.08 or 1.0
    left, top, width, height = 70, 10, 560, 240

    def place(x: float, y: float) -> tuple[float, float]:
        across = (scale(x) - low) / (high - low) if high > low else 0.5
        return left + across * width, top + height * (1 - (y - bottom) / (ceiling - bottom))

    parts = [f'<path d="M{left} {top}v{height}h{width}" fill="none" stroke="#111"/>']
    for tick in range(5):
        value = bottom + (ceiling - bottom) * tick / 4
        y = place(xs[0], value)[1]
        parts.append(f'<path d="M{left} {y:.1f}h{width}" stroke="#ddd"/>')
        parts.append(_axis_text(left - 6, y + 4, _short(value), "end"))
    for x in sorted(set(xs)):
        parts.append(_axis_text(place(x, bottom)[0], top + height + 16, _short(x), "middle"))
    for index, (name, values) in enumerate(series.items()):
        colour, dash = PALETTE[index % len(PALETTE)], _DASHES[index % len(_DASHES)]
        path = "L".join("{:.1f} {:.1f}".format(*place(x, y)) for x, y in sorted(values))
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>')
        for x, y in values:
            parts.append(_marker(index, *place(x, y), colour, f"{name}: {_short(x)}, {_short(y)}"))
        y = top + 14 + 18 * index
        parts.append(_marker(index, left + width + 20, y - 4, colour, name))
        parts.append(_axis_text(left + width + 32, y, name, "start"))
    parts.append(_axis_text(left + width / 2, top + height + 34, x_label, "middle"))
    parts.append(
        f'<text transform="translate(16 {top + height / 2}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
    )
    return _svg(left + width + 40 + LETTER * max(map(len, series)), top + height + 44, parts)


def _marker(index: int, x: float, y: float, colour: str, tip: str) -> str:
    shapes = (
        f"M{x - 4:.1f} {y:.1f}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0",
        f"M{x - 4:.1f} {y - 4:.1f}h8v8h-8z",
        f"M{x:.1f} {y - 5:.1f}l5 9h-10z",
        f"M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z",
    )
    return f'<path d="{shapes[index % len(shapes)]}" fill="{colour}"><title>{escape(tip)}</title></path>'


def _axis_text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _short(value: float) -> str:
    """Three digits are enough on an axis: 20k, 1.5M, 0.031."""
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{suffix}"
    return f"{value:.3g}"


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width:.0f}" height="{height:.0f}"'
        f' viewBox="0 0 {width:.0f} {height:.0f}">{"".join(parts)}</svg>'
    )

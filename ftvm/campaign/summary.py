"""The figures of a campaign, counted from its results file: what every report, in whatever form, is made of."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

import msgspec

from ftvm import charts
from ftvm.campaign.experiment import Experiment, Trial
from ftvm.campaign.plan import Column, share
from ftvm.campaign.rig import PRUNED
from ftvm.campaign.statistics import Interval, wilson
from ftvm.campaign.store import Store
from ftvm.faults.outcome import Outcome
from ftvm.module.registers import REGISTERS

SUMMARY_VERSION = 1
WORST_LISTED = 50
"""Experiments that are named one by one."""
BIT_COLUMNS = 8
"""A register's bits are shown in so many parts."""

_ORDER = list(Outcome)
_BAD = (Outcome.MACHINE_CRASH, Outcome.SDC, Outcome.CRASH, Outcome.HANG)


class Share(msgspec.Struct, frozen=True):
    """``count`` of so many trials, with its Wilson interval at the plan's confidence."""

    count: int
    share: float
    low: float
    high: float


class Table(msgspec.Struct, frozen=True):
    """Outcome classes of some trials in one column. ``latent``: output as golden, final state not."""

    title: str
    column: Column
    trials: int
    outcomes: dict[str, Share]
    latent: int


class Vulnerability(msgspec.Struct, frozen=True):
    """AVF: the share of faults in ``name`` that were not masked in simplex; ``parts`` by bit, lowest bits first, where
    there were trials."""

    name: str
    trials: int
    avf: Share
    parts: list[float | None]


class Spread(msgspec.Struct, frozen=True):
    """Of some measured values."""

    count: int
    median: float
    p99: float
    max: float


class Bad(msgspec.Struct, frozen=True):
    """An experiment worth a look."""

    experiment: int
    column: Column
    outcome: str
    ending: str
    guest: str
    target: str
    bit: int | None
    position: int
    symbol: str | None


class Summary(msgspec.Struct, frozen=True):
    """What ``ftvm campaign report --json`` writes. ``detected_after``: blocks, in bins as of charts.bins()."""

    version: int
    name: str
    facts: dict[str, str]
    confidence: float
    planned: int
    complete: int
    totals: list[Table]
    by_guest: list[Table]
    by_group: list[Table]
    registers: list[Vulnerability]
    symbols: list[Vulnerability]
    detected_after_blocks: Spread | None
    detected_ms: Spread | None
    recovered_ms: Spread | None
    detected_after: dict[int, int]
    charged_wrongly: int
    pruned: int
    wall_s: float
    worst: list[Bad]


Pair = tuple[Experiment, Trial]


def summarize(store: Store) -> Summary:
    """Count everything. Raises UnusableFile for a damaged file."""
    plan, facts = store.plan, store.facts
    experiments = {experiment.id: experiment for experiment in store.experiments()}
    pairs = [(experiments[trial.experiment], trial) for trial in store.trials()]
    confidence = share(plan.confidence)

    def tables(title: Callable[[Experiment], str]) -> list[Table]:
        groups: dict[tuple[str, Column], list[Pair]] = defaultdict(list)
        for experiment, trial in pairs:
            groups[title(experiment), trial.column].append((experiment, trial))
        return [
            _table(name, column, members, confidence)
            for (name, column), members in sorted(groups.items(), key=lambda item: item[0])
        ]

    guests = [_short_name(guest.image) for guest in plan.guest]
    per_experiment = Counter(trial.experiment for _, trial in pairs)
    duplex = [(e, t) for e, t in pairs if t.column == "duplex"]
    detected = [(e, t) for e, t in duplex if t.detected_after is not None]
    simplex = [(e, t) for e, t in pairs if t.column == "simplex"]
    after = [float(t.detected_after) for _, t in detected if t.detected_after is not None]
    return Summary(
        version=SUMMARY_VERSION,
        name=plan.name,
        facts={key: value for key, value in facts.items() if key not in ("plan", "golden")},
        confidence=confidence,
        planned=store.planned(),
        complete=sum(count == len(plan.columns) for count in per_experiment.values()),
        totals=tables(lambda experiment: "all"),
        by_guest=tables(lambda experiment: guests[experiment.guest]),
        by_group=tables(lambda experiment: " ".join(plan.fault[experiment.group].targets)),
        registers=_vulnerabilities(simplex, confidence, lambda e, t: e.target if _is_register(e.target) else None),
        symbols=_vulnerabilities(simplex, confidence, lambda e, t: t.symbol),
        detected_after_blocks=_spread(after),
        detected_ms=_spread([t.detected_ms for _, t in detected if t.detected_ms is not None]),
        recovered_ms=_spread([t.recovered_ms for _, t in detected if t.recovered_ms is not None]),
        detected_after=charts.bins(after),
        charged_wrongly=sum(t.charged is not None and t.charged != e.module for e, t in detected),
        pruned=sum(t.verdict == PRUNED for _, t in pairs),
        wall_s=sum(t.wall_ms for _, t in pairs) / 1e3,
        worst=[
            Bad(e.id, t.column, t.outcome, t.ending, guests[e.guest], e.target, e.bit, e.position, t.symbol)
            for e, t in _worst(pairs)
        ],
    )


def _is_register(target: str) -> bool:
    """Of the processor or of a chip."""
    return target in REGISTERS or target.startswith("chip:")


def _table(title: str, column: Column, pairs: Sequence[Pair], confidence: float) -> Table:
    counts = Counter(trial.outcome for _, trial in pairs)
    named = [*_ORDER, *sorted(set(counts) - set(_ORDER))]
    shares = {name: _share(counts[name], len(pairs), confidence) for name in named}
    latent = sum(trial.latent and trial.outcome not in _BAD for _, trial in pairs)
    return Table(title, column, len(pairs), shares, latent)


def _share(count: int, trials: int, confidence: float) -> Share:
    interval: Interval = wilson(count, trials, confidence)
    return Share(count, interval.share, interval.low, interval.high)


def _vulnerabilities(
    pairs: Iterable[Pair], confidence: float, name: Callable[[Experiment, Trial], str | None]
) -> list[Vulnerability]:
    groups: dict[str, list[Pair]] = defaultdict(list)
    for experiment, trial in pairs:
        if (called := name(experiment, trial)) is not None:
            groups[called].append((experiment, trial))
    found = []
    for called, members in groups.items():
        top = max((e.bit or 0 for e, _ in members), default=0) + 1
        width = max(1, -(-top // BIT_COLUMNS))
        parts: list[list[bool]] = [[] for _ in range(BIT_COLUMNS)]
        for experiment, trial in members:
            parts[(experiment.bit or 0) // width].append(trial.outcome != Outcome.MASKED)
        found.append(
            Vulnerability(
                called,
                len(members),
                _share(sum(t.outcome != Outcome.MASKED for _, t in members), len(members), confidence),
                [statistics.fmean(part) if part else None for part in parts],
            )
        )
    # By what is certain: three hits of three say less than ninety of a hundred.
    return sorted(found, key=lambda v: (-v.avf.low, -v.trials, v.name))


def _worst(pairs: Iterable[Pair]) -> list[Pair]:
    """Those that must not be first: what went wrong in duplex, then what went silently wrong in simplex."""

    def rank(pair: Pair) -> tuple[int, int, int]:
        experiment, trial = pair
        return (trial.column != "duplex", _BAD.index(Outcome(trial.outcome)), experiment.id)

    bad = [pair for pair in pairs if pair[1].outcome in _BAD]
    return sorted(bad, key=rank)[:WORST_LISTED]


def _spread(values: Sequence[float]) -> Spread | None:
    if not values:
        return None
    ordered = sorted(values)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return Spread(len(values), round(statistics.median(values), 3), round(p99, 3), round(ordered[-1], 3))


def _short_name(image: str) -> str:
    return image.rpartition("/")[2]

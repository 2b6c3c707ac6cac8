"""What a campaign found, in every form: the figures are right, and a page needs nothing from outside."""

import csv
import io
from pathlib import Path

import msgspec
import pyarrow.parquet
import pytest

from ftvm.campaign import report
from ftvm.campaign.experiment import Trial
from ftvm.campaign.store import Store
from ftvm.campaign.summary import Summary, summarize
from ftvm.faults.outcome import Outcome
from tests.campaign.plans import experiment, small, trial

COUNT = 100


def outcome(number: int, column: str) -> str:
    if column == "duplex":
        return "detected-recovered" if number % 4 else "masked"
    return ("masked", "masked", "sdc", "crash", "hang")[number % 5]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "results.sqlite"
    Store.create(path, {"faults": "1000000", "ftvm": "1"}, small(), [experiment(number) for number in range(COUNT)])
    trials: list[Trial] = []
    for number in range(COUNT):
        trials += [trial(number, "duplex", outcome(number, "duplex")), trial(number, "simplex", outcome(number, "x"))]
    with Store.write(path) as store:
        store.add(trials)
    return path


@pytest.fixture
def summary(path: Path) -> Summary:
    with Store.read(path) as store:
        return summarize(store)


def test_outcomes_are_counted_in_each_column(summary: Summary) -> None:
    assert (summary.planned, summary.complete) == (COUNT, COUNT)
    duplex, simplex = summary.totals
    assert {name: share.count for name, share in duplex.outcomes.items() if share.count} == {
        "masked": 25,
        "detected-recovered": 75,
    }
    assert {name: share.count for name, share in simplex.outcomes.items() if share.count} == {
        "masked": 40,
        "sdc": 20,
        "crash": 20,
        "hang": 20,
    }
    sdc = simplex.outcomes[Outcome.SDC]
    assert (sdc.share, round(sdc.low, 4), round(sdc.high, 4)) == (0.2, 0.1334, 0.2888)  # Wilson, 95 %


def test_vulnerability_is_the_share_that_was_not_masked_in_simplex(summary: Summary) -> None:
    (rax,) = summary.registers
    assert (rax.name, rax.trials, rax.avf.share) == ("rax", COUNT, 0.6)
    assert rax.parts[0] == pytest.approx(8 / 16)  # bits 0 to 7 of experiments 0 to 7 and 64 to 71
    (main,) = summary.symbols
    assert (main.name, main.avf.share) == ("main", 0.6)


def test_latencies_are_of_what_was_detected(summary: Summary) -> None:
    assert summary.detected_after_blocks is not None
    assert summary.detected_after_blocks.count == 75
    assert summary.detected_after_blocks.max == 1099


def test_the_worst_come_first_and_can_be_looked_at(summary: Summary) -> None:
    assert {bad.outcome for bad in summary.worst[:20]} == {"sdc"}
    assert "ftvm campaign replay r.sqlite 2 " in report.text(summary, Path("r.sqlite"))


def test_an_incomplete_campaign_says_so(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    Store.create(other, {}, small(), [experiment(number) for number in range(COUNT)])
    with Store.write(other) as store:
        store.add([trial(0), trial(0, "simplex"), trial(1)])
        assert (summarize(store).planned, summarize(store).complete) == (COUNT, 1)


def test_text_and_page_show_the_same_figures(summary: Summary) -> None:
    text, html = report.text(summary, Path("r.sqlite")), report.html(summary, Path("r.sqlite"))
    for figure in ("75  75.00% [65.70%, 82.45%]", "20  20.00% [13.34%, 28.88%]"):
        assert figure in text
        assert figure in html
    assert html.count("<svg") >= 4
    assert all(outside not in html for outside in ("<script", "<link", "src=", "@import"))


def test_a_report_of_nothing_is_a_report(tmp_path: Path) -> None:
    Store.create(tmp_path / "empty", {}, small(), [experiment(0)])
    with Store.read(tmp_path / "empty") as store:
        nothing = summarize(store)
        assert report.to_csv(store) == ""
    assert "0 of 1" in report.text(nothing, Path("empty"))
    assert "0 of 1" in report.html(nothing, Path("empty"))


def test_json_csv_and_parquet_have_everything(path: Path, summary: Summary, tmp_path: Path) -> None:
    assert msgspec.json.decode(msgspec.json.encode(summary), type=Summary) == summary
    with Store.read(path) as store:
        rows = list(csv.DictReader(io.StringIO(report.to_csv(store))))
        report.to_parquet(store, tmp_path / "results.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "results.parquet")
    assert (len(rows), table.num_rows) == (2 * COUNT, 2 * COUNT)
    assert list(rows[0]) == table.column_names
    assert [row["outcome"] for row in rows] == table.column("outcome").to_pylist()

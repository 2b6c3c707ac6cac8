"""``ftvm campaign`` as its user meets it."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ftvm.campaign.store import Store
from ftvm.cli._frame import ftvm
from ftvm.errors import FtvmError, UnusableFile, UsageError
from tests.campaign.plans import SMALL


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(ftvm, ["campaign", *map(str, arguments)])


def refused(*arguments: str | Path) -> FtvmError:
    error = invoke(*arguments).exception
    assert isinstance(error, FtvmError)
    return error


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("campaign")
    (folder / "plan.toml").write_text(SMALL)
    made = invoke("run", folder / "plan.toml", "--experiments", "10", "--workers", "1", "--out", folder / "r.sqlite")
    assert made.exit_code == 0, made.output
    assert "detected-recovered" in made.output
    said = made.stderr.splitlines()
    assert said[0] == "golden run 1 of 1: hello"
    assert re.fullmatch(r"hello: [\d,]+ blocks from 0 on, then exit 0", said[1])
    assert re.fullmatch(r"drawing 10 experiments out of [\d,]+ possible faults", said[2])
    assert said[3] == "experiments: 0 of 10"
    assert any(re.match(r"experiments: 10 of 10 \(100%\), [\d.]+ per second", line) for line in said)
    return folder / "r.sqlite"


def test_a_campaign_is_run_reported_and_shown(results: Path, tmp_path: Path) -> None:
    assert "10 of 10 experiments complete" in invoke("report", results).stdout
    for option in ("--html", "--csv", "--parquet", "--json"):
        assert invoke("report", results, option, tmp_path / option).exit_code == 0
        assert (tmp_path / option).stat().st_size > 100
    shown = invoke("show", results, "3").stdout
    assert "experiment 3: flip of" in shown
    assert "duplex: " in shown
    assert "simplex: " in shown


def test_an_experiment_is_replayed_in_the_repl(results: Path, tmp_path: Path) -> None:
    with Store.read(results) as store:
        number, first = next((t.experiment, t.first) for t in store.trials() if t.outcome == "detected-recovered")
        position = store.experiment(number).position
    (tmp_path / "script").write_text("run\nverdict\n")
    replayed = invoke("replay", results, str(number), "-x", tmp_path / "script")
    assert replayed.exit_code == 0, replayed.output
    assert f"position {position:,}" in replayed.stdout
    assert str(first) in replayed.stdout  # the same comparison, whichever module shows it


def test_a_finished_campaign_has_nothing_to_resume(results: Path) -> None:
    before = results.read_bytes()
    assert invoke("resume", results).exit_code == 0
    assert results.read_bytes() == before


def test_margin_and_confidence_say_how_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftvm.cli.campaign._carry_on", lambda *arguments: 0)
    (tmp_path / "plan.toml").write_text(SMALL)
    out = tmp_path / "r.sqlite"
    assert invoke("run", tmp_path / "plan.toml", "--margin", "5%", "--confidence", "95%", "--out", out).exit_code == 0
    with Store.read(out) as store:
        assert store.planned() == 385


def test_what_cannot_be_is_refused_before_anything_starts(results: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(SMALL)
    plan, out = tmp_path / "plan.toml", tmp_path / "r.sqlite"
    assert isinstance(refused("run", plan, "--out", results), UsageError)
    assert isinstance(refused("run", plan, "--out", out, "--margin", "1%", "--experiments", "5"), UsageError)
    assert isinstance(refused("run", plan, "--out", out, "--workers", "1", "--dask", "tcp://x:1"), UsageError)
    assert isinstance(refused("run", plan, "--out", out, "--margin", "much"), UsageError)
    assert isinstance(refused("run", tmp_path / "none", "--out", out), UnusableFile)
    assert isinstance(refused("show", results, "99"), UsageError)
    assert isinstance(refused("report", tmp_path / "none"), UnusableFile)
    assert not out.exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('"hello"', '"no-such-guest"'), "no-such-guest"),
        (('targets = ["general", "rip", "rflags"]', 'targets = ["rax9"]'), "rax9"),
        (('targets = ["general", "rip", "rflags"]', 'targets = ["symbol:none"]'), "none"),
        (('targets = ["general", "rip", "rflags"]', 'targets = ["ram:0x1000-0x10000000"]'), "not RAM"),
        (('targets = ["general", "rip", "rflags"]', 'targets = ["rax"]\nkind = "bend"'), "bend"),
        (('targets = ["general", "rip", "rflags"]', 'targets = ["module"]'), "flip"),
        (('targets = ["general", "rip", "rflags"]', 'targets = ["chip:pit.nothing:0-3"]'), "nothing"),
        (('memory = "2M"', 'memory = "2M"\nstart = 1000000'), "did not come to the campaign's start: exit"),
        (('memory = "2M"', 'memory = "2M"\nstart_text = "never"'), "did not come to the campaign's start: exit"),
    ],
)
def test_a_plan_that_its_guest_does_not_fit_is_refused(change: tuple[str, str], said: str, tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(SMALL.replace(*change))
    error = refused("run", tmp_path / "plan.toml", "--out", tmp_path / "r.sqlite")
    assert said in error.message
    assert not (tmp_path / "r.sqlite").exists()

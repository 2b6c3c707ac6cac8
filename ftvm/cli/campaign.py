"""``ftvm campaign``: thousands of experiments with one fault each, with lockstep and without."""

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import click
import msgspec

from ftvm.campaign import campaign, report
from ftvm.campaign.guest import MODULES
from ftvm.campaign.plan import Column, load_plan, share
from ftvm.campaign.pool import LocalPool
from ftvm.campaign.store import Store
from ftvm.campaign.summary import summarize
from ftvm.campaign.work import Assignment, Pool
from ftvm.cli._output import json_option, output_file, write_json
from ftvm.cli._progress import progress
from ftvm.cli._replay import replay
from ftvm.errors import HostError, UsageError
from ftvm.exitcodes import ExitCode

_results = click.argument("results", type=click.Path(path_type=Path))
_workers = click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=None,
    help="Worker processes here. Each runs up to three modules. Default: half the cores.",
)
_dask = click.option("--dask", metavar="ADDRESS", help="Run them on the dask workers behind this scheduler instead.")


@click.group("campaign")
def command() -> None:
    """Inject thousands of faults, one at a time, and count what came of them: in lockstep, and without it.

    \b
    Example:
      ftvm campaign run plan.toml --out results.sqlite
      ftvm campaign report results.sqlite --html report.html
      ftvm campaign show results.sqlite 17
    """


@command.command("run")
@click.argument("plan", type=click.Path(path_type=Path))
@click.option("--out", metavar="FILE", required=True, type=click.Path(path_type=Path), help="The results file to make.")
@click.option("--experiments", type=click.IntRange(min=1), help="How many, whatever the plan says.")
@click.option("--margin", metavar="SHARE", help="Or: as many as keep every share's error below this, such as 1%.")
@click.option("--confidence", metavar="SHARE", help="With which confidence, such as 99%.")
@_workers
@_dask
def run(
    plan: Path,
    out: Path,
    experiments: int | None,
    margin: str | None,
    confidence: str | None,
    workers: int | None,
    dask: str | None,
) -> ExitCode:
    """Run a whole campaign. It can be ended at any time: 'resume' goes on.

    PLAN is described in docs/campaign-plans.md.

    \b
    Example:
      ftvm campaign run plan.toml --out results.sqlite
      ftvm campaign run plan.toml --margin 1% --confidence 99% --out results.sqlite
      ftvm campaign run plan.toml --dask tcp://scheduler:8786 --out results.sqlite
    """
    if experiments is not None and margin is not None:
        raise UsageError("both --experiments and --margin", "give one of them")
    _one_place(workers, dask)
    changes: dict[str, Any] = {}
    if experiments is not None:
        changes = {"experiments": experiments, "margin": None}
    if margin is not None:
        share(margin)
        changes = {"experiments": None, "margin": margin}
    if confidence is not None:
        share(confidence)
        changes["confidence"] = confidence
    what = msgspec.structs.replace(load_plan(plan), **changes)
    with progress() as shown:
        campaign.plan(out, what, shown)
    return _carry_on(out, workers, dask)


@command.command("resume")
@_results
@_workers
@_dask
def resume(results: Path, workers: int | None, dask: str | None) -> ExitCode:
    """Run the experiments that have no result yet.

    \b
    Example:
      ftvm campaign resume results.sqlite --workers 4
    """
    _one_place(workers, dask)
    return _carry_on(results, workers, dask)


@command.command("report")
@_results
@click.option("--html", "html_file", metavar="FILE", type=output_file, help="One page that needs nothing else.")
@click.option("--csv", "csv_file", metavar="FILE", type=output_file, help="One line for each result.")
@click.option("--parquet", metavar="FILE", type=click.Path(path_type=Path), help="The same; needs ftvm[parquet].")
@json_option
def make_report(
    results: Path,
    html_file: BinaryIO | None,
    csv_file: BinaryIO | None,
    parquet: Path | None,
    json_file: BinaryIO | None,
) -> ExitCode:
    """Count the results: outcome classes with intervals, detection, vulnerability, the worst experiments.

    As plain text on standard output, unless another form is asked for. Also while the campaign runs.

    \b
    Example:
      ftvm campaign report results.sqlite
      ftvm campaign report results.sqlite --html report.html --csv results.csv
    """
    with Store.read(results) as store:
        summary = summarize(store)
        if html_file is not None:
            html_file.write(report.html(summary, results).encode())
        if csv_file is not None:
            csv_file.write(report.to_csv(store).encode())
        if parquet is not None:
            report.to_parquet(store, parquet)
    if json_file is not None:
        write_json(json_file, msgspec.json.format(msgspec.json.encode(summary)))
    if not any((html_file, csv_file, parquet, json_file)):
        click.echo(report.text(summary, results), nl=False)
    return ExitCode.OK


@command.command("show")
@_results
@click.argument("experiment", type=int)
@json_option
def show(results: Path, experiment: int, json_file: BinaryIO | None) -> ExitCode:
    """What one experiment was, and what came of it.

    \b
    Example:
      ftvm campaign show results.sqlite 17
    """
    with Store.read(results) as store:
        what, trials = store.experiment(experiment), store.trials(experiment)
        guest = store.plan.guest[what.guest]
    if json_file is not None:
        write_json(json_file, msgspec.json.encode({"experiment": what, "trials": trials}))
        return ExitCode.OK
    bit = "" if what.bit is None else f" bit {what.bit}"
    click.echo(f"experiment {what.id}: {what.kind} of {what.target}{bit} in module {what.module}")
    click.echo(f"  {guest.image} {guest.append}".rstrip() + f", at position {what.position}")
    for trial in trials:
        click.echo(f"{trial.column}: {trial.outcome} ({trial.ending}) after {trial.blocks:,} blocks")
        for name, value in msgspec.structs.asdict(trial).items():
            if value is not None and name not in ("experiment", "column", "outcome", "ending", "blocks"):
                click.echo(f"  {name}: {value}")
    click.echo(f"look at it: {report.replay(results, experiment)}")
    return ExitCode.OK


@command.command("replay")
@_results
@click.argument("experiment", type=int)
@click.option("--column", type=click.Choice(list(MODULES)), default="duplex", show_default=True, help="How it is run.")
@click.option(
    "-x", "--script", metavar="FILE", type=click.File(), help="Do the commands in FILE ('-': standard input)."
)
def replay_experiment(results: Path, experiment: int, column: Column, script: TextIO | None) -> int:
    """Open one experiment in the REPL, at the fault: 'run', and see what comes of it.

    It needs the build of ftvm that planned the campaign.

    \b
    Example:
      ftvm campaign replay results.sqlite 17
      ftvm campaign replay results.sqlite 17 -x commands.txt
    """
    with Store.read(results) as store:
        plan = campaign.assignment_of(store).plan
        what = store.experiment(experiment)
    return replay(plan, what, column, script, "" if script is None else script.name)


def _one_place(workers: int | None, dask: str | None) -> None:
    if workers is not None and dask is not None:
        raise UsageError("both --workers and --dask", "the dask cluster has its own number of workers")


def _carry_on(results: Path, workers: int | None, dask: str | None) -> ExitCode:
    """Experiments to the end, then the outcome table."""

    def make_pool(assignment: Assignment) -> AbstractContextManager[Pool]:
        if dask is not None:
            return _dask_pool(assignment, dask)
        return LocalPool(assignment, workers or max(1, len(os.sched_getaffinity(0)) // 2))

    with progress() as shown:
        campaign.carry_on(results, make_pool, shown)
    with Store.read(results) as store:
        summary = summarize(store)
    click.echo(report.outcomes(summary), nl=False)
    click.echo(f"more: ftvm campaign report {results}", err=True)
    return ExitCode.OK


def _dask_pool(assignment: Assignment, address: str) -> AbstractContextManager[Pool]:
    try:
        from ftvm.campaign.dask_pool import DaskPool
    except ImportError:
        raise HostError("dask.distributed is not installed", "pip install 'ftvm[dask]'") from None
    return DaskPool(assignment, address)

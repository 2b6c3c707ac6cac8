"""``ftvm bench``: measure what lockstep costs here, and what it buys."""

import shlex
from typing import Any, BinaryIO

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ftvm.bench import page, scripts
from ftvm.bench.scripts import Benchmark
from ftvm.cli._output import json_option, output_file, write_json
from ftvm.errors import HostError, UsageError
from ftvm.exitcodes import ExitCode

REPORT_VERSION = 1
"""Of the object that ``--json`` writes: {version, benchmarks: [what each benchmark wrote]}."""


@click.command("bench")
@click.argument("names", nargs=-1)
@click.option("--list", "only_list", is_flag=True, help="Only say which there are.")
@click.option("--arguments", metavar="TEXT", default="", help="For the benchmark, if one is named: '--repetitions 3'.")
@click.option("--html", "html_file", metavar="FILE", type=output_file, help="Tables and plots, as one page.")
@json_option
def command(
    names: tuple[str, ...], only_list: bool, arguments: str, html_file: BinaryIO | None, json_file: BinaryIO | None
) -> ExitCode:
    """Run benchmarks, all of them unless NAMES are given. It takes minutes; a quiet machine gives figures worth having.

    Every result says on what it was measured, and how often; comparisons are made in turn, within one run.

    \b
    Example:
      ftvm bench --list
      ftvm bench lockstep --arguments '--repetitions 3' --html lockstep.html
      ftvm bench --json all.json
    """
    if arguments and len(names) != 1:
        raise UsageError("--arguments without exactly one benchmark", "name the one that they are for")
    chosen = [scripts.find(name) for name in names] or scripts.available()
    if only_list:
        for benchmark in chosen:
            click.echo(f"{benchmark.name:<16} {benchmark.about}")
        return ExitCode.OK
    documents: list[dict[str, Any]] = []
    failures: list[HostError] = []
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.fields[name]}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
        console=console,
        disable=not console.is_terminal,
    ) as bars:
        for benchmark in chosen:
            task = bars.add_task("", name=benchmark.name, total=None)

            def show(line: str, done: int, total: int, task: Any = task, benchmark: Benchmark = benchmark) -> None:
                if not console.is_terminal:
                    click.echo(f"{benchmark.name}: {line}", err=True)
                bars.update(task, description=line[:80])
                if total:
                    bars.update(task, completed=done, total=total)

            try:
                documents.append(scripts.run(benchmark, shlex.split(arguments), show))
                bars.update(task, completed=1, total=1, description="done")
            except HostError as error:  # the others can be measured all the same
                failures.append(error)
                bars.update(task, description="failed")
    if json_file is not None:
        write_json(json_file, msgspec.json.format(msgspec.json.encode(_report(documents))))
    if html_file is not None:
        html_file.write(page.page(documents).encode())
    if json_file is html_file is None:
        for document in documents:
            click.echo(msgspec.json.format(msgspec.json.encode(document)).decode())
    for failure in failures[:-1]:
        click.echo(f"error: {failure.message}", err=True)
    if failures:
        raise failures[-1]
    return ExitCode.OK


def _report(documents: list[dict[str, Any]]) -> dict[str, Any]:
    return {"version": REPORT_VERSION, "benchmarks": documents}

"""``ftvm explain``: show a divergence report that was saved."""

from pathlib import Path
from typing import BinaryIO

import click
import msgspec

from ftvm.cli._output import json_option, output_file, write_json
from ftvm.debug.divergence import report
from ftvm.debug.divergence.page import page
from ftvm.debug.divergence.text import text


@click.command("explain")
@click.argument("file", type=Path)
@click.option("--html", "html_file", metavar="OUT", type=output_file, help="Write it as one HTML page.")
@json_option
def command(file: Path, html_file: BinaryIO | None, json_file: BinaryIO | None) -> int:
    """Show what 'ftvm run --divergence-report FILE' found out: which instruction first went wrong, what it did to
    registers and memory, and which output would have been wrong.

    \b
    Example:
      ftvm explain div.json                     after: ftvm run workload --divergence-report div.json
      ftvm explain div.json --html div.html
    """
    reports = report.load(file)
    if html_file is not None:
        html_file.write(page(reports).encode())
        html_file.flush()
    if json_file is not None:
        write_json(json_file, msgspec.json.encode(reports))
    if html_file is None and json_file is None:
        click.echo(text(reports), nl=False)
    return 0

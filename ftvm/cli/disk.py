"""``ftvm disk``: make, look at and mend mirrored disks that no machine has in service."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from ftvm.cli._output import json_option, write_json
from ftvm.exitcodes import ExitCode
from ftvm.legs import LegChanged, LegFault
from ftvm.storage import admin
from ftvm.storage.blocking import BlockingDisk
from ftvm.storage.events import Event, Mismatch, Repaired, Unreadable
from ftvm.storage.opening import open_disk
from ftvm.units import format_size, parse_size

_files = click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))


@click.group("disk")
def command() -> None:
    """Make, look at and mend mirrored disks, while no machine uses them.

    The legs of a disk are plain raw images, which QEMU boots, too. Beside each is a small file of metadata
    (a.img.ftvm): what it is a leg of, and where it may differ from the others.

    \b
    Example:
      ftvm disk create a.img b.img --size 4G
      ftvm run debian-cloud --disk a.img,b.img
      ftvm disk status a.img b.img
    """


@command.command("create")
@_files
@click.option("--size", metavar="SIZE", type=parse_size, required=True, help="Size of the disk; 512M and 4G are known.")
@click.option("--integrity", is_flag=True, help="Keep a checksum for every block, which finds and mends silent errors.")
def create(files: tuple[Path, ...], size: int, integrity: bool) -> None:
    """Make an empty disk of new files: a mirror of two or more, or a single image.

    \b
    Example:
      ftvm disk create a.img b.img --size 4G
      ftvm disk create a.img b.img --size 512M --integrity
    """
    admin.create(files, size, with_integrity=integrity)
    click.echo(f"{_names(files)}: {format_size(size)}", err=True)


@command.command("check")
@_files
@json_option
def check(files: tuple[Path, ...], json_file: BinaryIO | None) -> ExitCode:
    """Read all legs and compare them; change nothing. Exit code 3 when the disk is not sound.

    \b
    Example:
      ftvm disk check a.img b.img
    """
    with _progress("comparing", sum(path.stat().st_size for path in files[:1] if path.exists())) as show:
        report = admin.check(files, show)
    if json_file is not None:
        write_json(json_file, msgspec.json.encode(report))
    else:
        click.echo(f"{_names(files)}: {'not sound' if report.problems else 'sound'}; {report.state}")
        for line in report.problems + report.notes:
            click.echo(f"  {line}")
    return ExitCode.UNUSABLE_FILE if report.problems else ExitCode.OK


@command.command("status")
@_files
@json_option
def status(files: tuple[Path, ...], json_file: BinaryIO | None) -> ExitCode:
    """Show what the metadata say, also of a disk that is in use. Exit code 3 when it cannot be used as it is.

    \b
    Example:
      ftvm disk status a.img b.img
      ftvm disk status a.img b.img --json - | jq .state
    """
    facts = admin.status(files)
    if json_file is not None:
        write_json(json_file, msgspec.json.encode(facts))
    else:
        integrity = ", checksums" if facts.integrity else ""
        click.echo(f"{facts.state}: {format_size(facts.size_bytes)}{integrity} {facts.array}".rstrip())
        for leg in facts.legs:
            click.echo(f"  {leg.path:<24} {_describe(leg)}")
        if facts.reason:
            click.echo(f"  {facts.reason}")
            click.echo(f"  hint: {facts.hint}")
    return ExitCode.UNUSABLE_FILE if facts.reason else ExitCode.OK


@command.command("resync")
@_files
@click.option(
    "--from", "right", metavar="FILE", type=click.Path(path_type=Path), help="This leg is right, by your word."
)
@click.option("--integrity", is_flag=True, help="With --from: keep a checksum for every block from now on.")
def resync(files: tuple[Path, ...], right: Path | None, integrity: bool) -> ExitCode:
    """Bring all legs in sync.

    Without --from, the metadata prove which leg is right, and only what the others lack is copied. With --from, FILE
    is copied over all others in full, whatever they contain; those that do not exist are created. This makes a
    mirror of an image, replaces a leg, and ends a split brain.

    \b
    Example:
      ftvm disk resync a.img b.img
      ftvm disk resync --from a.img a.img b.img
    """
    if integrity and right is None:
        raise click.UsageError("--integrity goes with --from")
    if right is not None:
        admin.decide(files, right, with_integrity=integrity)
    disk = BlockingDisk(open_disk(files, _tell))
    try:
        before = sum(leg.dirty_bytes for leg in disk.mirror.status().legs)
        with _progress("copying", before) as show:
            disk.resync(lambda: show(before - sum(leg.dirty_bytes for leg in disk.mirror.status().legs)))
        legs = disk.mirror.status().legs
    finally:
        disk.close()
    out = [leg for leg in legs if not leg.state.sound]
    for leg in out:
        click.echo(f"{leg.where} is not in sync: {leg.state}, {leg.reason}", err=True)
    return ExitCode.UNUSABLE_FILE if out else ExitCode.OK


@command.command("split")
@_files
def split(files: tuple[Path, ...]) -> None:
    """Make each of these legs a disk of its own: remove its metadata. The images stay as they are.

    \b
    Example:
      ftvm disk split a.img b.img
      ftvm disk split b.img               go on with b.img alone when a.img is lost
    """
    admin.split(files)
    click.echo(f"{_names(files)}: no longer part of a mirror", err=True)


@command.command("scrub")
@_files
@json_option
def scrub(files: tuple[Path, ...], json_file: BinaryIO | None) -> ExitCode:
    """Read everything from every leg, and repair what another leg has right. Exit code 3 when something stays wrong.

    What one leg cannot read is written again from the other. Where both can be read and differ, only checksums
    (--integrity) tell which is right; without them it is reported, and left alone.

    \b
    Example:
      ftvm disk scrub a.img b.img
    """
    disk = BlockingDisk(open_disk(files, _tell))
    try:
        disk.resync()
        with _progress("reading", disk.mirror.size_bytes) as show:
            report = disk.scrub(show)
    finally:
        disk.close()
    if json_file is not None:
        write_json(json_file, msgspec.json.encode(report))
    else:
        click.echo(
            f"{_names(files)}: {report.repaired} blocks repaired, {len(report.mismatched)} differ,"
            f" {len(report.unreadable)} cannot be read"
        )
    return ExitCode.OK if report.sound else ExitCode.UNUSABLE_FILE


def _names(files: tuple[Path, ...]) -> str:
    return ", ".join(map(str, files))


def _describe(leg: admin.LegFacts) -> str:
    if not leg.present:
        return "missing"
    if not leg.metadata:
        return "no metadata"
    words = ["in sync" if leg.in_sync else "to be copied", f"generation {leg.generation}"]
    if leg.in_use:
        words.append("in use")
    elif not leg.clean:
        words.append("not closed in good order")
    if leg.dirty_bytes:
        words.append(f"{format_size(leg.dirty_bytes)} marked")
    return ", ".join(words)


def _tell(event: Event) -> None:
    match event:
        case LegChanged(leg, state, reason):
            line = f"leg {leg} is {state}{f': {reason}' if reason else ''}"
        case LegFault(leg, reason, detail):
            line = f"leg {leg}: {reason}: {detail}"
        case Repaired(leg, offset, size):
            line = f"leg {leg}: repaired {size} bytes at {offset}"
        case Mismatch(offset, size):
            line = f"the legs differ in the {size} bytes at {offset}"
        case Unreadable(offset, size):
            line = f"no leg can give the {size} bytes at {offset}"
    click.echo(line, err=True)


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[..., Any]]:
    """A bar on standard error, when that is a terminal; yields what tells it how far it is."""
    columns = (TextColumn(what), BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn())
    console = Console(stderr=True)
    hidden = total == 0 or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)

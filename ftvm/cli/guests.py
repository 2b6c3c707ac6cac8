"""``ftvm guests``: what can be booted by name, and getting more."""

from typing import BinaryIO

import click
import msgspec

from ftvm.cli._output import json_option, write_json
from ftvm.guests import catalogue
from ftvm.guests import fetch as fetching


@click.group("guests")
def command() -> None:
    """List the guests that can be booted by name, or fetch some from Debian.

    \b
    Example:
      ftvm guests fetch debian-cloud
      ftvm run debian-cloud
    """


@command.command("list")
@json_option
def list_(json_file: BinaryIO | None) -> None:
    """List the guests that can be booted by name now.

    \b
    Example:
      ftvm guests list
      ftvm guests list --json - | jq '.[].name'
    """
    guests = catalogue.available()
    if json_file is not None:
        write_json(json_file, msgspec.json.encode(guests, enc_hook=str))
        return
    for guest in guests:
        click.echo(f"{guest.name:<14} {guest.kind:<11} {guest.description}")
    missing = sorted(fetching.RECIPES.keys() - {guest.name for guest in guests})
    if missing:
        click.echo(f"not fetched yet: {', '.join(missing)} (ftvm guests fetch NAME)")


@command.command("fetch")
@click.argument("names", metavar="NAME...", nargs=-1, required=True, type=click.Choice(list(fetching.RECIPES)))
def fetch(names: tuple[str, ...]) -> None:
    """Fetch guests through the system's own apt; nothing is installed, root is not needed.

    A Linux guest is Debian's kernel as it is in the package, with a root file system made of busybox-static and the
    kernel's own modules.

    \b
    Example:
      ftvm guests fetch debian-cloud debian memtest86+ grub-invaders
    """
    for name in names:
        click.echo(f"{name}: looking", err=True)
        news = "fetched" if fetching.fetch(name) else "is there already"
        click.echo(f"{name}: {news}", err=True)

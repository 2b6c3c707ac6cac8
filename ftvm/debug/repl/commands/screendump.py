"""``screendump``: the text screen as a picture."""

from pathlib import Path

import click

from ftvm.debug.repl.desk import Desk
from ftvm.debug.repl.parameters import FILE
from ftvm.errors import HostError


@click.command("screendump")
@click.argument("file", type=FILE)
@click.pass_obj
def command(desk: Desk, file: Path) -> None:
    """Draw the VGA's text screen into FILE, a PNG picture.

    \b
    Example:
      screendump screen.png
    """
    try:
        file.write_bytes(desk.machine.screenshot())
    except OSError as error:
        raise HostError(f"{file} cannot be written: {error.strerror}", "give a path that can be written") from None

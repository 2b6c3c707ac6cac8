"""Files that a command writes: opened while the command line is read, so that trouble shows before anything starts."""

import sys
from collections.abc import Callable
from typing import Any, BinaryIO

import click

from ftvm.errors import HostError


def output_file(path: str) -> BinaryIO:
    """The ``type=`` of an option that names a file to write; ``-`` is standard output. Raises HostError."""
    if path == "-":
        return sys.stdout.buffer
    try:
        # The context closes it when the command ends.
        return click.get_current_context().with_resource(open(path, "wb"))
    except OSError as error:
        raise HostError(f"{path} cannot be written: {error.strerror}", "give a path that can be written") from None


def live_output(json_file: BinaryIO | None) -> BinaryIO:
    """Where a guest's console is shown: with the report on standard output, it makes room for that."""
    return sys.stderr.buffer if json_file is sys.stdout.buffer else sys.stdout.buffer


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--json FILE``, as argument ``json_file``, for every command that reports something."""
    help_text = "Write the report as JSON; '-' is standard output."
    return click.option("--json", "json_file", type=output_file, metavar="FILE", help=help_text)(command)


def write_json(file: BinaryIO, encoded: bytes) -> None:
    file.write(encoded + b"\n")
    file.flush()

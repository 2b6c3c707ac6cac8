"""What ``ftvm run`` and ``ftvm repl`` share: which guest is booted, and how."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from ftvm.boot import KINDS
from ftvm.errors import UnusableFile, UsageError
from ftvm.guests import catalogue
from ftvm.machine import MachineConfig
from ftvm.units import parse_size

_OPTIONS = (
    click.option("--initrd", metavar="FILE", type=Path, help="Linux: the initial root file system."),
    click.option(
        "--append", metavar="TEXT", default="", help="The guest's command line (added to that of a known guest)."
    ),
    click.option(
        "--module-file",
        "module_files",
        metavar="'FILE [ARGUMENTS]'",
        multiple=True,
        help="A multiboot or PVH module, with its command line.",
    ),
    click.option("--protocol", type=click.Choice(KINDS), help="The boot protocol, where IMAGE does not tell."),
    click.option(
        "--memory", metavar="SIZE", type=parse_size, default="256M", show_default=True, help="RAM of the guest."
    ),
    click.option("--input", "input_path", metavar="FILE", help="Bytes for the serial console; '-' is standard input."),
    click.option(
        "--input-after", metavar="TEXT", help="Offer the input when this text came (default: known guest's own)."
    ),
)


class Boot(msgspec.Struct, frozen=True):
    """What the options above say."""

    initrd: Path | None
    append: str
    module_files: tuple[str, ...]
    protocol: str | None
    memory: int
    input_path: str | None
    input_after: str | None

    def guest(self, image: str, **of_machine: Any) -> MachineConfig:
        """The machine that boots ``image``; ``of_machine``: further fields of its configuration. Raises UsageError,
        UnusableFile."""
        if of_machine["interactive"] and self.input_path == "-":
            raise UsageError("standard input is both --input and the keyboard", "give --input a file")
        guest = _known_guest(image)
        initrd, append, protocol, input_after = self.initrd, self.append, self.protocol, self.input_after
        if guest is not None:
            initrd = initrd or guest.initrd
            append = f"{guest.append} {append}".strip()
            protocol = protocol or guest.kind
            if self.input_path is not None and input_after is None:
                input_after = guest.ready
        return MachineConfig(
            image=guest.path if guest else Path(image),
            initrd=initrd,
            append=append,
            memory_bytes=self.memory,
            input=None if self.input_path is None else _read_input(self.input_path),
            input_after=input_after,
            protocol=protocol,
            module_files=self.module_files,
            **of_machine,
        )


def boot_options(command: Callable[..., int]) -> Callable[..., int]:
    """The options that say what is booted, as the argument ``boot``."""

    @functools.wraps(command)
    def gathering(**arguments: Any) -> int:
        boot = Boot(**{name: arguments.pop(name) for name in Boot.__struct_fields__})
        return command(boot=boot, **arguments)

    for option in reversed(_OPTIONS):
        gathering = option(gathering)
    return gathering


def _known_guest(image: str) -> catalogue.Guest | None:
    guest = catalogue.find(image)
    if guest is None and not Path(image).exists():
        from ftvm.guests.fetch import RECIPES  # what gets guests takes long to load, and a run that is well needs none

        if image in RECIPES:
            raise UnusableFile(f"the guest {image!r} is not here yet", f"get it with: ftvm guests fetch {image}")
    return guest


def _read_input(path: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise UnusableFile(f"the input {path} cannot be read: {error.strerror}", "give a file, or '-'") from None

"""``ftvm run``: boot a guest on its modules and show its console until it ends."""

import sys
from pathlib import Path

import click

from ftvm.boot import KINDS
from ftvm.cli._machine import Settings, machine_options, run_machine
from ftvm.errors import UnusableFile, UsageError
from ftvm.guests import catalogue
from ftvm.guests.fetch import RECIPES
from ftvm.machine import MachineConfig
from ftvm.units import parse_size


@click.command("run")
@click.argument("image")
@click.option("--initrd", metavar="FILE", type=Path, help="Linux: the initial root file system.")
@click.option("--append", metavar="TEXT", default="", help="The guest's command line (added to that of a known guest).")
@click.option("--module-file", "module_files", metavar="FILE", type=Path, multiple=True, help="A multiboot module.")
@click.option("--protocol", type=click.Choice(KINDS), help="The boot protocol, where IMAGE does not tell.")
@click.option("--memory", metavar="SIZE", type=parse_size, default="256M", show_default=True, help="RAM of the guest.")
@click.option("--input", "input_path", metavar="FILE", help="Bytes for the serial console; '-' is standard input.")
@click.option("--input-after", metavar="TEXT", help="Offer the input when this text came (default: known guest's own).")
@machine_options
def command(
    image: str,
    initrd: Path | None,
    append: str,
    module_files: tuple[Path, ...],
    protocol: str | None,
    memory: int,
    input_path: str | None,
    input_after: str | None,
    settings: Settings,
) -> int:
    """Boot IMAGE on two CPUs in lockstep: compare all registers and all written memory at every sync point, and let
    out only what both agree on.

    IMAGE is a name that 'ftvm guests list' shows, or the path of a multiboot, Linux, PVH or ELF kernel or of a boot
    sector (./NAME for a file that is called like a guest).

    \b
    Example:
      ftvm run hello
      ftvm run debian-cloud
      ftvm run ./bzImage --initrd ./initrd.gz --append console=ttyS0
      ftvm run debian-cloud --input commands.txt --json result.json
      ftvm run debian-cloud --save-on-exit shell.save
    """
    if settings.interactive and input_path == "-":
        raise UsageError("standard input is both --input and the keyboard", "give --input a file")
    of_machine = settings.of_machine(keyboard_free=input_path is None or (settings.display and input_path != "-"))
    guest = _known_guest(image)
    if guest is not None:
        initrd = initrd or guest.initrd
        append = f"{guest.append} {append}".strip()
        protocol = protocol or guest.kind
        if input_path is not None and input_after is None:
            input_after = guest.ready
    config = MachineConfig(
        image=guest.path if guest else Path(image),
        initrd=initrd,
        append=append,
        memory_bytes=memory,
        input=None if input_path is None else _read_input(input_path),
        input_after=input_after,
        protocol=protocol,
        module_files=module_files,
        **of_machine,
    )
    return run_machine(config, settings)


def _known_guest(image: str) -> catalogue.Guest | None:
    guest = catalogue.find(image)
    if guest is None and image in RECIPES and not Path(image).exists():
        raise UnusableFile(f"the guest {image!r} is not here yet", f"get it with: ftvm guests fetch {image}")
    return guest


def _read_input(path: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise UnusableFile(f"the input {path} cannot be read: {error.strerror}", "give a file, or '-'") from None

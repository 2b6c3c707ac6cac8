"""``ftvm run``: boot a guest on its modules and show its console until it ends."""

import click

from ftvm.cli._boot import Boot, boot_options
from ftvm.cli._machine import Settings, machine_options, run_machine


@click.command("run")
@click.argument("image")
@boot_options
@machine_options
def command(image: str, boot: Boot, settings: Settings) -> int:
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
      ftvm run workload --fault module=1,target=rax:5,at=2000000 --fault module=0,target=module,kind=kill,at=text:chase
    """
    keyboard_free = boot.input_path is None or (settings.display and boot.input_path != "-")
    return run_machine(boot.guest(image, **settings.of_machine(keyboard_free)), settings)

"""The machines that a plan's guest runs on."""

from pathlib import Path

import msgspec

from ftvm.campaign.plan import CampaignPlan, Column, GuestPlan
from ftvm.debug import symbols
from ftvm.debug.symbols import Symbols
from ftvm.errors import UnusableFile
from ftvm.guests import catalogue
from ftvm.machine import MachineConfig
from ftvm.monitor.bays import DiskFiles
from ftvm.network.spec import NicSpec, parse_nic
from ftvm.storage.admin import create
from ftvm.units import parse_size

MODULES: dict[Column, int] = {"duplex": 2, "simplex": 1}


def image_of(guest: GuestPlan) -> Path:
    """The file of a guest that is named or given by its path. Raises UnusableFile."""
    known = catalogue.find(guest.image)
    path = known.path if known is not None else Path(guest.image)
    if not path.exists():
        raise UnusableFile(
            f"there is no guest and no file {guest.image}",
            "ftvm guests list shows the names; a path counts from the plan",
        )
    return path


def symbols_of(guest: GuestPlan) -> Symbols:
    """Names of its addresses: those of its image, and of the file that the plan names. Raises UnusableFile."""
    names = Symbols(symbols.of_image(image_of(guest)))
    if guest.symbols is not None:
        names.add(symbols.read(Path(guest.symbols)))
    return names


def make_disks(guest: GuestPlan, column: Column, folder: Path) -> tuple[DiskFiles, ...]:
    """The guest's disks, empty: mirrors with checksums, in simplex single images."""
    disks = []
    for bay, size in enumerate(guest.disks):
        legs = tuple(folder / f"disk{bay}.{leg}" for leg in range(MODULES[column]))
        create(legs, parse_size(size), with_integrity=len(legs) > 1)
        disks.append(DiskFiles(legs))
    return tuple(disks)


def config_of(plan: CampaignPlan, guest: GuestPlan, column: Column, disks: tuple[DiskFiles, ...] = ()) -> MachineConfig:
    """What machine an experiment in that column runs on."""
    known = catalogue.find(guest.image)
    initrd = None if guest.initrd is None else Path(guest.initrd)
    append, protocol, ready = guest.append, None, guest.input_after
    if known is not None:
        initrd = initrd or known.initrd
        append = f"{known.append} {append}".strip()
        protocol = known.kind
        if guest.input is not None:
            ready = ready or known.ready
    return MachineConfig(
        image_of(guest),
        initrd=initrd,
        append=append,
        protocol=protocol,
        memory_bytes=guest.memory_bytes,
        modules=MODULES[column],
        epoch_blocks=plan.epoch_blocks,
        stop_on=guest.stop_on,
        input=None if guest.input is None else guest.input.encode(),
        input_after=ready,
        disks=disks,
        nics=tuple(_nic(nic, column) for nic in guest.nics),
    )


def _nic(text: str, column: Column) -> NicSpec:
    """In simplex, it has one leg."""
    nic = parse_nic(text)
    return nic if column == "duplex" else msgspec.structs.replace(nic, legs=nic.legs[:1])

"""What ``status`` answers: the machine and all its parts, as values. The human table is made from the same."""

from collections.abc import Iterable
from datetime import datetime

import msgspec

from ftvm.monitor.policing import Threshold

STATUS_VERSION = 1

IN_SERVICE = frozenset({"duplexed", "online"})
"""States of a part that does its work."""


class PartStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What modules and legs have in common.

    ``state`` is duplexed (in service beside others), duplexing (on its way back), online (in service alone), offline
    (taken out by hand) or failed. ``faults`` counts by kind since the record was cleared; ``mtbf_s`` is None while they
    are too few to tell; ``threshold`` is what they are policed by (ftvm/monitor/policing.py).
    """

    index: int
    state: str
    faults: dict[str, int] = {}
    mtbf_s: float | None = None
    last_fault: datetime | None = None
    threshold: Threshold


class ModuleStatus(PartStatus, frozen=True, kw_only=True):
    """``dirty_pages`` were written in the newest epoch; ``longest_pause_ms`` is what its last return cost the guest."""

    pid: int | None
    position: int
    dirty_pages: int
    longest_pause_ms: float | None
    restarts: int


class LegStatus(PartStatus, frozen=True, kw_only=True):
    """One host-side half of a disk or NIC; ``where`` says which file or interface. ``progress`` is how much of what it
    lacks is there, from 0 to 1, while it is being brought back."""

    where: str
    progress: float | None = None
    active: bool | None = None


class DeviceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A disk or a NIC. Its legs are targets ``NAME.INDEX``. The ``state`` of a disk is duplex, resync (a leg is on its
    way back), simplex (one leg is left), or unmirrored (there is only one); that of a NIC duplex, simplex
    (one leg has a link) or down."""

    name: str
    state: str
    legs: list[LegStatus]


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The machine. ``state`` is what ``machine_state`` makes of the modules; positions are in guest blocks."""

    version: int = STATUS_VERSION
    name: str
    pid: int
    state: str
    position: int
    sync_points: int
    wall_s: float
    virtual_s: float
    longest_pause_ms: float
    modules: list[ModuleStatus]
    disks: list[DeviceStatus] = []
    nics: list[DeviceStatus] = []


def machine_state(modules: Iterable[str]) -> str:
    """One word for a machine, from the states of its modules.

    resync while one is on its way back; else, by how many serve, simplex, duplex or triplex, or down between the loss
    of the last one and its restart.
    """
    states = list(modules)
    if "duplexing" in states:
        return "resync"
    return ("down", "simplex", "duplex", "triplex")[sum(state in IN_SERVICE for state in states)]

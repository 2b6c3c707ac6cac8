"""Faults in disk and NIC legs: what the values of ftvm/module/fault.py mean to the rooms that have such legs."""

from collections.abc import Iterable

from ftvm.errors import UsageError
from ftvm.module.fault import Leg
from ftvm.network import faulty as network
from ftvm.storage import faulty as storage


def disk_fault(leg: Leg) -> storage.Fault:
    """Raises UsageError for a model, or settings, that disks do not have."""
    if leg.model not in set(storage.FaultModel):
        raise UsageError(f"there is no kind {leg.model!r} of fault in a disk", _known(storage.FaultModel))
    fault = storage.Fault(storage.FaultModel(leg.model), **leg.settings)  # type: ignore[arg-type]
    for name in ("offset", "size", "count", "seconds"):
        if getattr(fault, name) < 0:
            raise UsageError(f"{name} {getattr(fault, name)} of a fault in a disk", "it counts from 0")
    if not 0 <= fault.bit < 8 or fault.seconds > 60:
        raise UsageError(f"bit {fault.bit}, {fault.seconds} seconds", "bits are 0 to 7, seconds up to 60")
    return fault


def nic_fault(leg: Leg) -> network.Fault:
    """The same for a NIC."""
    settings = dict(leg.settings)
    direction = settings.pop("direction", network.Direction.BOTH)
    if leg.model not in set(network.FaultModel):
        raise UsageError(f"there is no kind {leg.model!r} of fault in a NIC", _known(network.FaultModel))
    if direction not in set(network.Direction):
        raise UsageError(f"{direction!r} is no direction", _known(network.Direction))
    model = network.FaultModel(leg.model)
    return network.Fault(model, network.Direction(direction), **settings)  # type: ignore[arg-type]


def check_leg(leg: Leg) -> None:
    """Raises UsageError for a fault that no leg of this kind can have."""
    if leg.device.startswith("disk"):
        disk_fault(leg)
    else:
        nic_fault(leg)


def _known(models: Iterable[str]) -> str:
    return f"there are {', '.join(models)}"

"""A running machine as its control socket sees it (ftvm/control/verbs.py, Controlled)."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from ftvm.control.status import DeviceStatus, LegStatus, ModuleStatus, Status, machine_state
from ftvm.control.verbs import Target
from ftvm.display.screen import Screen
from ftvm.errors import UsageError
from ftvm.legs import LegStatus as DeviceLeg
from ftvm.monitor.image import VerifiedImage
from ftvm.monitor.legs import LegRecord, Legs
from ftvm.monitor.lockstep import Lockstep
from ftvm.monitor.policing import Policing
from ftvm.monitor.service import Service, Slot


class Owner(Protocol):
    """What only the whole machine can do (ftvm/machine.py)."""

    def suspend(self, path: Path) -> None: ...
    def request_stop(self) -> None: ...
    def screen(self) -> Screen: ...
    def send_keys(self, text: str) -> None: ...


class Management:
    """All calls at a sync point."""

    def __init__(
        self,
        machine: Owner,
        name: str,
        service: Service,
        lockstep: Lockstep,
        image: VerifiedImage,
        disks: Sequence[Legs] = (),
        nics: Sequence[Legs] = (),
    ) -> None:
        self._machine = machine
        self._name = name
        self._service = service
        self._lockstep = lockstep
        self._image = image
        self._disks = disks
        self._nics = nics
        self._began_s = time.monotonic()

    def status(self) -> Status:
        modules = [self._module(slot) for slot in self._service.slots]
        return Status(
            name=self._name,
            pid=os.getpid(),
            state=machine_state(module.state for module in modules),
            position=self._image.position,
            sync_points=self._lockstep.sync_points,
            wall_s=time.monotonic() - self._began_s,
            virtual_s=self._image.virtual_ns() / 1e9,
            longest_pause_ms=self._lockstep.longest_pause_s * 1e3,
            modules=modules,
            disks=[device_status(disk) for disk in self._disks],
            nics=[device_status(nic) for nic in self._nics],
        )

    def _module(self, slot: Slot) -> ModuleStatus:
        serves = slot.handle is not None
        return ModuleStatus(
            index=slot.index,
            state=self._service.state_of(slot),
            faults=dict(slot.policing.counts),
            mtbf_s=slot.policing.mtbf_s,
            last_fault=slot.last_fault,
            threshold=slot.policing.threshold,
            pid=slot.pid if serves else None,
            position=self._image.position if serves else 0,
            dirty_pages=self._lockstep.dirty_pages.get(slot.index, 0) if serves else 0,
            longest_pause_ms=slot.join_pause_ms,
            restarts=slot.restarts,
        )

    def policing(self, target: Target) -> Policing:
        if isinstance(target, int):
            return self._service.slot(target).policing
        legs, leg = self._leg(target)
        return legs.records[leg].policing

    def pull(self, target: Target) -> None:
        if isinstance(target, int):
            self._service.pull(target)
        else:
            legs, leg = self._leg(target)
            legs.pull(leg)

    def insert(self, target: Target) -> None:
        if isinstance(target, int):
            self._service.insert(target)
        else:
            legs, leg = self._leg(target)
            legs.insert(leg)

    def _leg(self, target: str) -> tuple[Legs, int]:
        """The device and the index of the leg ``disk0.1``. Raises UsageError for one that is not there."""
        there = {
            f"{legs.name}.{leg}": (legs, leg)
            for legs in (*self._disks, *self._nics)
            for leg in range(len(legs.records))
        }
        if target not in there:
            modules = f"modules are 0 to {len(self._service.slots) - 1}"
            raise UsageError(f"there is no {target!r} in this machine", ", ".join([modules, *there]))
        return there[target]

    def suspend(self, path: str) -> None:
        self._machine.suspend(Path(path))

    def quit(self) -> None:
        self._machine.request_stop()

    def screen(self) -> Screen:
        return self._machine.screen()

    def send_keys(self, keys: str) -> None:
        self._machine.send_keys(keys)


def device_status(legs: Legs) -> DeviceStatus:
    """A disk or a NIC, as an operator sees it."""
    now = legs.device.status()
    return DeviceStatus(
        name=legs.name,
        state=now.state,
        legs=[_leg_status(leg, record) for leg, record in zip(now.legs, legs.records, strict=True)],
    )


def _leg_status(leg: DeviceLeg, record: LegRecord) -> LegStatus:
    return LegStatus(
        index=leg.index,
        state=leg.state.value,
        faults=dict(record.policing.counts),
        mtbf_s=record.policing.mtbf_s,
        last_fault=record.last_fault,
        threshold=record.policing.threshold,
        where=leg.where,
        progress=leg.progress,
        active=leg.active,
    )

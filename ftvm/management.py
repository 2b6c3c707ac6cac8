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
from ftvm.monitor.block import Block
from ftvm.monitor.image import VerifiedImage
from ftvm.monitor.lockstep import Lockstep
from ftvm.monitor.net import Net
from ftvm.monitor.policing import Policing
from ftvm.monitor.service import Service, Slot
from ftvm.network import team as network
from ftvm.storage import mirror as storage
from ftvm.storage.events import LegState


class Owner(Protocol):
    """What only the whole machine can do (ftvm/machine.py)."""

    def suspend(self, path: Path) -> None: ...
    def request_stop(self) -> None: ...
    def screen(self) -> Screen: ...
    def send_keys(self, text: str) -> None: ...


class Managed(Protocol):
    """A device with legs, as an operator sees it."""

    def status(self) -> DeviceStatus: ...
    def policing(self, leg: int) -> Policing: ...
    def pull(self, leg: int) -> None: ...
    def insert(self, leg: int) -> None: ...


class ManagedDisk:
    """The disk behind the I/O half ``block``."""

    def __init__(self, block: Block) -> None:
        self._block = block

    def status(self) -> DeviceStatus:
        mirror = self._block.mirror.status()
        return DeviceStatus(
            name=self._block.name,
            state=mirror.state if len(mirror.legs) > 1 else "unmirrored",
            legs=[self._leg(leg) for leg in mirror.legs],
        )

    def _leg(self, leg: storage.LegStatus) -> LegStatus:
        record = self._block.legs.records[leg.index]
        return LegStatus(
            index=leg.index,
            state=leg.state.value,
            faults=dict(record.policing.counts),
            mtbf_s=record.policing.mtbf_s,
            last_fault=record.last_fault,
            threshold=record.policing.threshold,
            where=leg.path,
            progress=leg.progress if leg.state is LegState.DUPLEXING else None,
        )

    def policing(self, leg: int) -> Policing:
        return self._block.legs.records[leg].policing

    def pull(self, leg: int) -> None:
        self._block.legs.pull(self._block.mirror, leg)

    def insert(self, leg: int) -> None:
        self._block.legs.insert(self._block.mirror, leg)


class ManagedNic:
    """The NIC behind the I/O half ``net``."""

    def __init__(self, net: Net) -> None:
        self._net = net

    def status(self) -> DeviceStatus:
        nic = self._net.team.status()
        return DeviceStatus(name=self._net.name, state=nic.state, legs=[self._leg(leg) for leg in nic.legs])

    def _leg(self, leg: network.LegStatus) -> LegStatus:
        record = self._net.legs.records[leg.index]
        return LegStatus(
            index=leg.index,
            state=leg.state.value,
            faults=dict(record.policing.counts),
            mtbf_s=record.policing.mtbf_s,
            last_fault=record.last_fault,
            threshold=record.policing.threshold,
            where=leg.where,
            active=leg.active,
        )

    def policing(self, leg: int) -> Policing:
        return self._net.legs.records[leg].policing

    def pull(self, leg: int) -> None:
        self._net.legs.pull(self._net.team, leg)

    def insert(self, leg: int) -> None:
        self._net.legs.insert(self._net.team, leg)


class Management:
    """All calls at a sync point."""

    def __init__(
        self,
        machine: Owner,
        name: str,
        service: Service,
        lockstep: Lockstep,
        image: VerifiedImage,
        disks: Sequence[Managed] = (),
        nics: Sequence[Managed] = (),
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
            disks=[disk.status() for disk in self._disks],
            nics=[nic.status() for nic in self._nics],
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
        device, leg = self._leg(target)
        return device.policing(leg)

    def pull(self, target: Target) -> None:
        if isinstance(target, int):
            self._service.pull(target)
        else:
            device, leg = self._leg(target)
            device.pull(leg)

    def insert(self, target: Target) -> None:
        if isinstance(target, int):
            self._service.insert(target)
        else:
            device, leg = self._leg(target)
            device.insert(leg)

    def _leg(self, target: str) -> tuple[Managed, int]:
        """The device and the index of the leg ``disk0.1``. Raises UsageError for one that is not there."""
        name, _, index = target.partition(".")
        devices = {device.status().name: device for device in (*self._disks, *self._nics)}
        legs = [f"{each}.{leg.index}" for each, device in devices.items() for leg in device.status().legs]
        if target not in legs:
            there = f"modules are 0 to {len(self._service.slots) - 1}"
            raise UsageError(f"there is no {target!r} in this machine", ", ".join([there, *legs]))
        return devices[name], int(index)

    def suspend(self, path: str) -> None:
        self._machine.suspend(Path(path))

    def quit(self) -> None:
        self._machine.request_stop()

    def screen(self) -> Screen:
        return self._machine.screen()

    def send_keys(self, keys: str) -> None:
        self._machine.send_keys(keys)

"""A running machine as its control socket sees it (ftvm/control/verbs.py, Controlled)."""

import os
import time
from pathlib import Path
from typing import Protocol

from ftvm.control.status import ModuleStatus, Status, machine_state
from ftvm.control.verbs import Target
from ftvm.display.screen import Screen
from ftvm.errors import UsageError
from ftvm.monitor.image import VerifiedImage
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

    def __init__(self, machine: Owner, name: str, service: Service, lockstep: Lockstep, image: VerifiedImage) -> None:
        self._machine = machine
        self._name = name
        self._service = service
        self._lockstep = lockstep
        self._image = image
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
        if isinstance(target, str):
            raise UsageError(f"there is no {target!r} in this machine", "modules are 0, 1, ...")
        return self._service.slot(target).policing

    def pull(self, module: int) -> None:
        self._service.pull(module)

    def insert(self, module: int) -> None:
        self._service.insert(module)

    def suspend(self, path: str) -> None:
        self._machine.suspend(Path(path))

    def quit(self) -> None:
        self._machine.request_stop()

    def screen(self) -> Screen:
        return self._machine.screen()

    def send_keys(self, keys: str) -> None:
        self._machine.send_keys(keys)

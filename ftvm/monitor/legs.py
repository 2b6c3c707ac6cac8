"""The legs of a disk or a NIC, as an operator sees them: events, fault records, and who has had too many faults.

A mirror or a team says what happens to its legs, from within whatever it is asked; here that becomes events of the
machine, and the policing that takes a leg out of service.
"""

import time
from datetime import UTC, datetime

import msgspec

from ftvm.errors import FtvmError, UsageError
from ftvm.legs import LegChanged, LegFault, Legged, LegState, LegStatus
from ftvm.monitor.eventlog import (
    LEG_FAILED,
    LEG_FAULT,
    LEG_FILLING,
    LEG_JOINED,
    LEG_PULLED,
    Detail,
    EventLog,
)
from ftvm.monitor.policing import Policing, Verdict
from ftvm.network.events import ActiveLeg
from ftvm.network.events import Event as NicEvent
from ftvm.storage.events import Event as DiskEvent
from ftvm.storage.events import Mismatch, Repaired, Unreadable
from ftvm.storage.metadata import MAX_LEGS


class LegRecord(msgspec.Struct):
    """What there is to know of one leg beside its state."""

    policing: Policing = msgspec.field(default_factory=Policing)
    last_fault: datetime | None = None
    told: LegState = LegState.DUPLEXED
    """The state that events told last."""
    told_progress: float = 0.0
    unwanted: bool = False
    """It has had too many faults, and is to leave service."""


class Legs:
    """The legs of the device ``name``: they are called ``name.0``, ``name.1``, ..."""

    def __init__(self, name: str, log: EventLog) -> None:
        self.name = name
        self._log = log
        self._device: Legged | None = None
        self.records = [LegRecord() for _ in range(MAX_LEGS)]  # of a disk; a NIC has no more

    @property
    def device(self) -> Legged:
        assert self._device is not None, "begin comes first"
        return self._device

    def begin(self, device: Legged) -> None:
        """Once, when the device is open: tell of legs that are not sound."""
        self._device = device
        legs = device.status().legs
        del self.records[len(legs) :]
        for leg in legs:
            self._changed(leg.index, leg.state, leg.reason)

    def on_event(self, event: DiskEvent | NicEvent) -> None:
        """What the device says; also while it is being opened."""
        match event:
            case LegChanged(leg, state, reason):
                self._changed(leg, state, reason)
            case LegFault(leg, fault, detail):
                record = self.records[leg]
                record.last_fault = datetime.now(UTC)
                record.unwanted |= record.policing.record_fault(fault.value, time.monotonic()) is Verdict.REMOVE
                self._tell(LEG_FAULT, leg, reason=f"{fault.value}: {detail}")
            case Repaired(leg, offset, size):
                self._tell("leg-repaired", leg, offset=offset, size=size)
            case Mismatch(offset, size):
                self._log.emit("disk-mismatch", self.name, offset=offset, size=size)
            case Unreadable(offset, size):
                self._log.emit("disk-unreadable", self.name, offset=offset, size=size)
            case ActiveLeg(active):
                self._log.emit("nic-active", self.name, leg=active)

    def tend(self) -> None:
        """Not from within a callback of the device's: take legs out of service that have had too many faults."""
        for leg, record in enumerate(self.records):
            if record.unwanted:
                record.unwanted = False
                if self._may_leave(leg):
                    try:
                        self.device.pull(leg)
                    except UsageError as last:  # a bad leg is better than none
                        self._tell("leg-kept", leg, reason=f"it has too many faults, but {last.message}")

    def pull(self, leg: int) -> None:
        """By hand. Raises UsageError for one that is not in service, and for the last one."""
        if not self._may_leave(leg):
            raise UsageError(f"{self.name}.{leg} is not in service", "ftvm ctl NAME status shows who is")
        self.device.pull(leg)

    def insert(self, leg: int) -> None:
        """By hand. LEG_JOINED follows, perhaps after LEG_FILLING, or LEG_FAILED. Raises UsageError for one that is in
        service, and what the device raises."""
        before = self._leg(leg).state
        if before not in (LegState.OFFLINE, LegState.FAILED):
            raise UsageError(f"{self.name}.{leg} is in service already")

        def done(error: FtvmError | None) -> None:
            now = self._leg(leg)
            if error is not None:
                self._tell(LEG_FAILED, leg, reason=error.message)
            elif before is now.state is LegState.FAILED:  # no change, but somebody waits for news
                self._changed(leg, now.state, now.reason)

        self.device.insert(leg, done)

    def tell_progress(self) -> None:
        """Of legs that are being brought in sync, in steps of a tenth."""
        for leg in self.device.status().legs:
            record = self.records[leg.index]
            done = int((leg.progress or 0.0) * 10) / 10
            if leg.state is LegState.DUPLEXING and done > record.told_progress:
                record.told_progress = done
                self._tell(LEG_FILLING, leg.index, reason=f"{done:.0%} of it is copied", done=done)

    def _leg(self, leg: int) -> LegStatus:
        return self.device.status().legs[leg]

    def _may_leave(self, leg: int) -> bool:
        return self._leg(leg).state in self.device.may_leave

    def _changed(self, leg: int, state: LegState, reason: str) -> None:
        """That a leg is alone now, or not any more, follows from what happened to the other."""
        record = self.records[leg]
        before, record.told = record.told, state
        if state.sound:
            if not before.sound:
                self._tell(LEG_JOINED, leg, reason=reason or "in sync")
        elif state is LegState.DUPLEXING:
            record.told_progress = 0.0
            self._tell(LEG_FILLING, leg, reason="what it lacks is being copied", done=0.0)
        else:
            self._tell(LEG_FAILED if state is LegState.FAILED else LEG_PULLED, leg, reason=f"out of service: {reason}")

    def _tell(self, kind: str, leg: int, **detail: Detail) -> None:
        self._log.emit(kind, f"{self.name}.{leg}", **detail)

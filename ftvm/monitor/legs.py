"""The legs of a disk, as an operator sees them: events, fault records, and who has had too many faults.

A disk's mirror says what happens to its legs (ftvm/storage/events.py), from within whatever it is asked; here that
becomes events of the machine, and the policing that takes a leg out of service.
"""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ftvm.errors import FtvmError, UsageError
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
from ftvm.storage.events import Event, LegChanged, LegFault, LegState, Mismatch, Repaired, Unreadable
from ftvm.storage.metadata import MAX_LEGS
from ftvm.storage.mirror import Mirror

_IN_SYNC = (LegState.DUPLEXED, LegState.ONLINE)


@dataclass
class LegRecord:
    """What there is to know of one leg beside its state."""

    policing: Policing = field(default_factory=Policing)
    last_fault: datetime | None = None
    state: LegState = LegState.DUPLEXED
    told_progress: float = 0.0
    unwanted: bool = False
    """It has had too many faults, and is to leave service."""


class DiskLegs:
    """The legs of the disk ``name``: its legs are ``name.0``, ``name.1``, ..."""

    def __init__(self, name: str, log: EventLog) -> None:
        self._name = name
        self._log = log
        self.records = [LegRecord() for _ in range(MAX_LEGS)]

    def begin(self, mirror: Mirror) -> None:
        """Once, when the disk is open: tell of legs that have not everything."""
        status = mirror.status()
        del self.records[len(status.legs) :]
        for leg in status.legs:
            self._changed(leg.index, leg.state, leg.reason)

    def on_event(self, event: Event) -> None:
        """What the mirror says; also while it is being opened."""
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
                self._log.emit("disk-mismatch", self._name, offset=offset, size=size)
            case Unreadable(offset, size):
                self._log.emit("disk-unreadable", self._name, offset=offset, size=size)

    def tend(self, mirror: Mirror) -> None:
        """Not from within a callback of the mirror's: take legs out of service that have had too many faults."""
        for leg, record in enumerate(self.records):
            if record.unwanted:
                record.unwanted = False
                if self._serves(leg):
                    try:
                        mirror.pull(leg)
                    except UsageError:  # the last one: its errors are the guest's
                        self._tell("leg-kept", leg, reason="it has too many faults, but is the only one in sync")

    def pull(self, mirror: Mirror, leg: int) -> None:
        """By hand. Raises UsageError for one that is not in service, and for the last one."""
        if not self._serves(leg):
            raise UsageError(f"{self._name}.{leg} is not in service", "ftvm ctl NAME status shows who is")
        mirror.pull(leg)

    def insert(self, mirror: Mirror, leg: int) -> None:
        """By hand. LEG_FILLING and LEG_JOINED follow, or LEG_FAILED. Raises UsageError for one that is in service."""
        if self._serves(leg):
            raise UsageError(f"{self._name}.{leg} is in service already")

        def done(error: FtvmError | None) -> None:
            if error is not None:
                self._tell(LEG_FAILED, leg, reason=error.message)

        mirror.insert(leg, done)

    def _serves(self, leg: int) -> bool:
        return self.records[leg].state in (*_IN_SYNC, LegState.DUPLEXING)

    def tell_progress(self, mirror: Mirror) -> None:
        """Of legs that are being brought in sync, in steps of a tenth."""
        for leg in mirror.status().legs:
            record = self.records[leg.index]
            done = int(leg.progress * 10) / 10
            if leg.state is LegState.DUPLEXING and done > record.told_progress:
                record.told_progress = done
                self._tell(LEG_FILLING, leg.index, reason=f"{done:.0%} of it is copied", done=done)

    def _changed(self, leg: int, state: LegState, reason: str) -> None:
        """That a leg is alone now, or not any more, follows from what happened to the other."""
        record = self.records[leg]
        before, record.state = record.state, state
        if state in _IN_SYNC:
            if before not in _IN_SYNC:
                self._tell(LEG_JOINED, leg, reason="in sync")
        elif state is LegState.DUPLEXING:
            record.told_progress = 0.0
            self._tell(LEG_FILLING, leg, reason="what it lacks is being copied", done=0.0)
        else:
            self._tell(LEG_FAILED if state is LegState.FAILED else LEG_PULLED, leg, reason=f"out of service: {reason}")

    def _tell(self, kind: str, leg: int, **detail: Detail) -> None:
        self._log.emit(kind, f"{self._name}.{leg}", **detail)

"""The legs of a NIC, as an operator sees them: events, fault records, and who has had too many faults.

As for disks in legs.py: a team says what happens to its legs (ftvm/network/events.py), here that becomes events of the
machine, and the policing that takes a leg out of service.
"""

import time
from datetime import UTC, datetime

from ftvm.errors import UsageError
from ftvm.monitor.eventlog import LEG_FAILED, LEG_FAULT, LEG_JOINED, LEG_PULLED, Detail, EventLog
from ftvm.monitor.legs import LegRecord
from ftvm.monitor.policing import Verdict
from ftvm.network.events import ActiveLeg, Event, LegChanged, LegFault, LegState
from ftvm.network.team import Team

_UP = (LegState.DUPLEXED, LegState.ONLINE)


class NicLegs:
    """The legs of the NIC ``name``: its legs are ``name.0``, ``name.1``, ..."""

    def __init__(self, name: str, count: int, log: EventLog) -> None:
        self._name = name
        self._log = log
        self._up = count * [True]
        self.records = [LegRecord() for _ in range(count)]

    def begin(self, team: Team) -> None:
        """Once, when the legs are open: tell of those without a link."""
        for leg in team.status().legs:
            self._changed(leg.index, leg.state, leg.reason)

    def on_event(self, event: Event) -> None:
        """What the team says."""
        match event:
            case LegChanged(leg, state, reason):
                self._changed(leg, state, reason)
            case LegFault(leg, fault, detail):
                record = self.records[leg]
                record.last_fault = datetime.now(UTC)
                record.unwanted |= record.policing.record_fault(fault.value, time.monotonic()) is Verdict.REMOVE
                self._tell(LEG_FAULT, leg, reason=f"{fault.value}: {detail}")
            case ActiveLeg(leg):
                self._log.emit("nic-active", self._name, leg=leg)

    def tend(self, team: Team) -> None:
        """Not from within a callback of the team's: take legs out of service that have had too many faults."""
        for leg, record in enumerate(self.records):
            if record.unwanted:
                record.unwanted = False
                try:
                    team.pull(leg)
                except UsageError:  # the last one: better a bad link than none
                    self._tell("leg-kept", leg, reason="it has too many faults, but is the only one with a link")

    def pull(self, team: Team, leg: int) -> None:
        """By hand. Raises UsageError for one that is not in service, and for the only one with a link."""
        if team.status().legs[leg].state is LegState.OFFLINE:
            raise UsageError(f"{self._name}.{leg} is not in service", "ftvm ctl NAME status shows who is")
        team.pull(leg)

    def insert(self, team: Team, leg: int) -> None:
        """By hand. LEG_JOINED or LEG_FAILED follows. Raises UsageError for one in service, and as opening it does."""
        before = team.status().legs[leg].state
        team.insert(leg)
        if before is LegState.FAILED and team.status().legs[leg].state is before:
            self._changed(leg, before, team.status().legs[leg].reason)

    def _changed(self, leg: int, state: LegState, reason: str) -> None:
        """That a leg is alone now, or not any more, follows from what happened to the other."""
        was_up, self._up[leg] = self._up[leg], state in _UP
        if state in _UP:
            if not was_up:
                self._tell(LEG_JOINED, leg, reason="its link is up")
        else:
            self._tell(LEG_FAILED if state is LegState.FAILED else LEG_PULLED, leg, reason=f"out of service: {reason}")

    def _tell(self, kind: str, leg: int, **detail: Detail) -> None:
        self._log.emit(kind, f"{self._name}.{leg}", **detail)

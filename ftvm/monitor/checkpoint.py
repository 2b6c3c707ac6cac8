"""What a machine was at a sync point: everything that is needed to be there again, in memory."""

import copy
from dataclasses import dataclass, field

from ftvm.module.events import Input
from ftvm.module.link import Report
from ftvm.monitor.ending import Ending
from ftvm.monitor.image import KeptMemory
from ftvm.monitor.policing import Policing
from ftvm.monitor.recovery import Incident
from ftvm.monitor.script import Moment


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The verified state of a machine, and what had become of the machine by then.

    It belongs to that machine while its context lasts. Its memory is shared with other checkpoints, and given back when
    nobody holds it any more. What the outside has seen or sent is not in it, nor what is on disks.
    """

    report: Report
    moment: Moment
    arrived: bool
    """The guest had just come to this position: nothing had entered here, and it had not waited."""
    memory: KeptMemory
    ending: Ending | None
    sync_points: int
    incidents: tuple[Incident, ...]
    inputs: int
    """How many inputs were logged before."""
    entering: tuple[Input, ...]
    """What was to enter at this position still; and devices that were to be served."""
    kicked: tuple[str, ...]
    console: bytes = field(repr=False)
    records: tuple[Policing, ...] = field(repr=False)

    @property
    def position(self) -> int:
        return self.moment.position

    def policing(self, index: int) -> Policing:
        """A copy of the fault record that this module had."""
        return copy.deepcopy(self.records[index])

"""What enters the modules at sync points: gathered, logged, and kept until it is part of the verified state."""

from collections.abc import Callable, Sequence

from ftvm.module import events
from ftvm.module.board import StopKind
from ftvm.module.events import ColdTlb, ExpectFaults, Input, QueueKick
from ftvm.module.fault import Fault
from ftvm.module.link import Report
from ftvm.monitor.checkpoint import Checkpoint
from ftvm.monitor.console import Console
from ftvm.monitor.devices import FOREVER_S, ROOM_BYTES, Devices
from ftvm.monitor.idle import Idle
from ftvm.monitor.pauses import Pauses
from ftvm.monitor.poller import SyncPointPoller
from ftvm.monitor.script import LoggedInput, Moment
from ftvm.monitor.waiting import Waiting


class Intake:
    """``inputs`` (encoded) enter before the first block."""

    def __init__(
        self,
        console: Console,
        requests: SyncPointPoller,
        devices: Devices,
        idle: Idle,
        waiting: Waiting,
        pauses: Pauses,
        inputs: bytes,
    ) -> None:
        self._console = console
        self._requests = requests
        self._devices = devices
        self._idle = idle
        self._waiting = waiting
        self._pauses = pauses
        self._entering: list[Input] = [*events.decode_inputs(inputs)] if inputs else []
        self._uncommitted: list[Input] = []
        self._faults: list[Fault] = []
        self._flush_due = False
        self._parked: tuple[list[Input], list[str]] | None = None
        """Inputs and devices to be kicked, as of where the machine was live last."""
        self.struck: frozenset[int] = frozenset()
        """The numbers of the faults that were due in the epoch that is not committed."""
        self.on_input: list[Callable[[LoggedInput], None]] = []
        self.logged = 0
        self.taken = 0
        """Those that are part of the verified state."""

    @property
    def uncommitted(self) -> list[Input]:
        """What entered in the epoch that is not committed."""
        return self._uncommitted

    def inject(self, faults: list[Fault]) -> None:
        """Tell all modules of them at the next sync point."""
        self._faults += faults

    def offer(self, inputs: list[Input]) -> None:
        """These are to enter as soon as can be."""
        self._entering += inputs

    def go_cold(self) -> None:
        """The TLBs are to be cold from the next sync point on."""
        self._flush_due = True

    @property
    def more(self) -> bool:
        """What was too much for one command enters at one position all the same."""
        return bool(self._entering)

    def portion(self) -> list[Input]:
        """As much of what is to enter here as one command can take."""
        self._uncommitted = events.portion(self._entering, ROOM_BYTES)
        return self._uncommitted

    def gather(self, report: Report, here: Moment) -> tuple[list[Input], bool]:
        """What enters all modules at this sync point, to which they came with ``report``; True: more enters at this
        position. A guest that has nothing to do waits for it here. Raises Ended."""
        inputs = self._inputs(report)
        if self._flush_due:
            self._flush_due = False
            inputs.append(ColdTlb())
        at_once = self.more or self._console.pending() or self._devices.pending() or self._devices.patience_s() > 0
        if inputs and self.on_input:
            self.log(events.encode(inputs), here, at_once)
        elif inputs:
            self.logged += 1
        self._uncommitted = inputs
        return inputs, at_once

    def repeat(self, entry: LoggedInput | None) -> list[Input]:
        """What entered here in the run that is repeated."""
        self._uncommitted = []
        if entry is not None:
            self.logged += 1
            self._uncommitted += events.decode_inputs(entry.inputs)
        return self._uncommitted

    def log(self, payload: bytes, here: Moment, at_once: bool) -> None:
        """This (encoded) enters now."""
        self.logged += 1
        entry = LoggedInput(*here, at_once, payload)
        for observer in self.on_input:
            observer(entry)

    def committed(self) -> None:
        """What was on its way is part of the verified state."""
        self.taken = self.logged
        self._uncommitted = []
        self.struck = frozenset()

    @property
    def observed(self) -> bool:
        """Somebody wants to know what enters, or there is something to enter."""
        return bool(self.on_input or self._faults or self._entering or self._flush_due or self._console.waiting())

    def passed(self, inputs: Sequence[Input], count: int) -> None:
        """So many sync points were passed, and at each of them an input was taken: ``inputs`` at the last."""
        self.logged += count
        self.taken = self.logged - 1
        self._uncommitted = [*inputs]
        self.struck = frozenset()

    def unseen(self) -> tuple[bytes, list[str]]:
        """What belongs to the verified state and is not in it: encoded inputs, those included that are to come of what
        devices are doing, which is waited for; and devices that need another kick."""
        if self._faults:
            self._entering.append(self._told_faults())
        inputs, kicked = self._devices.settle()
        self._entering += inputs
        entering = [
            ExpectFaults([fault for fault in event.faults if fault.number not in self.struck])
            if isinstance(event, ExpectFaults)
            else event
            for event in (*self._uncommitted, *self._entering)
        ]
        return (events.encode(entering) if entering else b""), kicked

    def kick(self, devices: Sequence[str]) -> None:
        """These are to be served: their queues are in the verified state."""
        for device in devices:
            self._devices.release(QueueKick(device, 0))

    # ---- back and forth ----

    def keep(self, live: bool) -> tuple[tuple[Input, ...], tuple[str, ...]]:
        """For a checkpoint: what is to enter, and devices to be kicked. ``live``: devices may be doing something."""
        kicked: Sequence[str] = ()
        if live:
            _, kicked = self.unseen()
        return tuple(self._entering), tuple(kicked)

    def leave(self, travelling: bool) -> None:
        """The machine becomes what it was. ``travelling``: what is on its way from devices now waits for the end of the
        script that is going to be played; else it is forgotten, and so are faults to come."""
        if not travelling:
            self._devices.forget()
            self._parked, self._faults = None, []
        elif self._parked is None:
            _, kicked = self.unseen()
            self._parked = [*self._uncommitted, *self._entering], kicked

    def arrive(self, checkpoint: Checkpoint, travelling: bool) -> None:
        """The machine has become what it was then."""
        self._flush_due = False
        self._uncommitted, self._entering = [], [] if travelling else [*checkpoint.entering]
        self.logged = self.taken = checkpoint.inputs
        self._idle.forget_time()
        self.kick(() if travelling else checkpoint.kicked)

    def go_live(self) -> None:
        """A script is over: devices are where they were when its run was left."""
        if self._parked is not None:
            (self._entering, kicked), self._parked = self._parked, None
            self.kick(kicked)

    def branch(self) -> None:
        """The machine is live in the middle of a script: devices serve what is in their queues."""
        self._parked = None
        self._devices.forget()
        self._devices.kick_all()

    # ---- gathering ----

    def _inputs(self, report: Report) -> list[Input]:
        inputs: list[Input] = []
        if report.stop == StopKind.IDLE:
            inputs += self._idle.wait(report.wake_ns, self._faults)
            self._pauses.forget()
        while (patience_s := self._devices.patience_s()) > 0:
            self._waiting.wait(None if patience_s == FOREVER_S else patience_s)
            self._pauses.forget()  # it is a medium that the guest waits for, not us
            if self._requests.due:
                self._requests.run_due()
                self._waiting.end_if_told()
        if self._faults:
            inputs.append(self._told_faults())
        if self._entering:
            return inputs + self.portion()
        return inputs + self._console.take() + self._devices.take()

    def _told_faults(self) -> ExpectFaults:
        """What was injected since the last sync point, on its way into the modules."""
        told, self._faults = ExpectFaults(self._faults), []
        return told

"""The I/O halves of all devices, as the loop sees them. What a half does is in its own file: block.py.

A half learns of a kick when the epoch that made it is committed, and looks at verified memory only. What comes of it is
an input for all modules.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

import msgspec

from ftvm.module.chips.virtio_pci import VirtioState
from ftvm.module.events import DeviceBroken, DeviceIn, DriverFault, Input, Output, QueueKick
from ftvm.monitor.eventlog import EventLog
from ftvm.monitor.image import VerifiedImage
from ftvm.monitor.turns import TurnDisk
from ftvm.monitor.virtqueue import QueueBroken

ROOM_BYTES = 2 << 20
"""Of data that enter with one command; what of it no mailbox carries has room in one all the same (COMMAND_BYTES)."""

PLACE_BYTES = 16
"""Of a write, beside its data: a bound."""

FOREVER_S = math.inf

_states = msgspec.msgpack.Decoder(dict[str, msgspec.Raw])

State = TypeVar("State", bound=VirtioState)


class Half(Protocol):
    """The I/O half of one device. Everything is called on the thread of the loop; nothing but ``finish`` may wait for
    the outside."""

    name: str

    def kick(self, queue: int) -> None:
        """The driver put something into a queue, and that is verified now."""
        ...

    def committed(self) -> None:
        """The image holds another state now. Kicks that led to it were told before."""
        ...

    def hurry(self) -> bool:
        """Epochs should be short: somebody waits for what the guest does next."""
        ...

    def rests(self) -> bool:
        """Until its descriptor can be read, or its deadline comes, it has nothing to do at sync points at which nobody
        kicks it."""
        ...

    def turn_disk(self) -> TurnDisk | None:
        """For native code, which may serve what its driver asks for from here on, if there is somebody to do it."""
        ...

    def patience_s(self) -> float:
        """How long the guest is to stand still for what is on its way; 0: it can go on."""
        ...

    def busy(self) -> bool:
        """Something is on its way that will be an input."""
        ...

    def pending(self) -> bool:
        """``take`` has something to give."""
        ...

    def take(self, room_bytes: int) -> list[Input]:
        """What enters at this sync point, at most so many bytes of data. What is left is ``pending`` still."""
        ...

    def deadline_s(self) -> float | None:
        """When, on the monotonic clock, ``tend`` must be called even if nothing else happens."""
        ...

    def tend(self) -> None:
        """Whatever is to be done from time to time, beside the guest."""
        ...

    def finish(self) -> None:
        """Wait until nothing is on its way any more. Raises HostError when the outside does not answer."""
        ...

    def settle(self) -> tuple[list[Input], bool]:
        """After ``finish``, and beginning nothing new: the inputs that come of it. True: there is more in the queues
        that would have been served at this position; it needs another kick."""
        ...

    def forget(self) -> None:
        """The machine goes back to another state: what was on its way, until ``finish``, is of no interest any more."""
        ...


class Devices:
    """All halves. A kick for one that is not here is ignored: a recorded run has its inputs from elsewhere."""

    def __init__(self, log: EventLog, halves: Iterable[Half] = ()) -> None:
        self._log = log
        self._halves = {half.name: half for half in halves}

    def release(self, output: Output) -> None:
        """All modules agree on ``output``: do what it asks for."""
        match output:
            case QueueKick(device, queue):
                half = self._halves.get(device)
                if half is not None:
                    half.kick(queue)
            case DriverFault(device, reason):
                tell_broken(self._log, device, reason)

    def committed(self) -> None:
        for half in self._halves.values():
            half.committed()

    def hurry(self) -> bool:
        return any(half.hurry() for half in self._halves.values())

    def patience_s(self) -> float:
        return max((half.patience_s() for half in self._halves.values()), default=0.0)

    def busy(self) -> bool:
        return any(half.busy() for half in self._halves.values())

    def pending(self) -> bool:
        return any(half.pending() for half in self._halves.values())

    def take(self, room_bytes: int = ROOM_BYTES) -> list[Input]:
        inputs: list[Input] = []
        for half in self._halves.values():
            if half.pending() and room_bytes > 0:
                new = half.take(room_bytes)
                room_bytes -= data_bytes(new)
                inputs += new
        return inputs

    def turn_disk(self) -> TurnDisk | None:
        """The one that native code may serve, while all others have nothing to do."""
        if not all(half.rests() for half in self._halves.values()):
            return None
        disks = (half.turn_disk() for half in self._halves.values())
        return next((disk for disk in disks if disk is not None), None)

    def deadline_s(self) -> float | None:
        deadlines = [half.deadline_s() for half in self._halves.values()]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def tend(self) -> None:
        for half in self._halves.values():
            half.tend()

    def settle(self) -> tuple[list[Input], list[str]]:
        """Bring to an end what is on its way: the inputs that come of it, and which devices need another kick. Raises
        HostError when one does not come to an end; then nothing has changed."""
        self._finish()
        inputs: list[Input] = []
        unserved: list[str] = []
        for half in self._halves.values():
            new, more = half.settle()
            inputs += new
            if more:
                unserved.append(half.name)
        return inputs, unserved

    def kick_all(self) -> None:
        """Whatever is in the queues of any device is to be served."""
        for half in self._halves.values():
            half.kick(0)
            half.committed()

    def forget(self) -> None:
        """Raises HostError, as ``settle``."""
        self._finish()
        for half in self._halves.values():
            half.forget()

    def _finish(self) -> None:
        for half in self._halves.values():
            half.finish()


def data_bytes(inputs: Sequence[Input]) -> int:
    """How much room they take up: what they write, with the place of each piece, of which a guest can ask for many."""
    room = 0
    for event in inputs:
        if isinstance(event, DeviceIn):
            room += sum([PLACE_BYTES + len(data) for _, data in event.writes])
            room += sum([PLACE_BYTES * len(bulk.segments) + len(bulk.data) for bulk in event.bulk])
    return room


def tell_broken(log: EventLog, device: str, reason: str) -> None:
    log.emit("device-broken", device, reason=f"{reason}: the driver must reset the device")


class VirtioHalf:
    """What all halves of virtio devices have: how they see their chip, and say that its driver is not to be served."""

    def __init__(self, name: str, image: VerifiedImage, log: EventLog) -> None:
        self.name = name
        self._image = image
        self._log = log
        self._broken = False

    def committed(self) -> None:
        """Most halves have something to do only when they are kicked."""

    def hurry(self) -> bool:
        return False

    def turn_disk(self) -> TurnDisk | None:
        return None

    def finish(self) -> None:
        """Most halves do at once what there is to do."""

    def _packed_chip(self) -> bytes:
        return bytes(_states.decode(self._image.board)[self.name])

    def _chip(self, kind: type[State]) -> State:
        """The verified state of the chip. Raises QueueBroken for one that cannot be."""
        try:
            return msgspec.msgpack.decode(_states.decode(self._image.board)[self.name], type=kind)
        except (msgspec.DecodeError, LookupError, ValueError) as error:
            raise QueueBroken(f"its state is no state: {error}") from None

    def _break(self, reason: str) -> None:
        """The device is to say that it needs a reset."""
        self._broken = True
        tell_broken(self._log, self.name, reason)

    def _take_broken(self) -> list[Input]:
        self._broken = False
        return [DeviceBroken(self.name)]

"""The I/O half of a virtio NIC: frames from a queue in verified memory to a team of legs, and back as inputs.

Source: Virtual I/O Device (VIRTIO) 1.2, 5.1.6.

A NIC on the network is looked after at every sync point: while frames flow, the driver is told not to notify, since an
epoch that ends at each frame would make them dear. A NIC whose legs are all inside the machine (``repeatable``) is
served at its kicks and nowhere else: what the guest sees is then a function of its inputs, whatever the epochs are.
"""

import struct
import time
from collections import deque
from collections.abc import Iterable

from ftvm.module.board import NicConfig
from ftvm.module.chips.virtio_net import (
    GUEST_CSUM,
    GUEST_ECN,
    GUEST_TSO4,
    GUEST_TSO6,
    MERGEABLE_BUFFERS,
    MTU,
    RECEIVE,
    TRANSMIT,
    VirtioNetState,
)
from ftvm.module.events import Bulk, DeviceIn, Input, LinkState
from ftvm.monitor.devices import ROOM_BYTES, VirtioHalf
from ftvm.monitor.eventlog import EventLog
from ftvm.monitor.image import VerifiedImage
from ftvm.monitor.legs import Legs
from ftvm.monitor.poller import Poller
from ftvm.monitor.virtqueue import QueueBroken, Segment, Virtqueue, Write, gather, room_for, size_of
from ftvm.network.frame import (
    GSO_ECN,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    OFFLOAD,
    PLAIN_BYTES,
    Frame,
    Offload,
)
from ftvm.network.offload import finish, header_bytes
from ftvm.network.pcap import PcapFile
from ftvm.network.team import Team

NET_HEADER_BYTES = OFFLOAD.size + 2
"""Before each frame in a queue; its last two bytes count the buffers of a received frame."""
_BUFFERS = struct.Struct("<H")

MAX_BACKLOG = 1024
"""Frames that wait for buffers of the guest; when there are more, they wait outside."""
QUIET_SYNC_POINTS = 16
"""Without a frame from the guest, after which the driver is to notify again."""

_GUEST_TAKES = {GSO_NONE: GUEST_CSUM, GSO_TCPV4: GUEST_TSO4, GSO_TCPV6: GUEST_TSO6}


class Net(VirtioHalf):
    """One NIC. ``repeatable``: its team receives only what was sent by this machine, and at once."""

    def __init__(
        self,
        name: str,
        config: NicConfig,
        team: Team,
        legs: Legs,
        image: VerifiedImage,
        poller: Poller,
        log: EventLog,
        *,
        repeatable: bool,
        capture: PcapFile | None,
    ) -> None:
        super().__init__(name, image, log)
        self.team = team
        self.legs = legs
        self._mtu = config.mtu
        self._poller = poller
        self._repeatable = repeatable
        self._capture = capture
        self._kicked: set[int] = set()
        self._looked = False
        """The two below are as of the newest commit."""
        self._live: VirtioNetState | None = None
        self._link_up: bool | None = None
        self._transmit_queue: Virtqueue | None = None
        """While there is something to say about it."""
        self._sent: list[tuple[int, int]] = []
        self._receive_queue: Virtqueue | None = None
        """Once there was something to put there, as of the newest commit."""
        self._spans = room_for(NET_HEADER_BYTES + MAX_FRAME_BYTES)
        self._backlog: deque[Frame] = deque()
        self._too_few = 0
        """So many buffers did not suffice for the first frame of the backlog."""
        self._watching = False
        self._muted = False
        """The driver was told not to notify when it sends."""
        self._quiet = QUIET_SYNC_POINTS
        """Sync points since the last frame."""
        self.dropped = 0
        """Frames for the guest that it had no driver or no buffers for."""
        if not repeatable:
            self._watch(True)

    # ---- the loop's side ----

    def kick(self, queue: int) -> None:
        self._kicked.add(queue)

    def committed(self) -> None:
        if self._broken or self._transmit_queue is not None:
            return  # what was done at this position has not entered yet: the chip does not know of it
        self._looked = False
        self._receive_queue = None
        if not self._repeatable and len(self._backlog) < MAX_BACKLOG:
            self._read()
            self._watch_if_room()
        elif self._repeatable and not self._kicked:
            return
        try:
            chip = self._look()
            if chip is not None and chip.queues[TRANSMIT].enabled:
                self._transmit(chip)
                if self._sent and not self._repeatable:  # what the host answers at once is there already
                    self._read()
        except QueueBroken as broken:
            self._break(str(broken))

    def rests(self) -> bool:
        return (self._repeatable or self._watching) and not (self._muted or self.hurry() or self.pending())

    def patience_s(self) -> float:
        return 0.0

    def busy(self) -> bool:
        return self._broken

    def hurry(self) -> bool:
        """Frames flow: the next sync point should be soon."""
        return not self._repeatable and self._quiet < QUIET_SYNC_POINTS

    def pending(self) -> bool:
        if self._broken or self._transmit_queue is not None or RECEIVE in self._kicked:
            return True
        try:
            if self._link_up is None:
                self._look()
            return self.team.link_up != self._link_up or self._receivable()
        except QueueBroken as broken:
            self._break(str(broken))
            return True

    def take(self, room_bytes: int) -> list[Input]:
        if self._broken:
            return self._take_broken()
        try:
            chip = self._look()
            self._receivable()
            inputs: list[Input] = []
            if self.team.link_up != self._link_up:
                self._link_up = self.team.link_up
                inputs.append(LinkState(self.name, self._link_up))
            if chip is not None:
                inputs += self._device_in(chip, room_bytes)
        except QueueBroken as broken:
            self._break(str(broken))
            return self._take_broken()
        finally:
            self._kicked.clear()
        return inputs

    def deadline_s(self) -> float | None:
        return self.team.deadline_s() if self._watching else None

    def tend(self) -> None:
        deadline_s = self.deadline_s()
        if deadline_s is not None and time.monotonic() >= deadline_s:
            self._read()
        self.legs.tend()

    def settle(self) -> tuple[list[Input], bool]:
        inputs: list[Input] = []
        while self.pending():
            inputs += self.take(ROOM_BYTES)
        return inputs, False

    def forget(self) -> None:
        self._broken = False
        self._kicked.clear()
        self._receive_queue = None
        self._looked, self._link_up = False, None
        self._stop_serving()

    def _break(self, reason: str) -> None:
        super()._break(reason)
        self._kicked.clear()
        self._looked = True  # the image shows its driver at work until the input that says otherwise has entered
        self._stop_serving()

    def _stop_serving(self) -> None:
        """Nobody is at work on the guest's side: what is under way is lost."""
        self._live = None
        self._muted = False
        self._transmit_queue = None
        self._sent = []
        self._drop_backlog()
        self._watch_if_room()

    # ---- what stands in the image ----

    def _look(self) -> VirtioNetState | None:
        """The chip as of the newest commit, if its driver is at work. Raises QueueBroken."""
        if not self._looked:
            chip = self._chip(VirtioNetState)
            self._looked = True
            self._link_up = chip.link_up
            self._live = chip if chip.live and chip.queues[RECEIVE].enabled else None
            if self._live is None:
                self._stop_serving()
        return self._live

    def _receivable(self) -> bool:
        """Whether there are frames for the guest, and buffers for them. Raises QueueBroken."""
        if self._repeatable:
            self._read()
        if self._backlog and self._look() is not None and self._receiving().waiting() > self._too_few:
            return True
        if self._repeatable:  # kept, they would depend on who saves the machine here
            self._drop_backlog()
        return False

    def _drop_backlog(self) -> None:
        self.dropped += len(self._backlog)
        self._backlog.clear()
        self._too_few = 0

    def _receiving(self) -> Virtqueue:
        assert self._live is not None
        if self._receive_queue is None:
            chip = self._live
            self._receive_queue = Virtqueue(self._image.ram, RECEIVE, chip.queues[RECEIVE], chip.driver_features)
        return self._receive_queue

    # ---- from the guest ----

    def _transmit(self, chip: VirtioNetState) -> None:
        """Send all that the driver has made available."""
        queue = Virtqueue(self._image.ram, TRANSMIT, chip.queues[TRANSMIT], chip.driver_features)
        frames: list[Frame] = []
        for _ in range(queue.waiting()):
            chain = queue.take()
            frame = self._frame(chain.readable)
            if frame is not None:
                frames.append(frame)
            self._sent.append((chain.head, 0))
        self._quiet += 1
        unmute = False
        if self._sent:
            self._quiet = 0
            self._muted = not self._repeatable
        elif self._muted and self._quiet >= QUIET_SYNC_POINTS:
            unmute, self._muted = True, False
        if self._sent or unmute or TRANSMIT in self._kicked:
            self._transmit_queue = queue
        if frames:
            self._capture_all(frames)
            self.team.send(frames)

    def _frame(self, segments: list[Segment]) -> Frame | None:
        """None for one that is too short or too long to be a frame: no wire would take it."""
        size = size_of(segments)
        if not NET_HEADER_BYTES + HEADER_BYTES <= size <= NET_HEADER_BYTES + MAX_FRAME_BYTES:
            return None
        data = gather(self._image.ram, segments)
        return Frame(data[NET_HEADER_BYTES:], Offload.of(data[: OFFLOAD.size]))

    # ---- to the guest ----

    def _read(self) -> None:
        """Take frames in, as many as there is room for."""
        room = MAX_BACKLOG - len(self._backlog)
        if room > 0:
            self._backlog.extend(self.team.receive(room))
        if not self._repeatable and len(self._backlog) >= MAX_BACKLOG:
            self._watch(False)

    def _watch(self, wanted: bool) -> None:
        if wanted != self._watching:
            self._watching = wanted
            if wanted:
                self._poller.watch(self.team.fileno(), self._wake_up)
            else:
                self._poller.unwatch(self.team.fileno())

    def _wake_up(self) -> None:
        """The first frame of an epoch is news to whoever waits for it; the others are read at its end, all at once."""
        self._read()
        if self._backlog:
            self._watch(False)

    def _watch_if_room(self) -> None:
        if not self._repeatable and len(self._backlog) < MAX_BACKLOG:
            self._watch(True)

    def _device_in(self, chip: VirtioNetState, room_bytes: int) -> list[Input]:
        bulk: list[Bulk] = []
        writes: list[Write] = []
        progress = []
        queue, self._transmit_queue = self._transmit_queue, None
        if queue is not None:
            ring, went_on = queue.complete(self._sent, notify=not self._muted)
            writes += ring
            progress.append(went_on)
            self._sent = []
        if self._backlog or RECEIVE in self._kicked:
            queue = self._receiving()
            used = self._fill(queue, chip.driver_features, bulk, room_bytes)
            if used:
                self._quiet = 0
            # New buffers are looked for at every sync point, so nobody needs to be told of them.
            ring, went_on = queue.complete(used, notify=False)
            writes += ring
            progress.append(went_on)
            self._watch_if_room()
        return [DeviceIn(self.name, writes, progress, bulk)] if progress else []

    def _fill(self, queue: Virtqueue, features: int, bulk: list[Bulk], room_bytes: int) -> list[tuple[int, int]]:
        """Put frames into buffers of the guest, while there are both and room; what was used of the queue."""
        used: list[tuple[int, int]] = []
        backlog = self._backlog
        self._too_few = 0
        while backlog and room_bytes > 0:
            frame = backlog.popleft()
            if frame.offload is not None and not _understood(frame.offload, features):
                backlog.extendleft(Frame(data) for data in reversed(finish(frame)))
                continue
            if features & MTU and self._too_long(frame):
                self.dropped += 1
                continue
            size = NET_HEADER_BYTES + len(frame.data)
            mergeable, waiting = bool(features & MERGEABLE_BUFFERS), queue.waiting()
            limit = waiting if mergeable else min(waiting, 1)
            buffers, segments = queue.take_room(size, NET_HEADER_BYTES, limit, self._spans)
            if not buffers and (waiting == queue.size or (waiting and not mergeable)):  # there cannot be enough
                self.dropped += 1
                continue
            if not buffers:
                backlog.appendleft(frame)
                self._too_few = waiting
                break
            header = PLAIN_BYTES if frame.offload is None else frame.offload.to_bytes()
            bulk.append(Bulk(segments, header + _BUFFERS.pack(len(buffers)) + frame.data))
            used += buffers
            room_bytes -= size
            self._capture_all((frame,))
        return used

    def _too_long(self, frame: Frame) -> bool:
        """A packet that the driver, which knows the MTU, is not to get (5.1.4.1)."""
        whole = frame.offload is None or frame.offload.gso & ~GSO_ECN == GSO_NONE
        return whole and len(frame.data) - header_bytes(frame.data) > self._mtu

    def _capture_all(self, frames: Iterable[Frame]) -> None:
        capture = self._capture
        if capture is None or capture.trouble is not None:
            return
        for frame in frames:
            capture.write(self._image.virtual_ns(), frame.data)
        capture.flush()
        if capture.trouble is not None:
            self._log.emit("capture-failed", self.name, reason=capture.trouble)


def _understood(offload: Offload, features: int) -> bool:
    """Whether the driver has said that it does this work itself."""
    wanted = GUEST_CSUM | _GUEST_TAKES.get(offload.gso & ~GSO_ECN, ~0)
    if offload.gso & GSO_ECN:
        wanted |= GUEST_ECN
    return not wanted & ~features

"""The I/O half of a virtio disk: requests from a queue in verified memory, to a mirror, and back as inputs.

Source: Virtual I/O Device (VIRTIO) 1.2, 5.2.6.

Unless time is real, all that a kick asks for is waited for, and enters at the very position of the kick: what the guest
sees is a function of its inputs, however slow a medium is. With real time the guest waits a moment, and goes on.
"""

import struct
import time
from collections import deque
from collections.abc import Sequence
from enum import IntEnum
from functools import partial

import msgspec

from ftvm.errors import HostError
from ftvm.module.board import DiskConfig
from ftvm.module.chips.virtio_blk import (
    FLUSH,
    MAX_CLEAR_SECTORS,
    MAX_CLEAR_SEGMENTS,
    MAX_REQUEST_BYTES,
    SECTOR_BYTES,
)
from ftvm.module.chips.virtio_pci import VirtioState
from ftvm.module.events import Bulk, DeviceIn, Input
from ftvm.monitor.devices import FOREVER_S, ROOM_BYTES, VirtioHalf
from ftvm.monitor.eventlog import EventLog
from ftvm.monitor.image import VerifiedImage
from ftvm.monitor.legs import Legs
from ftvm.monitor.poller import Poller
from ftvm.monitor.turns import TurnDisk
from ftvm.monitor.virtqueue import (
    Chain,
    QueueBroken,
    Segment,
    Virtqueue,
    Write,
    bulk_in,
    front,
    gather,
    size_of,
    without_front,
)
from ftvm.storage.host import Buffer
from ftvm.storage.mirror import STALLED_AFTER_S, Mirror
from ftvm.storage.request import Completion, Operation, Request


class RequestType(IntEnum):
    IN = 0
    OUT = 1
    FLUSH = 4
    GET_ID = 8
    DISCARD = 11
    WRITE_ZEROES = 13


# Status
S_OK = 0
S_IOERR = 1
S_UNSUPP = 2

ID_BYTES = 20
UNMAP = 1

FLIGHT_BYTES = 8 << 20
"""Of data of requests that were taken and not given back: from then on, others wait in the queue."""
PATIENCE_S = 0.001
"""With real time: most requests are done by then, and a guest that goes on looks for them a whole epoch later."""
SOON_S = 0.001
"""What the host's page cache takes is written by then: wait for it without looking around."""
RESYNC_BYTES = 1 << 20
"""Copied at a time to a leg that comes back."""

_HEADER = struct.Struct("<I4xQ")  # type, sector
_CLEAR = struct.Struct("<QII")  # sector, sectors, flags


class _Job(msgspec.Struct, eq=False):
    """A request that was taken: where its data and its status go, and what is known of them."""

    chain: Chain
    into: list[Segment]
    status_at: int
    status: int = S_OK
    data: Buffer = b""
    told_bytes: int = 0
    """Of the data, what is in an input already."""
    cost_bytes: int = 0
    """What it keeps of the host's memory."""
    parts: int = 0
    """Requests to the mirror that are not done."""
    void: bool = False
    """The driver has reset the device since."""


class Block(VirtioHalf):
    """One disk."""

    def __init__(
        self,
        name: str,
        config: DiskConfig,
        mirror: Mirror,
        legs: Legs,
        image: VerifiedImage,
        poller: Poller,
        log: EventLog,
        *,
        real_time: bool,
    ) -> None:
        super().__init__(name, image, log)
        self.mirror = mirror
        self.legs = legs
        self._config = config
        self._real_time = real_time
        self._queue: Virtqueue | None = None
        self._write_through = False
        """The driver will never ask for a flush, so what is written must be stable when it is done (5.2.6.2)."""
        self._resets = 0
        self._seen_at = -1  # the position at which the queue was known to be in use
        self._serving = False  # there may be more in the queue
        self._untold = False  # more was taken than the driver knows
        self._plain = False  # since the last kick the driver asked for nothing but what was read or written at once
        self._kicked_s = 0.0
        self._jobs: deque[_Job] = deque()  # in the order in which they were made available
        self._done = 0  # of the jobs
        self._flight_bytes = 0
        poller.watch(mirror.fileno(), mirror.poll)

    # ---- the loop's side ----

    def kick(self, queue: int) -> None:
        self._serving = self._plain = True
        self._kicked_s = time.monotonic()
        self._serve()

    def rests(self) -> bool:
        return not self.busy() and not self.pending()

    def turn_disk(self) -> TurnDisk | None:
        if not self._plain or self._queue is None or self._seen_at != self._image.position:
            return None
        shortcut = self.mirror.shortcut()
        if shortcut is None:
            return None
        if self._config.read_only or self._write_through:
            shortcut = msgspec.structs.replace(shortcut, direct=None)
        seen = self._chip(VirtioState).queues[0]
        size_bytes = self._config.size_bytes
        return TurnDisk(
            self.name, self._queue, self._packed_chip(), seen, size_bytes, ROOM_BYTES, shortcut, self.mirror.wrote
        )

    def patience_s(self) -> float:
        if self._all_done():
            return 0.0
        if not self._real_time:
            return FOREVER_S
        return max(0.0, self._kicked_s + PATIENCE_S - time.monotonic())

    def busy(self) -> bool:
        return bool(self._jobs) or self._broken

    def pending(self) -> bool:
        left_behind = self._serving and not self._jobs
        return self._done > 0 or self._broken or left_behind or (self._untold and self._real_time)

    def take(self, room_bytes: int) -> list[Input]:
        if self._broken:
            return self._take_broken()
        self._serving |= self._real_time  # what came without a kick, while the guest went on
        if self._serving and (self._real_time or not self._jobs):
            self._serve()
        bulk, writes, used = self._results(room_bytes)
        if self._serving:  # there may be room for more now
            self._serve()
        return self._device_in(bulk, writes, used)

    def _device_in(self, bulk: list[Bulk], writes: list[Write], used: list[tuple[int, int]]) -> list[Input]:
        """What becomes of these results; and the driver is told how much was taken."""
        if self._broken:
            return self._take_broken()
        if self._queue is None or not (used or bulk or self._real_time):
            return []
        ring, progress = self._queue.complete(used)
        self._untold = False
        return [DeviceIn(self.name, writes + ring, [progress], bulk)]

    def deadline_s(self) -> float | None:
        return self.mirror.deadline_s()

    def tend(self) -> None:
        deadline_s = self.mirror.deadline_s()
        if deadline_s is not None and time.monotonic() >= deadline_s:
            self.mirror.poll()
        self.legs.tend()
        if self.mirror.resync_step(RESYNC_BYTES):
            self.legs.tell_progress()

    def finish(self) -> None:
        if not self.mirror.wait(self._all_done, STALLED_AFTER_S):
            raise HostError(f"{self.name} does not answer", "its leg, or the last one that is in sync, hangs")

    def settle(self) -> tuple[list[Input], bool]:
        try:
            self._see()
        except QueueBroken as broken:
            self._drop()
            self._break(str(broken))
        inputs: list[Input] = []
        # No more is taken meanwhile: it would be on its way, while the chip says that it is done with.
        while self._done or self._broken or (self._untold and self._real_time):
            inputs += self._device_in(*self._results(ROOM_BYTES))
        return inputs, self._serving or self._real_time  # with real time, something may have come without a kick

    def forget(self) -> None:
        self._drop()
        self._broken, self._seen_at = False, -1

    def _all_done(self) -> bool:
        return self._done == len(self._jobs)

    def _results(self, room_bytes: int) -> tuple[list[Bulk], list[Write], list[tuple[int, int]]]:
        """Of what is done, as much as there is room for: what to write, and which chains go back."""
        bulk: list[Bulk] = []
        writes: list[Write] = []
        used: list[tuple[int, int]] = []
        left: deque[_Job] = deque()
        for job in self._jobs:
            if job.parts or room_bytes < 0:
                left.append(job)
                continue
            if job.data:
                data = memoryview(job.data)[job.told_bytes :]
                part = data[:room_bytes]
                if part:
                    bulk.append(bulk_in(without_front(job.into, job.told_bytes), part))
                job.told_bytes += len(part)
                room_bytes -= len(data)
                if room_bytes < 0:
                    left.append(job)
                    continue
            writes.append((job.status_at, bytes((job.status,))))
            used.append((job.chain.head, len(job.data) + 1 if job.status == S_OK or not job.into else 0))
            self._flight_bytes -= job.cost_bytes
            self._done -= 1
        self._jobs = left
        return bulk, writes, used

    # ---- taking requests ----

    def _serve(self) -> None:
        """Take what the driver has made available, as much as there is room for."""
        try:
            self._see()
            queue = self._queue
            while queue is not None and (waiting := queue.waiting()) and self._flight_bytes < FLIGHT_BYTES:
                if len(self._jobs) == queue.size:
                    raise QueueBroken("more requests than the queue has entries")
                self._begin(queue.take())
                self._untold = True
            self._serving = queue is not None and bool(waiting)
        except QueueBroken as broken:
            self._drop()
            self._break(str(broken))
        if not self._all_done():
            self.mirror.wait(self._all_done, SOON_S)

    def _see(self) -> None:
        """Look at the chip, if it can be another than before: has the driver reset it? Raises QueueBroken."""
        if self._image.position == self._seen_at and self._queue is not None:
            return
        self._seen_at = self._image.position
        chip = self._chip(VirtioState)
        if not chip.live or chip.resets != self._resets:
            self._drop()
            self._resets = chip.resets
        if not self._jobs:
            usable = chip.live and chip.queues[0].enabled
            self._queue = Virtqueue(self._image.ram, 0, chip.queues[0], chip.driver_features) if usable else None
            self._write_through = not chip.driver_features & FLUSH

    def _drop(self) -> None:
        """Whatever is on its way is of no interest to the driver any more."""
        for job in self._jobs:
            job.void = True
        self._jobs.clear()
        self._done = self._flight_bytes = 0
        self._serving = self._untold = False
        self._queue = None

    def _begin(self, chain: Chain) -> None:
        """Raises QueueBroken for what has not even a header and a status."""
        readable, writable = chain.readable, chain.writable
        if size_of(readable) < _HEADER.size or not writable:
            raise QueueBroken("a request without a header or without a status")
        kind, sector = _HEADER.unpack(gather(self._image.ram, front(readable, _HEADER.size)))
        source = without_front(readable, _HEADER.size)
        at, size = writable[-1]
        into = writable[:-1] if size == 1 else [*writable[:-1], (at, size - 1)]
        job = _Job(chain, into, at + size - 1)
        self._jobs.append(job)
        cost_bytes = size_of(into) + size_of(source)
        if cost_bytes > MAX_REQUEST_BYTES:
            job.status = S_IOERR
        else:
            job.cost_bytes = cost_bytes
            self._flight_bytes += cost_bytes
            self._submit(job, kind, sector * SECTOR_BYTES, source)
        if not job.parts:
            self._done += 1

    def _submit(self, job: _Job, kind: int, offset: int, source: list[Segment]) -> None:
        """Ask the mirror for what the driver asks for; or say why not in the job's status."""
        self._plain &= kind in (RequestType.IN, RequestType.OUT)
        match kind:
            case RequestType.IN:
                self._transfer(job, Operation.READ, offset, size_of(job.into))
            case RequestType.OUT if self._config.read_only:
                job.status = S_IOERR
            case RequestType.OUT:
                self._transfer(job, Operation.WRITE, offset, size_of(source), source)
            case RequestType.FLUSH:
                self._ask(job, Request(Operation.FLUSH, partial(self._part_done, job)))
            case RequestType.GET_ID:
                job.data = self.name.encode().ljust(ID_BYTES, b"\0")[: size_of(job.into)]
            case RequestType.DISCARD | RequestType.WRITE_ZEROES if not self._config.read_only:
                self._clear(job, kind, source)
            case _:
                job.status = S_UNSUPP

    def _transfer(
        self, job: _Job, operation: Operation, offset: int, size: int, source: Sequence[Segment] = ()
    ) -> None:
        if size % SECTOR_BYTES or offset + size > self._config.size_bytes:
            job.status = S_IOERR
            return
        if operation is Operation.READ and (data := self.mirror.read_now(offset, size)) is not None:
            job.data = data
            return
        ram = memoryview(self._image.ram)
        buffers = [ram[at : at + length] for at, length in source]
        done = partial(self._part_done, job)
        self._ask(job, Request(operation, done, offset, size, buffers, self._write_through and bool(source)))

    def _clear(self, job: _Job, kind: int, source: list[Segment]) -> None:
        """Discard and write-zeroes: ranges to be zero. All of them, or none."""
        size = size_of(source)
        if size % _CLEAR.size or not 0 < size <= _CLEAR.size * MAX_CLEAR_SEGMENTS:
            job.status = S_IOERR
            return
        ranges = list(_CLEAR.iter_unpack(gather(self._image.ram, source)))
        allowed = UNMAP if kind == RequestType.WRITE_ZEROES else 0
        if any(flags & ~allowed for _, _, flags in ranges):
            job.status = S_UNSUPP
            return
        end = self._config.size_bytes // SECTOR_BYTES
        if any(count > MAX_CLEAR_SECTORS or sector + count > end for sector, count, _ in ranges):
            job.status = S_IOERR
            return
        for sector, count, flags in ranges:
            freeing = kind == RequestType.DISCARD or flags & UNMAP
            operation = Operation.DISCARD if freeing else Operation.WRITE_ZEROES
            done = partial(self._part_done, job)
            offset, size = sector * SECTOR_BYTES, count * SECTOR_BYTES
            self._ask(job, Request(operation, done, offset, size, stable=self._write_through))

    def _ask(self, job: _Job, request: Request) -> None:
        if not self.mirror.submit_now(request):
            job.parts += 1
            self._plain = False

    def _part_done(self, job: _Job, completion: Completion) -> None:
        """From within ``Mirror.poll``."""
        if completion.error is not None:
            job.status, job.data = S_IOERR, b""
        elif job.status == S_OK:
            job.data = completion.data
        job.parts -= 1
        if not job.parts and not job.void:
            self._done += 1

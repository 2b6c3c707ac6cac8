"""A disk made of legs, as the monitor uses it: requests in flight, completions, and the operator's commands.

One thread, the monitor's, calls everything here. ``submit`` and the operator's methods never wait for a leg. Whenever
``fileno()`` can be read, or ``deadline_s()`` has come, call ``poll``: completions and events arrive from within it.
"""

import contextlib
import math
import select
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

import msgspec

from ftvm import legs
from ftvm.errors import FtvmError, HostError, UsageError
from ftvm.legs import LegState
from ftvm.storage.array import Place
from ftvm.storage.direct import Shortcut
from ftvm.storage.events import Event
from ftvm.storage.faulty import Fault, FaultyFile
from ftvm.storage.host import Buffer
from ftvm.storage.leg import Leg, LegFailed, Reason
from ftvm.storage.metadata import Superblock
from ftvm.storage.regions import REGION_BYTES, RegionSet, region_count
from ftvm.storage.request import Completion, DiskError, Operation, Request
from ftvm.storage.resync import Resync
from ftvm.storage.scrub import Scrub, ScrubReport
from ftvm.storage.stamp import LegStamp
from ftvm.storage.volume import Volume

STALLED_AFTER_S = 60.0
"""How long those who must wait for a disk wait for one on which nothing comes to an end; the slowest flush of a host
with much in its cache is done by then. The guest waits for ever."""

RETIRE_S = 1.0
"""How long closing a disk waits for a leg that left service in the middle of an operation."""


class Reopened(msgspec.Struct, frozen=True):
    """A leg that comes back. ``lacking``: regions in which it may differ, by its own account. ``stranger``: it is not
    the file that left, or an old copy of it."""

    leg: Leg
    lacking: RegionSet
    stranger: bool


_WRITTEN = Completion(b"", None)
_STALLED = DiskError(f"its last leg does not answer, for {STALLED_AFTER_S:g} s")

Reopen = Callable[[Path, Superblock, bytes], Reopened]
"""Opens and checks the files of a leg; raises FtvmError or OSError. Called on the worker's thread."""


class LegStatus(legs.LegStatus, frozen=True, kw_only=True):
    """``dirty_bytes`` are still to be copied to it. ``busy``: it left service, and has not yet ended what it was
    doing."""

    faults: dict[Reason, int]
    dirty_bytes: int
    busy: bool


class DiskStatus(msgspec.Struct, frozen=True):
    """``state`` is unmirrored (there is only one leg), simplex (one is left), duplex, or resync. ``dirty_bytes`` are
    marked on the medium."""

    array: str
    generation: int
    state: str
    size_bytes: int
    integrity: bool
    dirty_bytes: int
    legs: list[LegStatus]


class Mirror:
    """One disk; ``open_disk`` makes it from paths. Close it: one that was not closed has, for all its next user can
    tell, been through a crash."""

    may_leave = frozenset({LegState.DUPLEXED, LegState.DUPLEXING, LegState.ONLINE})

    def __init__(
        self,
        volume: Volume,
        *,
        reopen: Reopen,
        on_event: Callable[[Event], None],
        sleep: Callable[[float | None], None] | None = None,
    ) -> None:
        """``sleep`` waits for workers, at most so many seconds; by default on the event descriptor."""
        self.size_bytes = volume.size_bytes
        self._volume = volume
        self._array = volume.array
        self._reopen = reopen
        self._on_event = on_event
        self._sleep = sleep or self._sleep_on_event
        self._resync = Resync(volume)
        self._scrub = Scrub(volume)
        self._deliveries: deque[Callable[[], None]] = deque()
        self._in_progress = 0
        self._closing = False
        self._polling = False
        self._waiter = select.poll()
        self._waiter.register(self._array.event_fd, select.POLLIN)

    # ---- the monitor's loop ----

    def fileno(self) -> int:
        """Can be read when ``poll`` has something to do."""
        return self._array.event_fd

    def deadline_s(self) -> float | None:
        """When, on the monotonic clock, ``poll`` must be called even if nothing can be read."""
        return self._array.next_deadline()

    def poll(self) -> None:
        """Go on with everything that can go on; deliver completions and events. Never waits."""
        self._polling = True
        self._array.collect()
        self._array.tasks.run()
        self._polling = False
        # What these calls bring about is for the next time: a caller that asks again and again is not to stay here.
        for _ in range(len(self._array.events)):
            self._on_event(self._array.events.popleft())
        for _ in range(len(self._deliveries)):
            self._deliveries.popleft()()

    def read_now(self, offset: int, size: int) -> Buffer | None:
        """What a READ that is submitted now would give, if the host has it in memory and nobody writes there; else
        None, and such a request must be submitted."""
        if self._closing or offset < 0 or not 0 < size <= self.size_bytes - offset:
            return None
        return self._volume.read_cached(offset, size)

    def shortcut(self) -> Shortcut | None:
        """How native code may do what ``read_now`` and ``submit_now`` do; None if there is more to it now."""
        if self._closing or self._in_progress or self._resync.wanted() or self._scrub.busy:
            return None
        return self._volume.shortcut()

    def wrote(self, places: Iterable[tuple[int, int]]) -> None:
        """It did, at these offsets so many bytes, as far as it came."""
        for offset, size in places:
            self._volume.wrote(offset, size)

    def submit(self, request: Request) -> None:
        """Begin a request. Any number may be in progress; those that overlap are served in the order of submission."""
        if self.submit_now(request):
            self._deliver(lambda: request.on_done(_WRITTEN))

    def submit_now(self, request: Request) -> bool:
        """The same; True: it is a write that is done already, and ``on_done`` will not be called."""
        if self._closing:
            raise UsageError("the disk is closed", "open it again")
        work = self._write_now(request) if request.operation is Operation.WRITE else self._perform(request)
        if work is None:
            return True
        self._in_progress += 1
        self._array.tasks.spawn(self._serve(request, work))
        self._array.tasks.run()
        return False

    def _write_now(self, request: Request) -> Coroutine[Any, Any, Buffer] | None:
        # It is copied, once for all legs: a guest may change its buffer meanwhile.
        data = request.buffers[0] if len(request.buffers) == 1 else b"".join(request.buffers)
        if len(data) != request.size:
            raise UsageError(f"a write of {request.size} bytes brings {len(data)}", "give as many as it says")
        if not request.size or not self._holds(request):
            return self._perform(request)
        left = self._volume.write_now(request.offset, data)
        return None if left is None and not request.stable else self._perform(request, left)

    def wait(self, until: Callable[[], bool], patience_s: float = math.inf) -> bool:
        """For those without a loop of their own: poll until ``until()``. False: it did not come to that, and for so
        long no leg has ended anything."""
        clock = self._array.clock
        self.poll()
        ended, since_s = self._array.jobs_ended, clock()
        while not until():
            if not self._array.events and not self._deliveries:
                if self._array.jobs_ended != ended:
                    ended, since_s = self._array.jobs_ended, clock()
                left_s = since_s + patience_s - clock()
                if left_s <= 0:
                    return False
                deadline_s = self.deadline_s()
                if deadline_s is not None:
                    left_s = min(left_s, max(0.0, deadline_s - clock()))
                self._sleep(None if left_s == math.inf else left_s)
            self.poll()
        return True

    # ---- the operator ----

    def pull(self, leg: int) -> None:
        """Take a leg out of service. Raises UsageError for the last one in sync."""
        place = self._place(leg)
        if not place.in_service:
            return
        if self._array.is_last(place):
            raise UsageError(f"leg {leg} is the only one in sync", "bring the other one back first")
        self._array.take_out(place, LegState.OFFLINE, LegFailed(Reason.PULLED, "by the operator"))
        self._array.tasks.run()

    def insert(self, leg: int, on_done: Callable[[FtvmError | None], None]) -> None:
        """Bring a leg back; ``on_done`` is told, from within ``poll``, that it gets all writes again, or why not.

        ``resync_step`` then copies what it lacks. A file that is not there is created, and copied in full.
        """
        place = self._place(leg)
        if place.in_service:
            self._answer(on_done, UsageError(f"leg {leg} is in service", "pull it first"))
        elif place.entering:
            self._answer(on_done, UsageError(f"leg {leg} is being brought back already", "wait for that"))
        else:
            place.entering = True
            self._in_progress += 1
            self._array.tasks.spawn(self._insert(place, on_done))
            self._array.tasks.run()

    def resync_step(self, budget_bytes: int) -> bool:
        """Copy up to so many bytes to legs that are being brought back, beside the requests of the guest.

        Returns at once, and begins nothing while the step before is in progress. False: there is nothing to copy.
        """
        if not self._resync.wanted():
            return False
        self._resync.step(budget_bytes)
        self._array.tasks.run()
        return True

    def scrub_step(self, budget_bytes: int) -> ScrubReport | None:
        """Compare so many more bytes of all legs in sync, beside the requests of the guest; at the end of a pass, its
        report.

        Returns at once, and begins nothing while the step before is in progress.
        """
        report = self._scrub.step(budget_bytes)
        self._array.tasks.run()
        return report

    @property
    def scrub_position(self) -> int:
        """How many bytes the present pass has compared."""
        return self._scrub.position

    def inject(self, leg: int, fault: Fault) -> None:
        """Let a leg go wrong, from the next operation on. Raises UsageError for one that is not in service."""
        place = self._place(leg)
        if place.leg is None:
            raise UsageError(f"leg {leg} is not in service", "insert it first")
        try:
            self._array.interpose(place, lambda file: FaultyFile(file, fault))
        except OSError as error:
            raise UsageError(f"leg {leg} cannot have this fault: {error.strerror}") from None

    def status(self) -> DiskStatus:
        superblock = self._array.superblock
        if any(not place.in_sync for place in self._array.in_service()):
            state = "resync"
        elif len(self._array.places) == 1:
            state = "unmirrored"
        else:
            state = "duplex" if len(self._array.in_sync()) > 1 else "simplex"
        return DiskStatus(
            array=superblock.array.hex(),
            generation=superblock.generation,
            state=state,
            size_bytes=self.size_bytes,
            integrity=superblock.integrity,
            dirty_bytes=self._bytes(self._array.intents.marked) if self._volume.recorded else 0,
            legs=[self._leg_status(place) for place in self._array.places],
        )

    def stamps(self) -> dict[str, LegStamp]:
        """Of the legs in sync, by file; when nothing is in progress. A leg that cannot say has none."""
        stamps = {}
        for place in self._array.in_sync():
            if place.leg is not None:
                with contextlib.suppress(LegFailed):
                    leg = place.leg_id if self._volume.recorded else b""
                    stamps[str(place.path)] = LegStamp(leg, place.leg.changed_ns())
        return stamps

    def close(self) -> None:
        """Finish what was submitted, sync, and leave every leg in good order. Blocks.

        Raises HostError when the last leg could not be left so, or does not answer; it is closed all the same.
        """
        self._closing = True
        idle = self.wait(lambda: not (self._in_progress or self._resync.busy or self._scrub.busy), STALLED_AFTER_S)
        error = self._complete(self._volume.finish()) if idle else _STALLED
        self._release(error)
        if error is not None:
            raise HostError(f"the disk could not be closed in good order: {error}", "look at it: ftvm disk check")

    def begin(self) -> None:
        """Put on record that the disk is in use, before anything else. Blocks. Raises HostError, and is closed then."""
        error = self._complete(self._volume.begin())
        if error is not None:
            self._release(error)
            raise HostError(f"the disk could not be opened: {error}", "look at it: ftvm disk check")

    def _complete(self, work: Coroutine[Any, Any, None]) -> DiskError | None:
        ends: list[DiskError | None] = []

        async def run() -> None:
            try:
                await work
            except DiskError as error:
                ends.append(error)
            else:
                ends.append(None)

        self._array.tasks.spawn(run())
        self._array.tasks.run()
        return ends[0] if self.wait(lambda: bool(ends), STALLED_AFTER_S) else _STALLED

    def _release(self, error: DiskError | None) -> None:
        """Close the files of all legs in service; those of legs that left it close when their last operation ends, and
        so do those of a disk that does not answer."""
        for place in self._array.places:
            if place.worker is not None and place.leg is not None:
                place.worker.abandon(place.leg.close)
                place.worker.join(RETIRE_S if error is _STALLED else None)
            elif place.worker is not None:
                place.worker.join(RETIRE_S)

    # ---- tasks ----

    async def _serve(self, request: Request, work: Coroutine[Any, Any, Buffer]) -> None:
        try:
            completion = Completion(await work, None)
        except DiskError as error:
            completion = Completion(b"", error)
        self._in_progress -= 1
        self._deliver(lambda: request.on_done(completion))

    def _holds(self, request: Request) -> bool:
        return request.offset >= 0 and request.size >= 0 and request.offset + request.size <= self.size_bytes

    async def _perform(self, request: Request, writing: Coroutine[Any, Any, None] | None = None) -> Buffer:
        """``writing``: what is left of a write."""
        offset, size = request.offset, request.size
        if not self._holds(request):
            raise DiskError(f"{size} bytes at {offset} are not inside the disk")
        if request.operation is Operation.FLUSH:
            await self._volume.flush()
        elif size:
            match request.operation:
                case Operation.READ:
                    return await self._volume.read(offset, size)
                case Operation.WRITE if writing is not None:
                    await writing
                case Operation.DISCARD:
                    await self._volume.zero(offset, size, punch=True)
                case Operation.WRITE_ZEROES:
                    await self._volume.zero(offset, size, punch=False)
            if request.stable:
                await self._volume.flush()
        return b""

    async def _insert(self, place: Place, on_done: Callable[[FtvmError | None], None]) -> None:
        error = await self._bring_back(place)
        place.entering = False
        self._in_progress -= 1
        self._answer(on_done, error)

    async def _bring_back(self, place: Place) -> FtvmError | None:
        if not await self._array.left(place):
            return HostError(
                f"leg {place.index} has not yet ended what it was doing when it left service",
                "try again when the host has given up on it",
            )
        superblock = self._array.superblock
        worker = self._array.start(place)
        reopened = await self._array.alone(place, lambda: self._reopen(place.path, superblock, place.leg_id))
        if not isinstance(reopened, Reopened):
            worker.abandon(lambda: None)
            if isinstance(reopened, FtvmError):
                return reopened
            return HostError(f"leg {place.index} cannot be opened: {reopened}", "put its file back in place")
        self._array.enter(place, reopened.leg, reopened.lacking)
        try:
            await self._volume.prepare(place, stranger=reopened.stranger)
        except DiskError as failure:
            return HostError(f"leg {place.index} cannot be brought back: {failure}")
        return None

    # ---- small things ----

    def _place(self, leg: int) -> Place:
        if not 0 <= leg < len(self._array.places):
            raise UsageError(f"no leg {leg}", f"this disk has legs 0 to {len(self._array.places) - 1}")
        return self._array.places[leg]

    def _deliver(self, call: Callable[[], None]) -> None:
        self._deliveries.append(call)
        if not self._polling:  # else it is about to be delivered
            self._array.wake()

    def _answer(self, on_done: Callable[[FtvmError | None], None], error: FtvmError | None) -> None:
        self._deliver(lambda: on_done(error))

    def _leg_status(self, place: Place) -> LegStatus:
        state = self._array.state(place)
        progress = None
        if state is LegState.DUPLEXING:
            progress = 1 - len(place.todo) / max(len(place.todo), place.todo_at_start, 1)
        return LegStatus(
            index=place.index,
            where=str(place.path),
            state=state,
            reason="" if place.in_service else place.reason,
            faults=dict(place.faults),
            dirty_bytes=self._bytes(place.todo if place.in_service else self._array.intents.missed),
            progress=progress,
            busy=place.leaving is not None,
        )

    def _bytes(self, regions: RegionSet) -> int:
        """The last region of a disk may be a short one."""
        count = region_count(self.size_bytes)
        short = count * REGION_BYTES - self.size_bytes
        return len(regions) * REGION_BYTES - (short if regions.covers((count - 1, count)) else 0)

    def _sleep_on_event(self, timeout_s: float | None) -> None:
        self._waiter.poll(None if timeout_s is None else timeout_s * 1000)

"""The legs of one disk: which are in service, what each is doing, and the record of it on every medium.

Here a leg enters and leaves service; nothing here knows what the jobs are for. A leg is late, and fails, when a
peer did the same thing and it still has not, ``timeout_s`` later: where all are slow the host is busy, and nobody is
to blame. The last leg in sync never leaves: its errors are the guest's errors, as those of a disk without a mirror are.
"""

import contextlib
import os
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from ftvm.legs import LegChanged, LegFault, LegState
from ftvm.storage.direct import Direct, LateWrite, Route
from ftvm.storage.events import Event, Unreadable
from ftvm.storage.host import Buffer, File
from ftvm.storage.intent import WriteIntents
from ftvm.storage.leg import Leg, LegFailed, Reason
from ftvm.storage.metadata import Era, Superblock
from ftvm.storage.regions import RegionSet, Span
from ftvm.storage.request import DiskError
from ftvm.storage.tasks import Future, Rounds, Tasks
from ftvm.storage.worker import Job, Surprise, ThreadWorker, Worker, perform

T = TypeVar("T")

StartWorker = Callable[[Callable[[Job], None]], Worker]

PATIENCE_US = 1000
"""What the host's page cache takes is written by then: nothing else is done meanwhile."""


def random_era() -> Era:
    return os.urandom(8)


class Place:
    """One leg's place in the disk, whether the leg is there or not."""

    def __init__(self, index: int, path: Path, leg_id: bytes) -> None:
        self.index = index
        self.path = path
        self.leg_id = leg_id
        self.leg: Leg | None = None
        self.worker: Worker | None = None
        self.in_service = False
        """Gets every write."""
        self.in_sync = False
        """Has everything: may be read."""
        self.out_as = LegState.OFFLINE
        self.todo = RegionSet()
        """What is still to be copied to it."""
        self.todo_at_start = 0
        self.leaving: LegJob | None = None
        """The last job of the worker, after the leg left service: closing its files."""
        self.entering = False
        """Its files are being opened."""
        self.prepared = False
        """The medium of every leg knows what is to be copied: copying may begin."""
        self.reason = ""
        self.faults: Counter[Reason] = Counter()
        self.announced: LegState | None = None
        self.jobs: set[LegJob] = set()

    def route(self) -> Route | None:
        """How to write to the leg without a job, where that can be."""
        assert self.leg is not None and self.worker is not None
        descriptor, queue = self.leg.descriptor(), self.worker.queue
        return None if descriptor is None or queue is None else (queue, descriptor)


class LegJob(Job):
    """A job of one leg. ``future`` gets its outcome, or a LegFailed when the leg leaves service before."""

    def __init__(self, action: Callable[[], object], place: Place, tasks: Tasks) -> None:
        super().__init__(action)
        self.place = place
        self.future: Future[object] = Future(tasks)
        self.group: Sequence[LegJob] = ()
        """Those that do the same on other legs."""


class LateJob(LegJob):
    """A leg's part of a write that began without a job."""

    def __init__(self, place: Place, tasks: Tasks, write: LateWrite, leg: int) -> None:
        super().__init__(partial(write.failure, leg), place, tasks)
        self.ended: Callable[[], bool] = partial(write.ended, leg)


class Array:
    """Owned by the thread of the monitor; only ``_job_done`` is called on others."""

    def __init__(
        self,
        superblock: Superblock,
        places: Sequence[Place],
        intents: WriteIntents,
        *,
        timeout_s: float,
        start_worker: StartWorker = ThreadWorker,
        clock: Callable[[], float] = time.monotonic,
        new_era: Callable[[], Era] = random_era,
    ) -> None:
        self.places = places
        self.intents = intents
        self.tasks = Tasks()
        self.events: deque[Event] = deque()
        self.event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # Not before the last worker is gone, which may be long after the disk was closed.
        weakref.finalize(self, os.close, self.event_fd)
        self._superblock = superblock
        self._recorded: Superblock | None = None
        self._records = Rounds(self.tasks, self._record, DiskError)
        self._timeout_s = timeout_s
        self._start_worker = start_worker
        self.clock = clock
        self._new_era = new_era
        self._done: deque[LegJob] = deque()
        self._deadlines: dict[LegJob, float] = {}
        self._late: list[LateJob] = []
        self._direct: Direct | None = None
        self._direct_known = False
        self.jobs_ended = 0
        """By legs, whatever came of them."""

    @property
    def superblock(self) -> Superblock:
        return self._superblock

    # ---- the loop's side ----

    def collect(self) -> None:
        """Take what workers have finished, and give up on what is late."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.event_fd)
        while self._done:
            self._settle(self._done.popleft())
        if self._late:
            self._look_at_late()
        if self._deadlines:
            now = self.clock()
            for job in [job for job, deadline in self._deadlines.items() if deadline <= now]:
                self._give_up(job)

    def next_deadline(self) -> float | None:
        """When ``collect`` has something to give up on, if nothing comes before; in the clock's seconds."""
        return min(self._deadlines.values(), default=None)

    def wake(self) -> None:
        os.eventfd_write(self.event_fd, 1)

    def _job_done(self, job: Job) -> None:
        """On the thread of a worker."""
        assert isinstance(job, LegJob)
        self._done.append(job)
        self.wake()

    def _perform_last(self, job: LegJob) -> None:
        """On the thread of a worker."""
        perform(job)
        self._job_done(job)

    def _look_at_late(self) -> None:
        for job in [job for job in self._late if job.ended()]:
            self._late.remove(job)
            perform(job)
            self._settle(job)

    def _settle(self, job: LegJob) -> None:
        self.jobs_ended += 1
        self._deadlines.pop(job, None)
        job.place.jobs.discard(job)
        if job.place.leaving is job:
            job.place.leaving = None
        if isinstance(job.outcome, Surprise):
            raise job.outcome.error
        if job.future.done:  # it was given up: whatever it did counts for nothing
            return
        if job.place.in_sync and not isinstance(job.outcome, LegFailed):
            for peer in job.group:
                if not peer.future.done and peer is not job:
                    self._deadlines.setdefault(peer, self.clock() + self._timeout_s)
        job.future.resolve(job.outcome)

    def _give_up(self, job: LegJob) -> None:
        if self._deadlines.pop(job, None) is None:  # its leg left service for another one of these
            return
        late = LegFailed(Reason.TIMEOUT, f"no answer for {self._timeout_s:g} s")
        if len(job.group) > 1:
            self.fail(job.place, late)
        else:  # a read, which is tried elsewhere, and that decides; or a leg that does not leave
            job.future.resolve(late)

    # ---- jobs ----

    def in_service(self) -> list[Place]:
        return [place for place in self.places if place.in_service]

    def in_sync(self) -> list[Place]:
        return [place for place in self.places if place.in_sync]

    def start(self, place: Place) -> Worker:
        place.worker = self._start_worker(self._job_done)
        return place.worker

    async def on(self, places: Iterable[Place], action: Callable[[Leg], T]) -> dict[Place, T | LegFailed]:
        """Do the same on several legs, all at once; return when each has done it, failed or left service."""
        group = [self._post(place, action) for place in places]
        for job in group:
            job.group = group
        return await self.outcomes(group)

    async def outcomes(self, group: Sequence[LegJob]) -> dict[Place, T | LegFailed]:
        """Of the same thing on several legs."""
        return {job.place: self._outcome(await job.future) for job in group}

    async def read(self, place: Place, action: Callable[[Leg], Buffer], *, hurry: bool) -> Buffer | LegFailed:
        """Do it on one leg. ``hurry``: there are others; after the timeout it is no longer waited for."""
        job = self._post(place, action)
        if hurry:
            self._deadlines[job] = self.clock() + self._timeout_s
        return self._outcome(await job.future)

    async def alone(self, place: Place, action: Callable[[], object]) -> object:
        """Do something that needs no leg on the place's worker; exceptions that may be are values."""
        job = LegJob(action, place, self.tasks)
        assert place.worker is not None
        place.worker.post(job)
        return await job.future

    def direct(self) -> Direct | None:
        """How to write to all legs in service without jobs, where that can be."""
        if not self._direct_known:
            routes = [place.route() for place in self.in_service()]
            known = [route for route in routes if route is not None]
            self._direct = Direct(known, self.event_fd) if len(known) == len(routes) else None
            self._direct_known = True
        return self._direct

    def write(self, direct: Direct, offset: int, data: Buffer) -> Sequence[LegJob]:
        """To all legs in service. Jobs to wait for, if they do not all have it in a moment; else none."""
        places = self.in_service()
        lagging = any(not job.future.done for job in self._late)
        write = direct.write(offset, data, 0 if lagging else PATIENCE_US)
        if write is None:
            self.jobs_ended += len(places)
            return ()
        group = [LateJob(place, self.tasks, write, leg) for leg, place in enumerate(places)]
        for job in group:
            job.group = group
            job.place.jobs.add(job)
        self._late += group
        self._look_at_late()
        return group

    async def left(self, place: Place) -> bool:
        """Wait until the worker of a leg that left service has ended; False when that takes too long."""
        last = place.leaving
        if last is None:
            return True
        if last.future.done:  # it took too long before
            last.future = Future(self.tasks)
        self._deadlines[last] = self.clock() + self._timeout_s
        return not isinstance(await last.future, LegFailed)

    def _post(self, place: Place, action: Callable[[Leg], object]) -> LegJob:
        leg, worker = place.leg, place.worker
        assert leg is not None and worker is not None
        job = LegJob(lambda: action(leg), place, self.tasks)
        place.jobs.add(job)
        worker.post(job)
        return job

    @staticmethod
    def _outcome(value: object) -> T | LegFailed:
        if isinstance(value, Exception) and not isinstance(value, LegFailed):
            raise value
        return value  # type: ignore[return-value]  # what the action returned

    # ---- service ----

    def note(self, place: Place, failure: LegFailed) -> None:
        """Count a fault, and tell of it."""
        place.faults[failure.reason] += 1
        self.tell(LegFault(place.index, failure.reason, failure.detail))

    def tell(self, event: Event) -> None:
        self.events.append(event)
        self.wake()

    def unreadable(self, offset: int, size: int) -> DiskError:
        self.tell(Unreadable(offset, size))
        return DiskError(f"no leg can give the {size} bytes at {offset}")

    def is_last(self, place: Place) -> bool:
        return self.in_sync() == [place]

    def fail(self, place: Place, failure: LegFailed) -> bool:
        """Take a leg that failed out of service, unless it is the last; return whether it is out."""
        if place.in_service and not failure.charged:
            self.note(place, failure)
            if not self.is_last(place):
                self.take_out(place, LegState.FAILED, failure)
        return not place.in_service or failure.charged

    def take_out(self, place: Place, state: LegState, failure: LegFailed) -> None:
        """Out of service at once. What it may lack from now on is remembered; what it still does counts for nothing."""
        leg, worker = place.leg, place.worker
        assert place.in_service and leg is not None and worker is not None and not self.is_last(place)
        was_in_sync = place.in_sync
        place.in_service = place.in_sync = place.prepared = False
        self._direct_known = False
        place.out_as = state
        place.reason = str(failure)
        masks = self.intents.lose(place.todo)
        place.todo = RegionSet()
        place.leg = None
        last = LegJob(lambda: leg.retire(masks), place, self.tasks)
        place.leaving = last
        worker.abandon(lambda: self._perform_last(last))
        for job in place.jobs:
            self._deadlines.pop(job, None)
            if not job.future.done:
                job.future.resolve(LegFailed(failure.reason, failure.detail, charged=True))
        place.jobs.clear()
        if was_in_sync:
            self.change_member(place, in_sync=False, since=self._superblock.confirmed)
        self.announce()

    def enter(self, place: Place, leg: Leg, lacking: RegionSet) -> None:
        """Into service at once: it gets every write from now on. ``Volume.prepare`` does the rest."""
        place.leg = leg
        place.in_service = True
        self._direct_known = False
        degraded = not all(other.in_service for other in self.places)
        place.todo = self.intents.bring_back(lacking, degraded=degraded)
        place.todo_at_start = len(place.todo)
        self.announce()

    def interpose(self, place: Place, wrap: Callable[[File], File]) -> None:
        """Put something between a leg and its image file: fault injection."""
        assert place.leg is not None
        place.leg.interpose(wrap)
        self._direct_known = False

    def drop(self, outcomes: dict[Place, T | LegFailed], span: Span | None = None) -> DiskError | None:
        """Take all legs that failed out of service. An error when the last one failed, which stays.

        ``span`` is what was written: where the last leg failed, it may have another half of it than its copies.
        """
        error = None
        for place, outcome in reversed(outcomes.items()):
            if isinstance(outcome, LegFailed) and not self.fail(place, outcome):
                error = DiskError(f"leg {place.index}, the last one: {outcome}")
        if error is not None and span is not None:
            for place in self.in_service():
                if not place.in_sync:
                    place.todo.add(span)
        return error

    # ---- the record ----

    def change_member(self, place: Place, *, in_sync: bool, since: Era | None = None) -> None:
        """A new era begins: its members. ``since`` None: this era. Await ``settled`` to have it on the medium."""
        era = self._new_era()
        members = [
            msgspec.structs.replace(
                member, name=place.path.name, in_sync=in_sync, since=era if since is None else since
            )
            if member.leg == place.leg_id
            else member
            for member in self._superblock.members
        ]
        self._superblock = self._superblock.next_era(era, members)
        self.tasks.spawn(self._try_to_record())

    def record_again(self) -> None:
        """A leg came into service, and is to have the present record."""
        self._recorded = None

    @property
    def is_settled(self) -> bool:
        """Every leg in service has on its medium who is in service. Nothing may be acknowledged before."""
        return self._recorded is self._superblock

    async def settled(self) -> None:
        """Return when ``is_settled``."""
        while not self.is_settled:
            await self._records.next()

    async def _try_to_record(self) -> None:
        with contextlib.suppress(DiskError):  # whoever needs it will ask again, and be told
            await self.settled()

    async def _record(self) -> None:
        while not self.is_settled:
            superblock = self._superblock
            outcomes = await self.on(self.in_service(), partial(Leg.record, superblock=superblock))
            error = self.drop(outcomes)
            if error is not None:
                raise error
            if superblock is not self._superblock:
                continue
            if superblock.confirmed == superblock.era:
                self._recorded = superblock
            else:
                self._superblock = msgspec.structs.replace(superblock, confirmed=superblock.era)

    # ---- states ----

    def state(self, place: Place) -> LegState:
        if not place.in_service:
            return place.out_as
        if not place.in_sync:
            return LegState.DUPLEXING
        return LegState.ONLINE if self.is_last(place) else LegState.DUPLEXED

    def announce(self) -> None:
        """Tell of every leg whose state is another one than last told."""
        for place, state in [(place, self.state(place)) for place in self.places]:
            if place.announced not in (None, state):
                self.tell(LegChanged(place.index, state, place.reason if place.out_as == state else ""))
            place.announced = state

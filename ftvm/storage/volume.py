"""The legs as one sequence of bytes: reading from any, writing to all, marking before and syncing after.

range lock -> mark regions on every leg -> write on every leg -> record who failed -> acknowledge
"""

from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from typing import Any

from ftvm._native import ffi
from ftvm.storage import integrity
from ftvm.storage.array import Array, LegJob, Place
from ftvm.storage.direct import Shortcut
from ftvm.storage.events import Repaired
from ftvm.storage.host import Buffer
from ftvm.storage.integrity import BLOCK_BYTES
from ftvm.storage.leg import Leg, LegFailed, Reason
from ftvm.storage.ranges import Hold, Ranges
from ftvm.storage.regions import REGION_BYTES, RegionSet, Span, span_of
from ftvm.storage.request import DiskError
from ftvm.storage.tasks import Rounds
from ftvm.units import MIB

ZERO_PIECE_BYTES = 64 * MIB
"""Ranges are zeroed in pieces, so that a leg that must write the zeroes is not late for it."""

_REPAIRABLE = (Reason.IO_ERROR, Reason.CHECKSUM)


class Volume:
    """Everything that may wait is a coroutine, and raises DiskError when no leg can do it."""

    def __init__(self, array: Array, suspect: RegionSet, *, recorded: bool) -> None:
        """``suspect``: regions whose checksums are no evidence. ``recorded``: the legs have metadata."""
        self.array = array
        self.suspect = suspect
        self.recorded = recorded
        self.ranges = Ranges(array.tasks)
        self.size_bytes = array.superblock.size_bytes
        self.integrity = array.superblock.integrity
        self._intents = array.intents
        self._places_of: RegionSet | None = None
        self._places: Any = None
        self._marks = Rounds(array.tasks, self._mark_round, DiskError)
        self._flushes = Rounds(array.tasks, self._flush_round, DiskError)

    # ---- requests ----

    async def read(self, offset: int, size: int) -> Buffer:
        start, end = self._blocks(offset, size)
        async with self.ranges.shared(start, end - start):
            data = await self.fetch(start, end - start)
        return data if len(data) == size else memoryview(data)[offset - start :][:size]

    def read_cached(self, offset: int, size: int) -> Buffer | None:
        """As ``read``, if that needs neither a medium nor anybody who is at work; else None."""
        if self.integrity or not self.ranges.is_free(offset, size):
            return None
        readers = self._readers()
        try:
            return readers[0].leg.read_cached(offset, size) if readers and readers[0].leg is not None else None
        except LegFailed:  # `read` will find out, too
            return None

    def shortcut(self) -> Shortcut | None:
        """For ``read_cached`` and ``write_now``, if nobody is at work; None if these do more."""
        readers = self._readers()
        if self.integrity or not self.ranges.free or not readers or readers[0].leg is None:
            return None
        fd = readers[0].leg.descriptor()
        if fd is None:
            return None
        return Shortcut(fd, self.array.direct() if self.array.is_settled else None, self._marked_places())

    def _marked_places(self) -> Any:
        if self._places_of is not self._intents.marked:  # another set, whenever it is another one
            self._places_of = self._intents.marked
            spans = [(first * REGION_BYTES, (stop - first) * REGION_BYTES) for first, stop in self._places_of.spans()]
            self._places = ffi.new("ft_extent[]", spans)
        return self._places

    def wrote(self, offset: int, size: int) -> None:
        """Somebody took the shortcut."""
        self._intents.end(self._intents.begin(span_of(offset, size)))

    async def write(self, offset: int, data: Buffer) -> None:
        start, end = self._blocks(offset, len(data))
        async with self.ranges.exclusive(start, end - start):
            await self._store(offset, data)

    def write_now(self, offset: int, data: Buffer) -> Coroutine[Any, Any, None] | None:
        """As ``write``, begun at once where nothing stands in its way: then ``data`` may change on return. None: it is
        done; else what is still to be awaited for it."""
        size = len(data)
        span = span_of(offset, size)
        direct = self.array.direct() if self._intents.marked.covers(span) and self.array.is_settled else None
        hold = None if direct is None else self.ranges.take_now(offset, size, exclusive=True)
        if direct is None or hold is None:
            return self.write(offset, bytes(data))
        ticket = self._intents.begin(span)
        late = self.array.write(direct, offset, data)
        if late:
            return self._end_late(late, span, ticket, hold)
        self._intents.end(ticket)
        self.ranges.give_back(hold)
        return None

    async def _end_late(self, late: Sequence[LegJob], span: Span, ticket: object, hold: Hold) -> None:
        try:
            await self._absorb(await self.array.outcomes(late), span)
        finally:
            self._intents.end(ticket)
            self.ranges.give_back(hold)

    async def zero(self, offset: int, size: int, *, punch: bool) -> None:
        start, end = self._blocks(offset, size)
        async with self.ranges.exclusive(start, end - start):
            for at, count in _pieces(offset, size):
                if self.integrity and (at % BLOCK_BYTES or count % BLOCK_BYTES):
                    await self._store(at, bytes(count))
                else:
                    await self._on_all(at, count, partial(Leg.zero, offset=at, size=count, punch=punch))

    async def flush(self) -> None:
        """Everything whose completion was seen before this call is on the medium of every leg in service."""
        await self._flushes.next()

    # ---- reading; the range is locked ----

    async def fetch(self, offset: int, size: int) -> Buffer:
        """From a leg that has it right; those that were asked before it, and did not, are repaired. In whole blocks
        with integrity."""
        data, failed = await self._try_legs(offset, size)
        if data is None and size > BLOCK_BYTES:  # each leg may be wrong somewhere else
            blocks = []
            for at in range(offset, offset + size, BLOCK_BYTES):
                block, failed_here = await self._try_legs(at, min(BLOCK_BYTES, offset + size - at))
                if block is None:
                    offset, size, failed = at, BLOCK_BYTES, failed_here
                    break
                blocks.append(block)
            else:
                data = b"".join(blocks)
        if data is None:
            for place, failure in failed.items():
                if not failure.charged:
                    self.array.note(place, failure)
            raise self.array.unreadable(offset, size)
        await self._heal(failed, offset, data)
        return data

    async def _try_legs(self, offset: int, size: int) -> tuple[Buffer | None, dict[Place, LegFailed]]:
        """From the first leg that can give it, and how those before it failed."""
        verify = not self.suspect.overlaps(span_of(offset, size))
        for hurry in (True, False):
            failed: dict[Place, LegFailed] = {}
            readers = self._readers()
            for place in readers:
                outcome = await self._fetch_from(place, offset, size, verify, hurry and len(readers) > 1)
                if not isinstance(outcome, LegFailed):
                    return outcome, failed
                failed[place] = outcome
            if all(failure.reason is not Reason.TIMEOUT for failure in failed.values()):
                break  # else nobody was quick enough: ask again, and wait
        return None, failed

    def _readers(self) -> list[Place]:
        """Whom to ask: the first one, unless it has more to do: the host then caches one copy, not two."""
        return sorted(self.array.in_sync(), key=lambda place: len(place.jobs))

    async def _fetch_from(self, place: Place, offset: int, size: int, verify: bool, hurry: bool) -> Buffer | LegFailed:
        leg = place.leg
        if leg is None or not place.in_sync:
            return LegFailed(Reason.PULLED, "left service meanwhile", charged=True)
        try:
            data = leg.read_cached(offset, size, verify=verify)
        except LegFailed as failure:
            return failure
        if data is not None:
            return data
        return await self.array.read(place, lambda leg: leg.read(offset, size, verify=verify), hurry=hurry)

    async def _heal(self, failed: dict[Place, LegFailed], offset: int, data: Buffer) -> None:
        """``data`` is right: write it where it could not be read. What cannot be repaired is out of service."""
        sums = self._sums(data)
        for place, failure in failed.items():
            if failure.charged or not place.in_service:
                continue
            if failure.reason in _REPAIRABLE:
                self.array.note(place, failure)
                outcomes = await self.array.on([place], partial(Leg.mend, offset=offset, data=data, sums=sums))
                if self.array.drop(outcomes) is None and place.in_service:
                    self.array.tell(Repaired(place.index, offset, len(data)))
            else:
                self.array.fail(place, failure)

    async def mend(self, place: Place, failure: LegFailed, offset: int, data: Buffer) -> None:
        """``place`` failed to give what ``data`` are: repair it, or take it out of service."""
        await self._heal({place: failure}, offset, data)

    # ---- writing; the range is locked ----

    async def _store(self, offset: int, data: Buffer) -> None:
        offset, data = await self._whole_blocks(offset, data)
        sums = self._sums(data)
        await self._on_all(offset, len(data), lambda leg: leg.write(offset, data, sums))

    async def _on_all(self, offset: int, size: int, change: Callable[[Leg], None]) -> None:
        span = span_of(offset, size)
        ticket = self._intents.begin(span)
        try:
            await self.marked(span)
            await self._absorb(await self.array.on(self.array.in_service(), change), span)
        finally:
            self._intents.end(ticket)

    async def _absorb(self, outcomes: dict[Place, LegFailed | None], span: Span | None = None) -> None:
        """Nothing is acknowledged before it is on record which legs do not have it."""
        error = self.array.drop(outcomes, span)
        await self.array.settled()
        if error is not None:
            raise error

    async def _whole_blocks(self, offset: int, data: Buffer) -> tuple[int, Buffer]:
        """With integrity: the blocks that the data touch, with the data in them."""
        start, end = self._blocks(offset, len(data))
        if (start, end) == (offset, offset + len(data)):
            return offset, data
        old = bytearray(await self.fetch(start, end - start))
        old[offset - start : offset - start + len(data)] = data
        return start, bytes(old)

    def _blocks(self, offset: int, size: int) -> tuple[int, int]:
        """The range (start, end), widened to whole blocks with integrity."""
        if not self.integrity:
            return offset, offset + size
        return offset // BLOCK_BYTES * BLOCK_BYTES, -(-(offset + size) // BLOCK_BYTES) * BLOCK_BYTES

    def _sums(self, data: Buffer) -> bytes | None:
        return integrity.checksums(data) if self.integrity else None

    # ---- marks and flushes ----

    async def marked(self, span: Span) -> None:
        """Return when these regions are marked on the medium of every leg in service."""
        while not self._intents.marked.covers(span):
            self._intents.want(span)
            await self._marks.next()

    async def write_marks(self) -> None:
        """Everything that was asked to be marked is; marks that nobody needs may have gone."""
        await self._marks.next()

    async def _mark_round(self, *, exact: bool = False) -> None:
        needed = [place.todo for place in self.array.places]
        masks = self._intents.next_batch([*needed, self.suspect], exact=exact)
        if masks:
            await self._absorb(await self.array.on(self.array.in_service(), lambda leg: leg.mark(masks)))
        self._intents.batch_done()

    async def _flush_round(self) -> None:
        if not self._intents.nothing_to_flush():
            self._intents.flush_begins()
            await self._absorb(await self.array.on(self.array.in_service(), Leg.sync))
            self._intents.flush_ended()
        await self.array.settled()

    async def begin(self) -> None:
        """Put on every medium who is in service, and which regions may differ; then legs may be brought in sync."""
        places = self.array.in_service()
        if self.recorded:
            self._intents.rewrite_all()
            await self._mark_round(exact=True)
        await self.array.settled()
        for place in places:
            place.prepared = place.in_service

    async def prepare(self, place: Place, *, stranger: bool) -> None:
        """``place`` came into service. What it lacks is marked before its metadata may say that it belongs here."""
        leg = place.leg
        self._intents.rewrite_all()
        await self.write_marks()
        if place.leg is not leg:
            return
        if stranger:  # should the file whose place it takes come back: that one is too old from here on
            self.array.change_member(place, in_sync=False)
        else:
            self.array.record_again()
        await self.array.settled()
        place.prepared = place.leg is leg

    async def finish(self) -> None:
        """Leave every leg in good order, when nothing is in progress any more."""
        await self.flush()
        await self._mark_round(exact=True)
        # With checksums that are no evidence, the next user has to see what it would see after a crash.
        orderly = not self.suspect
        closed = None
        while closed is not self.array.superblock:  # a leg that fails now changes it
            closed = self.array.superblock
            record = partial(Leg.record, superblock=closed, closing=orderly)
            await self._absorb(await self.array.on(self.array.in_service(), record))


def _pieces(offset: int, size: int) -> Iterator[tuple[int, int]]:
    """(offset, size) of pieces that are whole blocks but for the edges."""
    end = offset + size
    while offset < end:
        stop = min(end, offset + ZERO_PIECE_BYTES)
        if offset % BLOCK_BYTES:
            stop = min(end, offset - offset % BLOCK_BYTES + BLOCK_BYTES)
        elif stop - offset > BLOCK_BYTES:
            stop -= stop % BLOCK_BYTES
        yield offset, stop - offset
        offset = stop

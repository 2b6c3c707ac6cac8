"""Bringing legs in sync while the guest works: copy what a leg lacks, region by region, then let it be read.

A region is locked against writes while it is copied, and every write goes to the returning leg too: what comes
before the copy of its region is in the copy, what comes after it is written over the copy.
"""

from ftvm.legs import LegState
from ftvm.storage import integrity
from ftvm.storage.array import Place
from ftvm.storage.leg import LegFailed, Reason
from ftvm.storage.regions import REGION_BYTES, Span
from ftvm.storage.request import DiskError
from ftvm.storage.volume import Volume
from ftvm.units import MIB

COPY_REGIONS = 16
"""Regions copied under one lock: 1 MiB, some milliseconds for a guest that waits to write there."""

KEEP_EVERY_BYTES = 256 * MIB
"""Copied bytes after which legs are synced and marks taken back: what a crash makes it copy again at most."""

_ZEROES = bytes(COPY_REGIONS * REGION_BYTES)


class Resync:
    """Steps of a bounded number of bytes, one at a time."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._array = volume.array
        self._intents = volume.array.intents
        self._since_kept = 0
        self.busy = False

    def wanted(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._volume.suspect) or any(not place.in_sync for place in self._array.in_service())

    def step(self, budget_bytes: int) -> None:
        """Begin a step, when none is in progress."""
        if not self.busy:
            self.busy = True
            self._array.tasks.spawn(self._step(budget_bytes))

    async def _step(self, budget: int) -> None:
        try:
            while budget > 0 and (span := self._volume.suspect.first_span(COPY_REGIONS)) is not None:
                budget -= await self._take_as_it_is(span)
            for place in self._array.places:
                while budget > 0 and place.prepared and (span := place.todo.first_span(COPY_REGIONS)) is not None:
                    budget -= await self._copy(place, span)
                if place.prepared and not place.in_sync and not place.todo:
                    await self._join(place)
            if self._since_kept >= KEEP_EVERY_BYTES:
                self._since_kept = 0
                await self._volume.flush()
                await self._volume.write_marks()
        except DiskError as error:
            self._give_up(error)
        finally:
            self.busy = False

    async def _copy(self, place: Place, span: Span) -> int:
        offset, size = self._bytes(span)
        async with self._volume.ranges.shared(offset, size):
            if not (place.prepared and place.todo.overlaps(span)):  # it left service while this waited
                return 0
            # As a write of the guest: its regions stay marked until this leg was synced too.
            ticket = self._intents.begin(span)
            try:
                await self._volume.marked(span)
                data = await self._volume.fetch(offset, size)
                if not place.prepared:
                    return 0
                if data == _ZEROES[:size]:
                    outcomes = await self._array.on([place], lambda leg: leg.zero(offset, size, punch=True))
                else:
                    sums = integrity.checksums(data) if self._volume.integrity else None
                    outcomes = await self._array.on([place], lambda leg: leg.write(offset, data, sums))
                if not isinstance(outcomes[place], LegFailed):
                    place.todo.remove(span)
                self._array.drop(outcomes)
            finally:
                self._intents.end(ticket)
        self._since_kept += size
        return size

    async def _take_as_it_is(self, span: Span) -> int:
        """After a crash, data and checksums may be of different ages: the data count."""
        offset, size = self._bytes(span)
        async with self._volume.ranges.shared(offset, size):
            ticket = self._intents.begin(span)
            try:
                sums = integrity.checksums(await self._volume.fetch(offset, size))
                outcomes = await self._array.on(self._array.in_sync(), lambda leg: leg.write_sums(offset, sums))
                error = self._array.drop(outcomes)
                if error is not None:
                    raise error
                self._volume.suspect.remove(span)
            finally:
                self._intents.end(ticket)
        return size

    async def _join(self, place: Place) -> None:
        """Everything was copied; once that is on the medium, the leg is in sync."""
        await self._volume.flush()
        if place.prepared and not place.todo:
            place.in_sync = True
            self._array.change_member(place, in_sync=True)
            self._array.announce()
            await self._array.settled()

    def _give_up(self, error: DiskError) -> None:
        """What cannot be read cannot be copied: legs that wait for it would wait for ever."""
        for place in self._array.in_service():
            if not place.in_sync:
                self._array.take_out(place, LegState.FAILED, LegFailed(Reason.IO_ERROR, f"resync: {error}"))

    def _bytes(self, span: Span) -> tuple[int, int]:
        offset = span[0] * REGION_BYTES
        return offset, min(span[1] * REGION_BYTES, self._volume.size_bytes) - offset

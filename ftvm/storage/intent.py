"""In which regions legs may differ, in memory and on the medium.

The order that makes it safe: a region is marked on the medium of every leg in service *before* a write to it goes
to any leg, and the mark goes away only after every leg has the write and was synced. So whenever everything stops,
two legs that were in sync differ in marked regions at most, and a leg that is away lacks marked regions at most.

Marking costs a sync of the metadata, so it is done for whole groups, ahead of a stream of writes, and marks of regions
that are clean by now stay until there are many: a guest that keeps writing to the same gigabyte pays once. Groups grow
while one batch soon follows another, so that a guest that writes here and there pays a few times, not once per group.
"""

from collections.abc import Iterable

from ftvm.storage.regions import RegionSet, Span, sector_count

GROUP = 16
"""Regions that are marked together: 1 MiB."""
MAX_GROUP = 1024
"""To which it grows, by doubling: 64 MiB."""
SOON = 16
"""Writes: when a batch is wanted after so few, groups grow; after more, they are small again."""
AHEAD = 8
"""Groups that are marked together where the group before them is marked: a stream of writes."""
HOT_REGIONS = 16 * 1024
"""Marks (1 GiB) beyond which those of clean regions are taken back; what a crash makes the mirror compare at most,
when the guest flushes now and then."""


class WriteIntents:
    """Pure bookkeeping; the mirror does the writing.

    ``marked`` is what is certainly on the medium. ``missed`` is what legs out of service lack: it has everything that
    was not synced when the first of them left, and everything that was begun since.
    """

    def __init__(self, regions: int, marked: RegionSet) -> None:
        self._regions = regions
        self.marked = marked.copy()
        self.missed = RegionSet()
        self.degraded = False
        """A leg is out of service, and not being brought back: every write is missed by somebody."""
        self._writing: dict[object, Span] = {}
        self._unsynced = RegionSet()
        self._syncing = RegionSet()
        self._wanted = RegionSet()
        self._batch = RegionSet()
        self._rewrite = False
        self._group = GROUP
        self._asked = False
        self._begun = self._begun_before = 0
        """Writes: so far, and until the last batch that one of them asked for."""

    # ---- writes ----

    def begin(self, span: Span) -> object:
        """A write to these regions begins, or waits for its marks. Give what this returns to ``end``."""
        ticket = object()
        self._begun += 1
        self._writing[ticket] = span
        self._unsynced.add(span)
        if self.degraded:
            self.missed.add(span)
        return ticket

    def end(self, ticket: object) -> None:
        del self._writing[ticket]

    def unsynced(self) -> RegionSet:
        """Regions with writes that a crash now may leave on some legs only."""
        return self._unsynced | self._syncing

    def lose(self, lacking: RegionSet) -> dict[int, int]:
        """A leg leaves service: it lacks this, and everything that was not synced on it. Returns its bitmap, as far as
        it may not be so already."""
        self.degraded = True
        lost = lacking | self._unsynced | self._syncing
        self.missed.update(lost)
        return {number: lost.mask(number) for number in (self.marked | self._batch | lost).sectors()}

    def bring_back(self, lacking: RegionSet, *, degraded: bool) -> RegionSet:
        """A leg comes into service, which lacks ``lacking`` by its own account: all that is to be copied to it.

        ``degraded``: others are still away. What the leg lacks is its caller's to keep marked from now on.
        """
        todo = self.missed | lacking
        self.degraded = degraded
        if not degraded:
            self.missed.clear()
        self.want_set(todo)
        return todo

    # ---- flushes ----

    def nothing_to_flush(self) -> bool:
        return not self._unsynced and not self._syncing

    def flush_begins(self) -> None:
        """What is written from now on, this flush may not cover."""
        self._syncing.update(self._unsynced)
        self._unsynced = RegionSet.of(*self._writing.values())

    def flush_ended(self) -> None:
        """All legs in service have on their medium what was written when the flush began."""
        self._syncing.clear()

    # ---- marks ----

    def want(self, span: Span) -> None:
        """The next batch is to mark this, and what will probably come after it."""
        if self._begun - self._begun_before > SOON:
            self._group = GROUP
        self._asked = True
        first = span[0] // self._group * self._group
        stop = -(-span[1] // self._group) * self._group
        if first > 0 and self.marked.covers((first - 1, first)):
            stop = max(stop, first + AHEAD * GROUP)
        self._wanted.add((first, min(stop, self._regions)))

    def want_set(self, regions: RegionSet) -> None:
        """The next batch is to mark exactly these."""
        self._wanted.update(regions)

    def rewrite_all(self) -> None:
        """The next batch is to write the whole bitmap, whatever is known of it: a leg came into service."""
        self._rewrite = True

    def next_batch(self, needed: Iterable[RegionSet], *, exact: bool = False) -> dict[int, int]:
        """Sectors of the bitmap to write now, by number. ``needed``: what else must stay marked.

        ``exact`` takes back every mark that nobody needs. From here to ``batch_done`` a mark that goes counts as gone
        and one that comes does not count yet.
        """
        keep = self._wanted | self._unsynced | self._syncing | self.missed
        for regions in needed:
            keep.update(regions)
        before = self.marked
        if exact or len(before) > HOT_REGIONS:
            self._batch = keep
            self.marked = before & keep
        else:
            self._batch = before | keep
            self.marked = before.copy()
        self._wanted = RegionSet()
        if self._asked:
            self._asked = False
            self._group = min(2 * self._group, MAX_GROUP)
            self._begun_before = self._begun
        numbers = set(range(sector_count(self._regions))) if self._rewrite else before.sectors() | self._batch.sectors()
        masks = {
            number: self._batch.mask(number)
            for number in sorted(numbers)
            if self._rewrite or before.mask(number) != self._batch.mask(number)
        }
        self._rewrite = False
        return masks

    def batch_done(self) -> None:
        """The batch is on the medium of every leg in service."""
        self.marked = self._batch

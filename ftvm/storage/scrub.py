"""Reading everything from every leg, before a fault is met when no other leg is left to repair it."""

import msgspec

from ftvm.storage.array import Place
from ftvm.storage.events import Mismatch
from ftvm.storage.host import Buffer
from ftvm.storage.integrity import BLOCK_BYTES
from ftvm.storage.leg import LegFailed
from ftvm.storage.regions import REGION_BYTES, span_of
from ftvm.storage.volume import Volume

CHUNK_BYTES = 16 * REGION_BYTES


class ScrubReport(msgspec.Struct):
    """One pass, in blocks of 4 KiB: how many were repaired on some leg; which differ, with nothing to say which leg is
    right; which no leg can give."""

    bytes_read: int = 0
    repaired: int = 0
    mismatched: list[int] = msgspec.field(default_factory=list)
    """Offsets, in ascending order."""
    unreadable: list[int] = msgspec.field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not self.mismatched and not self.unreadable


class Scrub:
    """Steps of a bounded number of bytes, one at a time."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._array = volume.array
        self._next = 0
        self._report = ScrubReport()
        self.busy = False

    @property
    def position(self) -> int:
        """Bytes of this pass that were compared."""
        return self._next

    def step(self, budget_bytes: int) -> ScrubReport | None:
        """Begin a step, when none is in progress; the report when the last one ended the pass."""
        if self.busy:
            return None
        if self._next >= self._volume.size_bytes:
            report, self._report, self._next = self._report, ScrubReport(), 0
            return report
        self.busy = True
        self._array.tasks.spawn(self._step(budget_bytes))
        return None

    async def _step(self, budget: int) -> None:
        while budget > 0 and self._next < self._volume.size_bytes:
            size = min(CHUNK_BYTES, self._volume.size_bytes - self._next)
            async with self._volume.ranges.shared(self._next, size):
                found = await self._read_all(self._next, size)
                if not _agree(found):
                    for at in range(self._next, self._next + size, BLOCK_BYTES):
                        await self._look_into(at, min(BLOCK_BYTES, self._next + size - at))
            self._report.bytes_read += size
            self._next += size
            budget -= size
        self.busy = False

    async def _read_all(self, offset: int, size: int) -> dict[Place, Buffer | LegFailed]:
        verify = not self._volume.suspect.overlaps(span_of(offset, size))
        return await self._array.on(self._array.in_sync(), lambda leg: leg.read(offset, size, verify=verify))

    async def _look_into(self, offset: int, size: int) -> None:
        found = await self._read_all(offset, size)
        right = [outcome for outcome in found.values() if not isinstance(outcome, LegFailed)]
        if not right:
            for place, outcome in found.items():
                if isinstance(outcome, LegFailed) and not outcome.charged:
                    self._array.note(place, outcome)
            self._array.unreadable(offset, size)
            self._report.unreadable.append(offset)
        elif any(one != right[0] for one in right):
            self._array.tell(Mismatch(offset, size))
            self._report.mismatched.append(offset)
        else:
            for place, outcome in found.items():
                if isinstance(outcome, LegFailed):
                    await self._volume.mend(place, outcome, offset, right[0])
                    self._report.repaired += place.in_sync


def _agree(found: dict[Place, Buffer | LegFailed]) -> bool:
    first = next(iter(found.values()))
    return not any(isinstance(outcome, LegFailed) or outcome != first for outcome in found.values())

"""Who may touch which bytes of the disk at the same time.

Virtio leaves open what becomes of requests that overlap. Legs must nevertheless end up alike, and a region that is
being copied to a returning leg must not change under the copy, so here they are served one after the other.
"""

from types import TracebackType

import msgspec

from ftvm.storage.tasks import Future, Tasks


class Hold(msgspec.Struct, eq=False):
    """A range that somebody has, or waits for."""

    start: int
    end: int
    exclusive: bool
    granted: Future[None]

    def excludes(self, other: "Hold") -> bool:
        return self.start < other.end and other.start < self.end and (self.exclusive or other.exclusive)


class Ranges:
    """Locks on byte ranges; first come, first served where they conflict."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._held: dict[Hold, None] = {}
        self._waiting: dict[Hold, None] = {}

    def shared(self, offset: int, size: int) -> "Lock":
        """Nobody writes there meanwhile. For ``async with``."""
        return Lock(self, offset, size, exclusive=False)

    def exclusive(self, offset: int, size: int) -> "Lock":
        """Nobody else is there meanwhile. For ``async with``."""
        return Lock(self, offset, size, exclusive=True)

    @property
    def free(self) -> bool:
        """Nobody is anywhere."""
        return not self._held and not self._waiting

    def is_free(self, offset: int, size: int) -> bool:
        """``shared`` would be granted at once."""
        end = offset + size
        return not any(
            hold.exclusive and hold.start < end and offset < hold.end for hold in (*self._held, *self._waiting)
        )

    async def take(self, offset: int, size: int, exclusive: bool) -> Hold:
        hold = Hold(offset, offset + size, exclusive, Future(self._tasks))
        if not self._try(hold):
            self._waiting[hold] = None
            await hold.granted
        return hold

    def take_now(self, offset: int, size: int, exclusive: bool) -> Hold | None:
        """The same where nobody has to be waited for; else None."""
        hold = Hold(offset, offset + size, exclusive, Future(self._tasks))
        return hold if self._try(hold) else None

    def _try(self, hold: Hold) -> bool:
        # Also behind those that wait: a stream of reads must not keep a write out for ever.
        if any(hold.excludes(other) for other in self._held) or any(hold.excludes(other) for other in self._waiting):
            return False
        self._held[hold] = None
        return True

    def give_back(self, hold: Hold) -> None:
        del self._held[hold]
        earlier: list[Hold] = []
        for waiting in list(self._waiting):
            if any(waiting.excludes(other) for other in self._held) or any(waiting.excludes(o) for o in earlier):
                earlier.append(waiting)
            else:
                del self._waiting[waiting]
                self._held[waiting] = None
                waiting.granted.resolve(None)


class Lock:
    """A range while it is held."""

    def __init__(self, ranges: Ranges, offset: int, size: int, *, exclusive: bool) -> None:
        self._ranges = ranges
        self._wanted = (offset, size, exclusive)

    async def __aenter__(self) -> None:
        self._hold = await self._ranges.take(*self._wanted)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ranges.give_back(self._hold)

"""``async``/``await`` without an event loop: the monitor's own loop drives it.

A request is a coroutine that waits for its legs. Nothing here has a thread, a clock or a file descriptor: whoever
resolves a Future calls ``run`` afterwards.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")

Task = Coroutine[Any, Any, None]


class Tasks:
    """Coroutines, and which of them can go on."""

    def __init__(self) -> None:
        self._ready: deque[Task] = deque()

    def spawn(self, task: Task) -> None:
        """``task`` begins with the next ``run``."""
        self._ready.append(task)

    def resume(self, waiters: list[Task]) -> None:
        self._ready.extend(waiters)

    def run(self) -> None:
        """Until every task waits. An exception that a task lets out comes out here."""
        while self._ready:
            task = self._ready.popleft()
            try:
                awaited: Future[Any] = task.send(None)
            except StopIteration:
                continue
            awaited.waiters.append(task)


class Future(Generic[T]):
    """A value, or an exception, that comes later. Any number of tasks may wait for it."""

    __slots__ = ("_error", "_tasks", "_value", "done", "waiters")

    _value: T

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._error: Exception | None = None
        self.done = False
        self.waiters: list[Task] = []

    def resolve(self, value: T) -> None:
        self._value = value
        self._end()

    def fail(self, error: Exception) -> None:
        self._error = error
        self._end()

    def __await__(self) -> Generator["Future[T]", None, T]:
        if not self.done:
            yield self
        if self._error is not None:
            raise self._error
        return self._value

    def _end(self) -> None:
        assert not self.done
        self.done = True
        self._tasks.resume(self.waiters)
        self.waiters = []


class Rounds:
    """Work that serves all who asked before it began: group commit."""

    def __init__(self, tasks: Tasks, work: Callable[[], Awaitable[None]], errors: type[Exception]) -> None:
        """``errors``: what ``work`` may raise; whoever waits for that round gets it."""
        self._tasks = tasks
        self._work = work
        self._errors = errors
        self._next: Future[None] = Future(tasks)
        self._wanted = False
        self._running = False

    async def next(self) -> None:
        """Return when a round that began after this call has ended."""
        self._wanted = True
        waiting = self._next
        if not self._running:
            self._running = True
            self._tasks.spawn(self._go())
        await waiting

    async def _go(self) -> None:
        while self._wanted:
            self._wanted = False
            served, self._next = self._next, Future(self._tasks)
            try:
                await self._work()
            except self._errors as error:
                served.fail(error)
            else:
                served.resolve(None)
        self._running = False

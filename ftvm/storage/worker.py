"""One thread for each leg: a leg that hangs keeps nobody waiting but itself."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ftvm._native import ffi, lib
from ftvm.errors import FtvmError
from ftvm.storage.leg import LegFailed


@dataclass(eq=False)
class Job:
    """Something to do on a leg. ``outcome`` is what ``action`` returned or raised, once it is done."""

    action: Callable[[], object]
    outcome: object = None


@dataclass(frozen=True)
class Surprise:
    """An exception that no action may raise: a defect, to be raised again where it can be seen."""

    error: Exception


def perform(job: Job) -> None:
    """Failures that belong to the leg or to its files are values."""
    try:
        job.outcome = job.action()
    except (LegFailed, FtvmError, OSError) as error:
        job.outcome = error
    except Exception as error:  # noqa: BLE001 - raised again on the thread of the monitor
        job.outcome = Surprise(error)


class Worker(Protocol):
    """Does jobs in the order in which they are posted."""

    queue: Any
    """An ft_leg_queue, if writes can be posted to it beside the jobs (native/legs.c); else None."""

    def post(self, job: Job) -> None: ...

    def abandon(self, last: Callable[[], None]) -> None:
        """Begin no more jobs; do ``last`` when the present one has ended, however late that is."""
        ...

    def join(self, timeout_s: float | None) -> None:
        """Return when ``last`` has been done, or after so many seconds."""
        ...


class ThreadWorker:
    """A daemon thread, so that a process can end although a file system does not answer. It is in C, without the
    interpreter's lock, but for jobs."""

    def __init__(self, done: Callable[[Job], None]) -> None:
        """``done`` is called on the thread after each job that was not abandoned before it began."""
        self._done = done
        self._jobs: deque[Job] = deque()
        self._last: Callable[[], None] = lambda: None
        queue = lib.ft_leg_queue_open()
        if queue == ffi.NULL:
            raise MemoryError
        self.queue = ffi.gc(queue, lib.ft_leg_queue_close)
        self._thread = threading.Thread(target=self._run, name="ftvm-leg", daemon=True)
        self._thread.start()

    def post(self, job: Job) -> None:
        self._jobs.append(job)
        if lib.ft_leg_queue_post(self.queue) != 0:
            raise MemoryError

    def abandon(self, last: Callable[[], None]) -> None:
        self._last = last
        lib.ft_leg_queue_abandon(self.queue)

    def join(self, timeout_s: float | None) -> None:
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while lib.ft_leg_queue_run(self.queue):
            job = self._jobs.popleft()
            perform(job)
            self._done(job)
        self._last()

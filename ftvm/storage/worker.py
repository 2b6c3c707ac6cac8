"""One thread for each leg: a leg that hangs keeps nobody waiting but itself."""

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

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

    def post(self, job: Job) -> None: ...

    def abandon(self, last: Callable[[], None]) -> None:
        """Begin no more jobs; do ``last`` when the present one has ended, however late that is."""
        ...

    def join(self, timeout_s: float | None) -> None:
        """Return when ``last`` has been done, or after so many seconds."""
        ...


class ThreadWorker:
    """A daemon thread, so that a process can end although a file system does not answer."""

    def __init__(self, done: Callable[[Job], None]) -> None:
        """``done`` is called on the thread after each job that was not abandoned before it began."""
        self._done = done
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._last: Callable[[], None] | None = None
        self._thread = threading.Thread(target=self._run, name="ftvm-leg", daemon=True)
        self._thread.start()

    def post(self, job: Job) -> None:
        self._jobs.put(job)

    def abandon(self, last: Callable[[], None]) -> None:
        self._last = last
        self._jobs.put(None)

    def join(self, timeout_s: float | None) -> None:
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while self._last is None:
            job = self._jobs.get()
            if job is None or self._last is not None:
                break
            perform(job)
            self._done(job)
        if self._last is not None:
            self._last()

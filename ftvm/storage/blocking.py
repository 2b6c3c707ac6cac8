"""A disk for those without a loop: each call returns when the disk has done it."""

from collections.abc import Callable

from ftvm.errors import FtvmError
from ftvm.storage.host import Buffer
from ftvm.storage.mirror import Mirror
from ftvm.storage.request import Completion, Operation, Request
from ftvm.storage.scrub import ScrubReport
from ftvm.units import MIB

STEP_BYTES = 16 * MIB


class BlockingDisk:
    """Wraps a Mirror; requests raise DiskError where the guest would see an I/O error."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror

    def read(self, offset: int, size: int) -> Buffer:
        return self._do(Operation.READ, offset, size)

    def write(self, offset: int, data: Buffer) -> None:
        self._do(Operation.WRITE, offset, len(data), data)

    def flush(self) -> None:
        self._do(Operation.FLUSH, 0, 0)

    def discard(self, offset: int, size: int) -> None:
        self._do(Operation.DISCARD, offset, size)

    def write_zeroes(self, offset: int, size: int) -> None:
        self._do(Operation.WRITE_ZEROES, offset, size)

    def insert(self, leg: int) -> None:
        """Raises FtvmError when the leg cannot be brought back."""
        answers: list[FtvmError | None] = []
        self.mirror.insert(leg, answers.append)
        self.mirror.wait(lambda: bool(answers))
        if answers[0] is not None:
            raise answers[0]

    def resync(self, on_progress: Callable[[], None] = lambda: None) -> None:
        """Until there is nothing left to copy."""

        def done() -> bool:
            on_progress()
            return not self.mirror.resync_step(STEP_BYTES)

        self.mirror.wait(done)

    def scrub(self, on_progress: Callable[[int], None] = lambda done: None) -> ScrubReport:
        """One pass over the whole disk; ``on_progress`` is told how many bytes were compared."""
        reports: list[ScrubReport] = []

        def done() -> bool:
            on_progress(self.mirror.scrub_position)
            report = self.mirror.scrub_step(STEP_BYTES)
            if report is not None:
                reports.append(report)
            return bool(reports)

        self.mirror.wait(done)
        return reports[0]

    def close(self) -> None:
        self.mirror.close()

    def _do(self, operation: Operation, offset: int, size: int, *buffers: Buffer) -> Buffer:
        answers: list[Completion] = []
        self.mirror.submit(Request(operation, answers.append, offset, size, buffers))
        self.mirror.wait(lambda: bool(answers))
        if answers[0].error is not None:
            raise answers[0].error
        return answers[0].data

"""Worker processes on this host. One that dies is replaced, and what it had not answered is run again."""

import contextlib
import os
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, Pipe, wait
from types import TracebackType

from ftvm.campaign.experiment import Trial
from ftvm.campaign.work import Assignment, Batch, Failure, Task
from ftvm.campaign.worker import crashed, decode_answer, encode
from ftvm.errors import HostError

MAX_ATTEMPTS = 3
"""An experiment that ends its worker so often is a result: it crashes the machine."""


class _Process:
    """One worker process, and what it has still to do."""

    def __init__(self, first_message: bytes) -> None:
        self.tasks: deque[Task] = deque()
        ours, theirs = Pipe()
        with theirs:
            try:
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "ftvm.campaign.worker", str(theirs.fileno()), str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,  # Ctrl-C in a terminal is for the campaign
                )
            except OSError as error:
                ours.close()
                raise HostError(f"a worker cannot be started: {error.strerror}") from error
        self.connection: Connection = ours
        self.send(first_message)

    def send(self, message: bytes) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its end is noticed where it is read
            self.connection.send_bytes(message)

    def close(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.wait()


class LocalPool:
    """``workers`` processes; a context manager that leaves none behind."""

    def __init__(self, assignment: Assignment, workers: int) -> None:
        self._first_message = encode(assignment)
        self._workers = workers
        self._processes: list[_Process] = []
        self._attempts: Counter[int] = Counter()

    def __enter__(self) -> "LocalPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.close()
        self._processes.clear()

    @property
    def pids(self) -> list[int]:
        """Of the workers that there are now."""
        return [process.process.pid for process in self._processes]

    def results(self, batches: Sequence[Batch]) -> Iterator[list[Trial]]:
        """See Pool."""
        waiting = deque(batches)
        for _ in range(min(self._workers, len(waiting))):
            self._processes.append(_Process(self._first_message))
        for process in self._processes:
            self._assign(process, waiting)
        while busy := {process.connection: process for process in self._processes if process.tasks}:
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                process = busy[connection]
                try:
                    answer = decode_answer(connection.recv_bytes())
                except (EOFError, ConnectionResetError):
                    yield from self._lost(process, waiting)
                    continue
                if isinstance(answer, Failure):
                    raise answer.error()
                process.tasks.popleft()
                yield answer
                if not process.tasks:
                    self._assign(process, waiting)

    def _assign(self, process: _Process, waiting: deque[Batch]) -> None:
        if waiting:
            batch = waiting.popleft()
            process.tasks = deque(batch.tasks)
            process.send(encode(batch))

    def _lost(self, process: _Process, waiting: deque[Batch]) -> Iterator[list[Trial]]:
        """A worker died: another one takes its place, and what it had not answered comes next."""
        task = process.tasks[0]
        self._attempts[task.experiment.id] += 1
        status = process.process.wait()
        if self._attempts[task.experiment.id] == MAX_ATTEMPTS:
            process.tasks.popleft()
            yield [crashed(task, column, f"the worker ended with status {status}") for column in task.columns]
        if process.tasks:
            waiting.appendleft(Batch(process.tasks[0].experiment.guest, list(process.tasks)))
        process.close()
        self._processes.remove(process)
        if waiting:
            replacement = _Process(self._first_message)
            self._processes.append(replacement)
            self._assign(replacement, waiting)

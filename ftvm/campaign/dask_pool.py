"""Workers of a dask.distributed cluster that exists already: ``pip install 'ftvm[dask]'``.

Each thread of a dask worker keeps its own machines warm, in a plugin that is taken out again when the campaign leaves.
"""

import threading
import uuid
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import distributed

from ftvm.campaign.experiment import Trial
from ftvm.campaign.work import Assignment, Batch, Failure
from ftvm.campaign.worker import Worker, crashed, decode_assignment, encode
from ftvm.errors import FtvmError, HostError

CONNECT_S = 10.0
"""For the scheduler to answer."""

Answers = list[list[Trial]] | Failure


class _Machines(distributed.WorkerPlugin):  # type: ignore[misc]  # nothing here has types
    """On a dask worker: one Worker for each of its threads."""

    def __init__(self, name: str, assignment: bytes) -> None:
        self.name = name
        self._assignment = assignment

    def setup(self, worker: Any) -> None:
        self._workers: dict[int, Worker] = {}

    def teardown(self, worker: Any) -> None:
        for each in self._workers.values():
            each.close()
        self._workers.clear()

    def of_this_thread(self) -> Worker:
        return self._workers.setdefault(threading.get_ident(), Worker(decode_assignment(self._assignment)))


def _conduct(name: str, batch: Batch) -> Answers:
    """Runs on a dask worker."""
    try:
        return list(distributed.get_worker().plugins[name].of_this_thread().conduct(batch))
    except FtvmError as error:
        return Failure.of(error)


class DaskPool:
    """The workers behind the scheduler at ``address``; a context manager. Raises HostError when nobody answers."""

    def __init__(self, assignment: Assignment, address: str) -> None:
        self._name = f"ftvm-campaign-{uuid.uuid4().hex}"
        try:
            self._client = distributed.Client(address, timeout=CONNECT_S)
        except (OSError, ValueError) as error:
            raise HostError(f"no dask scheduler at {address}: {error}", "start one: dask scheduler") from None
        self._client.register_plugin(_Machines(self._name, encode(assignment)), name=self._name)

    def __enter__(self) -> "DaskPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.unregister_worker_plugin(self._name)
        self._client.close()

    def results(self, batches: Sequence[Batch]) -> Iterator[list[Trial]]:
        """See Pool. Dask runs the batches of a lost worker again on another one."""
        sent = {self._submit(batch): batch for batch in batches}
        done = distributed.as_completed(sent)
        for future in done:
            batch = sent.pop(future)
            if future.status == "finished":
                answers = future.result()
                if isinstance(answers, Failure):
                    raise answers.error()
                yield from answers
                continue
            failure = future.exception()
            if not isinstance(failure, distributed.KilledWorker):
                raise HostError(f"the dask cluster gave up: {failure!r}")
            if len(batch.tasks) == 1:  # it ended every worker that it was given to
                task = batch.tasks[0]
                yield [crashed(task, column, str(failure)) for column in task.columns]
                continue
            for task in batch.tasks:  # one of them did, or the workers ended for another reason
                single = Batch(batch.guest, [task])
                again = self._submit(single)
                sent[again] = single
                done.add(again)

    def _submit(self, batch: Batch) -> Any:
        return self._client.submit(_conduct, self._name, batch, pure=False)

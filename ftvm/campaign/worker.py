"""One worker: it keeps a guest's machines warm and runs experiments on them.

As a process (``python -m ftvm.campaign.worker SOCKET PARENT``) it is told by pool.py: an Assignment, then batches; it
answers with a list of Trials for each experiment.
"""

import contextlib
import gc
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection

import msgspec

from ftvm._native import lib
from ftvm.campaign.experiment import Trial
from ftvm.campaign.plan import Column
from ftvm.campaign.rig import Rig
from ftvm.campaign.work import Assignment, Batch, Failure, Task
from ftvm.errors import FtvmError, UnusableFile
from ftvm.faults.outcome import Outcome

RIG_TRIALS = 4000
"""After so many, machines are replaced: an engine keeps the memory of the translations that it dropped."""

GARBAGE = 50_000
"""New objects that may be garbage in cycles, of which experiments make few, until Python looks for it: it looks through
all that two machines keep."""

Answer = list[Trial] | Failure

encode = msgspec.msgpack.Encoder().encode
decode_assignment = msgspec.msgpack.Decoder(Assignment).decode
decode_batch = msgspec.msgpack.Decoder(Batch).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode


class Worker:
    """Runs batches of one campaign, with the machines of one guest at a time. ``close`` ends their processes."""

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._rig: Rig | None = None
        self._trials = 0

    def close(self) -> None:
        if self._rig is not None:
            rig, self._rig = self._rig, None
            rig.close()

    def conduct(self, batch: Batch) -> Iterator[list[Trial]]:
        """The results of each of its tasks. Raises FtvmError when experiments cannot be run here at all."""
        for task in batch.tasks:
            yield [self._trial(batch.guest, task, column) for column in task.columns]

    def _trial(self, guest: int, task: Task, column: Column) -> Trial:
        rig = self._ready_rig(guest)
        try:
            return rig.conduct(task.experiment, column)
        except Exception as error:  # noqa: BLE001  whatever the machine raises is what the campaign is to find
            self.close()
            return crashed(task, column, "".join(traceback.format_exception(error)).strip())

    def _ready_rig(self, guest: int) -> Rig:
        self._trials += 1
        if self._rig is not None and (self._rig.guest != guest or self._trials % RIG_TRIALS == 0):
            self.close()
        if self._rig is None:
            rig = self._rig = Rig(self._assignment.plan, guest)
            if rig.golden != self._assignment.golden[guest]:
                name = self._assignment.plan.guest[guest].image
                self.close()
                raise UnusableFile(
                    f"the guest {name} runs otherwise here than where the campaign was planned",
                    "the same image and the same build of ftvm are needed everywhere",
                )
        return self._rig


def crashed(task: Task, column: Column, error: str) -> Trial:
    """The result of an experiment that took the machine, or the whole worker, with it."""
    return Trial(
        experiment=task.experiment.id,
        column=column,
        outcome=Outcome.MACHINE_CRASH,
        ending=Outcome.MACHINE_CRASH,
        latent=True,
        detected_after=None,
        detected_ms=None,
        recovered_ms=None,
        verdict=None,
        first=None,
        charged=None,
        symbol=None,
        blocks=0,
        converged=False,
        wall_ms=0.0,
        error=error,
    )


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the campaign, which ends its workers
    gc.set_threshold(GARBAGE)
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    if lib.ft_link_die_with(parent) != 0:
        return 0
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError), Connection(descriptor) as campaign:
        _serve(campaign)
    return 0


def _serve(campaign: Connection) -> None:
    with contextlib.closing(Worker(decode_assignment(campaign.recv_bytes()))) as worker:
        while True:
            batch = decode_batch(campaign.recv_bytes())
            try:
                for trials in worker.conduct(batch):
                    campaign.send_bytes(encode(trials))
            except FtvmError as error:
                campaign.send_bytes(encode(Failure.of(error)))
                return


if __name__ == "__main__":
    os._exit(main())

"""What a worker is given and gives back, whichever kind of pool it is in."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import msgspec

from ftvm.campaign.experiment import Experiment, Trial
from ftvm.campaign.plan import CampaignPlan, Column
from ftvm.errors import FtvmError
from ftvm.exitcodes import ExitCode

BATCH = 64
"""Experiments that a worker is given at once: close to each other, so that each begins where the last one did."""

TURN = 16
"""Batches of one guest that follow each other."""


class Golden(msgspec.Struct, frozen=True):
    """The undisturbed run of a guest, from the position ``start`` to ``end``. Every worker must find the same.

    ``digest`` is of the final state, ``console`` what was shown after the start. ``ending`` is an outcome as in
    RunResult, or ``limit`` when the plan ended it; ``ram_bytes`` what faults can be in.
    """

    start: int
    end: int
    start_digest: str
    digest: str
    ending: str
    exit_code: int | None
    console: bytes
    ram_bytes: int


class Task(msgspec.Struct, frozen=True):
    """An experiment, and the columns that it has no result in."""

    experiment: Experiment
    columns: tuple[Column, ...]


class Batch(msgspec.Struct, frozen=True):
    """Tasks of one guest, in the order of their positions."""

    guest: int
    tasks: list[Task]


class Assignment(msgspec.Struct, frozen=True):
    """What all batches of a campaign share. ``golden`` has one entry per guest of the plan."""

    plan: CampaignPlan
    golden: list[Golden]


class Pool(Protocol):
    """Workers. Each result comes once, whatever becomes of the worker that was to give it."""

    def results(self, batches: Sequence[Batch]) -> Iterator[list[Trial]]:
        """Of all tasks, as they come. Raises FtvmError when a worker cannot work at all."""
        ...


def batches(experiments: Sequence[Experiment], missing: Mapping[int, tuple[Column, ...]]) -> list[Batch]:
    """What is missing, cut up: always in the same way for a fresh campaign.

    In an order in which a campaign that is ended early has struck all guests, everywhere; but a worker does not change
    its guest too often.
    """
    made: dict[int, list[Batch]] = {}
    for experiment in sorted(experiments, key=lambda e: (e.guest, e.position, e.id)):
        if experiment.id not in missing:
            continue
        of_guest = made.setdefault(experiment.guest, [])
        if not of_guest or len(of_guest[-1].tasks) == BATCH:
            of_guest.append(Batch(experiment.guest, []))
        of_guest[-1].tasks.append(Task(experiment, missing[experiment.id]))
    turns: list[tuple[int, Batch]] = []
    for of_guest in made.values():
        rounds = -(-len(of_guest) // TURN)
        turns += [(number % rounds, batch) for number, batch in enumerate(of_guest)]
    return [batch for _, batch in sorted(turns, key=lambda turn: (turn[0], turn[1].guest))]


class Failure(msgspec.Struct, frozen=True):
    """Why a worker gave up: an FtvmError, for another process."""

    message: str
    hint: str | None
    exit_code: int

    @classmethod
    def of(cls, error: FtvmError) -> "Failure":
        return cls(error.message, error.hint, int(error.exit_code))

    def error(self) -> FtvmError:
        failure = FtvmError(self.message, self.hint)
        failure.exit_code = ExitCode(self.exit_code)
        return failure

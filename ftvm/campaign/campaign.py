"""A whole campaign: the golden runs, the plan of all experiments, the experiments, the results file."""

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from ftvm import __version__
from ftvm.campaign.experiment import Trial
from ftvm.campaign.guest import image_of
from ftvm.campaign.plan import CampaignPlan
from ftvm.campaign.rig import Rig
from ftvm.campaign.space import Space
from ftvm.campaign.store import Store
from ftvm.campaign.work import Assignment, Golden, Pool, batches
from ftvm.errors import UnusableFile
from ftvm.monitor.build_id import build_id

COMMIT_S = 0.5
"""Results wait at most so long for their transaction: what a kill can cost."""

MakePool = Callable[[Assignment], AbstractContextManager[Pool]]
Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how many experiments of how many are over."""


def plan(path: Path, campaign: CampaignPlan, progress: Progress) -> None:
    """Run every guest undisturbed, draw all experiments, and make the results file with them. Raises FtvmError."""
    Store.refuse_existing(path)
    golden = []
    for guest, of in enumerate(campaign.guest):
        progress(f"golden run {guest + 1} of {len(campaign.guest)}: {of.image}", 0, 0)
        golden.append(run := _golden(campaign, guest))
        code = "" if run.exit_code is None else f" {run.exit_code}"
        progress(f"{of.image}: {run.end - run.start:,} blocks from {run.start:,} on, then {run.ending}{code}", 0, 0)
    space = Space(campaign, golden, [image_of(guest) for guest in campaign.guest])
    facts = {
        "ftvm": __version__,
        "build": build_id(),
        "command": shlex.join(sys.argv),
        "planned_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "faults": str(space.faults),
        "golden": msgspec.json.encode(golden).decode(),
    }
    progress(f"drawing {space.sample_size():,} experiments out of {space.faults:,} possible faults", 0, 0)
    Store.create(path, facts, campaign, space.draw())


def _golden(campaign: CampaignPlan, guest: int) -> Golden:
    rig = Rig(campaign, guest)
    rig.close()
    return rig.golden


def carry_on(path: Path, make_pool: MakePool, progress: Progress) -> None:
    """Run what has no result yet. Whatever ends this, results that were committed are kept. Raises FtvmError."""
    with Store.write(path) as store:
        assignment = assignment_of(store)
        missing = store.missing(assignment.plan.columns)
        total = store.planned()
        done = total - len(missing)
        progress("experiments", done, total)
        if not missing:
            return
        work = batches(store.experiments(), missing)
        waiting: list[Trial] = []
        committed_s = time.monotonic()
        try:
            with make_pool(assignment) as pool:
                for trials in pool.results(work):
                    waiting += trials
                    done += 1
                    if time.monotonic() - committed_s > COMMIT_S:
                        _commit(store, waiting)
                        committed_s = time.monotonic()
                        progress("experiments", done, total)
        finally:
            _commit(store, waiting)
        progress("experiments", done, total)


def _commit(store: Store, waiting: list[Trial]) -> None:
    """Keep these results. Interrupted in between by a signal, they are lost and found again, but never there twice."""
    trials = waiting[:]
    waiting.clear()
    store.add(trials)


def assignment_of(store: Store) -> Assignment:
    """What workers must know of a campaign. Raises UnusableFile when it was planned by another build."""
    facts = store.facts
    if facts.get("build") != build_id():
        raise UnusableFile(
            f"{store.path} was planned by another build of ftvm: positions mean something only to one build",
            "report works with any; to go on, or to replay, use that build",
        )
    try:
        golden: Sequence[Golden] = msgspec.json.decode(facts["golden"], type=list[Golden])
    except (KeyError, msgspec.DecodeError) as error:
        raise UnusableFile(f"{store.path}: no golden runs in it: {error}") from None
    return Assignment(store.plan, list(golden))

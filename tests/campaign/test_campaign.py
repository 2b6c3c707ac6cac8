"""Whole campaigns on a guest of a few milliseconds: nothing is lost or doubled; the same seed gives the same table."""

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from distributed import LocalCluster

from ftvm.campaign import campaign, dask_pool
from ftvm.campaign.campaign import MakePool
from ftvm.campaign.dask_pool import DaskPool
from ftvm.campaign.experiment import Experiment, Trial
from ftvm.campaign.plan import CampaignPlan, load_plan, parse_plan
from ftvm.campaign.pool import MAX_ATTEMPTS, LocalPool
from ftvm.campaign.rig import PRUNED, Rig
from ftvm.campaign.store import Store
from ftvm.campaign.summary import summarize
from ftvm.campaign.targets import GENERAL
from ftvm.campaign.work import Assignment, Batch, Task, batches
from ftvm.errors import FtvmError, HostError
from ftvm.exitcodes import ExitCode
from ftvm.faults.outcome import Outcome
from tests.campaign.plans import SMALL, experiment, small

COLUMNS = ("duplex", "simplex")


def local(workers: int) -> MakePool:
    return lambda assignment: LocalPool(assignment, workers)


def quiet(what: str, done: int, total: int) -> None:
    pass


def run(path: Path, plan: CampaignPlan, make_pool: MakePool) -> list[Trial]:
    campaign.plan(path, plan, quiet)
    campaign.carry_on(path, make_pool, quiet)
    with Store.read(path) as store:
        return store.trials()


def seen(trials: list[Trial]) -> list[tuple[Any, ...]]:
    """What does not depend on the clock."""
    return [(t.experiment, t.column, t.outcome, t.ending, t.latent, t.first, t.symbol) for t in trials]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign that nobody disturbed."""
    path = tmp_path_factory.mktemp("campaign") / "results.sqlite"
    run(path, small(experiments="60"), local(1))
    return path


@pytest.fixture(scope="module")
def trials(finished: Path) -> list[Trial]:
    with Store.read(finished) as store:
        return store.trials()


def test_every_experiment_has_one_result_in_each_column(trials: list[Trial]) -> None:
    assert [(t.experiment, t.column) for t in trials] == [(n, column) for n in range(60) for column in COLUMNS]
    assert [t.error for t in trials if t.error is not None] == []


def test_in_duplex_nobody_can_tell_and_in_simplex_somebody_can(trials: list[Trial]) -> None:
    duplex = {t.outcome for t in trials if t.column == "duplex"}
    assert duplex <= {Outcome.MASKED, Outcome.RECOVERED, Outcome.FAILED_OVER}
    assert Outcome.RECOVERED in duplex
    assert {t.outcome for t in trials if t.column == "simplex"} & {Outcome.CRASH, Outcome.SDC, Outcome.HANG}


def test_of_a_thousand_faults_in_duplex_none_is_seen_outside(tmp_path: Path) -> None:
    """The campaign of benchmarks/campaign.md, in small."""
    plan = load_plan(Path(__file__).parents[2] / "benchmarks" / "campaign-kernels.toml")
    plan = msgspec.structs.replace(plan, guest=plan.guest[:1], experiments=1000)
    outcomes = Counter((t.column, t.outcome) for t in run(tmp_path / "results", plan, local(2)))
    assert sum(count for (column, _), count in outcomes.items() if column == "duplex") == 1000
    bad = (Outcome.SDC, Outcome.CRASH, Outcome.HANG, Outcome.MACHINE_CRASH)
    assert {outcome: outcomes["duplex", outcome] for outcome in bad} == dict.fromkeys(bad, 0)
    assert outcomes["duplex", Outcome.RECOVERED] > 500
    assert (
        outcomes["simplex", Outcome.CRASH] + outcomes["simplex", Outcome.SDC] + outcomes["simplex", Outcome.HANG] > 50
    )


def test_what_was_detected_is_charged_to_the_module_that_had_it(finished: Path) -> None:
    with Store.read(finished) as store:
        summary = summarize(store)
        modules = {e.id: e.module for e in store.experiments()}
        charged = [(t.experiment, t.charged) for t in store.trials() if t.outcome == Outcome.RECOVERED]
    assert charged == [(number, modules[number]) for number, _ in charged]
    assert summary.charged_wrongly == 0


def test_the_number_of_workers_does_not_change_the_table(tmp_path: Path, trials: list[Trial]) -> None:
    assert seen(run(tmp_path / "results", small(experiments="60"), local(2))) == seen(trials)


def test_a_larger_campaign_begins_with_the_smaller_one(tmp_path: Path, finished: Path) -> None:
    campaign.plan(tmp_path / "results", small(experiments="80"), quiet)
    with Store.read(tmp_path / "results") as larger, Store.read(finished) as smaller:
        assert larger.experiments()[:60] == smaller.experiments()


def test_two_dask_workers_give_the_same_table(tmp_path: Path, trials: list[Trial]) -> None:
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        dask = run(tmp_path / "results", small(experiments="60"), lambda assignment: DaskPool(assignment, address))
    assert seen(dask) == seen(trials)


def test_a_scheduler_that_is_not_there_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_pool, "CONNECT_S", 0.5)
    with pytest.raises(HostError, match="no dask scheduler"):
        DaskPool(Assignment(small(), []), "tcp://127.0.0.1:1")


def test_guests_that_run_otherwise_here_are_refused(finished: Path) -> None:
    with Store.read(finished) as store:
        assignment = campaign.assignment_of(store)
        work = batches(store.experiments(), {0: ("duplex",)})
    golden = [msgspec.structs.replace(assignment.golden[0], digest="other")]
    with (
        LocalPool(Assignment(assignment.plan, golden), 1) as pool,
        pytest.raises(FtvmError, match="otherwise") as error,
    ):
        list(pool.results(work))
    assert error.value.exit_code == ExitCode.UNUSABLE_FILE


def test_a_machine_that_raises_is_a_result_and_the_next_experiment_runs(finished: Path) -> None:
    with Store.read(finished) as store:
        assignment = campaign.assignment_of(store)
        sound = store.experiment(0)
    broken = msgspec.structs.replace(sound, id=1, fault="nonsense")
    tasks = [Task(broken, ("duplex",)), Task(sound, ("duplex",))]
    with LocalPool(assignment, 1) as pool:
        results = [trial for answer in pool.results([Batch(0, tasks)]) for trial in answer]
    assert (results[0].experiment, results[0].outcome) == (1, Outcome.MACHINE_CRASH)
    assert "nonsense" in (results[0].error or "")
    assert results[1].outcome in (Outcome.MASKED, Outcome.RECOVERED)


class Killer(threading.Thread):
    """Kills each worker of a pool soon after it started, until it is told to stop."""

    def __init__(self, pool: LocalPool, kills: int) -> None:
        super().__init__()
        self._pool = pool
        self._left = kills
        self.over = threading.Event()

    def run(self) -> None:
        killed: set[int] = set()
        while self._left and not self.over.wait(0.02):
            for pid in set(self._pool.pids) - killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
                self._left -= 1
                if not self._left:
                    return


@pytest.fixture
def killer() -> Iterator[list[Killer]]:
    killers: list[Killer] = []
    yield killers
    for each in killers:
        each.over.set()
        each.join()


def test_what_a_lost_worker_had_to_do_is_done_by_another(
    finished: Path, trials: list[Trial], killer: list[Killer]
) -> None:
    with Store.read(finished) as store:
        assignment = campaign.assignment_of(store)
        work = batches(store.experiments(), dict.fromkeys(range(60), COLUMNS))
    with LocalPool(assignment, 2) as pool:
        killer.append(Killer(pool, 2))
        killer[0].start()
        results = [trial for answer in pool.results(work) for trial in answer]
    assert seen(sorted(results, key=lambda t: (t.experiment, t.column))) == seen(trials)


def test_an_experiment_that_ends_every_worker_is_a_crash_of_the_machine(finished: Path, killer: list[Killer]) -> None:
    with Store.read(finished) as store:
        assignment = campaign.assignment_of(store)
        tasks = [Task(store.experiment(number), ("duplex",)) for number in range(2)]
    with LocalPool(assignment, 1) as pool:
        killer.append(Killer(pool, 2 * MAX_ATTEMPTS))
        killer[0].start()
        results = [trial for answer in pool.results([Batch(0, tasks)]) for trial in answer]
    assert [(t.experiment, t.outcome) for t in results] == [(n, Outcome.MACHINE_CRASH) for n in range(2)]
    assert "status -9" in (results[0].error or "")


def children(pid: int) -> list[int]:
    """Processes that ``pid`` started, and those that they did."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *children(child)]
    return found


def done(path: Path) -> list[int]:
    with Store.read(path) as store:
        return [trial.experiment for trial in store.trials()]


def test_kill_9_at_random_moments_loses_and_doubles_nothing(tmp_path: Path) -> None:
    dice = random.Random(9)
    path = tmp_path / "results.sqlite"
    campaign.plan(path, small(experiments="300", columns='["duplex"]'), quiet)
    resume = [sys.executable, "-m", "ftvm", "campaign", "resume", str(path), "--workers", "1"]
    first_result_s = 0.0
    for kill in range(20):
        with subprocess.Popen(resume, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            began_s = time.monotonic()
            if kill == 0:  # how long a host takes for that is its own affair
                while not done(path):
                    time.sleep(0.01)
                first_result_s = time.monotonic() - began_s
            else:
                time.sleep(dice.random() * 1.3 * first_result_s)
            if process.poll() is None:
                victims = [process.pid, *children(process.pid)]
                os.kill(dice.choice(victims), signal.SIGKILL)
                time.sleep(dice.random() * 0.1)
            process.kill()
        assert len(done(path)) == len(set(done(path)))
    subprocess.run(resume, check=True, capture_output=True)
    assert done(path) == list(range(300))


def test_pruning_saves_experiments_and_changes_no_outcome(tmp_path: Path) -> None:
    plan = parse_plan(
        SMALL.replace('"hello"', '"paging"').replace('"general", "rip", "rflags"', '"general"'), "general"
    )
    without = run(tmp_path / "without", plan, local(1))
    pruned = run(tmp_path / "pruned", msgspec.structs.replace(plan, prune=True), local(1))
    assert [(t.experiment, t.column, t.outcome) for t in pruned] == [
        (t.experiment, t.column, t.outcome) for t in without
    ]
    saved = sum(t.verdict == PRUNED for t in pruned)
    assert 0 < saved < len(pruned)


def test_a_fault_strikes_exactly_where_it_is_meant_to() -> None:
    """Also where the guest hits a data breakpoint of its own, and at each of the blocks that this makes."""
    plan = parse_plan(SMALL.replace('"hello"', '"exceptions"').replace("2M", "4M"), "debug registers")
    rig = Rig(plan, 0)
    try:
        stand = rig.stand("duplex")
        for position in range(13_330, 13_350):
            stand.go(position)
            assert stand.machine.position == position
        where = 13_340
        fault = f"module=1,target=phys:0x3f0000:5,kind=flip,logged=true,at={where}"
        trial = rig.conduct(Experiment(0, 0, 0, where, 1, "ram", 5, "flip", fault), "duplex")
    finally:
        rig.close()
    assert trial.outcome == Outcome.RECOVERED


@pytest.mark.parametrize(
    ("fault", "duplex", "simplex"),
    [
        ('targets = ["module"]\nkind = "kill"', {Outcome.FAILED_OVER}, {Outcome.CRASH}),
        ('targets = ["module"]\nkind = "slow"\nsettings = { milliseconds = 1 }', {Outcome.MASKED}, {Outcome.MASKED}),
        ('targets = ["rsp"]\nkind = "stuck-at-1"', {Outcome.FAILED_OVER, Outcome.MASKED}, None),
        ('targets = ["rbx"]\nkind = "random"\nwidth = 64', {Outcome.RECOVERED}, None),
        ('targets = ["pte:0x100000:12-20"]', {Outcome.RECOVERED, Outcome.MASKED}, None),
        ('targets = ["chip:pit.counters[0].initial:0-15"]', {Outcome.RECOVERED}, {Outcome.MASKED}),
        ('targets = ["section:.rodata"]\ncommon_mode = true', {Outcome.MASKED, Outcome.SDC}, None),
    ],
)
def test_faults_of_every_kind_are_in_campaigns(
    fault: str, duplex: set[Outcome], simplex: set[Outcome] | None, tmp_path: Path
) -> None:
    plan = parse_plan(f"{SMALL.partition('[[fault]]')[0]}[[fault]]\n{fault}", "kinds")
    results = run(tmp_path / "r", msgspec.structs.replace(plan, experiments=4), local(1))
    assert {trial.outcome for trial in results if trial.column == "duplex"} <= duplex
    assert simplex is None or {trial.outcome for trial in results if trial.column == "simplex"} <= simplex


EVERYWHERE = """
version = 1
name = "every part of the machine"
seed = 191
experiments = 9
epoch = "5k"

[[guest]]
image = "disk"
memory = "16M"
disks = ["1M"]
nics = ["loopback,loopback"]
weight = 1

[[guest]]
image = "net"
memory = "16M"
disks = ["1M"]
nics = ["loopback,loopback", "loopback:wire", "loopback:wire"]
weight = 1

[[fault]]
targets = ["general"]
weight = 1

[[fault]]
targets = ["section:.data"]
weight = 1

[[fault]]
targets = ["disk0.1"]
kind = "io-error"
weight = 1

[[fault]]
targets = ["nic0.0"]
kind = "link-down"
weight = 1

[[fault]]
targets = ["module"]
kind = "kill"
weight = 1
"""


def test_processors_memory_disks_nics_and_modules_are_hurt_in_one_campaign(tmp_path: Path) -> None:
    plan = parse_plan(EVERYWHERE, "everywhere")
    results = run(tmp_path / "r", plan, local(1))
    with Store.read(tmp_path / "r") as store:
        hit = {e.id: (plan.guest[e.guest].image, plan.fault[e.group].targets[0]) for e in store.experiments()}
        summary = summarize(store)
    assert {found.name for found in summary.registers} <= set(GENERAL)
    assert {table.title for table in summary.by_group} == {where for _, where in hit.values()}
    assert [t.error for t in results if t.error is not None] == []
    unhurt = {Outcome.MASKED, Outcome.RECOVERED}
    failed_over = {Outcome.FAILED_OVER}
    duplex = {
        ("disk", "general"): unhurt,
        ("disk", "section:.data"): unhurt,
        ("disk", "disk0.1"): failed_over,
        ("disk", "nic0.0"): failed_over,
        ("disk", "module"): failed_over,
        ("net", "general"): unhurt,
        ("net", "nic0.0"): failed_over,
        ("net", "module"): failed_over,
    }
    assert set(hit.values()) == set(duplex)
    alone: dict[tuple[str, str], str] = {}
    for trial in results:
        where = hit[trial.experiment]
        if trial.column == "duplex":
            assert trial.outcome in duplex[where], (where, trial)
        else:
            alone[where] = trial.outcome
    assert alone["disk", "disk0.1"] == alone["disk", "module"] == alone["net", "module"] == Outcome.CRASH
    assert alone["net", "nic0.0"] in (Outcome.CRASH, Outcome.HANG)  # it fails its tests, or waits for frames for ever
    assert alone["disk", "nic0.0"] == Outcome.MASKED  # it does not use it


def test_bits_that_are_held_are_never_over_by_chance(tmp_path: Path) -> None:
    """A bit of RFLAGS that is always 1 anyway: nothing differs, but nobody can know that nothing will."""
    rig = Rig(small(), 0)
    try:
        fault = "module=1,target=rflags:1,kind=stuck-at-1,at=100,for={}"
        ends = {
            blocks: rig.conduct(
                Experiment(0, 0, 0, 100, 1, "rflags", 1, "stuck-at-1", fault.format(blocks)), "duplex"
            ).converged
            for blocks in ("1", "1000000", "always")
        }
    finally:
        rig.close()
    assert ends == {"1": True, "1000000": False, "always": False}


def test_a_campaign_that_is_ended_early_has_struck_everywhere() -> None:
    experiments = [experiment(number, guest=number % 2, position=number) for number in range(20_000)]
    made = batches(experiments, dict.fromkeys(range(20_000), ("duplex",)))
    struck = [task.experiment for batch in made[: len(made) // 4] for task in batch.tasks]
    for guest in range(2):
        positions = [e.position for e in struck if e.guest == guest]
        assert all(any(first <= p < first + 4000 for p in positions) for first in range(0, 20_000, 4000))
    changes = sum(one.guest != other.guest for one, other in itertools.pairwise(made))
    assert changes < len(made) / 10


def test_a_guest_with_a_disk_starts_anew_for_each_experiment(tmp_path: Path) -> None:
    """Its disk is empty each time: the kernel looks."""
    guest = '[[guest]]\nimage = "disk"\nmemory = "4M"\ndisks = ["1M"]\n'
    fault = '[[fault]]\ntargets = ["disk0.0"]\nkind = "torn-write"\nsettings = { count = 1 }'
    plan = parse_plan(f"{SMALL.partition('[[guest]]')[0]}{guest}{fault}", "disk")
    results = run(tmp_path / "r", msgspec.structs.replace(plan, experiments=3), local(1))
    assert {trial.outcome for trial in results if trial.column == "duplex"} <= {Outcome.RECOVERED, Outcome.MASKED}
    assert {trial.outcome for trial in results if trial.column == "simplex"} <= {Outcome.CRASH, Outcome.MASKED}


def test_batches_are_of_one_guest_and_in_the_order_of_positions() -> None:
    experiments = [experiment(number, guest=number % 2, position=-number) for number in range(200)]
    made = batches(experiments, dict.fromkeys(range(0, 200, 2), ("duplex",)) | {1: ("simplex",)})
    tasks = [task for batch in made for task in batch.tasks]
    assert sorted(task.experiment.id for task in tasks) == [0, 1, *range(2, 200, 2)]
    for batch in made:
        assert {task.experiment.guest for task in batch.tasks} == {batch.guest}
        positions = [task.experiment.position for task in batch.tasks]
        assert positions == sorted(positions)

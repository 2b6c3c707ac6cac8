"""After a crash at any moment of any workload the mirror comes up whole: nothing that was flushed is lost, every
sector holds what it held then or something written since, and both legs become equal.

The workloads come from hypothesis. Operations of workers on different legs are interleaved by chance, legs break,
hang, leave and return; then the power fails after any operation, and what was not synced is there, or not, or torn.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftvm.errors import UnusableFile
from ftvm.legs import LegState
from ftvm.storage import admin, intent
from ftvm.storage.blocking import BlockingDisk
from ftvm.storage.opening import open_disk
from ftvm.storage.regions import REGION_BYTES
from ftvm.storage.request import Completion, Operation, Request
from tests.storage.simulated import Operation as Recorded
from tests.storage.simulated import SimulatedHost, Stage, after_power_loss

SECTOR = 512
REGIONS = 8
SECTORS = REGIONS * REGION_BYTES // SECTOR
PATHS = [Path("a.img"), Path("b.img"), Path("c.img")]

Value = int
"""A sector's content is this number, over and over; 0 is also what was never written."""


@pytest.fixture(autouse=True, scope="module")
def marks_that_come_and_go() -> Iterator[None]:
    """On disks of a few regions, marks must be taken back all the time for that to be tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intent, "GROUP", 1)
        patch.setattr(intent, "AHEAD", 2)
        patch.setattr(intent, "HOT_REGIONS", 3)
        yield


def content(value: Value) -> bytes:
    return value.to_bytes(8, "little") * (SECTOR // 8)


def values(data: Any) -> list[Value]:
    """Of whole sectors; -1 for one that is no value, but a mixture."""
    sectors = [bytes(data[at : at + SECTOR]) for at in range(0, len(data), SECTOR)]
    numbers = [int.from_bytes(sector[:8], "little") for sector in sectors]
    return [number if content(number) == sector else -1 for number, sector in zip(numbers, sectors, strict=True)]


@dataclass
class Change:
    """A request that writes ``value`` to sectors [first, stop). ``done`` and ``flushed`` are moments in the log."""

    value: Value
    first: int
    stop: int
    submitted: int
    done: int | None = None


@dataclass
class Flush:
    submitted: int
    done: int | None = None


@dataclass
class Journal:
    """What the guest asked for and was told, with the position in the log at which it happened."""

    before: list[Value]
    changes: list[Change] = field(default_factory=list)
    flushes: list[Flush] = field(default_factory=list)

    def allowed(self, moment: int) -> list[set[Value]]:
        """What each sector may hold when everything stops after ``moment`` operations."""
        safe = max(
            (flush.submitted for flush in self.flushes if flush.done is not None and flush.done <= moment), default=-1
        )
        allowed = [{value} for value in self.before]
        for change in self.changes:  # those of one sector are served in the order of submission
            if change.submitted > moment:
                continue
            flushed = change.done is not None and change.done <= safe
            for sector in range(change.first, change.stop):
                if flushed:
                    allowed[sector] = {change.value}
                else:
                    allowed[sector].add(change.value)
        return allowed

    def current(self) -> list[Value]:
        """What each sector holds when every change was done."""
        now = list(self.before)
        for change in self.changes:
            now[change.first : change.stop] = [change.value] * (change.stop - change.first)
        return now


class Guest:
    """Drives one disk by the actions of a workload, and keeps the journal."""

    def __init__(self, host: SimulatedHost, paths: Sequence[Path], first_value: Value) -> None:
        self.host = host
        self.stage = Stage(host)
        self.paths = paths
        self.next_value = first_value
        self.mirror = open_disk(paths, surroundings=self.stage.surroundings)
        self.disk = BlockingDisk(self.mirror)
        self.journal = Journal(values(self.disk.read(0, SECTORS * SECTOR)))
        self.in_flight = 0

    def do(self, name: str, *arguments: int) -> None:
        getattr(self, name)(*arguments)
        self.mirror.poll()

    def write(self, first: int, count: int) -> None:
        self._change(Operation.WRITE, self._new_value(), first, count)

    def discard(self, first: int, count: int) -> None:
        self._change(Operation.DISCARD, 0, first, count)

    def zero(self, first: int, count: int) -> None:
        self._change(Operation.WRITE_ZEROES, 0, first, count)

    def flush(self) -> None:
        flush = Flush(len(self.host.log))
        self.journal.flushes.append(flush)

        def done(completion: Completion) -> None:
            self.in_flight -= 1
            if completion.error is None:
                flush.done = len(self.host.log)

        self.in_flight += 1
        self.mirror.submit(Request(Operation.FLUSH, done))

    def read(self, first: int, count: int) -> None:
        """What is read is what was written last: requests that overlap are served in order."""
        stop = min(first + count, SECTORS)
        expected = self.journal.current()[first:stop]
        failed = any(change.done is None for change in self.journal.changes) and bool(self.failures)

        def done(completion: Completion) -> None:
            self.in_flight -= 1
            if completion.error is None and not failed:
                assert values(completion.data) == expected

        self.in_flight += 1
        self.mirror.submit(Request(Operation.READ, done, first * SECTOR, (stop - first) * SECTOR))

    failures = 0

    def work(self, steps: int) -> None:
        for _ in range(steps):
            self.stage.step()
            self.mirror.poll()

    def pull(self, leg: int) -> None:
        with_legs = [status for status in self.mirror.status().legs if status.state is LegState.DUPLEXED]
        if leg < len(self.paths) and len(with_legs) > 1:
            self.mirror.pull(leg)

    def insert(self, leg: int) -> None:
        if leg < len(self.paths):
            self.mirror.insert(leg, lambda error: None)

    def resync(self, regions: int) -> None:
        self.mirror.resync_step(regions * REGION_BYTES)

    def break_leg(self, leg: int) -> None:
        """At most one is broken: two at once are more than a mirror of two promises to survive."""
        if leg < len(self.paths) and not self.host.broken:
            self.host.broken = {self.paths[leg], Path(f"{self.paths[leg]}.ftvm")}

    def bounce(self, leg: int, first: int, count: int, steps: int) -> None:
        """The life of a leg that is pulled and put back while the guest works, up to any point of it."""
        self.pull(leg)
        self.drain()
        self.write(first, count)
        self.drain()
        self.flush()
        self.drain()
        self.insert(leg)
        self.drain()
        self.resync(REGIONS)
        self.work(steps)

    def drain(self) -> None:
        while self.stage.step():
            self.mirror.poll()
        self.mirror.poll()

    def read_all(self) -> None:
        self.read(0, SECTORS)

    def mend_legs(self) -> None:
        self.host.broken = set()

    def hang(self, worker: int) -> None:
        workers = self.stage.workers
        if len(workers) > 1:
            self.stage.hanging = {workers[worker % len(workers)]}

    def wake_up(self) -> None:
        self.stage.hanging = set()

    def time_passes(self) -> None:
        deadline = self.mirror.deadline_s()
        if deadline is not None:
            self.stage.now_s = max(self.stage.now_s, deadline)

    def reopen(self) -> None:
        """Closed in good order, and opened again."""
        self.mend_legs()
        self.wake_up()
        self.mirror.close()
        flush = Flush(len(self.host.log), len(self.host.log))
        self.journal.flushes.append(flush)
        self.stage = Stage(self.host)
        self.mirror = open_disk(self.paths, surroundings=self.stage.surroundings)
        self.disk = BlockingDisk(self.mirror)

    def _new_value(self) -> Value:
        self.next_value += 1
        return self.next_value

    def _change(self, operation: Operation, value: Value, first: int, count: int) -> None:
        stop = min(first + count, SECTORS)
        change = Change(value, first, stop, len(self.host.log))
        self.journal.changes.append(change)

        def done(completion: Completion) -> None:
            self.in_flight -= 1
            if completion.error is None:
                change.done = len(self.host.log)
            else:
                self.failures += 1

        self.in_flight += 1
        size = (stop - first) * SECTOR
        data = [content(value) * (stop - first)] if operation is Operation.WRITE else []
        self.mirror.submit(Request(operation, done, first * SECTOR, size, data))


def settle(guest: Guest) -> None:
    """Everybody answers again, and everything that is away comes back."""
    guest.mend_legs()
    guest.wake_up()
    mirror = guest.mirror
    while guest.stage.step():
        mirror.poll()
    for leg in mirror.status().legs:
        if leg.state in (LegState.OFFLINE, LegState.FAILED):
            guest.disk.insert(leg.index)
    guest.disk.resync()
    assert {leg.state for leg in mirror.status().legs} == {LegState.DUPLEXED}


sector = st.integers(0, SECTORS - 1)
count = st.one_of(st.integers(1, 8), st.integers(1, 300))
leg = st.integers(0, 2)
ACTIONS = st.one_of(
    st.tuples(st.just("write"), sector, count),
    st.tuples(st.just("write"), sector, count),
    st.tuples(st.just("write"), sector, count),
    st.tuples(st.just("discard"), sector, count),
    st.tuples(st.just("zero"), sector, count),
    st.tuples(st.just("read"), sector, count),
    st.tuples(st.just("read_all")),
    st.tuples(st.just("flush")),
    st.tuples(st.just("drain")),
    st.tuples(st.just("work"), st.integers(1, 40)),
    st.tuples(st.just("bounce"), leg, sector, count, st.integers(0, 60)),
    st.tuples(st.just("work"), st.integers(1, 40)),
    st.tuples(st.just("pull"), leg),
    st.tuples(st.just("insert"), leg),
    st.tuples(st.just("resync"), st.integers(1, REGIONS)),
    st.tuples(st.just("break_leg"), leg),
    st.tuples(st.just("mend_legs")),
    st.tuples(st.just("hang"), leg),
    st.tuples(st.just("wake_up")),
    st.tuples(st.just("time_passes")),
    st.tuples(st.just("reopen")),
)


def run(guest: Guest, actions: Sequence[tuple[Any, ...]]) -> None:
    for name, *arguments in actions:
        guest.do(name, *arguments)


def crash_and_check(
    host: SimulatedHost, guest: Guest, start: Any, log: list[Recorded], moment: int, seed: int
) -> Guest:
    """The power fails after ``moment`` operations. Returns a guest on what comes up."""
    survivor = after_power_loss(start, log[:moment], seed)
    revived = Guest(survivor, guest.paths, guest.next_value)
    found = revived.journal.before
    for number, (value, allowed) in enumerate(zip(found, guest.journal.allowed(moment), strict=True)):
        assert value in allowed, f"sector {number} holds {value}, not one of {sorted(allowed)}"
    settle(revived)
    assert values(revived.disk.read(0, SECTORS * SECTOR)) == found, "bringing legs in sync changed what was read"
    images = {bytes(survivor.files[path].content) for path in guest.paths}
    assert len(images) == 1, "legs in sync differ"
    return revived


def check_workload(
    legs: int,
    with_integrity: bool,
    first: Sequence[tuple[Any, ...]],
    second: Sequence[tuple[Any, ...]],
    seed: int,
    moments: int,
) -> None:
    host = SimulatedHost(seed)
    paths = PATHS[:legs]
    admin.create(paths, SECTORS * SECTOR, with_integrity=with_integrity, surroundings=Stage(host).surroundings)
    start = host.start()
    host.log.clear()
    guest = Guest(host, paths, 0)
    run(guest, first)
    chance = random.Random(seed)
    for _ in range(moments):
        moment = chance.randint(0, len(host.log))
        check_alone(guest, start, host.log[:moment], moment, seed)
        survivor = after_power_loss(start, host.log[:moment], seed)
        # From here a second life: what the disk does to come up may be interrupted, too.
        again = survivor.start()
        revived = Guest(survivor, paths, guest.next_value)
        for number, (value, allowed) in enumerate(
            zip(revived.journal.before, guest.journal.allowed(moment), strict=True)
        ):
            assert value in allowed, f"sector {number} holds {value}, not one of {sorted(allowed)}"
        run(revived, second)
        crash_and_check(survivor, revived, again, survivor.log, chance.randint(0, len(survivor.log)), seed + 1)
        crash_and_check(survivor, revived, again, survivor.log, len(survivor.log), seed + 2)


def check_alone(guest: Guest, start: Any, log: list[Recorded], moment: int, seed: int) -> None:
    """With some of the legs only, the disk is refused, or it is all there."""
    subsets = [subset for size in range(1, len(guest.paths)) for subset in itertools.combinations(guest.paths, size)]
    for subset in subsets:
        survivor = after_power_loss(start, log, seed)
        for other in set(guest.paths) - set(subset):
            survivor.files.pop(other, None)
        try:
            alone = open_disk(subset, surroundings=Stage(survivor).surroundings)
        except UnusableFile as refusal:
            assert refusal.hint
            continue
        found = values(BlockingDisk(alone).read(0, SECTORS * SECTOR))
        for value, allowed in zip(found, guest.journal.allowed(moment), strict=True):
            assert value in allowed


WORKLOAD = st.lists(ACTIONS, max_size=25)
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=100, suppress_health_check=QUIET)
@given(st.sampled_from([2, 2, 3]), st.booleans(), WORKLOAD, WORKLOAD, st.integers(0, 2**32))
def test_a_crash_at_any_moment_loses_nothing_that_was_flushed(
    legs: int, with_integrity: bool, first: list[tuple[Any, ...]], second: list[tuple[Any, ...]], seed: int
) -> None:
    check_workload(legs, with_integrity, first, second, seed, moments=2)


@pytest.mark.campaign
@settings(max_examples=5_000, suppress_health_check=QUIET)
@given(st.sampled_from([2, 2, 3]), st.booleans(), WORKLOAD, WORKLOAD, st.integers(0, 2**32))
def test_a_crash_at_any_moment_loses_nothing_that_was_flushed_in_many_workloads(
    legs: int, with_integrity: bool, first: list[tuple[Any, ...]], second: list[tuple[Any, ...]], seed: int
) -> None:
    check_workload(legs, with_integrity, first, second, seed, moments=4)

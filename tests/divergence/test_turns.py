"""Sync points that native code passes by itself while a guest uses its disk: nobody can tell, whatever happens."""

import functools
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ftvm.machine import Machine
from ftvm.module.fault import RamBit, RegisterBit
from ftvm.monitor.lockstep import Lockstep
from ftvm.monitor.turns import Passed
from ftvm.storage.faulty import Fault, FaultModel
from tests.divergence.machines import Run, run
from tests.divergence.test_disks import Bay

BLOCKS = 1500
APPEND = f"blocks={BLOCKS}"


@pytest.fixture
def bay(tmp_path: Path) -> Bay:
    return Bay(tmp_path / "bay")


class Passes(list[Passed]):
    """What was passed, and what is called with the number of it all each time."""

    on_pass: Callable[[int], object] = staticmethod(lambda count: None)

    @property
    def count(self) -> int:
        return sum(passed.count for passed in self)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Passes]:
    passes = Passes()
    before = Lockstep._passed

    def note(self: Lockstep, passed: Passed) -> None:
        before(self, passed)
        passes.append(passed)
        passes.on_pass(passes.count)

    monkeypatch.setattr(Lockstep, "_passed", note)
    return passes


@dataclass(frozen=True)
class Known:
    """All that can be known of a run in the end."""

    outside: tuple[object, ...]
    contents: bytes
    sync_points: int
    blocks: int


def known(this: Run, bay: Bay) -> Known:
    first, *others = bay.contents()
    assert others == len(others) * [first]
    return Known(this.outside, first, this.result.sync_points, this.result.blocks)


@functools.cache
def undisturbed() -> Known:
    """A run in which each sync point is passed one by one."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("ftvm.machine.Lockstep", functools.partial(Lockstep, passing=False))
        bay = Bay(Path(folder) / "bay")
        this = run("disk", append=APPEND, disks=bay.disks)
        assert this.result.exit_code == 0
        return known(this, bay)


def assert_as_undisturbed(this: Run, bay: Bay) -> None:
    """But for the number of sync points."""
    end, golden = known(this, bay), undisturbed()
    assert (end.outside, end.contents) == (golden.outside, golden.contents)


@pytest.mark.parametrize(("modules", "legs", "real_time"), [(1, 1, False), (2, 2, False), (3, 1, False), (2, 1, True)])
def test_a_run_is_the_same_as_step_by_step(
    tmp_path: Path, passes: Passes, modules: int, legs: int, real_time: bool
) -> None:
    bay = Bay(tmp_path / "bay", legs)
    this = run("disk", append=APPEND, disks=bay.disks, modules=modules, real_time=real_time)
    assert passes.count > BLOCKS // 2
    if real_time:  # the guest sees another clock
        assert (this.result.exit_code, this.result.divergences) == (0, [])
    else:
        assert known(this, bay) == undisturbed()


@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_a_flipped_bit_is_found_and_rolled_back(bay: Bay, passes: Passes, part: float) -> None:
    blocks = undisturbed().blocks
    fault = RegisterBit("rsp", 9)
    this = run("disk", lambda m: m.inject(1, int(blocks * part), fault), append=APPEND, disks=bay.disks)
    assert passes.count > BLOCKS // 4
    assert [(found.module, found.verdict) for found in this.result.divergences] == [(1, "transient")]
    assert_as_undisturbed(this, bay)


def test_a_bit_that_flips_in_memory_nobody_writes_is_found_by_the_scrub(bay: Bay, passes: Passes) -> None:
    blocks = undisturbed().blocks
    fault = RamBit(4000 * 4096 + 17, 3)  # the scrub has not been there yet, and will be
    this = run("disk", lambda m: m.inject(0, blocks // 4, fault), append=APPEND, disks=bay.disks)
    assert passes.count > BLOCKS // 4
    assert [(found.kind, found.module) for found in this.result.divergences] == [("memory", 0)]
    assert_as_undisturbed(this, bay)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_module_that_dies_or_hangs_is_lost_and_nothing_else(bay: Bay, passes: Passes, number: signal.Signals) -> None:
    killed: list[int] = []

    def prepare(machine: Machine) -> None:
        def strike(count: int) -> None:
            if count > BLOCKS // 4 and not killed:
                killed.append(machine.modules[1].pid)
                os.kill(killed[0], number)

        passes.on_pass = strike

    this = run("disk", prepare, append=APPEND, disks=bay.disks)
    assert killed
    assert ("module-failed", 1) in this.events
    assert_as_undisturbed(this, bay)


def test_somebody_who_wants_an_end_is_heard(bay: Bay, passes: Passes) -> None:
    stoppers: list[threading.Thread] = []

    def prepare(machine: Machine) -> None:
        def stop(count: int) -> None:
            if not stoppers:
                stoppers.append(threading.Timer(0.05, machine.request_stop))
                stoppers[0].start()

        passes.on_pass = stop

    this = run("disk", prepare, append="blocks=100000000", disks=bay.disks)
    stoppers[0].join()
    assert this.result.outcome == "stopped"
    assert passes.count > 0


def test_a_leg_that_fails_meanwhile_is_out_of_service_and_the_other_has_everything(bay: Bay, passes: Passes) -> None:
    """Its file is full: the host says so to whoever writes there."""
    told: list[str] = []

    def prepare(machine: Machine) -> None:
        def fill(count: int) -> None:
            if count > BLOCKS // 4 and not told:
                told.append("full")
                machine.disks[0].mirror.inject(1, Fault(FaultModel.FULL))

        passes.on_pass = fill

    this = run("disk", prepare, append=APPEND, disks=bay.disks)
    assert told
    assert this.outside == undisturbed().outside
    assert bay.contents()[0] == undisturbed().contents
    assert this.machine.disks[0].mirror.status().state == "simplex"

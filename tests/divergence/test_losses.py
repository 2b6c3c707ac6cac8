"""A module that dies or hangs: the others go on, it comes back, and nobody outside can tell."""

import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ftvm.module.events import ExpectFaults
from ftvm.module.fault import AtPosition, Fault, RegisterBit
from ftvm.monitor import deadline
from ftvm.monitor.epoch import Attempt, Epoch, EpochRunner
from ftvm.monitor.eventlog import MODULE_FAILED, MODULE_FILLING, MODULE_JOINED
from ftvm.monitor.module_handle import ModuleHandle
from tests.divergence.machines import Run, golden, run
from tests.divergence.processes import ended

LONG = "rounds=16"
"""Of the workload: a busy guest for several times as long as a module needs to come back."""

FIRST_LINE = b"alu "


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Call a module hung after a third of a second."""
    monkeypatch.setattr(deadline, "BEHIND_S", 0.3)
    monkeypatch.setattr(deadline, "ALONE_S", 0.3)
    monkeypatch.setattr(deadline, "ALONE_TIMES", 2)


def workload(disturb: Callable[[Run], object], **options: Any) -> Run:
    """A long workload; ``disturb`` it when it has written its first line."""

    def on_console(this: Run, new: bytes) -> None:
        if FIRST_LINE in new:
            disturb(this)

    return run("workload", on_console=on_console, append=LONG, **options)


def verdicts(run: Run) -> list[tuple[int | None, str, str]]:
    return [(d.module, d.kind, d.verdict) for d in run.result.divergences]


def states(run: Run) -> list[str]:
    return [report.state for report in run.result.modules]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_module_that_is_killed_comes_back(victim: int) -> None:
    disturbed = workload(lambda this: this.kill(victim))
    assert disturbed.outside == golden("workload", LONG).outside
    assert verdicts(disturbed) == [(victim, "death", "failed-over")]
    assert states(disturbed) == ["duplexed", "duplexed"]
    assert disturbed.events == [(MODULE_FAILED, victim), (MODULE_FILLING, victim), (MODULE_JOINED, victim)]
    assert "killed by SIGKILL" in (disturbed.machine.divergence_text or "")
    assert [(report.faults, report.restarts) for report in disturbed.result.modules] == [
        ({"death": 1}, 1) if index == victim else ({}, 0) for index in range(2)
    ]


def test_two_of_three_modules_that_are_killed_come_back() -> None:
    disturbed = workload(lambda this: this.kill(0, 2), modules=3)
    assert disturbed.outside == golden("workload", LONG).outside
    assert sorted(verdicts(disturbed)) == [(0, "death", "failed-over"), (2, "death", "failed-over")]
    assert states(disturbed) == ["duplexed"] * 3


@pytest.mark.parametrize("modules", [1, 2, 3])
def test_when_all_modules_are_killed_the_machine_goes_on_from_the_verified_state(modules: int) -> None:
    disturbed = workload(lambda this: this.kill(*range(modules)), modules=modules)
    assert disturbed.outside == golden("workload", LONG).outside
    assert [verdict for _, _, verdict in verdicts(disturbed)] == ["failed-over"] * (modules - 1) + ["restarted"]
    assert states(disturbed) == (["duplexed"] * modules if modules > 1 else ["online"])
    assert [report.restarts for report in disturbed.result.modules] == [1] * modules


def test_a_module_that_is_killed_while_the_guest_sleeps_comes_back() -> None:
    """Nothing else wakes the monitor; the guest is told to end when the machine is whole again."""

    def on_console(this: Run, new: bytes) -> None:
        if b"q ends" in new:
            this.kill(1)

    def on_change(this: Run, kind: str, module: int) -> None:
        if kind == MODULE_JOINED:
            this.machine.send_console(b"q")

    disturbed = run("echo", on_console=on_console, on_change=on_change, interactive=True, real_time=True)
    assert disturbed.result.outcome == "exit"
    assert verdicts(disturbed) == [(1, "death", "failed-over")]
    assert states(disturbed) == ["duplexed", "duplexed"]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_module_that_hangs_is_replaced(victim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch)
    disturbed = workload(lambda this: this.kill(victim, number=signal.SIGSTOP))
    assert disturbed.outside == golden("workload", LONG).outside
    assert verdicts(disturbed) == [(victim, "hang", "failed-over")]
    assert states(disturbed) == ["duplexed", "duplexed"]


def test_modules_that_all_hang_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch)
    disturbed = workload(lambda this: this.kill(0, 1, number=signal.SIGSTOP))
    assert disturbed.outside == golden("workload", LONG).outside
    assert [(kind, verdict) for _, kind, verdict in verdicts(disturbed)] == [
        ("hang", "failed-over"),
        ("hang", "restarted"),
    ]
    assert states(disturbed) == ["duplexed", "duplexed"]


def test_a_module_that_was_replaced_leaves_nothing_behind() -> None:
    def mine() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    golden("workload", LONG)
    before = mine()
    pids: list[int] = []

    def disturb(this: Run) -> None:
        pids.extend(report.pid for report in this.machine.modules)
        this.kill(0, 1)

    disturbed = workload(disturb)
    pids += [report.pid for report in disturbed.result.modules]
    assert len(set(pids)) == 4
    assert mine() == before
    assert all(ended(pid) for pid in pids)


# ---- A second fault while the machine recovers from the first ----


def once(action: Callable[[Run], object], kind: str) -> Callable[[Run, str, int], None]:
    """An ``on_change`` that acts on the first event of a kind."""

    def on_change(this: Run, event: str, module: int) -> None:
        if event == kind and [name for name, _ in this.events].count(kind) == 1:
            action(this)

    return on_change


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_module_that_dies_on_its_way_back_is_sent_for_again(number: int) -> None:
    disturbed = workload(
        lambda this: this.kill(1), on_change=once(lambda this: os.kill(this.returning, number), MODULE_FILLING)
    )
    assert disturbed.outside == golden("workload", LONG).outside
    assert states(disturbed) == ["duplexed", "duplexed"]
    assert disturbed.events == [
        (MODULE_FAILED, 1),
        (MODULE_FILLING, 1),
        (MODULE_FAILED, 1),
        (MODULE_FILLING, 1),
        (MODULE_JOINED, 1),
    ]


def test_the_survivor_may_die_while_the_other_module_comes_back() -> None:
    disturbed = workload(lambda this: this.kill(1), on_change=once(lambda this: this.kill(0), MODULE_FILLING))
    assert disturbed.outside == golden("workload", LONG).outside
    assert verdicts(disturbed) == [(1, "death", "failed-over"), (0, "death", "restarted")]
    assert states(disturbed) == ["duplexed", "duplexed"]


def test_everybody_may_die_while_a_module_comes_back() -> None:
    def kill_all(this: Run) -> None:
        os.kill(this.returning, signal.SIGKILL)
        this.kill(0)

    disturbed = workload(lambda this: this.kill(1), on_change=once(kill_all, MODULE_FILLING))
    assert disturbed.outside == golden("workload", LONG).outside
    assert states(disturbed) == ["duplexed", "duplexed"]


def test_a_module_may_die_as_soon_as_it_is_back() -> None:
    disturbed = workload(lambda this: this.kill(1), on_change=once(lambda this: this.kill(1), MODULE_JOINED))
    assert disturbed.outside == golden("workload", LONG).outside
    assert verdicts(disturbed) == [(1, "death", "failed-over")] * 2
    assert states(disturbed) == ["duplexed", "duplexed"]


def flipped() -> Run:
    """A long workload with a bit flipped in module 1, early."""
    return run("workload", lambda machine: machine.inject(1, 3_000_000, RegisterBit("rbx", 9)), append=LONG)


@pytest.mark.parametrize(("victim", "number"), [(0, signal.SIGKILL), (1, signal.SIGKILL), (1, signal.SIGSTOP)])
def test_a_module_may_be_lost_while_a_fault_is_diagnosed(
    victim: int, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is to run the epoch again, whether it is the good one or the other."""
    impatient(monkeypatch)
    restore = ModuleHandle.restore
    lost: list[int] = []

    def restore_and_lose(module: ModuleHandle, *arguments: Any) -> None:
        restore(module, *arguments)
        if module.index == victim and not lost:
            lost.append(module.pid)
            os.kill(module.pid, number)

    monkeypatch.setattr(ModuleHandle, "restore", restore_and_lose)
    disturbed = flipped()
    assert lost
    assert disturbed.outside == golden("workload", LONG).outside
    assert (victim, "death" if number == signal.SIGKILL else "hang", "failed-over") in verdicts(disturbed)
    assert states(disturbed) == ["duplexed", "duplexed"]


def test_both_modules_may_die_while_a_fault_is_diagnosed(monkeypatch: pytest.MonkeyPatch) -> None:
    restore = ModuleHandle.restore
    lost: list[int] = []

    def restore_and_kill(module: ModuleHandle, *arguments: Any) -> None:
        restore(module, *arguments)
        if len(lost) < 2:
            lost.append(module.pid)
            os.kill(module.pid, signal.SIGKILL)

    monkeypatch.setattr(ModuleHandle, "restore", restore_and_kill)
    disturbed = flipped()
    assert disturbed.outside == golden("workload", LONG).outside
    assert "restarted" in [verdict for _, _, verdict in verdicts(disturbed)]
    assert states(disturbed) == ["duplexed", "duplexed"]


@pytest.mark.parametrize("module", [0, 1])
def test_another_bit_may_flip_while_a_fault_is_diagnosed(module: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the epoch that is run again, so that the modules differ again; a third run has no fault."""
    run_epoch = EpochRunner.run
    attempts: list[int] = []

    def flip_again(self: EpochRunner, modules: Sequence[ModuleHandle], epoch: Epoch, again: bool = False) -> Attempt:
        if again:
            attempts.append(len(modules))
        if again and len(attempts) == 1:
            fault = Fault(module, AtPosition(epoch.target - 1_000), RegisterBit("rbp", 3))
            epoch = Epoch(epoch.target, [*epoch.inputs, ExpectFaults([fault])])
            again = False
        return run_epoch(self, modules, epoch, again)

    monkeypatch.setattr(EpochRunner, "run", flip_again)
    disturbed = flipped()
    assert len(attempts) == 2
    assert disturbed.outside == golden("workload", LONG).outside
    assert verdicts(disturbed) == [(1, "register", "transient")]
    assert states(disturbed) == ["duplexed", "duplexed"]

"""Recovery where it has little to work with: too early, nobody to ask, a host that refuses, a run that is ended."""

import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ftvm.errors import HostError
from ftvm.machine import Machine
from ftvm.module.fault import RegisterBit
from ftvm.module.link import CommandKind
from ftvm.monitor import module_handle, nursery, resync, service
from ftvm.monitor.epoch import EpochRunner
from ftvm.monitor.eventlog import MODULE_FAILED, MODULE_FILLING, MODULE_JOINED
from ftvm.monitor.module_handle import ModuleHandle
from ftvm.monitor.nursery import Newborn
from ftvm.monitor.recovery import Recovery
from ftvm.monitor.service import Service
from tests.divergence.machines import Run, build, golden, run
from tests.divergence.processes import children, ended

STUCK = {"append": "rounds=2", "epoch_blocks": 200_000}


LONG_INPUT = bytes(range(1, 256)) * 50_000
"""More than any command to a module or any report of one can hold."""


def break_module_1(machine: Machine) -> None:
    machine.inject(1, 1_000_000, RegisterBit("rbx", 9), 1)


@pytest.mark.parametrize("victims", [[1], [0, 1]])
def test_modules_that_die_before_their_first_epoch_are_replaced(
    victims: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = Service.fill

    def fill_and_kill(self: Service) -> None:
        fill(self)
        for victim in victims:
            self.in_service[victim].kill()

    monkeypatch.setattr(Service, "fill", fill_and_kill)
    hit = run("workload", append="rounds=2")
    assert hit.outside == golden("workload", "rounds=2").outside
    assert [divergence.kind for divergence in hit.result.divergences] == ["death"] * len(victims)


def test_a_bit_that_flips_before_the_first_block_is_survived() -> None:
    hit = run("hello", lambda machine: machine.inject(1, 0, RegisterBit("rip", 3)))
    assert hit.outside == golden("hello").outside
    assert [(d.module, d.verdict) for d in hit.result.divergences] == [(1, "transient")]


def run_until_whole(**watched: Any) -> Run:
    """A guest that sleeps for ever: module 1 dies, and the guest is told to end when the machine is whole again."""

    def on_console(this: Run, new: bytes) -> None:
        if b"q ends" in new:
            this.kill(1)

    def on_change(this: Run, kind: str, module: int) -> None:
        for event, act in watched.items():
            if kind.replace("-", "_") == event:
                act(this)
        if kind == MODULE_JOINED and all(report.state == "duplexed" for report in this.machine.modules):
            this.machine.send_console(b"q")

    whole = run("echo", on_console=on_console, on_change=on_change, interactive=True, real_time=True)
    assert whole.result.outcome == "exit"
    assert [report.state for report in whole.result.modules] == ["duplexed", "duplexed"]
    return whole


def test_a_module_is_filled_and_joins_though_nothing_else_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resync, "JOIN_PAGES", 0)
    monkeypatch.setattr(resync, "SLICE_PAGES", 1)
    run_until_whole()


def test_a_module_that_hangs_on_its_way_back_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_handle, "SETUP_TIMEOUT_S", 3.0)
    stopped: list[int] = []

    def stop_once(this: Run) -> None:
        if not stopped:
            stopped.append(this.returning)
            os.kill(stopped[0], signal.SIGSTOP)

    whole = run_until_whole(module_filling=stop_once)
    assert whole.events[:4] == [(MODULE_FAILED, 1), (MODULE_FILLING, 1), (MODULE_FAILED, 1), (MODULE_FILLING, 1)]
    assert whole.result.modules[1].faults["hang"] >= 1
    assert ended(stopped[0])


def test_a_module_that_hangs_before_it_joins_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resync, "ANSWER_S", 0.5)
    ready = ModuleHandle.await_ready
    stopped: list[int] = []

    def ready_and_stop(self: ModuleHandle) -> None:
        ready(self)
        if self.index == 1 and not stopped and self.pid not in first:
            stopped.append(self.pid)
            os.kill(self.pid, signal.SIGSTOP)

    first = set[int]()
    start = Service.start

    def start_and_note(self: Service) -> None:
        start(self)
        first.update(module.pid for module in self.in_service)

    monkeypatch.setattr(Service, "start", start_and_note)
    monkeypatch.setattr(ModuleHandle, "await_ready", ready_and_stop)
    whole = run_until_whole()
    assert stopped
    assert ended(stopped[0])
    assert whole.result.modules[1].faults["hang"] >= 1


def test_a_module_that_owes_an_answer_when_all_others_die_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take the next command for the one that it has not done yet."""
    post = ModuleHandle.post
    stopped: list[int] = []

    def stop_and_kill_the_other(this: Run) -> None:
        def post_and_stop(self: ModuleHandle, kind: CommandKind, *arguments: Any) -> None:
            if kind == CommandKind.FLUSH_TLB and not stopped:
                stopped.append(self.pid)
                os.kill(self.pid, signal.SIGSTOP)
                this.kill(0)
            post(self, kind, *arguments)

        monkeypatch.setattr(ModuleHandle, "post", post_and_stop)

    whole = run_until_whole(module_filling=stop_and_kill_the_other)
    assert stopped
    assert ended(stopped[0])
    assert [d.verdict for d in whole.result.divergences] == ["failed-over", "restarted"]


def test_a_host_that_refuses_a_process_is_asked_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "RETRY_S", 0.1)
    take = nursery.take
    starts: list[int] = []

    def refuse_the_third() -> Newborn:
        starts.append(len(starts))
        if len(starts) == 3:
            raise HostError("no more processes")
        return take()

    monkeypatch.setattr(nursery, "take", refuse_the_third)
    whole = run_until_whole()
    assert len(starts) == 4
    assert whole.events == [(MODULE_FAILED, 1), (MODULE_FAILED, 1), (MODULE_FILLING, 1), (MODULE_JOINED, 1)]


def test_without_an_arbiter_the_machine_stops_in_its_verified_state(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Service) -> ModuleHandle:
        raise HostError("no more processes")

    monkeypatch.setattr(Service, "fresh", refuse)
    hit = run("workload", break_module_1, **STUCK)
    assert hit.result.outcome == "fail-stop"
    assert [(d.module, d.verdict) for d in hit.result.divergences] == [(None, "fail-stop")]
    assert golden("workload", "rounds=2").console.startswith(hit.console)


def test_an_epoch_that_ends_every_module_is_a_fail_stop_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def kill_later(before: Callable[..., Any]) -> Callable[..., Any]:
        def tell(self: EpochRunner, modules: Sequence[ModuleHandle], epoch: Any, *more: Any, **options: Any) -> Any:
            if epoch.target > 2_000_000:
                for module in modules:
                    module.kill()
                    module._process.wait()
            return before(self, modules, epoch, *more, **options)

        return tell

    monkeypatch.setattr(EpochRunner, "turn", kill_later(EpochRunner.turn))
    monkeypatch.setattr(EpochRunner, "run", kill_later(EpochRunner.run))
    hit = run("workload", **STUCK)
    assert hit.result.outcome == "fail-stop"
    assert hit.result.divergences[-1].verdict == "fail-stop"
    assert hit.result.divergences[-1].where == "every module"


def test_input_that_the_guest_does_not_read_is_no_burden() -> None:
    """It is kept outside of the modules' state, which is loaded anew when one of them comes back."""

    def on_console(this: Run, new: bytes) -> None:
        if not this.machine.modules[1].restarts and b"alu " in new:
            this.machine.send_console(LONG_INPUT)
            this.kill(1)

    hit = run("workload", on_console=on_console, append="rounds=8", input=LONG_INPUT)
    assert (hit.result.outcome, hit.console) == ("exit", golden("workload", "rounds=8").console)
    assert [(d.kind, d.verdict) for d in hit.result.divergences] == [("death", "failed-over")]


def test_a_run_that_is_ended_while_an_arbiter_works_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    again = Recovery._again
    arbiters: list[int] = []

    def end_in_the_vote(self: Recovery, modules: Sequence[ModuleHandle], *arguments: Any, **options: Any) -> Any:
        for module in modules:
            if module not in self._service.in_service:
                arbiters.append(module.pid)
                machine.request_stop()
        return again(self, modules, *arguments, **options)

    monkeypatch.setattr(Recovery, "_again", end_in_the_vote)
    machine = build("workload", **STUCK)
    break_module_1(machine)
    before = set(children(os.getpid()))
    assert machine.run().outcome == "stopped"
    assert arbiters
    assert set(children(os.getpid())) == before

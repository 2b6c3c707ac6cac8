"""A machine that is run in stretches is the machine that is run at once; between two of them it can be looked at."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftvm.errors import UsageError
from ftvm.machine import Machine
from ftvm.module.fault import RamBit, RegisterBit
from ftvm.module.registers import REGISTERS
from tests.divergence.machines import build, golden


def test_stretches_make_the_same_run() -> None:
    shown = bytearray()
    with build("workload", lambda channel, data: shown.extend(data)) as machine:
        for position in (1, 2, 77_777, 1_000_000, 3_333_333):
            assert machine.run_until(position=position) is None
            assert machine.position == position
        assert machine.run_until(text="sieve") is None
        result = machine.run()
    assert (result.state_digest, result.outcome, bytes(shown)) == (
        golden("workload").result.state_digest,
        "exit",
        golden("workload").console,
    )
    assert machine.console == bytes(shown)


def test_a_text_is_met_at_one_position_whatever_the_epochs_and_changes_nothing() -> None:
    seen = set()
    for options in ({"epoch_blocks": 5_003}, {"epoch_blocks": 10_000_000}, {"modules": 1}, {"modules": 3}):
        with build("workload", **options) as machine:
            assert machine.run_until(text="alu ") is None
            assert machine.console.endswith(b"alu ")
            first = machine.position
            assert machine.run_until(text="sort") is None
            seen.add((first, machine.position, machine.digest, machine.run().state_digest))
    assert len(seen) == 1
    assert next(iter(seen))[3] == golden("workload").result.state_digest


def test_a_text_counts_from_where_the_machine_stands() -> None:
    with build("workload") as machine:
        machine.run_until(text="sieve")
        end = machine.run_until(text="alu")
        assert end is not None and end.outcome == "exit"


@pytest.mark.parametrize(("guest", "outcome"), [("hello", "exit"), ("hang", "halted"), ("triplefault", "crash")])
def test_the_end_of_the_guest_ends_every_stretch(guest: str, outcome: str) -> None:
    with build(guest) as machine:
        for _ in range(2):
            end = machine.run_until(position=10**12)
            assert end is not None and end.outcome == outcome
        digest = machine.digest
        assert machine.run().state_digest == digest


def test_a_guest_that_waits_for_a_key_goes_on_when_one_comes() -> None:
    with build("echo") as machine:
        end = machine.run_until(text="never")
        assert end is not None and end.outcome == "halted"
        machine.send_console(b"q")
        assert machine.run().outcome == "exit"


def test_a_stretch_after_one_that_was_broken_off_goes_no_further_than_it_is_told() -> None:
    def break_off(*_: object) -> None:
        raise KeyboardInterrupt

    handler = signal.signal(signal.SIGALRM, break_off)
    try:
        with build("spin", epoch_blocks=300_000_000) as machine:
            with pytest.raises(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, 0.2)
                machine.run_until(position=300_000_000)
                signal.pause()
            if machine.position < 1_000:
                assert machine.run_until(position=1_000) is None
                assert machine.position == 1_000
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


def test_time_and_stop_requests_end_a_stretch_where_another_can_begin() -> None:
    with build("spin") as machine:
        end = machine.run_until(timeout_s=0.2)
        assert end is not None and end.outcome == "timeout"
        before = machine.position
        threading.Timer(0.1, machine.request_stop).start()
        end = machine.run_until()
        assert end is not None and end.outcome == "stopped"
        assert machine.position > before
        there = machine.position + 12_345
        assert machine.run_until(position=there) is None
        assert machine.position == there
        assert machine.run_until(position=there) is None, "it is there already"
        assert [module.position for module in machine.modules] == [there, there]


def test_faults_can_be_injected_between_stretches() -> None:
    with build("workload") as machine:
        machine.run_until(position=500_000)
        machine.inject(1, machine.position + 1_000, RegisterBit("r15", 7))
        machine.run_until(position=700_000)
        assert [module.faults for module in machine.modules] == [{}, {"register": 1}]
        machine.inject(0, machine.position, RamBit(32 << 20, 3, logged=True))
        with pytest.raises(UsageError):
            machine.inject(0, machine.position - 1, RegisterBit("rsp", 7))
        result = machine.run()
    assert result.state_digest == golden("workload").result.state_digest
    assert len(result.divergences) == 2


def test_a_module_shows_its_own_registers_and_memory() -> None:
    with build("workload") as machine:
        machine.run_until(position=1_000_000)
        for module in machine.modules:
            registers = module.registers
            assert registers["eax"] == registers["rax"] & 0xFFFFFFFF
            assert registers["ah"] == registers["rax"] >> 8 & 0xFF
            assert registers["r9d"] == registers["r9"] & 0xFFFFFFFF
            assert registers["zf"] == registers["rflags"] >> 6 & 1
            assert registers["cs"] == registers["cs.selector"] != 0
            assert set(registers) == set(REGISTERS)
            assert len(module.read_virtual(registers["rip"], 16)) == 16
            with pytest.raises(UsageError, match="no register is named"):
                registers["rax9"]
            with pytest.raises(UsageError, match="nothing is mapped"):
                module.read_virtual(0xFFFF_8000_0000_0000, 1)
            with pytest.raises(UsageError, match="not RAM"):
                module.read_physical(64 << 20, 1)
            for gpa in (0x100000, 0x104FFE):
                assert module.read_physical(gpa, 4) == machine.read_memory(gpa, 4)


def test_a_module_that_left_holds_nothing_and_the_others_do() -> None:
    with build("spin", epoch_blocks=100_000) as machine:
        machine.run_until(position=300_000)
        os.kill(machine.modules[1].pid, signal.SIGKILL)
        while not any(event.kind == "module-failed" for event in machine.events):
            machine.run_until(position=machine.position + 100_000)
        assert machine.modules[0].registers["rip"]
        if machine.modules[1].state != "duplexed":
            with pytest.raises(UsageError, match="not in service"):
                machine.modules[1].registers["rip"]
    with pytest.raises(UsageError, match="not in service"):
        machine.modules[0].registers["rip"]


@pytest.fixture
def hello() -> Iterator[Machine]:
    with build("hello") as machine:
        yield machine


def test_a_context_leaves_nothing_behind(hello: Machine) -> None:
    pids = [module.pid for module in hello.modules]
    assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    hello.__exit__(None, None, None)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda machine: machine.run_until(position=-1),
        lambda machine: machine.run_until(text=""),
        lambda machine: machine.__enter__(),
        lambda machine: machine.modules[0].read_physical(0, 0),
    ],
)
def test_what_cannot_be_is_refused_and_the_machine_goes_on(hello: Machine, wrong: object) -> None:
    with pytest.raises(UsageError):
        wrong(hello)  # type: ignore[operator]
    assert hello.run().outcome == "exit"


def test_a_machine_outside_of_its_context_is_not_running() -> None:
    machine = build("hello")
    with pytest.raises(UsageError, match="not running"):
        machine.run_until(position=5)
    machine.run()
    with pytest.raises(UsageError, match="not running"):
        assert machine.digest
    with pytest.raises(UsageError, match="used already"):
        machine.run()


def test_a_callback_cannot_run_the_machine_that_called_it() -> None:
    def again(channel: str, data: bytes) -> None:
        machine.run_until(position=10**9)

    machine = build("hello", again)
    with pytest.raises(UsageError, match="machine is running"):
        machine.run()


def test_a_machine_that_stood_still_counts_no_pause() -> None:
    with build("spin") as machine:
        machine.run_until(timeout_s=0.1)
        time.sleep(1.0)
        machine.run_until(timeout_s=0.1)
        machine.request_stop()
        assert machine.run().longest_pause_ms < 1000

"""A machine that goes back to a checkpoint is the machine that was there, whatever became of it or its modules."""

import os
import random
import signal

import pytest

from ftvm.errors import UsageError
from ftvm.machine import Machine
from ftvm.module.fault import RamBit, RegisterBit
from ftvm.monitor import strays
from tests.divergence.machines import build, golden


def test_what_runs_from_a_checkpoint_ends_as_it_did() -> None:
    with build("workload") as machine:
        machine.run_until(position=1_500_000)
        there = machine.checkpoint()
        digest = machine.digest
        console = machine.console
        first = machine.run()
        assert first.state_digest == golden("workload").result.state_digest
        for _ in range(3):
            machine.restore(there)
            assert (machine.position, machine.digest, machine.console) == (1_500_000, digest, console)
            assert [module.position for module in machine.modules] == [1_500_000] * 2
            again = machine.run()
            assert (again.state_digest, again.outcome) == (first.state_digest, "exit")
        assert machine.console.endswith(golden("workload").console)


def test_checkpoints_may_be_restored_in_any_order() -> None:
    chosen = random.Random(5)
    with build("workload", epoch_blocks=200_000) as machine:
        kept = []
        while machine.run_until(position=machine.position + 700_000) is None:
            kept.append((machine.checkpoint(), machine.digest))
        for _ in range(25):
            checkpoint, digest = chosen.choice(kept)
            machine.restore(checkpoint)
            assert machine.digest == digest
            if chosen.random() < 0.5:
                machine.run_until(position=machine.position + 50_000)
            assert all(machine.holds(each) == (machine.digest == that) for each, that in kept)
        for number in range(0, len(kept), 2):  # their memory goes; that of the others must not
            kept[number] = kept[number - 1]
        for checkpoint, digest in kept:
            machine.restore(checkpoint)
            assert machine.digest == digest
        assert machine.run().state_digest == golden("workload").result.state_digest


@pytest.mark.parametrize("logged", [True, False])
def test_a_fault_leaves_nothing_behind_in_a_module(logged: bool) -> None:
    with build("workload") as machine:
        machine.run_until(position=1_000_000)
        there = machine.checkpoint()
        for number in range(10):
            # In the guest's code: what was translated from it must go too.
            machine.inject(1, 1_000_100, RamBit(0x100000 + 37 * number, number % 8, logged))
            machine.inject(0, 1_100_000, RegisterBit("rax", number))
            machine.run_until(position=1_200_000)
            machine.restore(there)
            for module in machine.modules:
                assert module.faults == {}
                assert module.read_physical(0x100000, 0x8000) == machine.read_memory(0x100000, 0x8000)
        result = machine.run()
        assert (result.state_digest, result.divergences) == (golden("workload").result.state_digest, [])


def test_modules_that_are_gone_come_back_with_the_checkpoint() -> None:
    with build("workload", modules=3, epoch_blocks=100_000) as machine:
        machine.run_until(position=500_000)
        there = machine.checkpoint()
        for module in machine.modules:
            os.kill(module.pid, signal.SIGKILL)
        machine.run_until(position=700_000)
        os.kill(machine.modules[0].pid, signal.SIGKILL)
        machine.restore(there)
        assert [module.state for module in machine.modules] == ["duplexed"] * 3
        assert machine.run().state_digest == golden("workload").result.state_digest


def test_a_machine_is_back_after_the_end_of_its_guest_and_after_a_fail_stop() -> None:
    with build("workload", epoch_blocks=1_000_000) as machine:
        machine.run_until(position=1_000_000)
        there = machine.checkpoint()
        for module in (0, 1):
            for bit in range(8):
                machine.inject(module, 1_200_000 + 3 * bit + module, RegisterBit("r14", bit), stuck_at=module)
        end = machine.run_until()
        assert end is not None
        machine.restore(there)
        assert machine.position == 1_000_000
        assert machine.digest


def test_an_epoch_that_somebody_left_in_the_middle_is_run_again() -> None:
    with build("workload", epoch_blocks=3_000_000) as machine:
        machine.run_until(position=100_000)
        reader, writer = os.pipe()

        def fail() -> None:
            machine.unwatch(reader)
            raise ZeroDivisionError

        machine.watch(reader, fail)
        os.write(writer, b"x")
        with pytest.raises(ZeroDivisionError):
            machine.run_until(position=5_000_000)
        assert machine.position < 5_000_000
        assert machine.run().state_digest == golden("workload").result.state_digest
        os.close(reader)
        os.close(writer)


def test_a_checkpoint_belongs_to_its_machine() -> None:
    with build("hello") as machine, build("hello") as other, pytest.raises(UsageError, match="another machine"):
        other.restore(machine.checkpoint())
    with build("hello") as machine, build("hello") as other, pytest.raises(UsageError, match="another machine"):
        other.holds(machine.checkpoint())


def test_a_callback_can_neither_keep_nor_restore() -> None:
    refused: list[UsageError] = []

    def tries(channel: str, data: bytes) -> None:
        for attempt in (machine.checkpoint, lambda: machine.restore(there)):
            with pytest.raises(UsageError) as info:
                attempt()
            refused.append(info.value)

    machine: Machine = build("hello", tries)
    with machine:
        there = machine.checkpoint()
        machine.run()
    assert refused


def test_faults_that_were_told_and_not_due_are_forgotten() -> None:
    with build("workload") as machine:
        there = machine.checkpoint()
        machine.inject(1, 500_000, RegisterBit("r15", 7))
        machine.restore(there)
        machine.inject(1, 600_000, RegisterBit("r15", 7))
        machine.run_until(position=100_000)
        machine.restore(there)
        assert machine.run().divergences == []


def test_more_pages_than_one_command_can_name_may_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strays, "COMMAND_BYTES", 6000)
    with build("workload") as machine:
        there = machine.checkpoint()
        machine.run_until(position=3_000_000)
        machine.restore(there)
        assert machine.run().state_digest == golden("workload").result.state_digest


def test_a_guest_that_single_steps_goes_on_from_a_checkpoint_as_if_nothing_had_been() -> None:
    """The trap flag is the flags' own: a copy of it that outlived them let a handler be stepped through, too."""
    with build("exceptions") as machine:
        start = machine.checkpoint()
        machine.run_until()
        console, digest = machine.console, machine.digest
        machine.restore(start)
        stepping = []
        for position in range(12_100, 12_400):
            machine.run_until(position=position)
            if machine.modules[0].registers["tf"]:
                stepping.append(position)
        assert stepping
        for position in stepping:
            machine.restore(start)
            machine.run_until(position=position)
            machine.restore(machine.checkpoint())
            ending = machine.run_until()
            assert ending is not None and (ending.outcome, ending.exit_code) == ("exit", 0)
            assert (machine.console, machine.digest) == (console, digest)

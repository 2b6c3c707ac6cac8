"""A recorded run is repeated from its file alone, on any modules with any epochs, and it is told where it is not."""

import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest

from ftvm.debug.replay import Differs, ReplayResult, replay
from ftvm.errors import UnusableFile, UsageError
from ftvm.machine import Machine, MachineConfig
from ftvm.module.fault import AtPosition, Fault, RamBit, RegisterBit
from ftvm.monitor import recording as recordings
from ftvm.monitor.bays import DiskFiles
from ftvm.monitor.recording import End, load
from ftvm.network.spec import parse_nic
from tests.divergence.machines import build, golden


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "MARK_S", 0.002)
    monkeypatch.setattr(recordings, "MARK_SHARE", 1.0)


def repeated(file: Path, **options: Any) -> tuple[ReplayResult, bytes]:
    recording = load(file)
    shown = bytearray()
    config = MachineConfig.replay(recording, timeout_s=120.0, **options)
    with Machine(config, lambda channel, data: shown.extend(data)) as machine:
        return replay(machine, recording), bytes(shown)


@pytest.mark.parametrize(
    "options", [{"modules": 1}, {"modules": 3, "epoch_blocks": 54_321}, {"epoch_blocks": 3_000_000}]
)
def test_a_run_is_repeated_from_its_file(options: dict[str, int], tmp_path: Path) -> None:
    shown = bytearray()
    result = build("workload", lambda channel, data: shown.extend(data), record=tmp_path / "run").run()
    again, console = repeated(tmp_path / "run", **options)
    assert (again.state_digest, again.outcome, again.exit_code) == (result.state_digest, "exit", 0)
    assert (again.blocks, console) == (result.blocks, bytes(shown))
    assert again.compared > 1


@pytest.mark.parametrize("real_time", [False, True])
def test_what_was_typed_and_when_is_part_of_it(real_time: bool, tmp_path: Path) -> None:
    def answer(channel: str, data: bytes) -> None:
        if b"q ends" in data:
            machine.send_console(b"abc")
        if b"abc" in machine.console[-3:]:
            os.kill(machine.modules[0].pid, signal.SIGKILL)
            machine.send_console(b"q")

    machine = build("echo", answer, interactive=True, real_time=real_time, record=tmp_path / "run")
    result = machine.run()
    again, console = repeated(tmp_path / "run", epoch_blocks=100)
    assert (again.state_digest, console, again.inputs) == (result.state_digest, machine.console, again.inputs)
    assert again.inputs >= 2


def test_a_recording_may_begin_and_end_anywhere(tmp_path: Path) -> None:
    with build("workload") as machine:
        machine.run_until(position=1_234_567)
        recorder = machine.record(tmp_path / "part")
        machine.run_until(position=2_345_678)
        recorder.close()
        digest = machine.digest
        machine.run_until(position=3_000_000)
    again, _ = repeated(tmp_path / "part")
    assert (again.blocks, again.state_digest, again.outcome) == (2_345_678, digest, "stopped")


def test_a_machine_that_goes_back_ends_its_recording_where_it_was(tmp_path: Path) -> None:
    with build("workload") as machine:
        there = machine.checkpoint()
        machine.record(tmp_path / "run")
        machine.run_until(position=1_000_000)
        digest = machine.digest
        machine.restore(there)
        machine.run_until(position=2_000)
    again, _ = repeated(tmp_path / "run")
    assert (again.blocks, again.state_digest) == (1_000_000, digest)


def test_a_run_that_was_ended_in_the_middle_of_an_epoch_is_known_to_its_last_sync_point(tmp_path: Path) -> None:
    result = build("spin", timeout_s=0.5, record=tmp_path / "run").run()
    assert result.outcome == "timeout"
    again, _ = repeated(tmp_path / "run")
    assert (again.outcome, again.blocks, again.state_digest) == ("timeout", result.blocks, result.state_digest)


def test_what_a_killed_run_leaves_is_repeated_as_far_as_it_goes(tmp_path: Path) -> None:
    build("workload", record=tmp_path / "run").run()
    whole = (tmp_path / "run").read_bytes()
    recording = load(tmp_path / "run")
    end = recording.end
    assert isinstance(end, End)
    (tmp_path / "run").write_bytes(whole[:-20])
    with pytest.raises(UnusableFile, match="has no end"):
        load(tmp_path / "run")
    cut = load(tmp_path / "run", partial=True)
    assert (cut.end, cut.marks) == (None, recording.marks)
    with Machine(MachineConfig.replay(cut)) as machine:
        again = replay(machine, cut)
    assert (again.outcome, again.compared) == ("cut-off", len(cut.marks))


def test_it_is_said_between_which_moments_a_run_went_another_way(tmp_path: Path) -> None:
    build("workload", record=tmp_path / "run").run()
    recording = load(tmp_path / "run")
    assert len(recording.marks) >= 2
    second = recording.marks[1]
    recording.marks[1] = type(second)(second.position, second.virtual_ns, second.inputs, 32 * "0")
    with Machine(MachineConfig.replay(recording)) as machine, pytest.raises(Differs) as error:
        replay(machine, recording)
    assert f"{recording.marks[0].position:,}" in error.value.message
    assert f"{second.position:,}" in error.value.message


def test_the_past_is_not_recorded(tmp_path: Path) -> None:
    with build("workload") as machine:
        there = machine.checkpoint()
        machine.run_until(position=500_000)
        end = machine.moment
        machine.restore(there)
        machine.play([], end)
        with pytest.raises(UsageError, match="not recorded"):
            machine.record(tmp_path / "run")


def test_a_full_disk_ends_the_recording_and_not_the_machine(tmp_path: Path) -> None:
    with build("workload") as machine:
        recorder = machine.record(tmp_path / "run")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (recorder.path.stat().st_size + 100, hard))
        try:
            result = machine.run()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        (failed,) = [event for event in machine.events if event.kind == "record-failed"]
        assert str(recorder.path) in str(failed.detail["reason"])
    assert result.state_digest == golden("workload").result.state_digest
    with pytest.raises(UnusableFile, match="has no end"):
        load(tmp_path / "run")
    assert load(tmp_path / "run", partial=True).end is None


@pytest.mark.parametrize("before", [True, False])
def test_faults_in_one_module_are_left_out_and_those_in_all_are_not(before: bool, tmp_path: Path) -> None:
    with build("workload", epoch_blocks=100_000) as machine:
        if before:  # told, and not due when the recording begins
            machine.inject(0, 2_000_000, RegisterBit("r15", 3))
            machine.inject(Fault(None, AtPosition(2_500_000), RamBit(32 << 20, 1, logged=True)))
            machine.run_until(position=1_000_000)
        machine.record(tmp_path / "run")
        if not before:
            machine.inject(0, 2_000_000, RegisterBit("r15", 3))
            machine.inject(Fault(None, AtPosition(2_500_000), RamBit(32 << 20, 1, logged=True)))
        result = machine.run()
    assert [one.module for one in result.divergences] == [0]
    assert result.state_digest != golden("workload").result.state_digest, "a bit is another one in all modules"
    recording = load(tmp_path / "run").undisturbed()
    for modules in (1, 2):
        with Machine(MachineConfig.replay(recording, modules=modules)) as machine:
            assert replay(machine, recording).state_digest == result.state_digest
            assert not any(module.faults for module in machine.modules)


@pytest.mark.parametrize("guest", ["disk", "net"])
def test_neither_disks_nor_nics_are_needed_again(guest: str, tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(range(256)) * 4096)
    devices: dict[str, Any] = {
        "disk": {"disks": (DiskFiles((tmp_path / "disk",)),)},
        "net": {"nics": tuple(parse_nic("loopback") for _ in range(3))},
    }
    machine = build(guest, record=tmp_path / "run", **devices[guest])
    result = machine.run()
    (tmp_path / "disk").unlink()
    again, console = repeated(tmp_path / "run", modules=1, epoch_blocks=10_000)
    assert (again.state_digest, console) == (result.state_digest, machine.console)
    assert again.inputs > 10

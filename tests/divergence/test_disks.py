"""A guest with a disk is as repeatable as one without, whatever befalls modules, legs and the machine as a whole."""

import functools
import os
import random
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ftvm.errors import UnusableFile
from ftvm.machine import Machine, MachineConfig
from ftvm.module.fault import RegisterBit
from ftvm.monitor.bays import DiskFiles
from ftvm.storage.admin import create, decide, split
from ftvm.storage.blocking import BlockingDisk
from ftvm.storage.faulty import Fault, FaultModel
from ftvm.storage.opening import open_disk
from ftvm.units import MIB
from tests.divergence.machines import Run, kernel, run
from tests.divergence.test_suspend import Session, looking, suspended

ROUNDS = "rounds=40"
SECTORS_AT = 256 * 512  # where the kernel's rounds write


class Bay:
    """Two empty legs."""

    def __init__(self, folder: Path, legs: int = 2) -> None:
        folder.mkdir()
        self.paths = [folder / f"leg{leg}.img" for leg in range(legs)]
        create(self.paths, MIB)

    @property
    def disks(self) -> tuple[DiskFiles, ...]:
        return (DiskFiles(tuple(self.paths)),)

    def contents(self) -> list[bytes]:
        return [path.read_bytes() for path in self.paths]


@pytest.fixture
def bay(tmp_path: Path) -> Bay:
    return Bay(tmp_path / "bay")


@functools.cache
def undisturbed(append: str = ROUNDS) -> tuple[Run, bytes]:
    """A run of two modules, and what was on both legs in the end."""
    with tempfile.TemporaryDirectory() as folder:
        bay = Bay(Path(folder) / "bay")
        golden = run("disk", append=append, disks=bay.disks)
        first, second = bay.contents()
    assert first == second
    assert golden.result.exit_code == 0
    return golden, first


def assert_as_undisturbed(outside: object, bay: Bay, append: str = ROUNDS) -> None:
    golden, contents = undisturbed(append)
    assert outside == golden.outside
    assert bay.contents() == len(bay.paths) * [contents]


@pytest.mark.parametrize(
    ("modules", "epoch_blocks", "legs"), [(1, None, 1), (1, 3_000, 2), (2, 2_500, 2), (2, 77_777, 1), (3, 20_000, 3)]
)
def test_modules_epochs_and_legs_make_no_difference(
    tmp_path: Path, modules: int, epoch_blocks: int | None, legs: int
) -> None:
    bay = Bay(tmp_path / "bay", legs)
    this = run("disk", append=ROUNDS, disks=bay.disks, modules=modules, epoch_blocks=epoch_blocks)
    assert_as_undisturbed(this.outside, bay)


def test_data_that_take_many_commands_make_no_difference(bay: Bay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftvm.monitor.devices.Devices.take", functools.partialmethod(_take_little))
    monkeypatch.setattr("ftvm.monitor.block.FLIGHT_BYTES", 10_000)
    assert_as_undisturbed(run("disk", append=ROUNDS, disks=bay.disks).outside, bay)


def _take_little(devices: object) -> object:
    return [event for half in devices._halves.values() if half.pending() for event in half.take(3_000)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("seed", range(6))
def test_a_flipped_bit_is_rolled_back_and_no_request_is_done_twice(bay: Bay, seed: int) -> None:
    dice = random.Random(seed)
    at = dice.randrange(undisturbed()[0].result.blocks)
    target = RegisterBit(dice.choice(["rax", "rbx", "rsi", "rdi", "rsp"]), dice.randrange(32))
    this = run("disk", lambda machine: machine.inject(dice.randrange(2), at, target), append=ROUNDS, disks=bay.disks)
    assert_as_undisturbed(this.outside, bay)


def at_positions(machine: Machine, fractions: list[float], act: Callable[[int], object]) -> Callable[[], None]:
    """Call ``act`` with 0, 1, ... when the machine has done these parts of its work."""
    blocks = undisturbed()[0].result.blocks
    left = [int(blocks * fraction) for fraction in fractions]
    done: list[int] = []

    def look() -> None:
        while left and machine.position >= left[0]:
            left.pop(0)
            act(len(done))
            done.append(1)

    return look


def test_killed_modules_lose_no_request(bay: Bay) -> None:
    session = Session()
    machine = session.boot("disk", append=ROUNDS, disks=bay.disks, epoch_blocks=20_000)

    def kill(number: int) -> None:
        for module in ((0,), (1,), (0, 1))[number]:
            if pid := machine.modules[module].pid:
                os.kill(pid, signal.SIGKILL)

    with looking(machine, at_positions(machine, [0.2, 0.5, 0.8], kill)):
        result = machine.run()
    assert "module-failed" in session.kinds
    outside = (result.outcome, result.exit_code, bytes(session.shown), result.state_digest)
    assert_as_undisturbed(outside, bay)


def test_a_leg_that_fails_and_comes_back_is_no_business_of_the_guest(bay: Bay) -> None:
    session = Session()
    machine = session.boot("disk", append=ROUNDS, disks=bay.disks)

    def act(number: int) -> None:
        mirror, legs = machine.disks[0].mirror, machine.disks[0].legs
        match number:
            case 0:
                mirror.inject(0, Fault(FaultModel.IO_ERROR, offset=SECTORS_AT, size=MIB // 2))
            case 1:
                legs.insert(0)
            case 2:
                legs.pull(1)
            case 3:
                legs.insert(1)

    with looking(machine, at_positions(machine, [0.1, 0.4, 0.7, 0.75], act)):
        result = machine.run()
    kinds = [kind for kind in session.kinds if kind.startswith("leg-")]
    assert kinds[0] == "leg-fault"
    assert {"leg-failed", "leg-pulled", "leg-joined"} <= set(kinds)
    outside = (result.outcome, result.exit_code, bytes(session.shown), result.state_digest)
    assert_as_undisturbed(outside, bay)


@pytest.mark.parametrize("seed", range(5))
def test_suspended_anywhere_it_goes_on_with_its_disks(bay: Bay, tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    session, file = Session(), tmp_path / "file"
    at = dice.randrange(1, undisturbed()[0].result.blocks)
    first = session.boot("disk", append=ROUNDS, disks=bay.disks, epoch_blocks=dice.randrange(1_000, 100_000))
    suspended(first, file, lambda: first.position >= at)
    result = session.resume(file, disks=bay.disks, modules=dice.choice([1, 2])).run()
    outside = (result.outcome, result.exit_code, bytes(session.shown), result.state_digest)
    assert_as_undisturbed(outside, bay)


@pytest.fixture
def saved(bay: Bay, tmp_path: Path) -> Path:
    """The file of a machine that was saved in the middle of its work on ``bay``."""
    file = tmp_path / "file"
    first = Session().boot("disk", append=ROUNDS, disks=bay.disks, epoch_blocks=5_000)
    at = undisturbed()[0].result.blocks // 2
    suspended(first, file, lambda: first.position >= at)
    return file


def go_on(saved: Path, *paths: Path) -> None:
    """It must end as undisturbed."""
    result = Session().resume(saved, disks=(DiskFiles(paths),)).run()
    assert result.state_digest == undisturbed()[0].result.state_digest


def test_a_disk_that_was_changed_since_the_machine_was_saved_is_refused(bay: Bay, saved: Path) -> None:
    then = bay.contents()[0]
    disk = BlockingDisk(open_disk(bay.paths))
    disk.write(0, 512 * b"x")
    disk.close()
    with pytest.raises(UnusableFile, match=r"disk0 \(.*leg0.img\) was changed since the machine was saved") as refusal:
        go_on(saved, *bay.paths)
    for path in bay.paths:
        path.write_bytes(then)
    command = (refusal.value.hint or "").partition("its time: ")[2]
    subprocess.run(command, shell=True, check=True)
    go_on(saved, *bay.paths)


def test_a_leg_may_have_been_copied_anew_from_one_that_the_guest_knows(bay: Bay, saved: Path) -> None:
    left, right = bay.paths
    left.write_bytes(bytes(MIB))
    decide(bay.paths, right)
    disk = BlockingDisk(open_disk(bay.paths))
    disk.resync()
    disk.close()
    split(bay.paths)
    with pytest.raises(UnusableFile, match="was changed since"):
        go_on(saved, left)
    go_on(saved, right)


def test_what_a_machine_does_after_it_was_saved_it_does_to_its_disks(bay: Bay, tmp_path: Path) -> None:
    file = tmp_path / "file"
    with Session().boot("disk", append=ROUNDS, disks=bay.disks, epoch_blocks=5_000) as machine:
        machine.run_until(position=undisturbed()[0].result.blocks // 2)
        machine.save(file)
        machine.run()
    with pytest.raises(UnusableFile, match="was changed since"):
        go_on(file, *bay.paths)


@pytest.mark.parametrize("texts", [0, 3, 6, 9])
def test_nothing_reaches_a_disk_after_a_machine_was_suspended(bay: Bay, tmp_path: Path, texts: int) -> None:
    """In the middle of an epoch (0), or when it shows so many texts and has told its disk something, too."""
    file, shown = tmp_path / "file", bytearray()

    def show(channel: str, data: bytes) -> None:
        shown.extend(data)
        if texts and shown.count(b"\n") >= texts and machine.saved_to is None:
            machine.suspend(file)

    def look() -> None:
        if not texts and machine.saved_to is None and machine.position >= undisturbed()[0].result.blocks // 2:
            machine.suspend(file)

    config = MachineConfig(image=kernel("disk"), append=ROUNDS, memory_bytes=64 * MIB, disks=bay.disks)
    with Machine(config, show) as machine, looking(machine, look):
        assert machine.run().outcome == "stopped"
    session = Session(shown)
    result = session.resume(file, disks=bay.disks).run()
    outside = (result.outcome, result.exit_code, bytes(session.shown), result.state_digest)
    assert_as_undisturbed(outside, bay)


def test_with_real_time_a_slow_disk_lets_the_guest_go_on(bay: Bay) -> None:
    machine = Session().boot("disk", disks=bay.disks, real_time=True)
    slow: list[int] = []

    def look() -> None:
        if not slow and machine.disks:
            slow.append(1)
            for leg in (0, 1):
                machine.disks[0].mirror.inject(leg, Fault(FaultModel.SLOW, seconds=0.005))

    with looking(machine, look):
        result = machine.run()
    assert result.exit_code == 0
    assert result.blocks > undisturbed("")[0].result.blocks  # it polls
    assert bay.contents() == 2 * [undisturbed("")[1]]


def test_a_checkpoint_holds_what_is_on_its_way_into_memory(bay: Bay) -> None:
    """Only reads come after it: what is on the disk does not go back."""
    golden, contents = undisturbed()
    machine = Session().boot("disk", append=ROUNDS, disks=bay.disks, epoch_blocks=20_000)
    with machine:
        machine.run_until(text="rounds")
        point = machine.checkpoint()
        first = machine.run()
        machine.restore(point)
        again = machine.run()
    assert (first.state_digest, first.exit_code) == (again.state_digest, again.exit_code)
    assert bay.contents() == 2 * [contents]
    assert first.exit_code == golden.result.exit_code

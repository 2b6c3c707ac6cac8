"""The legs of a running machine's disk, as its operator sees them: states, events, pulls and returns, and policing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ftvm.errors import UsageError
from ftvm.management import device_status
from ftvm.monitor.legs import Legs
from ftvm.monitor.policing import Policy, Threshold
from ftvm.storage.faulty import Fault, FaultModel
from tests.unit.test_block import DATA, Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


@pytest.fixture
def disk(bench: Bench) -> Legs:
    return bench.half.legs


def states(disk: Legs) -> list[str]:
    return [leg.state for leg in device_status(disk).legs]


def write(bench: Bench) -> None:
    bench.ask(1, 0, (DATA, 512, 0))
    bench.serve()
    bench.half.tend()


def until_told(bench: Bench, kind: str) -> None:
    while kind not in [told for told, _ in bench.events]:
        bench.half.tend()
        bench.poller.wait(0.1)


def test_a_mirror_and_a_single_file_are_told_apart(disk: Legs, tmp_path: Path) -> None:
    status = device_status(disk)
    assert (status.name, status.state, states(disk)) == ("disk0", "duplex", ["duplexed", "duplexed"])
    assert [Path(leg.where).name for leg in status.legs] == ["a.img", "b.img"]
    (tmp_path / "single").mkdir()
    single = Bench(tmp_path / "single", legs=1)
    status = device_status(single.half.legs)
    assert (status.state, [leg.state for leg in status.legs]) == ("unmirrored", ["online"])
    single.close()


def test_a_leg_is_pulled_and_comes_back_with_what_was_written_meanwhile(bench: Bench, disk: Legs) -> None:
    disk.pull(0)
    bench.image.ram[DATA : DATA + 512] = 512 * b"x"
    write(bench)
    assert (device_status(disk).state, states(disk)) == ("simplex", ["offline", "online"])
    assert bench.files[0].read_bytes()[:512] == bytes(512)
    disk.insert(0)
    until_told(bench, "leg-joined")
    assert (device_status(disk).state, states(disk)) == ("duplex", ["duplexed", "duplexed"])
    assert bench.files[0].read_bytes()[:512] == 512 * b"x"
    told = dict.fromkeys(kind for kind, subject in bench.events if subject == "disk0.0")
    assert list(told) == ["leg-pulled", "leg-filling", "leg-joined"]


def test_what_an_operator_cannot_do(bench: Bench, disk: Legs) -> None:
    with pytest.raises(UsageError, match="in service already"):
        disk.insert(1)
    disk.pull(1)
    bench.half.tend()
    bench.half.mirror.poll()
    with pytest.raises(UsageError, match="not in service"):
        disk.pull(1)
    with pytest.raises(UsageError, match="the only one in sync"):
        disk.pull(0)


def test_a_leg_that_is_not_what_left_does_not_come_back(bench: Bench, disk: Legs) -> None:
    disk.pull(1)
    bench.half.mirror.wait(lambda: bool(bench.events))
    bench.files[1].with_name("b.img.ftvm").unlink()
    disk.insert(1)
    until_told(bench, "leg-failed")
    assert states(disk) == ["online", "offline"]


def test_a_leg_with_too_many_faults_is_taken_out(bench: Bench, disk: Legs) -> None:
    disk.records[1].policing.threshold = Threshold(policy=Policy.NEVER_RESTART)
    bench.image.ram[DATA : DATA + 512] = 512 * b"x"
    write(bench)
    # A read error that the other leg can repair costs a leg nothing else.
    bench.half.mirror.inject(0, Fault(FaultModel.IO_ERROR, count=1))
    disk.records[0].policing.threshold = Threshold(policy=Policy.NEVER_RESTART)
    bench.ask(0, 0, (DATA, 512, 2))
    bench.serve()
    until_told(bench, "leg-pulled")
    assert states(disk) == ["offline", "online"]
    assert device_status(disk).legs[0].faults == {"I/O error": 1}
    assert ("leg-repaired", "disk0.0") in bench.events


def test_the_last_leg_stays_whatever_its_faults(bench: Bench, disk: Legs) -> None:
    disk.pull(0)
    disk.records[1].policing.threshold = Threshold(policy=Policy.NEVER_RESTART)
    bench.half.mirror.inject(1, Fault(FaultModel.IO_ERROR, count=1))
    write(bench)
    until_told(bench, "leg-kept")
    assert states(disk) == ["offline", "online"]

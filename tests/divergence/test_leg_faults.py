"""Faults in legs happen in the verified state, at the position that was said: the same each time; and a leg that fails
alone is no business of the guest.
"""

import functools
import tempfile
from pathlib import Path
from typing import Any

import pytest

from ftvm.errors import UsageError
from ftvm.module.fault import AtPosition, Fault, Leg, OnText, RegisterBit
from ftvm.monitor.bays import DiskFiles
from ftvm.network.spec import NicSpec, parse_nic
from ftvm.storage.admin import create
from ftvm.units import MIB
from tests.divergence.machines import Run, build, run

ROUNDS = "rounds=10"
SECTORS_AT = 256 * 512  # where the kernel's rounds write


def with_disk(*faults: Fault, **options: Any) -> tuple[Run, list[bytes]]:
    """A run of the disk kernel on two new legs, and what is on them in the end."""
    with tempfile.TemporaryDirectory() as folder:
        paths = tuple(Path(folder) / f"leg{leg}.img" for leg in range(2))
        create(list(paths), MIB, with_integrity=True)
        settings = {"append": ROUNDS, "disks": (DiskFiles(paths),), **options}
        disturbed = run("disk", lambda machine: [machine.inject(fault) for fault in faults], **settings)
        return disturbed, [path.read_bytes() for path in paths]


@functools.cache
def undisturbed() -> tuple[Run, list[bytes]]:
    golden, legs = with_disk()
    assert golden.result.exit_code == 0
    assert legs[0] == legs[1]
    return golden, legs


@pytest.mark.parametrize("leg", [0, 1])
@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("io-error", {}),
        ("io-error", {"offset": SECTORS_AT, "size": 4096, "count": 2}),
        ("full", {"count": 1}),
        ("short", {"count": 1}),
        ("slow", {"seconds": 0.001}),
        ("bit-rot", {"offset": SECTORS_AT + 100, "bit": 3}),
        ("lost-write", {"count": 1}),
        ("torn-write", {"count": 1}),
    ],
)
def test_one_leg_that_fails_is_no_business_of_the_guest(leg: int, model: str, settings: dict[str, Any]) -> None:
    golden, legs = undisturbed()
    at = golden.result.blocks // 2
    disturbed, left = with_disk(Fault(None, AtPosition(at), Leg("disk0", leg, model, settings)))
    assert disturbed.outside == golden.outside
    assert left[1 - leg] == legs[1 - leg], "the other leg has everything"
    ((fault),) = disturbed.result.faults
    assert fault.position == at
    assert fault.note is None
    assert fault.fault.startswith(f"target=disk0.{leg},kind={model},at={at}")


def test_faults_in_legs_and_in_modules_happen_in_one_run() -> None:
    golden, _ = undisturbed()
    at = golden.result.blocks // 3
    disturbed, _ = with_disk(
        Fault(None, AtPosition(at), Leg("disk0", 0, "io-error")),
        Fault(1, AtPosition(2 * at), RegisterBit("rsp", 5)),
        epoch_blocks=5000,
    )
    assert disturbed.outside == golden.outside
    assert [fault.position for fault in disturbed.result.faults] == [at, 2 * at]


def test_a_leg_that_is_out_of_service_cannot_fail_again() -> None:
    golden, _ = undisturbed()
    at = golden.result.blocks // 3
    broken = [Fault(None, AtPosition(at * n), Leg("disk0", 0, "io-error")) for n in (1, 2)]
    disturbed, _ = with_disk(*broken)
    assert disturbed.outside == golden.outside
    assert [fault.note for fault in disturbed.result.faults][1] in (None, "nothing happened: leg 0 is not in service")


def test_what_is_not_on_the_disk_cannot_rot() -> None:
    disturbed, _ = with_disk(Fault(None, AtPosition(5000), Leg("disk0", 0, "bit-rot", {"offset": 1 << 40})))
    assert disturbed.outside == undisturbed()[0].outside
    assert [fault.note for fault in disturbed.result.faults] == [f"nothing happened: disk0 has {MIB} bytes"]


def test_a_leg_that_is_not_there_is_refused() -> None:
    machine = build("disk")
    for device in ("disk0", "nic0"):
        with pytest.raises(UsageError, match=rf"no {device}\.0"):
            machine.inject(Fault(None, AtPosition(5), Leg(device, 0, "slow" if device == "disk0" else "drop")))


# ---- NICs ----

NICS = tuple(parse_nic(text) for text in ("loopback,loopback", "loopback:wire", "loopback:wire"))


def with_nics(*faults: Fault, nics: tuple[NicSpec, ...] = NICS) -> tuple[bytes, str, list[int]]:
    disturbed = run("net", lambda machine: [machine.inject(fault) for fault in faults], nics=nics)
    return disturbed.console, disturbed.result.state_digest, [fault.position for fault in disturbed.result.faults]


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("drop", {"count": 1}),
        ("corrupt", {"count": 1, "seed": 4}),
        ("duplicate", {"count": 2}),
        ("reorder", {"count": 1}),
    ],
)
def test_frames_go_wrong_alike_each_time(model: str, settings: dict[str, Any]) -> None:
    fault = Fault(None, OnText(b"ok it starts"), Leg("nic0", 0, model, {"direction": "received", **settings}))
    first = with_nics(fault)
    assert first == with_nics(fault)
    assert first[:2] != with_nics()[:2]
    assert len(first[2]) == 1


def test_a_link_that_goes_down_leaves_its_frames_to_the_other_leg() -> None:
    fault = Fault(None, OnText(b"ok it starts"), Leg("nic0", 0, "link-down"))
    assert with_nics(fault)[0] == with_nics()[0]

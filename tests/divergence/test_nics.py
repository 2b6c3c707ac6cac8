"""A guest whose NICs are on loopbacks is as repeatable as one without, whatever befalls modules and the machine."""

import contextlib
import functools
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from ftvm.errors import UnusableFile
from ftvm.machine import Machine
from ftvm.module.fault import RegisterBit
from ftvm.network.spec import parse_nic
from tests.divergence.machines import Run, run
from tests.divergence.test_suspend import Session, looking, suspended

ROUNDS = "rounds=60"
NICS = tuple(map(parse_nic, ("loopback", "loopback:wire", "loopback:wire")))


@functools.cache
def undisturbed() -> Run:
    golden = run("net", append=ROUNDS, nics=NICS)
    assert golden.result.exit_code == 0
    return golden


@pytest.mark.parametrize(("modules", "epoch_blocks"), [(1, None), (1, 3_000), (2, 777), (3, 20_000)])
def test_modules_and_epochs_make_no_difference(modules: int, epoch_blocks: int | None) -> None:
    this = run("net", append=ROUNDS, nics=NICS, modules=modules, epoch_blocks=epoch_blocks)
    assert this.outside == undisturbed().outside


def test_a_capture_is_the_same_every_time(tmp_path: Path) -> None:
    captures = [tmp_path / "1.pcap", tmp_path / "2.pcap"]
    for modules, capture in enumerate(captures, start=1):
        run("net", append=ROUNDS, nics=NICS, capture=capture, modules=modules)
    assert captures[0].read_bytes() == captures[1].read_bytes()
    assert captures[0].stat().st_size > 60 * 2 * (16 + 14)


@pytest.mark.parametrize("seed", range(6))
def test_a_flipped_bit_is_rolled_back_and_no_frame_is_sent_twice(seed: int) -> None:
    dice = random.Random(seed)
    at = dice.randrange(undisturbed().result.blocks)
    target = RegisterBit(dice.choice(["rax", "rbx", "rsi", "rdi", "rsp"]), dice.randrange(32))
    this = run("net", lambda machine: machine.inject(dice.randrange(2), at, target), append=ROUNDS, nics=NICS)
    assert this.outside == undisturbed().outside


def at_positions(machine: Machine, fractions: list[float], act: Callable[[int], object]) -> Callable[[], None]:
    """Call ``act`` with 0, 1, ... when the machine has done these parts of its work."""
    left = [int(undisturbed().result.blocks * fraction) for fraction in fractions]
    done: list[int] = []

    def look() -> None:
        while left and machine.position >= left[0]:
            left.pop(0)
            act(len(done))
            done.append(1)

    return look


def test_killed_modules_lose_no_frame() -> None:
    session = Session()
    machine = session.boot("net", append=ROUNDS, nics=NICS, epoch_blocks=20_000)

    def kill(number: int) -> None:
        for module in ((0,), (1,), (0, 1))[number]:
            if pid := machine.modules[module].pid:
                with contextlib.suppress(ProcessLookupError):  # it is dead, and nobody has noticed yet
                    os.kill(pid, signal.SIGKILL)

    with looking(machine, at_positions(machine, [0.2, 0.5, 0.8], kill)):
        result = machine.run()
    assert "module-failed" in session.kinds
    outside = (result.outcome, result.exit_code, bytes(session.shown), result.state_digest)
    assert outside == undisturbed().outside


@pytest.mark.parametrize("seed", range(3))
def test_suspended_anywhere_and_resumed_it_ends_as_if_undisturbed(seed: int, tmp_path: Path) -> None:
    dice = random.Random(seed)
    session, file = Session(), tmp_path / "file"
    at = dice.randrange(1, undisturbed().result.blocks)
    first = session.boot("net", append=ROUNDS, nics=NICS, epoch_blocks=dice.randrange(1_000, 100_000))
    suspended(first, file, lambda: first.position >= at)
    result = session.resume(file, nics=NICS, modules=dice.choice([1, 2])).run()
    outside = (result.outcome, result.exit_code, bytes(session.shown), result.state_digest)
    assert outside == undisturbed().outside


def test_a_machine_that_is_resumed_with_other_nics_is_refused(tmp_path: Path) -> None:
    session, file = Session(), tmp_path / "file"
    suspended(machine := session.boot("net", append=ROUNDS, nics=NICS), file, lambda: machine.position > 0)
    with pytest.raises(UnusableFile, match="was saved with a NIC 02:66:74:76:6d:00"):
        session.resume(file, nics=NICS[:1]).run()


def test_a_machine_that_goes_back_goes_the_same_way_again() -> None:
    with Session().boot("net", append=ROUNDS, nics=NICS) as machine:
        machine.run_until(position=undisturbed().result.blocks // 2)
        checkpoint = machine.checkpoint()
        first = machine.run()
        machine.restore(checkpoint)
        assert machine.run().state_digest == first.state_digest

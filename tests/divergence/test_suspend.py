"""A machine that is saved and resumed is the same machine: nothing is shown twice, nothing is lost, the end is equal."""

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ftvm.machine import Machine, MachineConfig, RunResult
from ftvm.monitor import savefile
from ftvm.monitor.eventlog import Event
from ftvm.units import MIB
from tests.divergence.machines import golden, kernel

LOOKS_S = 0.0005
"""Between two looks at a machine that is to be disturbed: they must not take the modules' cores."""


@dataclass
class Session:
    """What the outside saw of one guest, over all its suspensions."""

    shown: bytearray = field(default_factory=bytearray)
    kinds: list[str] = field(default_factory=list)

    def machine(self, config: MachineConfig) -> Machine:
        return Machine(config, lambda channel, data: self.shown.extend(data), lambda event: self._note(event))

    def _note(self, event: Event) -> None:
        self.kinds.append(event.kind)

    def boot(self, name: str, **settings: Any) -> Machine:
        return self.machine(
            MachineConfig(image=kernel(name), **{"memory_bytes": 64 * MIB, "timeout_s": 120.0, **settings})
        )

    def resume(self, file: Path, **settings: Any) -> Machine:
        return self.machine(MachineConfig.resume(savefile.load(file), **{"timeout_s": 120.0, **settings}))


@contextmanager
def looking(machine: Machine, look: Callable[[], object]) -> Iterator[None]:
    """``look`` is called again and again on the machine's thread, at least once while an epoch runs."""
    always = os.eventfd(1)

    def now() -> None:
        time.sleep(LOOKS_S)
        look()

    machine.watch(always, now)
    yield
    os.close(always)


def suspended(machine: Machine, file: Path, when: Callable[[], bool]) -> RunResult:
    """Run until ``when``, and suspend to ``file`` there."""

    def look() -> None:
        if machine.saved_to is None and when():
            machine.suspend(file)

    with looking(machine, look):
        result = machine.run()
    assert result.outcome == "stopped"
    assert machine.saved_to == file
    return result


@pytest.mark.parametrize("seed", range(20))
def test_suspended_anywhere_and_resumed_it_ends_as_if_undisturbed(seed: int, tmp_path: Path) -> None:
    undisturbed = golden("workload")
    dice = random.Random(seed)
    at = dice.randrange(1, undisturbed.result.blocks)
    session = Session()
    first = session.boot("workload", modules=dice.choice([1, 2, 3]), epoch_blocks=dice.randrange(5_000, 700_000))
    cut = suspended(first, tmp_path / "file", lambda: first.position >= at)
    assert undisturbed.console.startswith(session.shown)
    second = session.resume(
        tmp_path / "file", modules=dice.choice([1, 2, 3]), epoch_blocks=dice.randrange(5_000, 2_000_000)
    )
    result = second.run()
    assert cut.blocks < result.blocks == undisturbed.result.blocks
    assert (session.shown, result.state_digest) == (undisturbed.console, undisturbed.result.state_digest)
    assert result.divergences == []


def test_a_machine_can_be_suspended_again_and_again(tmp_path: Path) -> None:
    undisturbed = golden("interrupts")
    session = Session()
    file = tmp_path / "file"
    cuts = [undisturbed.result.blocks * part // 6 for part in range(1, 6)]
    machine = session.boot("interrupts", epoch_blocks=1_000)
    for cut in cuts:
        suspended(machine, file, lambda machine=machine, cut=cut: machine.position >= cut)  # type: ignore[misc]
        machine = session.resume(file, epoch_blocks=1_000)
    result = machine.run()
    assert (session.shown, result.state_digest) == (undisturbed.console, undisturbed.result.state_digest)


def test_what_is_resumed_and_suspended_at_once_is_the_same_file(tmp_path: Path) -> None:
    session = Session()
    first = session.boot("workload", epoch_blocks=50_000)
    suspended(first, tmp_path / "first", lambda: first.position >= 3_000_000)
    second = session.resume(tmp_path / "first", modules=3)
    again = suspended(second, tmp_path / "second", lambda: True)
    assert again.blocks == savefile_position(tmp_path / "second")
    if again.blocks == savefile_position(tmp_path / "first"):
        assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()

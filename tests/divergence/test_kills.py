"""kill -9 of modules under Linux: no checksum is wrong, the kernel notices nothing, and the end is the same."""

import contextlib
import os
import random
import signal
import threading
from collections.abc import Callable

import pytest

from benchmarks import session
from ftvm.guests.catalogue import Guest
from ftvm.machine import RunResult

CHECKSUMS = 100
SCRIPT = f"{session.work(f'[ $i -lt {CHECKSUMS} ]')}; {session.last_words()}"
EPOCH_S = 0.02
"""About: a kill falls anywhere in one."""


@pytest.fixture(scope="module")
def undisturbed(fetched: Callable[[str], Guest]) -> tuple[RunResult, bytes]:
    result, console = session.undisturbed(fetched(session.GUEST), SCRIPT)
    transcript = session.transcript(console)
    assert (len(transcript.checksums), transcript.wrong()) == (CHECKSUMS, [])
    return result, console


@pytest.mark.parametrize(("seed", "at_once"), [(1, 1), (2, 2)])
def test_linux_does_not_notice_that_modules_are_killed(
    seed: int, at_once: int, fetched: Callable[[str], Guest], undisturbed: tuple[RunResult, bytes]
) -> None:
    """Five times, each time shortly after a checksum that the dice choose. The kernel's complaints are shown, too."""
    dice = random.Random(seed)
    moments = [f"sum {number} ".encode() for number in sorted(dice.sample(range(CHECKSUMS - 5), 5))]
    shown = bytearray()
    kills: list[threading.Timer] = []

    def on_console(channel: str, data: bytes) -> None:
        shown.extend(data)
        for _ in [moment for moment in moments if moment in data]:
            serving = [module.pid for module in machine.modules if module.state in ("duplexed", "online")]
            victims = dice.sample(serving, min(at_once, len(serving)))
            kills.append(threading.Timer(dice.random() * EPOCH_S, kill, [victims]))
            kills[-1].start()

    machine = session.machine(fetched(session.GUEST), SCRIPT, on_console)
    result = machine.run()
    for timer in kills:
        timer.join()
    assert len(kills) == 5
    assert {incident.kind for incident in result.divergences} == {"death"}
    assert sum(module.restarts for module in result.modules) >= at_once
    golden, golden_console = undisturbed
    assert bytes(shown) == golden_console
    assert (result.outcome, result.state_digest) == (golden.outcome, golden.state_digest)


def kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # the last moment was so short ago
            os.kill(pid, signal.SIGKILL)

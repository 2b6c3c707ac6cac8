"""Module processes that are started before anybody needs them."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ftvm.monitor import nursery
from tests.divergence.machines import golden, run
from tests.divergence.processes import children, ended
from tests.divergence.test_processes import becomes_true


@pytest.fixture(autouse=True)
def nobody_waits_afterwards() -> Iterator[None]:
    yield
    nursery.dismiss()


def test_a_machine_takes_the_processes_that_wait_and_sends_the_others_away() -> None:
    before = set(children(os.getpid()))
    nursery.prepare(3)
    prepared = sorted(set(children(os.getpid())) - before)
    run_ = run("hello")
    assert sorted(module.pid for module in run_.result.modules) == prepared[:2]
    assert run_.outside == golden("hello").outside
    assert set(children(os.getpid())) == before


def test_one_that_died_while_it_waited_is_not_taken() -> None:
    before = set(children(os.getpid()))
    nursery.prepare(1)
    (prepared,) = set(children(os.getpid())) - before
    os.kill(prepared, signal.SIGKILL)
    assert becomes_true(lambda: ended(prepared))
    newborn = nursery.take()
    assert newborn.process.pid != prepared
    newborn.close()
    assert set(children(os.getpid())) == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_those_that_wait_end_with_whoever_prepared_them(number: signal.Signals) -> None:
    code = "import time; from ftvm.monitor import nursery; nursery.prepare(2); print(flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        waiting = children(process.pid)
        assert len(waiting) == 2
        process.send_signal(number)
        process.wait()
        assert becomes_true(lambda: all(ended(pid) for pid in waiting))

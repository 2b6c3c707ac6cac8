"""Whatever ends the monitor, its modules end with it, and their memory goes with them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftvm.errors import HostError
from tests.divergence.machines import build, kernel
from tests.divergence.processes import children, ended, memory_files

PATIENCE_S = 30.0
"""For something that takes milliseconds, on a host that is busy."""


def becomes_true(condition: Callable[[], bool]) -> bool:
    """Whether ``condition()`` comes true before the patience ends."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture
def monitor() -> Iterator[subprocess.Popen[bytes]]:
    """``ftvm run`` of a guest that never ends, up to its first words."""
    command = [sys.executable, "-m", "ftvm", "run", str(kernel("spin")), "--memory", "16M", "--no-interactive"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"spin")
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_modules_do_not_outlive_a_monitor_that_is_killed(
    monitor: subprocess.Popen[bytes], number: signal.Signals
) -> None:
    modules = children(monitor.pid)
    assert len(modules) == 2
    monitor.send_signal(number)
    monitor.wait()
    assert becomes_true(lambda: all(ended(pid) for pid in modules))


def test_no_shared_memory_outlives_a_monitor_that_is_killed(monitor: subprocess.Popen[bytes]) -> None:
    """Modules share anonymous files with it, which the host frees with their last user, and nothing that has a name."""
    modules = children(monitor.pid)
    memory = memory_files(monitor.pid)
    assert len(memory) == 6, "two modules, each with its RAM, its mailbox and its last words"
    assert any(memory & memory_files(pid) for pid in modules)
    monitor.kill()
    monitor.wait()
    assert becomes_true(lambda: all(ended(pid) for pid in modules))
    users = [path for path in Path("/proc").glob("[0-9]*") if memory & memory_files(int(path.name))]
    assert users == []


def test_a_module_on_its_way_back_does_not_outlive_its_monitor(monitor: subprocess.Popen[bytes]) -> None:
    """Killed as soon as it is there: it may not even have asked to die with its monitor yet."""
    first = set(children(monitor.pid))
    os.kill(min(first), signal.SIGKILL)
    assert becomes_true(lambda: bool(set(children(monitor.pid)) - first))
    modules = first | set(children(monitor.pid))
    monitor.kill()
    monitor.wait()
    assert len(modules) == 3
    assert becomes_true(lambda: all(ended(pid) for pid in modules))


def test_a_module_that_is_stopped_does_not_outlive_its_monitor(monitor: subprocess.Popen[bytes]) -> None:
    modules = children(monitor.pid)
    os.kill(modules[0], signal.SIGSTOP)
    monitor.kill()
    monitor.wait()
    assert becomes_true(lambda: all(ended(pid) for pid in modules))


def test_ctrl_c_ends_everything_with_the_documented_code(monitor: subprocess.Popen[bytes]) -> None:
    """The terminal sends SIGINT to the whole foreground group, but modules live in sessions of their own."""
    modules = children(monitor.pid)
    os.killpg(monitor.pid, signal.SIGINT)
    assert monitor.wait() == 130
    assert monitor.stderr is not None
    assert b"Traceback" not in monitor.stderr.read()
    assert all(ended(pid) for pid in modules), "they ended before the command did"


def test_ctrl_c_does_not_disturb_a_module(monitor: subprocess.Popen[bytes]) -> None:
    for module in children(monitor.pid):
        os.kill(module, signal.SIGINT)
    time.sleep(0.2)
    assert not any(ended(pid) for pid in children(monitor.pid))
    assert len(children(monitor.pid)) == 2
    assert monitor.poll() is None


def test_a_module_sees_no_descriptors_but_its_own(monitor: subprocess.Popen[bytes]) -> None:
    for module in children(monitor.pid):
        links = [os.readlink(f"/proc/{module}/fd/{fd}") for fd in os.listdir(f"/proc/{module}/fd")]
        assert all(link.startswith(("/dev/null", "/memfd:ftvm-", "anon_inode:[eventfd]", "socket:")) for link in links)


@pytest.mark.parametrize(
    ("program", "message"), [("/bin/false", "module 0 ended while starting"), ("/no/such/python", "cannot be started")]
)
def test_a_module_that_cannot_start_is_said_to_be_the_hosts_fault(
    monkeypatch: pytest.MonkeyPatch, program: str, message: str
) -> None:
    monkeypatch.setattr(sys, "executable", program)
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(HostError, match=message):
        build("hello").run()
    assert len(os.listdir("/proc/self/fd")) == descriptors

"""Processes of modules that have nothing to do yet: Python and ftvm are loaded while the monitor still gets ready.

A process is the same for every module; it learns on its socket what it is to be (ftvm/module/process.py). Whoever is
going to need some calls ``prepare`` as early as can be, so little is imported here; those that nobody took are sent
away by ``dismiss``, or end with this process.
"""

import contextlib
import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import ftvm
from ftvm.errors import HostError
from ftvm.units import PAGE_BYTES, format_size

LAST_WORDS_BYTES = 4 * PAGE_BYTES
"""What a dying module may write to its standard error: it stays in memory, and cannot grow."""


class Newborn:
    """``socket`` is the monitor's end; ``last_words`` a descriptor of what it writes to its standard error."""

    def __init__(self, process: "subprocess.Popen[bytes]", socket: socket.socket, last_words: int) -> None:
        self.process = process
        self.socket = socket
        self.last_words = last_words

    def close(self) -> None:
        """End it, if it lives."""
        self.process.kill()
        self.process.wait()
        self.socket.close()
        os.close(self.last_words)


_waiting: list[Newborn] = []


def prepare(count: int) -> None:
    """Start so many. A host that refuses says so when they are needed."""
    with contextlib.suppress(HostError):
        for _ in range(count):
            _waiting.append(_start())


def take() -> Newborn:
    """One that waits, or a new one; the caller closes it. Raises HostError when the host refuses."""
    while _waiting:
        newborn = _waiting.pop(0)
        if newborn.process.poll() is None:
            return newborn
        newborn.close()
    return _start()


def dismiss() -> None:
    """End all that wait."""
    while _waiting:
        _waiting.pop().close()


def memory_file(name: str, size_bytes: int) -> int:
    """Zeros that can be shared with a child, of a fixed size; gone with their last user. Raises HostError."""
    try:
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, size_bytes)
    except OSError as error:
        raise HostError(f"no {format_size(size_bytes)} of shared memory: {error.strerror}") from error
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    return fd


def _start() -> Newborn:
    with contextlib.ExitStack() as on_failure:
        last_words = memory_file("ftvm-stderr", LAST_WORDS_BYTES)
        on_failure.callback(os.close, last_words)
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            on_failure.callback(ours.close)
            with theirs:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "ftvm.module.process", str(theirs.fileno()), str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=last_words,
                    stderr=last_words,
                    pass_fds=(theirs.fileno(),),
                    env=_environment(),
                    start_new_session=True,  # Ctrl-C and Ctrl-Z in a terminal are for the monitor
                )
        except OSError as error:
            raise HostError(f"a module cannot be started: {error.strerror}") from error
        on_failure.pop_all()
    return Newborn(process, ours, last_words)


def _environment() -> dict[str, str]:
    """The module imports the same ftvm as the monitor, wherever that was found, and nothing from the working folder."""
    root = str(Path(ftvm.__file__).parents[1])
    inherited = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, inherited] if inherited else [root])}

"""The user's terminal as the guest's console: every key goes to the guest, except after Ctrl-A.

The keys are those of QEMU's ``-nographic``, so that fingers need not learn.
"""

import os
import termios
from collections.abc import Callable
from enum import Enum
from types import TracebackType
from typing import Protocol

ESCAPE = 0x01  # Ctrl-A

KEYS_HINT = "Ctrl-A x ends the machine, Ctrl-A h shows more keys"
KEYS_HELP = """\
Ctrl-A x       end the machine
Ctrl-A h       show this help
Ctrl-A Ctrl-A  send Ctrl-A to the guest
"""


class Command(Enum):
    """What the user asked of ftvm, not of the guest."""

    QUIT = "quit"
    HELP = "help"


_COMMANDS = {ord("x"): Command.QUIT, ord("X"): Command.QUIT, ord("h"): Command.HELP, ord("?"): Command.HELP}


class KeyFilter:
    """Tells the guest's keys from ours. A prefix may come in one read and its key in the next."""

    def __init__(self) -> None:
        self._escaped = False

    def feed(self, typed: bytes) -> tuple[bytes, list[Command]]:
        """Bytes for the guest, and the commands that stood between them. Unknown keys after Ctrl-A do nothing."""
        for_guest = bytearray()
        commands = []
        for key in typed:
            if not self._escaped and key == ESCAPE:
                self._escaped = True
                continue
            if not self._escaped or key == ESCAPE:
                for_guest.append(key)
            elif key in _COMMANDS:
                commands.append(_COMMANDS[key])
            self._escaped = False
        return bytes(for_guest), commands


class Guest(Protocol):
    """What is needed of a machine (ftvm/machine.py)."""

    def send_console(self, data: bytes) -> None: ...
    def request_stop(self) -> None: ...
    def watch(self, fd: int, on_readable: Callable[[], None]) -> None: ...
    def unwatch(self, fd: int) -> None: ...


class SerialKeys:
    """As a context manager: what is typed at ``fd`` goes to a machine's serial console while that runs. Ctrl-A x stops
    it; ``on_help`` is called for Ctrl-A h. A terminal is raw meanwhile."""

    def __init__(self, fd: int, machine: Guest, on_help: Callable[[], None]) -> None:
        self._fd = fd
        self._machine = machine
        self._on_help = on_help
        self._filter = KeyFilter()
        self._mode = RawTerminal(fd)

    def __enter__(self) -> None:
        self._mode.__enter__()
        self._machine.watch(self._fd, self._typed)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._machine.unwatch(self._fd)
        self._mode.__exit__(kind, error, trace)

    def _typed(self) -> None:
        data = os.read(self._fd, 4096)
        if not data:
            self._machine.unwatch(self._fd)
            return
        for_guest, commands = self._filter.feed(data)
        if for_guest:
            self._machine.send_console(for_guest)
        for asked in commands:
            if asked is Command.QUIT:
                self._machine.request_stop()
            else:
                self._on_help()


def in_foreground(fd: int) -> bool:
    """Whether ``fd`` is a terminal that this process may read: a shell's background job would be stopped."""
    if not os.isatty(fd):
        return False
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:  # not the controlling terminal, so there is no job control on it
        return True


class SilentTerminal:
    """As a context manager: what is typed at ``fd`` waits unseen for whoever reads it next. What is no terminal is left
    alone."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._saved = termios.tcgetattr(fd) if in_foreground(fd) else None

    def __enter__(self) -> None:
        if self._saved is not None:
            mode = termios.tcgetattr(self._fd)
            mode[3] &= ~termios.ECHO
            termios.tcsetattr(self._fd, termios.TCSADRAIN, mode)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._saved is not None:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._saved)


class RawTerminal:
    """As a context manager: ``fd`` passes every key at once and unechoed; its old mode is back afterwards.

    A pipe or a file needs no mode, and is left alone.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._saved = termios.tcgetattr(fd) if os.isatty(fd) else None

    def __enter__(self) -> None:
        if self._saved is None:
            return
        mode = termios.tcgetattr(self._fd)
        mode[0] &= ~(termios.BRKINT | termios.ICRNL | termios.INPCK | termios.ISTRIP | termios.IXON)
        # Output processing stays on: many a small kernel ends its lines with a bare newline.
        mode[3] &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN | termios.ISIG)
        mode[6][termios.VMIN] = 1
        mode[6][termios.VTIME] = 0
        termios.tcsetattr(self._fd, termios.TCSADRAIN, mode)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._saved is not None:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._saved)

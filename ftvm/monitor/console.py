"""The I/O half of the serial port and the debug console: bytes out after their commit, bytes in at sync points."""

from collections import deque
from collections.abc import Callable

from ftvm.module.events import ConsoleIn, ConsoleOut

OnOutput = Callable[[str, bytes], None]
"""Called with (channel, bytes); channel is ``serial`` or ``debug``."""

KEPT_BYTES = 1 << 20
"""Of what was shown; at least so many of the newest bytes, and never more than twice as many."""
INPUT_BYTES = 65536
"""Taken at one sync point at most; the rest follows at the next one."""


class Console:
    """Shows what is released to it; keeps what is typed until a sync point takes it.

    ``shown``: the newest of what was released, on all channels as it came.
    """

    def __init__(self, on_output: OnOutput | None) -> None:
        self._on_output = on_output
        self._input: deque[bytes] = deque()
        self.shown = bytearray()

    def release(self, output: ConsoleOut) -> None:
        """All modules agreed on ``output``: show it."""
        self.shown += output.data
        if len(self.shown) > 2 * KEPT_BYTES:
            del self.shown[:-KEPT_BYTES]
        if self._on_output is not None:
            self._on_output(output.channel, output.data)

    def send(self, data: bytes) -> None:
        """Offer bytes to the guest. From any thread."""
        self._input.append(data)

    def waiting(self) -> bytes:
        """All that was sent and not taken."""
        return b"".join([*self._input])

    def pending(self) -> bool:
        """Whether ``take`` has something to give."""
        return bool(self._input)

    def take(self) -> list[ConsoleIn]:
        """What enters the guest at this sync point."""
        data = b""
        while self._input and len(data) < INPUT_BYTES:
            data += self._input.popleft()
        if len(data) > INPUT_BYTES:
            self._input.appendleft(data[INPUT_BYTES:])
        return [ConsoleIn(data[:INPUT_BYTES])] if data else []

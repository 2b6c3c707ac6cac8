"""The I/O half of the serial port and the debug console: bytes out after their commit, bytes in at sync points."""

from collections import deque
from collections.abc import Callable

from ftvm.module.events import ConsoleIn, ConsoleOut

OnOutput = Callable[[str, bytes], None]

INPUT_BYTES = 65536
"""Taken at one sync point at most; the rest follows at the next one."""


class Console:
    """``script`` is offered to the guest at the start, or once the text ``after`` came on the serial port."""

    def __init__(self, on_output: OnOutput | None, script: bytes = b"", after: bytes = b"") -> None:
        self._on_output = on_output
        self._script = script
        self._after = after
        self._seen = b""
        self._input: deque[bytes] = deque()
        if not after:
            self._offer_script()

    def _offer_script(self) -> None:
        if self._script:
            self._input.append(self._script)
        self._script = b""

    def release(self, output: ConsoleOut) -> None:
        """All modules agreed on ``output``: show it."""
        if self._on_output is not None:
            self._on_output(output.channel, output.data)
        if self._script and output.channel == "serial":
            self._seen += output.data
            if self._after in self._seen:
                self._offer_script()
            self._seen = self._seen[-len(self._after) :]

    def send(self, data: bytes) -> None:
        """Offer bytes to the guest. From any thread."""
        self._input.append(data)

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

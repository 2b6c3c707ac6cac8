"""The I/O half of the consoles and the keyboard: bytes out after their commit, bytes and keys in at sync points."""

from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from ftvm.errors import UsageError
from ftvm.module.chips.uart import WIRE_BYTES
from ftvm.module.events import ConsoleIn, ConsoleOut, KeyboardIn

OnOutput = Callable[[str, bytes], None]
"""Called with (channel, bytes); channel is ``serial`` or ``debug``."""

KEPT_BYTES = 1 << 20
"""Of what was shown; at least so many of the newest bytes, and never more than twice as many."""
MAX_STROKES = 2000
"""That wait for a sync point; the keyboard takes as many at once."""


class _Uart(msgspec.Struct):
    wire: bytes


class _Board(msgspec.Struct):
    """Of a board's saved state, what is looked at here."""

    uart: _Uart


_decode = msgspec.msgpack.Decoder(_Board).decode


class Console:
    """Shows what is released to it; keeps what is typed until a sync point takes it.

    ``shown``: the newest of what was released, on all channels as it came. ``board`` gives the verified state of the
    board: a terminal that has much to send already takes no more.
    """

    def __init__(self, on_output: OnOutput | None, board: Callable[[], bytes]) -> None:
        self._on_output = on_output
        self._board = board
        self._seen: bytes | None = None
        self._room = 0
        self._input: deque[bytes] = deque()
        self._strokes: deque[bytes] = deque()
        self.shown = bytearray()

    def release(self, output: ConsoleOut, shown: bool = True) -> None:
        """All modules agreed on ``output``: show it, unless it was shown before."""
        self.shown += output.data
        if len(self.shown) > 2 * KEPT_BYTES:
            del self.shown[:-KEPT_BYTES]
        if self._on_output is not None and shown:
            self._on_output(output.channel, output.data)

    def send(self, data: bytes) -> None:
        """Offer bytes to the guest. From any thread."""
        self._input.append(data)

    def press(self, strokes: Sequence[bytes]) -> None:
        """Offer strokes of the keyboard (scan codes of keys that go down and up) to the guest. From any thread.

        Raises UsageError when too many wait already.
        """
        if len(self._strokes) + len(strokes) > MAX_STROKES:
            raise UsageError(f"more than {MAX_STROKES} keys for the guest", "send them in pieces, as it takes them")
        self._strokes.extend(strokes)

    def waiting(self) -> bytes:
        """All bytes that were sent and not taken."""
        return b"".join([*self._input])

    def keys_waiting(self) -> list[KeyboardIn]:
        """All strokes that were pressed and not taken."""
        return [KeyboardIn(stroke) for stroke in [*self._strokes]]

    def pending(self) -> bool:
        """Whether ``take`` has something to give."""
        return bool(self._strokes) or (bool(self._input) and self._room_left() > 0)

    def _room_left(self) -> int:
        """Bytes that may enter until the verified state is another one."""
        board = self._board()
        if board is not self._seen:
            self._seen, self._room = board, WIRE_BYTES - len(_decode(board).uart.wire)
        return self._room

    def take(self) -> list[ConsoleIn | KeyboardIn]:
        """What enters the guest at this sync point. Each stroke is an input: a full keyboard drops whole ones."""
        taken: list[ConsoleIn | KeyboardIn] = []
        if self._input and (room := self._room_left()) > 0:
            data = b""
            while self._input and len(data) < room:
                data += self._input.popleft()
            if len(data) > room:
                self._input.appendleft(data[room:])
                data = data[:room]
            self._room -= len(data)
            taken.append(ConsoleIn(data))
        while self._strokes:
            taken.append(KeyboardIn(self._strokes.popleft()))
        return taken

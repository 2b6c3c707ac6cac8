"""The debug-exit port: whatever the guest writes ends the run with that code."""

from collections.abc import Callable

import msgspec

PORTS = 4


class DebugExitState(msgspec.Struct):
    """Nothing outlives the exit."""


class DebugExit:
    def __init__(self, leave: Callable[[int], None]) -> None:
        self.state = DebugExitState()
        self._leave = leave

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        self._leave(value)

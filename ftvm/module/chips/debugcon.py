"""The debug console: bytes written go to the host. A guest finds it by reading the port's own number (Bochs, QEMU)."""

from collections.abc import Callable

import msgspec

from ftvm.platform_ports import DEBUG_CONSOLE


class DebugconState(msgspec.Struct):
    """Nothing is remembered."""


class Debugcon:
    def __init__(self, transmit: Callable[[int], None]) -> None:
        self.state = DebugconState()
        self._transmit = transmit

    def read(self, offset: int, size: int) -> int:
        return DEBUG_CONSOLE

    def write(self, offset: int, size: int, value: int) -> None:
        self._transmit(value)

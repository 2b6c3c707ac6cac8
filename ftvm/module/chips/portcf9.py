"""Port CF9h, the reset control register. Source: Intel 82371SB (PIIX3), 3.6."""

from collections.abc import Callable

import msgspec

HARD_RESET = 0x02
RESET_CPU = 0x04


class PortCf9State(msgspec.Struct):
    control: int = 0


class PortCf9:
    """``reset`` is called when RESET_CPU goes from 0 to 1; hard or soft makes no difference here."""

    def __init__(self, reset: Callable[[], None]) -> None:
        self.state = PortCf9State()
        self._reset = reset

    def read(self, offset: int, size: int) -> int:
        return self.state.control

    def write(self, offset: int, size: int, value: int) -> None:
        rises = value & ~self.state.control & RESET_CPU
        self.state.control = value & (HARD_RESET | RESET_CPU)
        if rises:
            self._reset()

"""Port 92h, system control port A: fast A20 and fast reset. Source: Intel 82371SB (PIIX3); IBM PS/2 Model 80.

A20 is always on; the bit only remembers what was written.
"""

from collections.abc import Callable

import msgspec

FAST_RESET = 0x01
A20 = 0x02


class Port92State(msgspec.Struct):
    control: int = A20


class Port92:
    """``reset`` is the CPU's reset line, pulsed when FAST_RESET goes from 0 to 1."""

    def __init__(self, reset: Callable[[], None]) -> None:
        self.state = Port92State()
        self._reset = reset

    def read(self, offset: int, size: int) -> int:
        return self.state.control

    def write(self, offset: int, size: int, value: int) -> None:
        rises = value & ~self.state.control & FAST_RESET
        self.state.control = value & (FAST_RESET | A20)
        if rises:
            self._reset()

"""Port 61h, NMI status and control: the speaker's gate and what can be read back. Source: Intel 82371SB (PIIX3), 3.8.

There is no speaker and nothing raises SERR# or IOCHK#; programs use the port to measure time with counter 2.
"""

from collections.abc import Callable

import msgspec

from ftvm.module.chips.chip import Clock

TIMER2_GATE = 0x01
SPEAKER = 0x02
SERR_DISABLE = 0x04
IOCHK_DISABLE = 0x08
REFRESH = 0x10  # toggles with each memory refresh
TIMER2_OUT = 0x20

_WRITABLE = TIMER2_GATE | SPEAKER | SERR_DISABLE | IOCHK_DISABLE
_REFRESH_NS = 15_085  # 18 ticks of the timer's clock, as every BIOS programs counter 1


class Port61State(msgspec.Struct):
    control: int = 0


class Port61:
    def __init__(self, clock: Clock, set_gate2: Callable[[bool], None], output2: Callable[[], bool]) -> None:
        self.state = Port61State()
        self._clock = clock
        self._set_gate2 = set_gate2
        self._output2 = output2

    def read(self, offset: int, size: int) -> int:
        value = self.state.control
        if self._clock() // _REFRESH_NS & 1:
            value |= REFRESH
        if self._output2():
            value |= TIMER2_OUT
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        self.state.control = value & _WRITABLE
        self._set_gate2(bool(value & TIMER2_GATE))

"""Ports 80h to 8Fh: the DMA page registers, and the POST code port among them. Source: Intel 82371SB (PIIX3), 3.1.

There is no DMA controller and nobody to drive it; the registers are storage, and port 80 a delay, as ever.
"""

import msgspec

PORTS = 16


class DmaPagesState(msgspec.Struct):
    registers: bytearray = msgspec.field(default_factory=lambda: bytearray(PORTS))


class DmaPages:
    def __init__(self) -> None:
        self.state = DmaPagesState()

    def read(self, offset: int, size: int) -> int:
        return self.state.registers[offset]

    def write(self, offset: int, size: int, value: int) -> None:
        self.state.registers[offset] = value

"""Small saved machines for tests of the file alone: nobody runs them."""

from pathlib import Path

from ftvm.memory_map import MIN_RAM_BYTES
from ftvm.module import events
from ftvm.module.board import BoardConfig, unplugged
from ftvm.module.events import ConsoleIn
from ftvm.module.link import Snapshot
from ftvm.module.registers import ARCH_BYTES, with_registers
from ftvm.monitor import savefile
from ftvm.monitor.image import VerifiedImage
from ftvm.monitor.savefile import MachineState
from ftvm.units import PAGE_BYTES

PAGES = MIN_RAM_BYTES // PAGE_BYTES
POSITION = 4711

BOARD = BoardConfig(ram_bytes=MIN_RAM_BYTES, input=b"keys\xff", stop_on=b"login:")

STATE = MachineState(
    guest="hello.elf rounds=2",
    board=BOARD,
    snapshot=Snapshot(
        with_registers(bytes(ARCH_BYTES), {"position": POSITION, "rip": 0x1234}), unplugged(BOARD).save()
    ),
    inputs=events.encode([ConsoleIn(b"taken")]),
    typed=b"waiting",
)

CONTENTS = {0: b"first", 1: b"second", 7: b"alone", PAGES - 1: b"last"}
"""What begins each page that is not all zero."""


def write(path: Path, state: MachineState = STATE) -> bytes:
    """Save ``state`` with CONTENTS to ``path``; returns the bytes of the file."""
    image = VerifiedImage(MIN_RAM_BYTES, threads=1)
    for page, text in CONTENTS.items():
        image.put_pages(page, text.ljust(PAGE_BYTES, b"\0"))
    savefile.save(path, state, image)
    image.close()
    return path.read_bytes()

"""One bare engine: CPU and chips of a module in this process, without a monitor, a dirty log or a second module.

What lockstep costs is measured against this: the same build, the same guest, nothing else.

    python benchmarks/bare.py IMAGE [--append TEXT] [--initrd FILE] [--memory 256M] [--stop-on TEXT] [--json FILE]
"""

import argparse
import json
import mmap
import os
import sys
import time
from pathlib import Path

from ftvm.boot import BootPlan, load
from ftvm.module.board import Board, BoardConfig, StopKind
from ftvm.module.cpu import Cpu
from ftvm.module.events import ConsoleOut
from ftvm.module.registers import ARCH_BYTES, with_registers
from ftvm.units import parse_size

FOR_EVER = 1 << 40
"""A position that no run reaches."""


def start(plan: BootPlan, ram_bytes: int, stop_on: bytes | None) -> Board:
    """A board at the guest's first instruction."""
    # Shared memory, as a module's: a first touch costs the same.
    ram_fd = os.memfd_create("ftvm-ram")
    os.ftruncate(ram_fd, ram_bytes)
    ram = mmap.mmap(ram_fd, ram_bytes)
    for segment in plan.segments:
        ram[segment.gpa : segment.gpa + len(segment.data)] = segment.data
    cpu = Cpu(ram)
    board = Board(BoardConfig(ram_bytes=ram_bytes, stop_on=stop_on), cpu)
    arch = bytearray(ARCH_BYTES)
    cpu.save(arch)
    values = {**plan.registers, "cs.selector": plan.cs, "cs.base": plan.cs * 16, "rip": plan.ip}
    cpu.load(with_registers(bytes(arch), values))
    return board


def run(board: Board) -> StopKind:
    """To the end of the guest, its console to standard output."""
    while True:
        stop = board.run(FOR_EVER)
        for output in board.take_outputs():
            if isinstance(output, ConsoleOut):
                os.write(1, output.data)
        if stop.kind not in (StopKind.POSITION, StopKind.OUTPUT, StopKind.IDLE):
            return stop.kind


def main() -> int:
    parser = argparse.ArgumentParser(description="Run a guest on one bare engine.")
    parser.add_argument("image", type=Path)
    parser.add_argument("--append", default="")
    parser.add_argument("--initrd", type=Path)
    parser.add_argument("--memory", type=parse_size, default="256M")
    parser.add_argument("--stop-on", type=os.fsencode)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    plan = load(arguments.image, append=arguments.append, initrd=arguments.initrd, ram_bytes=arguments.memory)
    began_s = time.monotonic()
    end = run(start(plan, arguments.memory, arguments.stop_on))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"wall_s": time.monotonic() - began_s}))
    return 0 if end is StopKind.EXIT else 1


if __name__ == "__main__":
    sys.exit(main())

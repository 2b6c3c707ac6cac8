"""How long a guest that writes memory stands still while a module comes back, by size of RAM: see resync.md.

python benchmarks/resync.py [--memory 64M,256M,1G] [--returns 5] [--seconds 5]
"""

import argparse
import os
import signal
import statistics
import struct
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from measure import report, spread, to_stderr

from ftvm.control.client import Client
from ftvm.control.status import ModuleStatus, Status
from ftvm.machine import Machine, MachineConfig
from ftvm.monitor.policing import Policy, Threshold
from ftvm.units import MIB, PAGE_BYTES, format_size, parse_size

LOAD_GPA = MIB
FIRST_GPA = 2 * MIB
"""The guest writes all of RAM from here, except the last MiB."""

BLOCKS_PER_PAGE = 500
"""So an epoch of a million blocks dirties 2,000 pages, as the busiest 1 % of epochs of a Linux boot do."""

PATIENCE_S = 120.0
VICTIM = 1


def multiboot(code: bytes) -> bytes:
    """``code`` (32 bit) as a kernel that starts with it. Source: Multiboot Specification 0.6.96, 3.1."""
    flags = 1 << 16  # the header says where the image goes
    head = struct.pack("<3I", 0x1BADB002, flags, -(0x1BADB002 + flags) & 0xFFFFFFFF)
    entry = LOAD_GPA + len(head) + 20
    end = entry + len(code)
    return head + struct.pack("<5I", LOAD_GPA, LOAD_GPA, end, end, entry) + code


def writer(ram_bytes: int) -> bytes:
    """A multiboot kernel that writes a word of each page of RAM, round after round; each round says so on COM1."""
    code = struct.pack(
        "<BI  BBB  BI  BB  BBI  BBI  BB  BI  BI B BB",
        0xBE, FIRST_GPA,                            # round: mov   esi, FIRST_GPA
        0x83, 0x06, 0x01,                           # page:  add   dword [esi], 1
        0xB9, BLOCKS_PER_PAGE - 2,                  #        mov   ecx, BLOCKS_PER_PAGE - 2
        0xE2, 0xFE,                                 # wait:  loop  wait
        0x81, 0xC6, PAGE_BYTES,                     #        add   esi, PAGE_BYTES
        0x81, 0xFE, ram_bytes - MIB,                #        cmp   esi, end
        0x72, 0xE8,                                 #        jb    page
        0xBA, 0x3F8,                                #        mov   edx, COM1
        0xB8, ord("."), 0xEE,                       #        mov   eax, '.' ; out dx, al
        0xEB, 0xD6,                                 #        jmp   round
    )  # fmt: skip
    return multiboot(code)


class Returns(threading.Thread):
    """Leaves a machine alone for ``seconds``, then kills a module as often as ``returns`` says, waits for it each time,
    and ends the machine.
    """

    def __init__(self, machine: Machine, name: str, returns: int, seconds: float) -> None:
        super().__init__()
        self._machine = machine
        self._name = name
        self._returns = returns
        self._seconds = seconds
        self.undisturbed: Status | None = None
        self.join_pauses_ms: list[float] = []
        self.return_s: list[float] = []
        self.longest_pause_ms = 0.0

    def run(self) -> None:
        try:
            with Client(self._name) as client:
                client.call("threshold", {"target": VICTIM, "policy": Policy.ALWAYS_RESTART}, Threshold)
                time.sleep(self._seconds)
                self.undisturbed = self._status(client)
                for _ in range(self._returns):
                    self._one_return(client)
                self.longest_pause_ms = self._status(client).longest_pause_ms
        finally:
            self._machine.request_stop()

    def _one_return(self, client: Client) -> None:
        victim = self._status(client).modules[VICTIM]
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)
        began_s = time.monotonic()
        while (module := self._status(client).modules[VICTIM]).restarts == victim.restarts:
            if time.monotonic() - began_s > PATIENCE_S:
                raise TimeoutError(f"the module did not come back: {module}")
            time.sleep(0.02)
        self._note(module, time.monotonic() - began_s)
        time.sleep(0.5)

    def _note(self, module: ModuleStatus, elapsed_s: float) -> None:
        assert module.longest_pause_ms is not None
        self.join_pauses_ms.append(module.longest_pause_ms)
        self.return_s.append(elapsed_s)
        to_stderr(f"back after {elapsed_s:.2f} s, joining took {module.longest_pause_ms:.1f} ms")

    @staticmethod
    def _status(client: Client) -> Status:
        return client.call("status", {}, Status)


def measure(ram_bytes: int, returns: int, seconds: float) -> dict[str, Any]:
    name = f"resync-{os.getpid()}"

    def on_console(channel: str, data: bytes) -> None:
        if thread.ident is None:  # the first round is over: all of RAM has content
            thread.start()

    with tempfile.NamedTemporaryFile(suffix=".bin") as image:
        image.write(writer(ram_bytes))
        image.flush()
        machine = Machine(MachineConfig(Path(image.name), memory_bytes=ram_bytes, name=name), on_console)
        thread = Returns(machine, name, returns, seconds)
        result = machine.run()
        thread.join()
    assert thread.undisturbed is not None
    epochs = thread.undisturbed.sync_points
    return {
        "returns": len(thread.return_s),
        "outcome": result.outcome,
        "verdicts": [incident.verdict for incident in result.divergences],
        "longest_pause_undisturbed_ms": round(thread.undisturbed.longest_pause_ms, 2),
        "longest_pause_ms": round(thread.longest_pause_ms, 2),
        "joining_ms": spread(thread.join_pauses_ms),
        "back_after_s": spread(thread.return_s),
        "epoch_ms_mean": round(thread.undisturbed.wall_s / epochs * 1e3, 2),
        "dirty_pages": statistics.median(module.dirty_pages for module in thread.undisturbed.modules),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="The longest pause while a module comes back.")
    parser.add_argument("--memory", default="64M,256M,1G")
    parser.add_argument("--returns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="without disturbance, to compare with")
    arguments = parser.parse_args()

    def measure_all() -> dict[str, Any]:
        results = {}
        for text in arguments.memory.split(","):
            ram_bytes = parse_size(text)
            to_stderr(format_size(ram_bytes))
            results[text] = measure(ram_bytes, arguments.returns, arguments.seconds)
        return results

    report("resync", vars(arguments), measure_all)


if __name__ == "__main__":
    main()

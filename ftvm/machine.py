"""The composition root: configuration in, machine out. The only file that imports every room.

    config = MachineConfig(image=Path("hello.elf"))
    machine = Machine(config, on_console=lambda channel, data: sys.stdout.buffer.write(data))
    result = machine.run()
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from ftvm.errors import UsageError
from ftvm.exitcodes import ExitCode
from ftvm.memory_map import MAX_RAM_BYTES, MIN_RAM_BYTES
from ftvm.units import MIB, PAGE_BYTES, format_size

RESULT_VERSION = 1
"""Of the object that ``ftvm run --json`` writes."""

MAX_MODULES = 3
DEFAULT_EPOCH_BLOCKS = 1_000_000
"""About 10 ms: shorter epochs cost wake-ups, longer ones page compares (benchmarks/lockstep.md)."""

OnConsole = Callable[[str, bytes], None]
"""Called with (channel, bytes) for output that all modules agreed on; channel is ``serial`` or ``debug``."""


@dataclass(frozen=True)
class MachineConfig:
    """What machine to build. Raises UsageError when it is one that cannot exist.

    ``protocol`` forces a boot protocol (BootPlan.kind), None finds it out; ``module_files`` are multiboot modules.
    ``stop_on`` ends the run when the text comes on the serial console. ``input`` is offered to the serial
    port at the start, or when the text ``input_after`` came. ``real_time`` makes an idle guest wait for the
    wall clock. ``interactive``: input may come at any time, so a guest that waits without a timer is not over.
    """

    image: Path
    initrd: Path | None = None
    append: str = ""
    memory_bytes: int = 256 * MIB
    modules: int = 2
    epoch_blocks: int = DEFAULT_EPOCH_BLOCKS
    stop_on: str | None = None
    timeout_s: float | None = None
    input: bytes | None = None
    input_after: str | None = None
    name: str | None = None
    real_time: bool = False
    interactive: bool = False
    protocol: str | None = None
    module_files: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.modules <= MAX_MODULES:
            raise UsageError(f"a machine of {self.modules} modules", f"give 1 to {MAX_MODULES}; 2 is the default")
        if not MIN_RAM_BYTES <= self.memory_bytes <= MAX_RAM_BYTES:
            limits = f"{format_size(MIN_RAM_BYTES)} to {format_size(MAX_RAM_BYTES)}"
            raise UsageError(f"memory of {format_size(self.memory_bytes)}", f"give {limits}; 256M is the default")
        if self.memory_bytes % PAGE_BYTES:
            raise UsageError(f"memory of {self.memory_bytes} bytes", f"give a multiple of {PAGE_BYTES} bytes")
        if self.epoch_blocks < 1:
            raise UsageError(f"an epoch of {self.epoch_blocks} blocks", "give at least 1; 1M is the default")
        if self.timeout_s is not None and self.timeout_s <= 0:
            raise UsageError(f"a timeout of {self.timeout_s:g} seconds", "give more than 0")
        if self.input_after is not None and self.input is None:
            raise UsageError("a text to wait for before the input, but no input", "give the input too")


@dataclass(frozen=True)
class ModuleReport:
    """One module at the end of a run. ``state`` is online or failed; ``faults`` counts by kind."""

    index: int
    state: str
    pid: int
    faults: dict[str, int] = field(default_factory=dict)
    restarts: int = 0


@dataclass(frozen=True)
class DivergenceReport:
    """A difference between modules, as a value; ``module`` is None while nobody can say whose fault it is.

    ``kind`` is register, memory, chip, output, stop, death or hang; ``where`` names the first thing that differs.
    """

    position: int
    module: int | None
    kind: str
    where: str
    verdict: str
    recovered_in_ms: float | None


@dataclass(frozen=True)
class RunResult:
    """What ``ftvm run --json`` writes.

    ``outcome`` is exit, stopped, timeout, halted, crash or fail-stop. ``exit_code`` is what the guest wrote to the
    debug-exit port, else None. ``state_digest`` is a hash over the architectural state, chips and RAM of the
    final verified state: equal for equal runs, whatever the epoch length or the number of modules.
    """

    version: int
    outcome: str
    exit_code: int | None
    modules: list[ModuleReport]
    sync_points: int
    blocks: int
    instructions: int | None
    divergences: list[DivergenceReport]
    wall_s: float
    virtual_s: float
    longest_pause_ms: float
    state_digest: str

    def to_json(self) -> bytes:
        """One JSON object with exactly the fields above."""
        return msgspec.json.encode(self)

    def process_exit_code(self) -> ExitCode:
        """What a process that did nothing but this run exits with."""
        match self.outcome:
            case "exit":
                return ExitCode.GUEST_FAILURE if self.exit_code else ExitCode.OK
            case "stopped":
                return ExitCode.OK
            case "timeout":
                return ExitCode.TIMEOUT
            case "fail-stop":
                return ExitCode.FAIL_STOP
            case _:
                return ExitCode.GUEST_STUCK


class Machine:
    """One guest on its modules. ``run`` once; then look at what it left.

    ``on_console`` gets committed console output only, on the thread that runs the machine.
    """

    def __init__(self, config: MachineConfig, on_console: OnConsole | None = None) -> None:
        raise NotImplementedError

    def run(self) -> RunResult:
        """Boot the guest and run it to its end. No process or memory outlives this call, whatever ends it.

        Raises UnusableFile for an image that cannot be booted, HostError when the host refuses memory or processes.
        """
        raise NotImplementedError

    def request_stop(self) -> None:
        """End the run at the next sync point, with outcome ``stopped``. From any thread, or a callback."""
        raise NotImplementedError

    def send_console(self, data: bytes) -> None:
        """Bytes for the guest's serial port, at the next sync point. From any thread, or a callback."""
        raise NotImplementedError

    def watch(self, fd: int, on_readable: Callable[[], None]) -> None:
        """Call ``on_readable`` on the machine's thread whenever ``fd`` can be read (a terminal, a socket)."""
        raise NotImplementedError

    def unwatch(self, fd: int) -> None:
        """Forget ``fd``; for a callback that met the end of its file."""
        raise NotImplementedError

    def inject(self, module: int, position: int, target: Any) -> None:
        """Before ``run``: flip the bit ``target`` in one module when it stands exactly at ``position``.

        For tests of the comparison. ``target`` is a RegisterBit or a RamBit (ftvm/module/link.py).
        """
        raise NotImplementedError

    @property
    def modules(self) -> list[ModuleReport]:
        """The modules as they are now; also while the machine runs."""
        raise NotImplementedError

    @property
    def divergence_text(self) -> str | None:
        """After a fail-stop: the report of the divergence, for people."""
        raise NotImplementedError

    def read_memory(self, gpa: int, size: int) -> bytes:
        """``size`` bytes of verified guest physical memory. Raises UsageError where there is no RAM."""
        raise NotImplementedError

    def screen(self) -> list[str]:
        """The 25 lines of 80 characters of the VGA text screen, from verified memory."""
        raise NotImplementedError

"""What machine to build, as a value."""

from pathlib import Path
from typing import Any

import msgspec

from ftvm.errors import UsageError
from ftvm.memory_map import MAX_RAM_BYTES, MIN_RAM_BYTES
from ftvm.monitor.bays import DiskFiles
from ftvm.monitor.recording import Recording
from ftvm.monitor.savefile import SavedMachine
from ftvm.network.spec import NicSpec
from ftvm.units import MIB, PAGE_BYTES, format_size

MAX_MODULES = 3


class MachineConfig(msgspec.Struct, frozen=True):
    """What machine to build. Raises UsageError when it is one that cannot exist.

    ``protocol`` forces a boot protocol (BootPlan.kind), None finds it out; ``module_files`` are
    multiboot modules, each a path, or a text of a path, a blank and arguments.
    ``stop_on`` ends the run when the text comes on the serial console. ``input`` is offered to the serial
    port at the start, or when the text ``input_after`` came. ``real_time`` makes an idle guest wait for the
    wall clock; None: if it has a NIC on the network. ``interactive``: input may come at any time, so a guest that
    waits without a timer is not over.
    ``epoch_blocks`` None: as many as take about 40 ms (ftvm/monitor/pace.py).

    The verified state is saved to ``save_on_exit`` when the run ends before the guest does, and to
    ``save_on_fail_stop`` (or else there too) at a fail-stop. With ``saved`` the machine goes on from there: see
    ``resume``. ``disks``: by bay; a machine that goes on needs the same ones. ``nics``: by slot
    (ftvm/network/spec.py); ``capture`` is a pcap file of what they send and receive.

    The run is written to ``record`` as it goes. With ``recording`` the machine begins where that one did: see
    ``replay``.
    """

    image: Path
    initrd: Path | None = None
    append: str = ""
    memory_bytes: int = 256 * MIB
    modules: int = 2
    epoch_blocks: int | None = None
    stop_on: str | None = None
    timeout_s: float | None = None
    input: bytes | None = None
    input_after: str | None = None
    name: str | None = None
    real_time: bool | None = None
    interactive: bool = False
    event_log: Path | None = None
    event_command: str | None = None
    protocol: str | None = None
    module_files: tuple[Path | str, ...] = ()
    save_on_exit: Path | None = None
    save_on_fail_stop: Path | None = None
    saved: SavedMachine | None = None
    disks: tuple[DiskFiles, ...] = ()
    nics: tuple[NicSpec, ...] = ()
    capture: Path | None = None
    record: Path | None = None
    recording: Recording | None = None

    @classmethod
    def resume(cls, saved: SavedMachine, **settings: Any) -> "MachineConfig":
        """To go on with a saved machine. Its guest and memory are its own; so are the input it was started with, and
        ``stop_on`` unless that is among the ``settings``."""
        return cls(image=saved.path, memory_bytes=saved.state.board.ram_bytes, saved=saved, **settings)

    @classmethod
    def replay(cls, recording: Recording, **settings: Any) -> "MachineConfig":
        """To repeat a run that was recorded (ftvm/debug/replay.py): no disks, no network, nobody to type."""
        ram_bytes = recording.state.board.ram_bytes
        return cls(image=recording.path, memory_bytes=ram_bytes, interactive=True, recording=recording, **settings)

    @property
    def networked(self) -> bool:
        """Frames may come from elsewhere at any time."""
        return any(not nic.repeatable for nic in self.nics)

    @property
    def keeps_time(self) -> bool:
        """Whether an idle guest waits for the wall clock."""
        return self.networked if self.real_time is None else self.real_time

    @property
    def open_ended(self) -> bool:
        """Whether something may yet come to a guest that waits without a timer."""
        return self.interactive or self.networked

    def __post_init__(self) -> None:
        if not 1 <= self.modules <= MAX_MODULES:
            raise UsageError(f"a machine of {self.modules} modules", f"give 1 to {MAX_MODULES}; 2 is the default")
        if not MIN_RAM_BYTES <= self.memory_bytes <= MAX_RAM_BYTES:
            limits = f"{format_size(MIN_RAM_BYTES)} to {format_size(MAX_RAM_BYTES)}"
            raise UsageError(f"memory of {format_size(self.memory_bytes)}", f"give {limits}; 256M is the default")
        if self.memory_bytes % PAGE_BYTES:
            raise UsageError(f"memory of {self.memory_bytes} bytes", f"give a multiple of {PAGE_BYTES} bytes")
        if self.epoch_blocks is not None and self.epoch_blocks < 1:
            raise UsageError(f"an epoch of {self.epoch_blocks} blocks", "give at least 1, or leave it to the machine")
        if self.timeout_s is not None and self.timeout_s <= 0:
            raise UsageError(f"a timeout of {self.timeout_s:g} seconds", "give more than 0")
        if self.input_after is not None and self.input is None:
            raise UsageError("a text to wait for before the input, but no input", "give the input too")

"""Where a machine begins: at a CPU's reset with an image in RAM, or where a machine was saved."""

from collections.abc import Callable, Sequence

import msgspec

from ftvm.boot.plan import BootPlan
from ftvm.errors import UnusableFile
from ftvm.module import events
from ftvm.module.agenda import expected_faults
from ftvm.module.board import BoardConfig, DiskConfig, NicConfig, unplugged
from ftvm.module.events import ExpectFaults
from ftvm.module.fault import Fault
from ftvm.module.link import Snapshot
from ftvm.module.registers import reset_state, with_registers
from ftvm.monitor.image import VerifiedImage
from ftvm.monitor.recording import Recording
from ftvm.monitor.savefile import SavedMachine
from ftvm.network.frame import format_mac
from ftvm.storage.stamp import LegStamp


class StartState(msgspec.Struct, frozen=True):
    """What the modules are told at their start, and how RAM is filled. ``guest`` says for people what runs.

    ``inputs`` (encoded) enter the modules before their first block; ``typed`` is to be offered to the console, and the
    devices ``kicked`` are to be served. ``disks``: by bay, how the machine left them.
    """

    guest: str
    board: BoardConfig
    snapshot: Snapshot
    fill: Callable[[VerifiedImage], None]
    """Put RAM into an image that is all zero. Raises UnusableFile."""
    inputs: bytes = b""
    typed: bytes = b""
    kicked: Sequence[str] = ()
    disks: Sequence[Sequence[LegStamp]] = ()
    resumed: bool = False
    recorded: bool = False
    """What the outside did is in a recording, and the outside is not there."""

    def with_devices(self, disks: tuple[DiskConfig, ...], nics: tuple[NicConfig, ...]) -> "StartState":
        """With these in bays and slots. Raises UnusableFile when the machine was saved with others."""
        if (disks, nics) == (self.board.disks, self.board.nics) or self.recorded:
            return self
        if self.resumed and disks != self.board.disks:
            raise UnusableFile(
                f"the machine was saved with {_describe_disks(self.board.disks)}, not with {_describe_disks(disks)}",
                "give the same disks again, in the same order: --disk a.img,b.img",
            )
        if self.resumed:
            raise UnusableFile(
                f"the machine was saved with {_describe_nics(self.board.nics)}, not with {_describe_nics(nics)}",
                "give NICs with the same addresses and MTUs again, on any legs: --nic LEG,mac=MAC,mtu=BYTES",
            )
        board = msgspec.structs.replace(self.board, disks=disks, nics=nics)
        snapshot = Snapshot(self.snapshot.arch, unplugged(board).save())
        return msgspec.structs.replace(self, board=board, snapshot=snapshot)

    def expected_faults(self) -> list[Fault]:
        """Faults that the saved machine was told of, and that have not happened."""
        entering = events.decode_inputs(self.inputs) if self.inputs else []
        told = [fault for event in entering if isinstance(event, ExpectFaults) for fault in event.faults]
        return expected_faults(self.snapshot.board) + told

    @classmethod
    def boot(cls, guest: str, plan: BootPlan, board: BoardConfig) -> "StartState":
        """The reset of a machine in whose RAM an image was laid out."""
        values = {**plan.registers, "cs.selector": plan.cs, "cs.base": plan.cs * 16, "rip": plan.ip}
        snapshot = Snapshot(with_registers(reset_state(), values), unplugged(board).save())

        def fill(image: VerifiedImage) -> None:
            for segment in plan.segments:
                image.write(segment.gpa, segment.data)

        return cls(guest, board, snapshot, fill)

    @classmethod
    def replay(cls, recording: Recording) -> "StartState":
        """Where a recording begins."""
        state = recording.state
        return cls(state.guest, state.board, state.snapshot, recording.fill, recorded=True)

    @classmethod
    def resume(cls, saved: SavedMachine, *, stop_on: bytes | None, real_time: bool, interactive: bool) -> "StartState":
        """Where ``saved`` was left. A new ``stop_on`` is waited for from now on; None keeps waiting for the old one."""
        state = saved.state
        board = msgspec.structs.replace(state.board, real_time=real_time, interactive=interactive)
        snapshot = state.snapshot
        if stop_on is not None:
            board = msgspec.structs.replace(board, stop_on=stop_on)
            changed = unplugged(board)
            changed.load(snapshot.board)
            changed.await_stop_text()
            snapshot = Snapshot(snapshot.arch, changed.save())
        return cls(
            state.guest,
            board,
            snapshot,
            saved.fill,
            state.inputs,
            state.typed,
            state.kicked,
            state.disks,
            resumed=True,
        )


def _describe_disks(disks: tuple[DiskConfig, ...]) -> str:
    sizes = [f"{disk.size_bytes} bytes{', read-only' if disk.read_only else ''}" for disk in disks]
    return f"disks of {'; '.join(sizes)}" if sizes else "no disk"


def _describe_nics(nics: tuple[NicConfig, ...]) -> str:
    return ", ".join([f"a NIC {format_mac(nic.mac)} with MTU {nic.mtu}" for nic in nics]) or "no NIC"

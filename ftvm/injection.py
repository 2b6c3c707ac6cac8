"""Faults on purpose, as the machine has them: which ones it can have, which have struck, and what legs make of them."""

from collections.abc import Callable

from ftvm.config import MachineConfig
from ftvm.errors import UsageError
from ftvm.faults.legs import check_leg, disk_fault, nic_fault
from ftvm.faults.notation import format_fault
from ftvm.module.board import BoardConfig, unplugged
from ftvm.module.events import FaultStruck
from ftvm.module.fault import AtPosition, ChipBit, Fault, Leg
from ftvm.module.fault_check import check
from ftvm.monitor.block import Block
from ftvm.monitor.eventlog import FAULT_INJECTED, EventLog
from ftvm.monitor.net import Net
from ftvm.result import FaultReport


def check_fault(fault: Fault, config: MachineConfig, board: BoardConfig, position: int) -> None:
    """Raises UsageError for a fault that this machine, which stands at ``position``, cannot have."""
    if isinstance(fault.when, AtPosition) and fault.when.position < position:
        raise UsageError(f"a fault at {fault.when.position}", f"the machine is at {position} already")
    if fault.module is not None and not 0 <= fault.module < config.modules:
        raise UsageError(f"a fault in module {fault.module}", f"this machine has modules 0 to {config.modules - 1}")
    # To build a board takes longer than a short experiment's guest runs.
    chips = unplugged(board).chips if isinstance(fault.target, ChipBit) else {}
    check(fault, config.memory_bytes, chips)
    if isinstance(fault.target, Leg):
        check_leg(fault.target)
        there = {f"disk{bay}": len(disk.paths) for bay, disk in enumerate(config.disks)}
        there |= {f"nic{slot}": len(nic.legs) for slot, nic in enumerate(config.nics)}
        if fault.target.leg >= there.get(fault.target.device, 0):
            legs = [f"{device}.{leg}" for device, count in there.items() for leg in range(count)]
            hint = f"there are {', '.join(legs)}" if legs else "give it disks with --disk, NICs with --nic"
            raise UsageError(f"this machine has no {fault.target.device}.{fault.target.leg}", hint)


class Struck:
    """The faults that struck, in the past of the verified state; one that happens again and again is there once.

    ``half``: the I/O half of a device, by its name.
    """

    def __init__(self, log: EventLog, modules: int, half: Callable[[str], Block | Net]) -> None:
        self.faults: list[FaultStruck] = []
        self.reports: list[FaultReport] = []
        self._log = log
        self._modules = modules
        self._half = half

    def note(self, struck: FaultStruck) -> None:
        """A fault was due. What a leg is to suffer happens now."""
        fault = struck.fault
        note = None
        if isinstance(fault.target, Leg):
            note = self._break_leg(fault.target)
        elif fault.module is None and self._modules > 1:
            note = "in all modules alike: no comparison can see it"
        report = FaultReport(format_fault(fault), struck.position, note)
        if fault.every and any(earlier.fault == report.fault for earlier in self.reports):
            return
        self.reports.append(report)
        self.faults.append(struck)
        subject = "machine" if fault.module is None else f"module {fault.module}"
        if isinstance(fault.target, Leg):
            subject = f"{fault.target.device}.{fault.target.leg}"
        reason = f"injected at {struck.position}: {report.fault}"
        self._log.emit(FAULT_INJECTED, subject, reason=reason if note is None else f"{reason} ({note})")

    def _break_leg(self, leg: Leg) -> str | None:
        """Why nothing came of it, if so."""
        half = self._half(leg.device)
        try:
            if isinstance(half, Net):
                half.team.inject(leg.leg, nic_fault(leg))
                return None
            fault = disk_fault(leg)
            if fault.offset + max(fault.size, 1) > half.mirror.size_bytes:
                return f"nothing happened: {leg.device} has {half.mirror.size_bytes} bytes"
            half.mirror.inject(leg.leg, fault)
        except UsageError as error:
            return f"nothing happened: {error.message}"
        return None

"""Modules that do not stand at the verified state, or whose RAM may not be it; and how they come back."""

import contextlib
from collections.abc import Sequence

import msgspec

from ftvm.errors import HostError
from ftvm.module import events
from ftvm.module.events import FaultStruck
from ftvm.module.fault import Fault, LinearBit, PageTableBit, RamBit
from ftvm.module.link import COMMAND_BYTES, CommandKind, Load, Release, Report, Snapshot
from ftvm.monitor.compare import Difference, differences_now
from ftvm.monitor.epoch import EpochRunner
from ftvm.monitor.image import PageList, VerifiedImage
from ftvm.monitor.service import Service
from ftvm.units import PAGE_BYTES

MAX_LOADS = 3
"""Attempts to have all modules at one state, when some die meanwhile."""

_FAULT_TAG = msgspec.msgpack.encode("fault")
"""In the encoding of a FaultStruck; seldom elsewhere."""


class Strays:
    """Sends the modules in service on ventures, where nothing is compared or committed, and brings them back."""

    def __init__(self, service: Service, image: VerifiedImage, runner: EpochRunner) -> None:
        self._service = service
        self._image = image
        self._runner = runner
        self._away: set[int] | None = None
        """The modules are on a venture; these pages they wrote on it."""
        self._tainted: set[int] = set()
        """Pages in which the modules' RAM may differ from the image although nobody wrote there."""
        self._tainted_anywhere = False

    @property
    def venturing(self) -> bool:
        return self._away is not None

    def leave(self) -> None:
        """A venture begins."""
        self._away = set()

    def go(self, position: int, instructions: int) -> None:
        """Let every module go on by itself to ``position``, then so many instructions. They stop earlier where the
        guest waits, or the outside is to serve it."""
        here = max((at for at, _ in self.standing()), default=0)
        before: list[Report] = []
        while here < position:
            reports = self.send(CommandKind.RUN, position, b"", position - here)
            if reports == before or all(report.position >= position for report in reports):
                break
            before = reports
        if instructions:
            self.send(CommandKind.STEP, instructions, b"", instructions)

    def send(self, kind: CommandKind, target: int, payload: bytes, blocks: int) -> list[Report]:
        """A command to modules on a venture."""
        assert self._away is not None
        attempt = self._runner.command(self._service.in_service, kind, target, payload, blocks)
        for result in attempt.results:
            self._away |= {page for page in result.memory.listed() if page < self._image.ram_bytes // PAGE_BYTES}
        for loss in attempt.losses:
            self._service.vacate(loss.module)
        self.note_struck(attempt.reports)
        return attempt.reports

    def standing(self) -> list[tuple[int, int]]:
        """Where each module in service stands: position, and instructions executed of the block entered there."""
        reports = [module.report for module in self._service.in_service]
        return [(report.position, report.instruction) for report in reports if report is not None]

    def differences(self) -> tuple[Difference, ...]:
        """What differs between the modules in service where they stand now, as far as anybody wrote it."""
        modules = [module for module in self._service.in_service if module.report is not None]
        pages = sorted((self._away or set()) | self._tainted)
        reports = [module.report for module in modules if module.report is not None]
        return differences_now(reports, [module.memory() for module in modules], pages)

    def note_struck(self, reports: Sequence[Report]) -> frozenset[int]:
        """The numbers of the faults that were due. Remembers what they did and no dirty log tells; a module that was
        hurt may say anything."""
        struck: list[Fault] = []
        for report in reports:
            if _FAULT_TAG in report.outputs:
                with contextlib.suppress(msgspec.DecodeError):
                    outputs = events.decode_outputs(report.outputs)
                    struck += [output.fault for output in outputs if isinstance(output, FaultStruck)]
        for fault in struck:
            match fault.target:
                case RamBit(offset, bit):
                    first, last = offset // PAGE_BYTES, (offset + (bit + fault.change.width - 1) // 8) // PAGE_BYTES
                    if 0 <= first <= last < min(self._image.ram_bytes // PAGE_BYTES, first + 2):
                        self._tainted |= {first, last}
                case LinearBit() | PageTableBit():
                    self._tainted_anywhere = True
        return frozenset(fault.number for fault in struck)

    def drain(self) -> None:
        """Wait for modules that are still doing what they were told when somebody interrupted us."""
        for loss in self._runner.drain(self._service.in_service):
            self._service.vacate(loss.module)

    def regroup(self) -> None:
        """An epoch was left in its middle: all modules become the verified state again, with cold TLBs."""
        self.drain()
        self._gather(None, Release.NONE)

    def come_back(self) -> None:
        """The end of a venture: the same, for what was written on it."""
        self.drain()
        self._gather(self._astray(), Release.LATER)
        self._forget()

    def suspects(self) -> set[int]:
        """The pages, as far as they are known, in which modules may not have what the image has. A venture is over."""
        self._tainted |= self._away or set()
        self._away = None
        return self._tainted

    def follow(self, changed: PageList | None, release: Release) -> None:
        """The image became another state, and differs from the modules in the pages ``changed``; None: nobody knows."""
        self._gather(None if self._tainted_anywhere else changed, release)
        self._forget()

    def _astray(self) -> PageList | None:
        return None if self._tainted_anywhere else PageList.of((self._away or set()) | self._tainted)

    def _forget(self) -> None:
        self._away = None
        self._tainted.clear()
        self._tainted_anywhere = False

    def _gather(self, pages: PageList | None, release: Release) -> None:
        """A module at every place, all of them in the verified state; only in ``pages``, if not None, can their RAM
        change by that. ``release``: which bits that faults hold are let go."""
        for module in self._service.complete():
            module.restore_pages(self._image, pages)
        snapshot = Snapshot(self._image.arch, self._image.board)
        payload = msgspec.msgpack.encode(Load(snapshot, None if pages is None else pages.encode(), release))
        if len(payload) > COMMAND_BYTES:  # a long list, or much that the guest has not read
            payload = msgspec.msgpack.encode(Load(snapshot, None, release))
        for _ in range(MAX_LOADS):
            losses = self._runner.command(self._service.in_service, CommandKind.LOAD, payload=payload).losses
            if not losses:
                return
            for loss in losses:
                self._service.vacate(loss.module)
            self._service.complete()
        raise HostError("the modules of the machine end as soon as they are started")

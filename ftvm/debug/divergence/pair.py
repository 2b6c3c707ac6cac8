"""Two modules to experiment with, apart from those of the machine: one that will have the fault, one that will not.

They go from the verified state wherever they are told, as often as wanted; nothing that they do leaves them.
"""

import contextlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import msgspec

from ftvm.module import events
from ftvm.module.board import BoardConfig
from ftvm.module.events import DebugWatch, Input
from ftvm.module.link import EFFECT_BYTES, CommandKind, Load, Release, Report, Snapshot, TraceSpec
from ftvm.monitor.compare import Difference, memory_differences, state_differences
from ftvm.monitor.epoch import EpochRunner
from ftvm.monitor.image import PageList, VerifiedImage
from ftvm.monitor.module_handle import ModuleHandle
from ftvm.monitor.poller import Poller
from ftvm.units import PAGE_BYTES

_WORDS = 7
assert EFFECT_BYTES == 8 * _WORDS

SOUND = 1000
"""No module of a machine has an index like this, so no fault is meant for it."""
MAX_RUNS = 4096
"""Runs of differing bytes that are told."""


@dataclass(frozen=True, order=True)
class Place:
    """Before the instruction ``instruction`` of the block that is entered at ``position``."""

    position: int
    instruction: int = 0


Block = tuple[int, int, int, int]
"""Of code: where it begins in RAM, where its second page does, its bytes, and how wide (16, 32, 64 bits) it is."""


class Traced:
    """What the instructions or blocks of a stretch did, by number (ft_effect in native/ftvm.h); number 0 is the state
    before."""

    def __init__(self, detail: bytes) -> None:
        words = array("Q", detail)
        self.effects, self.excepted = words[0::_WORDS], words[1::_WORDS]
        self._positions, self._instructions = words[2::_WORDS], words[3::_WORDS]
        self._code = words[4::_WORDS], words[5::_WORDS], words[6::_WORDS]

    def __len__(self) -> int:
        return len(self.effects)

    def place(self, number: int) -> Place:
        """Where instruction or block ``number`` led to."""
        return Place(self._positions[number], self._instructions[number])

    def blocks(self) -> dict[Block, int]:
        """Of a trace by blocks: those that were run, and the number of the effect at which each was first entered."""
        entered = list(zip(*(words[:-1] for words in self._code), strict=True))
        first = dict(zip(reversed(entered), range(len(entered) - 1, -1, -1), strict=True))
        return {(code, rest, shape & 0xFFFFFFFF, shape >> 32): number for (code, rest, shape), number in first.items()}


class Lost(Exception):
    """The module without a fault ended or hung: nothing can be said."""


class Pair:
    """Modules ``sound`` and ``faulty`` of the machine whose verified state is in ``image``.

    ``inputs`` are those of the epoch. What is to happen to the faulty module, of index ``faulty``, is in that state or
    among the inputs. A context: no process or memory outlives it. Raises HostError when the host refuses them.
    """

    def __init__(
        self,
        image: VerifiedImage,
        board: BoardConfig,
        faulty: int,
        inputs: Sequence[Input] = (),
    ) -> None:
        self._image = image
        self._snapshot = Snapshot(image.arch, image.board)
        self._start = image.position
        self._inputs = list(inputs)
        self._poller = Poller()
        self._runner = EpochRunner(image, self._poller.wait)
        self._touched: set[int] = set()
        self._fresh = True
        self.written: set[int] = set()
        """Pages that either of them wrote during the last command."""
        self.suspects: set[int] = set()
        """Pages that may differ although no dirty log says so."""
        with contextlib.ExitStack() as resources:
            resources.callback(self._poller.close)
            self.modules = []
            for index in (faulty + SOUND, faulty):
                module = ModuleHandle(index, image.ram_bytes, self._poller)
                resources.callback(module.close)
                module.set_up(board, self._snapshot, 0)
                self.modules.append(module)
            for module in self.modules:
                module.await_ready()  # until then its engine tries itself out, at the bottom of RAM
                module.fill(image)
            self._resources = resources.pop_all()
        self.sound, self.faulty = self.modules

    def __enter__(self) -> "Pair":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._resources.close()

    # ---- going ----

    def rewind(self) -> None:
        """Both are the verified state again. Raises Lost, HostError."""
        if not self._fresh:
            pages = PageList.of(self._touched | self.suspects)
            for module in self.modules:
                module.restore_pages(self._image, pages)
            load = Load(self._snapshot, pages.encode(), Release.ALL)
            self._command(CommandKind.LOAD, payload=msgspec.msgpack.encode(load))
        self._fresh = False
        self._touched.clear()

    def goto(self, place: Place, watch: DebugWatch | None = None) -> list[Report | None]:
        """From the verified state to ``place``, each as far as it comes: sound, faulty."""
        self.rewind()
        reports = self.run(place.position, watch, first=True)
        return self.step(place.instruction) if place.instruction else reports

    def run(self, position: int, watch: DebugWatch | None = None, first: bool = False) -> list[Report | None]:
        """On to ``position``, or where the outside would be needed. ``first``: the epoch's inputs enter before."""
        inputs: list[Input] = [*(self._inputs if first else ()), *([watch] if watch is not None else ())]
        return self._command(CommandKind.RUN, position, events.encode(inputs) if inputs else b"")

    def step(self, instructions: int) -> list[Report | None]:
        """On by so many instructions."""
        return self._command(CommandKind.STEP, instructions)

    def trace(self, instructions: int, spec: TraceSpec) -> list[Traced]:
        """The same, and on to the end of a block, and what each of them did: those of the sound module, and of the
        faulty one."""
        return self._trace(CommandKind.TRACE, instructions, spec)

    def trace_blocks(self, position: int, spec: TraceSpec) -> list[Traced]:
        """From a block entry on to ``position``, as ``run``, and what each block did."""
        return self._trace(CommandKind.TRACE_BLOCKS, position, spec)

    def _trace(self, kind: CommandKind, target: int, spec: TraceSpec) -> list[Traced]:
        reports = self._command(kind, target, msgspec.msgpack.encode(spec))
        return [Traced(b"" if report is None else report.detail) for report in reports]

    def _command(self, kind: CommandKind, target: int = 0, payload: bytes = b"") -> list[Report | None]:
        alive = [module for module in self.modules if module.alive]
        by_position = kind in (CommandKind.RUN, CommandKind.TRACE_BLOCKS)
        blocks = max(0, target - self._start) if by_position else target
        attempt = self._runner.command(alive, kind, target, payload, blocks)
        for loss in attempt.losses:
            if loss.module is self.sound:
                raise Lost(loss.how)
            loss.module.close()
        reports: dict[int, Report] = {}
        self.written = set()
        for result in attempt.results:
            reports[result.module.index] = result.report
            self.written |= {page for page in result.memory.listed() if page < self._image.ram_bytes // PAGE_BYTES}
        self._touched |= self.written
        return [reports.get(module.index) for module in self.modules]

    # ---- looking ----

    @property
    def touched(self) -> set[int]:
        """Pages that either of them wrote since it was rewound."""
        return set(self._touched)

    def different_pages(self) -> list[int]:
        """Those whose content differs."""
        sound, faulty = self.sound.memory(), self.faulty.memory()

        def differ(first: int, pages: int) -> bool:
            part = slice(first * PAGE_BYTES, (first + pages) * PAGE_BYTES)
            return bytes(sound[part]) != bytes(faulty[part])

        step = 256
        parts = [first for first in range(0, len(sound) // PAGE_BYTES, step) if differ(first, step)]
        return [page for first in parts for page in range(first, first + step) if differ(page, 1)]

    def differences(self, reports: Sequence[Report | None], pages: Sequence[int]) -> tuple[Difference, ...]:
        """In what the modules differ now, these pages of their memory included; their values are (sound, faulty)."""
        sound, faulty = reports
        if sound is None or faulty is None:
            return (Difference("death", "module", ("alive", "gone")),)
        memories = [module.memory() for module in self.modules]
        return (*state_differences([sound, faulty]), *memory_differences(memories, pages, MAX_RUNS))

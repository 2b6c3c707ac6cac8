"""What becomes of an epoch on which modules do not agree: roll back, run it again, find out who is wrong.

Each step asks a little more than the one before, and the first that brings agreement is the last:

1. All modules return to the verified state (the pages that somebody wrote) and run the epoch again. If they agree now,
   the fault was transient, and whoever had another result the first time had it.
2. The same with all of RAM put right: a bit may have flipped in a page that nobody wrote.
3. The majority decides. Where two stand against each other an arbiter, a fresh module built from the verified
   state, runs the epoch too. The odd one out is faulty for good.
4. No two are alike: the machine stops, in the verified state. It never guesses.

Modules that die or hang on the way are no witnesses any more. When none is left, a fresh one starts from the verified
state: nothing was lost, since nothing had left.
"""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
import xxhash

from ftvm.errors import EngineError, HostError
from ftvm.module.link import CommandKind, Load, Report, Snapshot
from ftvm.monitor.compare import Difference, Divergence, compare
from ftvm.monitor.epoch import Attempt, Epoch, EpochRunner, Result
from ftvm.monitor.image import PageList, VerifiedImage, WrittenMemory
from ftvm.monitor.module_handle import ModuleHandle, ModuleLost
from ftvm.units import PAGE_BYTES

MAX_FRESH = 3
"""Fresh modules for one epoch. An epoch that kills every module it runs on is beyond recovery."""

VERDICT_TRANSIENT = "transient"  # rolled back; the module stays
VERDICT_FAILED_OVER = "failed-over"  # the module left service, others go on
VERDICT_RESTARTED = "restarted"  # no module was left; a fresh one goes on
VERDICT_FAIL_STOP = "fail-stop"


class Incident(msgspec.Struct, frozen=True):
    """A divergence or a loss, and what was done about it.

    ``module`` is the index of the faulty module, None when nobody can say; ``recovered_in_ms`` None when it was not.
    ``epoch`` is the one in which it happened, None for what a scrub found.
    """

    divergence: Divergence
    module: int | None
    verdict: str
    recovered_in_ms: float | None
    epoch: Epoch | None = None


class FailStop(Exception):
    """Nobody can say who is right. The verified state is sound."""


class Service(Protocol):
    """The modules of the machine, as recovery needs them."""

    @property
    def in_service(self) -> list[ModuleHandle]: ...

    def fresh(self) -> ModuleHandle:
        """A module that is ready for commands, not in service; its RAM may hold anything. Raises HostError."""
        ...

    def enlist(self, module: ModuleHandle) -> None:
        """Take a fresh module into service, in the place of one that left."""
        ...

    def discard(self, module: ModuleHandle) -> None:
        """End a fresh module that is not needed any more."""
        ...

    def fail(self, module: ModuleHandle, kind: str, how: str) -> None:
        """Take a module out of service; its process ends. ``kind`` as in Difference."""
        ...

    def charge(self, module: ModuleHandle, kind: str) -> bool:
        """Count a transient fault. False: the module had too many and must leave service."""
        ...


class Recovery:
    """Settles epochs; ``on_incident`` hears of each incident when it is over, ``on_cold_tlbs`` when modules go on from
    the verified state with TLBs that are cold now."""

    def __init__(
        self,
        image: VerifiedImage,
        runner: EpochRunner,
        service: Service,
        on_incident: Callable[[Incident], None],
        on_cold_tlbs: Callable[[], None],
    ) -> None:
        self._image = image
        self._runner = runner
        self._service = service
        self._on_incident = on_incident
        self._on_cold_tlbs = on_cold_tlbs
        self._began_s = 0.0
        self._epoch: Epoch | None = None

    def settle(self, epoch: Epoch, attempt: Attempt, divergence: Divergence | None) -> Result:
        """Bring an epoch to a result that may be committed: it is what the image compared last.

        ``divergence`` is what comparing the attempt's results found. Raises FailStop, HostError.
        """
        self._began_s = time.monotonic()
        self._epoch = epoch
        self._bury(attempt)
        if divergence is not None:
            return self._diagnose(epoch, attempt.results, divergence)
        if attempt.results:
            return attempt.results[0]  # somebody was lost, but those who are left agree
        return self._restart(epoch)

    def scrub(self, first: int, pages: int) -> None:
        """At a sync point: compare part of all modules' RAM with the image, and put right what differs.

        It finds what no dirty log shows: a bit that flipped in a page that nobody writes.
        """
        self._began_s = time.monotonic()
        self._epoch = None
        modules = self._service.in_service
        count, runs = self._image.scrub([module.standing_memory() for module in modules], first, pages)
        if count == 0:
            return
        wrong = [module for index, module in enumerate(modules) if any(index in run.modules for run in runs)]
        for module in wrong:
            module.restore(self._image, everywhere=True)
        self._bury(self._load(modules))
        alive = [module for module in wrong if module in self._service.in_service]
        values = tuple("differs" if module in wrong else "as verified" for module in modules)
        found = tuple(Difference("memory", f"ram {run.offset:#x}", values) for run in runs)
        numbers = tuple(module.index for module in modules)
        divergence = Divergence(self._image.position, found, numbers, tuple(None for _ in modules), count)
        self._transient(alive, "memory", divergence)

    # ---- the steps ----

    def _diagnose(self, epoch: Epoch, first: Sequence[Result], divergence: Divergence) -> Result:
        pages = self._image.compared_pages()
        before = {result.module.index: _fingerprint(result, pages) for result in first}
        kind = divergence.differences[0].kind
        for everywhere in (False, True):
            results = self._again(self._service.in_service, epoch, everywhere)
            if len(results) < 2:
                break
            if compare(self._image, *_columns(results)) is None:
                truth = _fingerprint(results[0], pages)
                wrong = [
                    r.module
                    for r in results
                    if before.get(r.module.index) != truth or r.module.index == divergence.culprit
                ]
                self._transient(wrong, kind, divergence)
                return self._staged([r for r in results if r.module in self._service.in_service])
        return self._vote(epoch, divergence)

    def _vote(self, epoch: Epoch, divergence: Divergence) -> Result:
        """Find two results that are alike, with fresh witnesses as long as that can help."""
        for _ in range(MAX_FRESH):
            witnesses = self._service.in_service
            if not witnesses:
                return self._restart(epoch)
            arbiter = None
            if len(witnesses) < 3:
                try:
                    arbiter = self._service.fresh()
                except (EngineError, HostError):  # so there is nobody who could say who is right
                    break
                witnesses = [*witnesses, arbiter]
            results = self._again(witnesses, epoch, everywhere=True)
            alike = self._alike(results)
            if alike:
                return self._fail_over(alike, results, arbiter, divergence)
            if arbiter is not None:
                self._service.discard(arbiter)
            if len(results) > 2:
                break
        self._report(divergence, None, VERDICT_FAIL_STOP, recovered=False)
        raise FailStop

    def _fail_over(
        self, alike: list[Result], results: Sequence[Result], arbiter: ModuleHandle | None, divergence: Divergence
    ) -> Result:
        right = [result.module for result in alike]
        outvoted = [r.module for r in results if r.module not in right and r.module is not arbiter]
        for module in outvoted:
            self._service.fail(module, divergence.differences[0].kind, "its results were outvoted")
            self._report(divergence, module.index, VERDICT_FAILED_OVER)
        if not outvoted:  # all who are left agree now
            self._report(divergence, None, VERDICT_TRANSIENT)
        if arbiter is not None:
            self._service.discard(arbiter)
        return self._staged([result for result in alike if result.module is not arbiter])

    def _restart(self, epoch: Epoch) -> Result:
        """No module is left: go on from the verified state with a fresh one."""
        for _ in range(MAX_FRESH):
            module = self._service.fresh()
            results = self._again([module], epoch, everywhere=True)
            if results:
                self._service.enlist(module)
                return self._staged(results)
        every = Difference("death", "every module", (f"the epoch ended {MAX_FRESH} fresh ones too",))
        self._report(Divergence(self._image.position, (every,), (), ()), None, VERDICT_FAIL_STOP, recovered=False)
        raise FailStop

    # ---- what the steps are made of ----

    def _again(self, modules: Sequence[ModuleHandle], epoch: Epoch, everywhere: bool) -> list[Result]:
        """All return to the verified state, with cold TLBs, and run the epoch; results of those who lived."""
        pages = None if everywhere else PageList.of(self._image.compared_pages())
        for module in modules:
            module.restore(self._image, everywhere)
        loaded = self._load(modules, pages)
        self._bury(loaded)
        attempt = self._runner.run([result.module for result in loaded.results], epoch, again=True)
        self._bury(attempt)
        return attempt.results

    def _load(self, modules: Sequence[ModuleHandle], pages: PageList | None = None) -> Attempt:
        """Registers and chips of the verified state; RAM was put right before, in ``pages`` or anywhere: what was
        translated from there is dropped. TLBs are cold afterwards."""
        snapshot = Snapshot(self._image.arch, self._image.board)
        payload = msgspec.msgpack.encode(Load(snapshot, None if pages is None else pages.encode()))
        self._on_cold_tlbs()
        return self._runner.command(modules, CommandKind.LOAD, payload=payload)

    def _bury(self, attempt: Attempt) -> None:
        for loss in attempt.losses:
            if loss.module not in self._service.in_service:
                self._service.discard(loss.module)
                continue
            self._service.fail(loss.module, loss.kind, loss.how)
            verdict = VERDICT_FAILED_OVER if self._service.in_service else VERDICT_RESTARTED
            self._report(_loss(self._image.position, loss), loss.module.index, verdict)

    def _transient(self, wrong: Sequence[ModuleHandle], kind: str, divergence: Divergence) -> None:
        for module in wrong:
            if self._service.charge(module, kind) or len(self._service.in_service) == 1:
                self._report(divergence, module.index, VERDICT_TRANSIENT)
            else:
                self._service.fail(module, kind, "it has faults too often")
                self._report(divergence, module.index, VERDICT_FAILED_OVER)
        if not wrong:  # whoever had it left no trace in its result: a page that changed while it was compared
            self._report(divergence, None, VERDICT_TRANSIENT)

    def _alike(self, results: Sequence[Result]) -> list[Result]:
        """The results that are equal to another one; empty if no two are."""
        for result in results:
            same = [o for o in results if o is result or compare(self._image, *_columns([result, o])) is None]
            if len(same) > 1:
                return same
        return []

    def _staged(self, results: Sequence[Result]) -> Result:
        """Let the image compare them once more, so that it commits what they agree on."""
        divergence = compare(self._image, *_columns(results))
        if divergence is not None:  # they agreed a moment ago, and have stood still since
            self._report(divergence, None, VERDICT_FAIL_STOP, recovered=False)
            raise FailStop
        return results[0]

    def _report(self, divergence: Divergence, module: int | None, verdict: str, recovered: bool = True) -> None:
        elapsed_ms = (time.monotonic() - self._began_s) * 1e3 if recovered else None
        self._on_incident(Incident(divergence, module, verdict, elapsed_ms, self._epoch))


def _fingerprint(result: Result, pages: Sequence[int]) -> bytes:
    """A hash over everything the module made of the epoch, as far as these pages of its memory go."""
    report = result.report
    state = xxhash.xxh3_128(
        repr((report.stop, report.position, report.instruction, report.wake_ns, report.detail)).encode()
    )
    for part in (report.arch, report.board, report.outputs):
        state.update(part)
    for page in pages:
        state.update(result.memory.read(page * PAGE_BYTES, PAGE_BYTES))
    return bytes(state.digest())


def _columns(results: Sequence[Result]) -> tuple[list[Report], list[WrittenMemory], list[int]]:
    """What comparing them takes."""
    attempt = Attempt([*results])
    return attempt.reports, attempt.memories, attempt.modules


def _loss(position: int, lost: ModuleLost) -> Divergence:
    difference = Difference(lost.kind, f"module {lost.module.index}", (lost.how,))
    return Divergence(position, (difference,), (lost.module.index,), (None,), 0, lost.module.index)

"""One epoch on some modules: tell them all the same, wait until each has reported or is lost."""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from ftvm._native import ffi, lib
from ftvm.module.events import Input
from ftvm.module.link import CommandKind, LinkFault, Report
from ftvm.monitor.deadline import Deadline
from ftvm.monitor.delivery import Delivery
from ftvm.monitor.image import VerifiedImage, WrittenMemory
from ftvm.monitor.module_handle import ModuleHandle, ModuleLost
from ftvm.monitor.turns import AGREED, APART, SILENT, Course, Passed, Turns

SPIN_US = 300
"""How long the monitor looks for reports before it sleeps, where it has a core for itself: so long a guest takes that
wants the next block of its disk."""
SHORT_US = 2000
"""How long it then waits for reports and nothing else. Most epochs that a device ends are over by then."""


class Epoch(msgspec.Struct, frozen=True):
    """What every module is told at the verified position: take ``inputs``, run to ``target``."""

    target: int
    inputs: Sequence[Input] = ()
    blocks: int = 0
    """From the verified position to the target."""


class Result(msgspec.Struct, frozen=True):
    """What one module made of an epoch."""

    module: ModuleHandle
    report: Report
    memory: WrittenMemory


class Attempt(msgspec.Struct):
    """What all modules made of one epoch: ``results`` in the order of the modules, and who was lost meanwhile.
    ``agreed``: they have been compared, and are all alike. ``in_image``: what they wrote is in the image already."""

    results: list[Result] = msgspec.field(default_factory=list)
    losses: list[ModuleLost] = msgspec.field(default_factory=list)
    agreed: bool = False
    in_image: bool = False

    @property
    def reports(self) -> list[Report]:
        return [result.report for result in self.results]

    @property
    def memories(self) -> list[WrittenMemory]:
        return [result.memory for result in self.results]

    @property
    def modules(self) -> list[int]:
        """The numbers of those that gave a result."""
        return [result.module.index for result in self.results]


Wait = Callable[[float], None]
"""Sleep until something happens, at most so many seconds. May raise to end the run."""


class EpochRunner:
    """Commands modules, and waits for them as long as it is reasonable.

    ``began_s`` and ``ended_s`` are the monotonic times at which the modules last began to run, and at which the last
    of those that did report had done so: waiting for a module that hangs is a pause.
    """

    def __init__(self, image: VerifiedImage, wait: Wait, has_work: Callable[[], bool] = lambda: False) -> None:
        """On the thread that waits. ``has_work``: ``wait`` does something that should not be kept waiting itself."""
        lib.ft_link_take_short_turns()
        self._image = image
        self._wait = wait
        self._has_work = has_work
        self._cores = len(os.sched_getaffinity(0))
        self._links: tuple[list[ModuleHandle], Any] = [], ffi.NULL
        self._turns = Turns(image)
        self._deadline = Deadline()
        self.began_s = self.ended_s = time.monotonic()

    @property
    def epoch_s(self) -> float:
        """Wall time that the last command took."""
        return self.ended_s - self.began_s

    def run(self, modules: Sequence[ModuleHandle], epoch: Epoch, again: bool = False) -> Attempt:
        """One epoch on all of ``modules``; ``again`` without the faults that were to be injected in it."""
        kind = CommandKind.RUN_AGAIN if again else CommandKind.RUN
        delivery = Delivery(epoch.inputs)
        delivery.place([module.ram for module in modules], self._image)
        attempt = self.command(modules, kind, epoch.target, delivery.payload, epoch.blocks)
        if not attempt.losses:
            self._deadline.observe(self.epoch_s)
        return attempt

    def command(
        self,
        modules: Sequence[ModuleHandle],
        kind: CommandKind,
        target: int = 0,
        payload: bytes = b"",
        blocks: int = 0,
    ) -> Attempt:
        """Any one command to all of ``modules``, for which they run so many ``blocks`` at most."""
        attempt = Attempt()
        self.began_s = time.monotonic()
        for module in modules:
            try:
                module.post(kind, target, payload)
            except LinkFault as fault:
                attempt.losses.append(ModuleLost(module, "link", str(fault)))
        self.ended_s = self.began_s
        self._await_soon(modules, attempt, blocks)
        self._collect(modules, attempt)
        return attempt

    def turn(
        self,
        modules: list[ModuleHandle],
        epoch: Epoch,
        course: Course | None,
        on_passed: Callable[[Passed], None],
    ) -> Attempt:
        """As ``run``, and all are compared at once if none is lost. With a ``course`` sync points may be passed, of
        which ``on_passed`` is told before anybody waits; the attempt is then that of the epoch behind them."""
        attempt = Attempt()
        turns = self._turns
        delivery = Delivery(epoch.inputs)
        delivery.place([module.ram for module in modules], self._image)
        for module in modules:
            module.told()
        spin_us, sleep_us = (0, 0) if self._has_work() else (self._spin_us(modules), SHORT_US)
        verdict = turns.run(modules, CommandKind.RUN, epoch.target, delivery.payload, (spin_us, sleep_us), course)
        self.began_s = turns.began_s
        passed = turns.passed()
        if passed is not None:
            self._deadline.observe(turns.longest_epoch_s)
            on_passed(passed)
        if verdict == SILENT:
            attempt.losses += [
                ModuleLost(module, "link", "it cannot be told anything")
                for index, module in enumerate(modules)
                if turns.refused(index)
            ]
            self.ended_s = self.began_s
            self._await(modules, attempt, epoch.blocks)
            verdict = APART if attempt.losses else turns.judge()
        else:
            self.ended_s = turns.ended_s
        if verdict == AGREED:
            report = turns.report()
            memories = [module.has_reported(report, turns.written_pages(i)) for i, module in enumerate(modules)]
            attempt.results = [Result(module, report, memory) for module, memory in zip(modules, memories, strict=True)]
            attempt.agreed, attempt.in_image = True, turns.in_image
        else:
            self._collect(modules, attempt)
        if not attempt.losses:
            self._deadline.observe(self.epoch_s)
        return attempt

    def drain(self, modules: Sequence[ModuleHandle]) -> list[ModuleLost]:
        """Wait for those that were told something before somebody raised out of ``command``; who was lost."""
        attempt = Attempt()
        self.began_s = time.monotonic()
        waiting = [module for module in modules if module.awaited]
        self._await_soon(waiting, attempt, blocks=0)
        self._collect(waiting, attempt)
        return attempt.losses

    def _collect(self, modules: Sequence[ModuleHandle], attempt: Attempt) -> None:
        lost = {loss.module.index for loss in attempt.losses}
        for module in modules:
            if module.index not in lost:
                try:
                    attempt.results.append(Result(module, *module.collect()))
                except ModuleLost as loss:
                    attempt.losses.append(loss)

    def _await_soon(self, modules: Sequence[ModuleHandle], attempt: Attempt, blocks: int) -> None:
        """A moment for reports alone, in one call, then as ``_await``."""
        if not attempt.losses and not self._has_work() and self._all_report_soon([*modules]):
            self.ended_s = time.monotonic()
        else:
            self._await(modules, attempt, blocks)

    def _await(self, modules: Sequence[ModuleHandle], attempt: Attempt, blocks: int) -> None:
        waiting = [module for module in modules if module.index not in {loss.module.index for loss in attempt.losses}]
        asked = len(waiting)
        first_done_s: float | None = None
        while waiting:
            left = [module for module in waiting if not module.reported()]
            if len(left) < len(waiting):
                self.ended_s = time.monotonic()
            if not (waiting := left):
                return
            for module in [module for module in waiting if not module.alive]:
                waiting.remove(module)
                attempt.losses.append(ModuleLost(module, "death", module.cause_of_death()))
            elapsed_s = time.monotonic() - self.began_s
            if first_done_s is None and len(waiting) < asked:
                first_done_s = elapsed_s
            limit_s = self._deadline.limit_s(blocks, first_done_s)
            if elapsed_s > limit_s:
                attempt.losses += [ModuleLost(module, "hang", f"no report for {elapsed_s:.1f} s") for module in waiting]
                return
            if waiting:
                self._wait(limit_s - elapsed_s)

    def _all_report_soon(self, modules: list[ModuleHandle]) -> bool:
        if modules != self._links[0]:
            self._links = modules, ffi.new("ft_link *[]", [module.link for module in modules])
        return bool(lib.ft_link_await_reports(self._links[1], len(modules), self._spin_us(modules), SHORT_US))

    def _spin_us(self, modules: Sequence[ModuleHandle]) -> int:
        return SPIN_US if self._cores > len(modules) else 0

"""The places for modules in the machine: who is in service, who left and why, who is on the way back."""

import contextlib
import math
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from enum import StrEnum

import msgspec

from ftvm.errors import EngineError, HostError, UsageError
from ftvm.monitor.eventlog import (
    MODULE_FAILED,
    MODULE_FAULT,
    MODULE_FILLING,
    MODULE_JOINED,
    MODULE_PULLED,
    Detail,
    EventLog,
)
from ftvm.monitor.image import VerifiedImage
from ftvm.monitor.module_handle import ModuleHandle
from ftvm.monitor.policing import Policing, Verdict
from ftvm.monitor.resync import Resync

RETRY_S = 10.0
"""After the host refused a process or its memory."""


class State(StrEnum):
    """Of a module, as an operator sees it."""

    DUPLEXED = "duplexed"  # in service, beside others
    ONLINE = "online"  # in service, alone
    DUPLEXING = "duplexing"  # being brought back
    OFFLINE = "offline"  # taken out by hand
    FAILED = "failed"  # out of service because of faults


class Slot(msgspec.Struct):
    """One place for a module. Its ``policing`` counts faults by kind (see Difference); ``restarts`` are processes after
    the first."""

    index: int
    handle: ModuleHandle | None = None
    pid: int = 0
    out: State = State.OFFLINE
    """What it is while not in service."""
    policing: Policing = msgspec.field(default_factory=Policing)
    last_fault: datetime | None = None
    restarts: int = 0
    join_pause_ms: float | None = None
    """What its last return cost the guest."""
    may_return: bool = False
    """It left through no proven defect (it died, it hung): bring it back without being asked."""


class Service:
    """Slots and the modules in them. ``start_module(index)`` starts a process; raises HostError.

    Every change is an event about ``module N``, with a sentence as its detail ``reason``.
    """

    def __init__(
        self,
        count: int,
        start_module: Callable[[int], ModuleHandle],
        image: VerifiedImage,
        log: EventLog,
    ) -> None:
        self.slots = [Slot(index) for index in range(count)]
        self.resync: Resync | None = None
        self._returning: Slot | None = None
        self._told_progress = 0.0
        self._fresh: list[ModuleHandle] = []
        self._retired: list[ModuleHandle] = []
        self._refused_until_s = 0.0
        self._start_module = start_module
        self._image = image
        self._log = log

    # ---- what recovery needs ----

    @property
    def in_service(self) -> list[ModuleHandle]:
        return [slot.handle for slot in self.slots if slot.handle is not None]

    def start(self) -> None:
        """Start one module for each slot."""
        for slot in self.slots:
            self._seat(slot, self._start_module(slot.index))

    def fill(self) -> None:
        """Wait until all modules take commands, and put the start image into them: not before, since an engine that
        comes up tries itself out at the bottom of its RAM."""
        for module in self.in_service:
            module.await_ready()
        for module in self.in_service:
            module.fill(self._image)

    def fresh(self) -> ModuleHandle:
        """A module that is ready for commands; one that was on its way back is taken first."""
        if self.resync is not None:
            module, idle = self.resync.module, self.resync.stands_still()
            self._abandon_resync()
            if not idle:
                self._retire(module)
            else:
                with contextlib.suppress(EngineError, HostError):  # died on its way, as those did whom it is to replace
                    return self._ready(module)
        return self._ready(self._start_module(self._vacant().index if self._vacant_slots() else len(self.slots)))

    def _ready(self, module: ModuleHandle) -> ModuleHandle:
        self._fresh.append(module)
        try:
            module.await_ready()
        except BaseException:
            self.discard(module)
            raise
        return module

    def enlist(self, module: ModuleHandle) -> None:
        self._fresh.remove(module)
        slot = self.slots[module.index]
        slot.restarts += 1
        self._seat(slot, module)
        self._tell(MODULE_JOINED, slot, f"in service, {self._company()}")

    def discard(self, module: ModuleHandle) -> None:
        if module in self._fresh:
            self._fresh.remove(module)
        self._retire(module)

    def fail(self, module: ModuleHandle, kind: str, how: str) -> None:
        """Death and hangs may have any cause, so the module may come back; a proven defect stays outside."""
        slot = self._slot_of(module)
        self._count(slot, kind)
        slot.out, slot.may_return = State.FAILED, kind in ("death", "hang") and slot.policing.may_restart()
        slot.handle = None
        self._retire(module)
        self._tell(MODULE_FAILED, slot, f"{kind}: {how}; {self._company()}")

    def charge(self, module: ModuleHandle, kind: str) -> bool:
        slot = self._slot_of(module)
        verdict = self._count(slot, kind)
        self._tell(MODULE_FAULT, slot, f"transient {kind} fault, rolled back")
        return verdict is Verdict.KEEP

    def vacate(self, module: ModuleHandle) -> None:
        """Its place is empty now; nobody is blamed."""
        self._slot_of(module).handle = None
        self._retire(module)

    def complete(self) -> list[ModuleHandle]:
        """Give every empty place a module that holds the image; those who were in service already. Raises HostError."""
        if self.resync is not None:
            self._retire(self.resync.module)
            self._abandon_resync()
        before = self.in_service
        for slot in self._vacant_slots():
            module = self._start_module(slot.index)
            self._ready(module).fill(self._image)
            self.enlist(module)
        return before

    # ---- by hand ----

    def slot(self, index: int) -> Slot:
        """Raises UsageError for one that is not there."""
        if not 0 <= index < len(self.slots):
            raise UsageError(f"there is no module {index}", f"this machine has 0 to {len(self.slots) - 1}")
        return self.slots[index]

    def pull(self, index: int) -> None:
        """Take a module out of service. Raises UsageError for one that is not in, or the last one."""
        slot = self.slot(index)
        if slot.handle is None:
            raise UsageError(f"module {index} is not in service", "ftvm ctl NAME status shows who is")
        if len(self.in_service) == 1:
            raise UsageError(f"module {index} is the only one in service", "insert another one first, or quit")
        module, slot.handle = slot.handle, None
        slot.out, slot.may_return = State.OFFLINE, False
        self._retire(module)
        self._tell(MODULE_PULLED, slot, f"out of service by hand; {self._company()}")

    def insert(self, index: int) -> None:
        """Begin to bring a module back. Raises UsageError when it is in service or another one is on its way, HostError
        when the host refuses.
        """
        slot = self.slot(index)
        if slot.handle is not None:
            raise UsageError(f"module {index} is in service already")
        if self._returning is not None:
            raise UsageError(f"module {self._returning.index} is on its way back", "one at a time")
        self.resync = Resync(self._start_module(index), self._image)
        self._returning = slot
        self._told_progress = 0.0
        self._tell(MODULE_FILLING, slot, "its memory is being filled", done=0.0)

    def bring_back(self) -> None:
        """Begin to bring back a module that left without a proven defect. When the host refuses, it is asked again."""
        if self._returning is not None or time.monotonic() < self._refused_until_s:
            return
        for slot in self._vacant_slots():
            if slot.may_return:
                try:
                    self.insert(slot.index)
                except HostError as error:
                    self._refused_until_s = time.monotonic() + RETRY_S
                    self._tell(MODULE_FAILED, slot, f"cannot be started, trying again: {error.message}")
                return

    def attention_in_s(self) -> float | None:
        """When to look at a module on its way back, or bring one back, though nothing happens; 0 or less is now."""
        if self.resync is not None:
            left_s = self.resync.left_s()
            return left_s if math.isfinite(left_s) else None
        if any(slot.may_return for slot in self._vacant_slots()):
            return self._refused_until_s - time.monotonic()
        return None

    # ---- the end of a resync ----

    def seat_returned(self, pause_ms: float) -> None:
        """The module of the resync is complete and joins; the others stood still for ``pause_ms``."""
        assert self.resync is not None and self._returning is not None
        slot, module = self._returning, self.resync.module
        self.resync = self._returning = None
        slot.restarts += 1
        self._seat(slot, module)
        slot.join_pause_ms = pause_ms
        self._tell(MODULE_JOINED, slot, f"back in service, {self._company()}")

    def lose_returning(self) -> None:
        """The module that is on its way back died, or hangs."""
        assert self.resync is not None and self._returning is not None
        kind, how = ("death", "died") if not self.resync.module.alive else ("hang", "got stuck")
        if self._count(self._returning, kind) is Verdict.REMOVE:
            self._returning.may_return = False
        self._tell(MODULE_FAILED, self._returning, f"{how} on its way back")
        self._retire(self.resync.module)
        self._abandon_resync()

    def close(self) -> None:
        """End all processes: all at once, since it takes each a while to free its memory."""
        modules = [*self.in_service, *self._fresh, *self._retired]
        if self.resync is not None:
            modules.append(self.resync.module)
        for module in modules:
            module.let_go()
        for module in modules:
            module.close()

    @property
    def untidy(self) -> bool:
        """``tidy`` has something to do, now or soon."""
        return bool(self._retired)

    def tidy(self) -> bool:
        """Free a little of what modules had that left, in the shadow of an epoch. False: there is nothing to do now."""
        if not self._retired or not self._retired[0].has_ended():  # its end will wake us
            return False
        if not self._retired[0].give_back_slice():
            self._retired.pop(0).close()
        return True

    def tell_progress(self) -> None:
        """Of the module that is on its way back, in steps of a tenth."""
        assert self.resync is not None and self._returning is not None
        done = int(self.resync.progress() * 10) / 10
        if done > self._told_progress:
            self._told_progress = done
            self._tell(MODULE_FILLING, self._returning, f"its memory is filled to {done:.0%}", done=done)

    # ---- looking ----

    def state_of(self, slot: Slot) -> State:
        if slot.handle is not None:
            return State.DUPLEXED if len(self.in_service) > 1 else State.ONLINE
        return State.DUPLEXING if slot is self._returning else slot.out

    # ---- small things ----

    def _seat(self, slot: Slot, module: ModuleHandle) -> None:
        slot.handle, slot.pid, slot.may_return = module, module.pid, False

    def _retire(self, module: ModuleHandle) -> None:
        """It ends at once, but the others shall not stand still until its memory is free."""
        module.kill()
        if module not in self._retired:
            self._retired.append(module)

    def _abandon_resync(self) -> None:
        self.resync = self._returning = None

    def _vacant_slots(self) -> Iterable[Slot]:
        return [slot for slot in self.slots if slot.handle is None]

    def _vacant(self) -> Slot:
        return next(iter(self._vacant_slots()))

    def _slot_of(self, module: ModuleHandle) -> Slot:
        return next(slot for slot in self.slots if slot.handle is module)

    def _count(self, slot: Slot, kind: str) -> Verdict:
        slot.last_fault = datetime.now(UTC)
        return slot.policing.record_fault(kind, time.monotonic())

    def _tell(self, kind: str, slot: Slot, reason: str, **detail: Detail) -> None:
        self._log.emit(kind, f"module {slot.index}", reason=reason, **detail)

    def _company(self) -> str:
        count = len(self.in_service)
        return {0: "no module is left", 1: "the machine is simplex"}.get(count, f"{count} modules in lockstep")

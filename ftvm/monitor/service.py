"""The places for modules in the machine: who is in service, who left and why, who is on the way back."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from ftvm.errors import UsageError
from ftvm.monitor.image import VerifiedImage
from ftvm.monitor.module_handle import ModuleHandle
from ftvm.monitor.resync import Resync


class State(StrEnum):
    """Of a module, as an operator sees it."""

    DUPLEXED = "duplexed"  # in service, beside others
    ONLINE = "online"  # in service, alone
    DUPLEXING = "duplexing"  # being brought back
    OFFLINE = "offline"  # taken out by hand
    FAILED = "failed"  # out of service because of faults


@dataclass
class Slot:
    """One place for a module. ``faults`` counts by kind (see Difference), ``restarts`` processes after the first."""

    index: int
    handle: ModuleHandle | None = None
    pid: int = 0
    out: State = State.OFFLINE
    """What it is while not in service."""
    faults: dict[str, int] = field(default_factory=dict)
    last_fault: str | None = None
    restarts: int = 0
    may_return: bool = False
    """It left through no proven defect (it died, it hung): bring it back without being asked."""


OnChange = Callable[[str, int, str], None]
"""Called with (kind of event, index of the module, one line): a module's state has changed."""


class Service:
    """Slots and the modules in them. ``start_module(index)`` starts a process; raises HostError."""

    def __init__(
        self,
        count: int,
        start_module: Callable[[int], ModuleHandle],
        image: VerifiedImage,
        on_change: OnChange,
    ) -> None:
        self.slots = [Slot(index) for index in range(count)]
        self.resync: Resync | None = None
        self._returning: Slot | None = None
        self._start_module = start_module
        self._image = image
        self._on_change = on_change

    # ---- what recovery needs ----

    @property
    def in_service(self) -> list[ModuleHandle]:
        return [slot.handle for slot in self.slots if slot.handle is not None]

    def start(self) -> None:
        """Start one module for each slot."""
        for slot in self.slots:
            self._seat(slot, self._start_module(slot.index))

    def fill(self) -> None:
        """Put the start image into all modules, and wait until they take commands."""
        for module in self.in_service:
            module.fill(self._image)
        for module in self.in_service:
            module.await_ready()

    def fresh(self) -> ModuleHandle:
        """A module that is ready for commands; one that was on its way back is taken first."""
        if self.resync is not None:
            module = self.resync.module
            self._abandon_resync()
        else:
            module = self._start_module(self._vacant().index if self._vacant_slots() else len(self.slots))
        module.await_ready()
        return module

    def enlist(self, module: ModuleHandle) -> None:
        slot = self._vacant()
        slot.restarts += 1
        self._seat(slot, module)
        self._on_change("joined", slot.index, f"in service, {self._company()}")

    def discard(self, module: ModuleHandle) -> None:
        module.close()
        if self.resync is not None and self.resync.module is module:
            self._abandon_resync()

    def fail(self, module: ModuleHandle, kind: str, how: str) -> None:
        """Death and hangs may have any cause, so the module may come back; a proven defect stays outside."""
        slot = self._slot_of(module)
        self._count(slot, kind)
        slot.out, slot.may_return = State.FAILED, kind in ("death", "hang")
        slot.handle = None
        module.close()
        self._on_change("failed", slot.index, f"{kind}: {how}; {self._company()}")

    def charge(self, module: ModuleHandle, kind: str) -> bool:
        slot = self._slot_of(module)
        self._count(slot, kind)
        self._on_change("fault", slot.index, f"transient {kind} fault, rolled back")
        return True

    # ---- by hand ----

    def pull(self, index: int) -> None:
        """Take a module out of service. Raises UsageError for one that is not in, or the last one."""
        slot = self._slot(index)
        if slot.handle is None:
            raise UsageError(f"module {index} is not in service", "ftvm ctl NAME status shows who is")
        if len(self.in_service) == 1:
            raise UsageError(f"module {index} is the only one in service", "insert another one first, or quit")
        module, slot.handle = slot.handle, None
        slot.out, slot.may_return = State.OFFLINE, False
        module.close()
        self._on_change("pulled", index, f"out of service by hand; {self._company()}")

    def insert(self, index: int) -> None:
        """Begin to bring a module back. Raises UsageError when it is in service or another one is on its way."""
        slot = self._slot(index)
        if slot.handle is not None:
            raise UsageError(f"module {index} is in service already")
        if self._returning is not None:
            raise UsageError(f"module {self._returning.index} is on its way back", "one at a time")
        self._returning = slot
        self.resync = Resync(self._start_module(index), self._image)
        self._on_change("returning", index, "its memory is being filled")

    def bring_back(self) -> None:
        """Begin to bring back a module that left without a proven defect, if there is one."""
        if self._returning is None:
            for slot in self._vacant_slots():
                if slot.may_return:
                    self.insert(slot.index)
                    return

    # ---- the end of a resync ----

    def seat_returned(self) -> ModuleHandle:
        """The module of the resync is complete and joins."""
        assert self.resync is not None and self._returning is not None
        slot, module = self._returning, self.resync.module
        self.resync = self._returning = None
        slot.restarts += 1
        self._seat(slot, module)
        self._on_change("joined", slot.index, f"back in service, {self._company()}")
        return module

    def lose_returning(self) -> None:
        """The module that was on its way back died."""
        assert self.resync is not None and self._returning is not None
        self._on_change("failed", self._returning.index, "died on its way back")
        self._count(self._returning, "death")
        self.resync.module.close()
        self._abandon_resync()

    def close(self) -> None:
        """End all processes."""
        for module in self.in_service:
            module.close()
        if self.resync is not None:
            self.resync.module.close()

    # ---- looking ----

    def state_of(self, slot: Slot) -> State:
        if slot.handle is not None:
            return State.DUPLEXED if len(self.in_service) > 1 else State.ONLINE
        return State.DUPLEXING if slot is self._returning else slot.out

    # ---- small things ----

    def _seat(self, slot: Slot, module: ModuleHandle) -> None:
        slot.handle, slot.pid, slot.may_return = module, module.pid, False

    def _abandon_resync(self) -> None:
        self.resync = self._returning = None

    def _vacant_slots(self) -> Iterable[Slot]:
        return [slot for slot in self.slots if slot.handle is None]

    def _vacant(self) -> Slot:
        return next(iter(self._vacant_slots()))

    def _slot(self, index: int) -> Slot:
        if not 0 <= index < len(self.slots):
            raise UsageError(f"there is no module {index}", f"this machine has 0 to {len(self.slots) - 1}")
        return self.slots[index]

    def _slot_of(self, module: ModuleHandle) -> Slot:
        return next(slot for slot in self.slots if slot.handle is module)

    def _count(self, slot: Slot, kind: str) -> None:
        slot.faults[kind] = slot.faults.get(kind, 0) + 1
        slot.last_fault = kind

    def _company(self) -> str:
        count = len(self.in_service)
        return {0: "no module is left", 1: "the machine is simplex"}.get(count, f"{count} modules in lockstep")

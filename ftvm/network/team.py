"""A NIC made of legs, as the monitor uses it: frames in, frames out, failover, and the operator's commands.

One thread, the monitor's, calls everything here, and nothing here waits. Whenever ``fileno()`` can be read, or
``deadline_s()`` has come, call ``receive``: events arrive from within it, and from within the other calls.
"""

import select
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum

import msgspec

from ftvm import legs
from ftvm.errors import FtvmError, UsageError
from ftvm.legs import LegChanged, LegFault, LegState
from ftvm.network import announcement
from ftvm.network.duplicates import DuplicateFilter
from ftvm.network.events import ActiveLeg, Event
from ftvm.network.faulty import Fault, FaultyLeg
from ftvm.network.frame import MAC_BYTES, Frame
from ftvm.network.leg import Leg, LegFailed, Reason
from ftvm.network.offload import finished

ANNOUNCE_AFTER_S = (0.0, 0.1, 0.3)
"""When a new active leg is announced: a switch whose port has just come up may miss the first one."""

Open = Callable[[], Leg]
"""Opens a leg anew; raises FtvmError."""


class TeamMode(StrEnum):
    """How several legs are one NIC."""

    ACTIVE_BACKUP = "active-backup"  # the traffic takes one leg; another one when that fails
    BROADCAST = "broadcast"  # each frame takes every leg, and of its copies the first one is kept


class LegStatus(legs.LegStatus, frozen=True, kw_only=True):
    """``dropped``: frames that it could not take."""

    faults: dict[str, int]
    dropped: int


class NicStatus(msgspec.Struct, frozen=True):
    """``state`` is duplex, simplex or down, by how many legs can carry traffic. Frames are counted as the guest sees
    them."""

    state: str
    mode: TeamMode
    sent: int
    received: int
    dropped: int
    legs: list[LegStatus]


class _Place(msgspec.Struct):
    """Where a leg is plugged in."""

    index: int
    where: str
    open: Open
    leg: Leg | None = None
    up: bool = False
    """As it was when we looked last."""
    reason: str = ""
    """Why it is not up."""
    dropped: int = 0
    """By legs that were here before."""
    faults: dict[str, int] = msgspec.field(default_factory=dict)
    pulled: bool = False


class Team:
    """The NIC with the address ``mac`` on legs that ``places`` name and open.

    Raises FtvmError when one cannot be opened; a link that is down is no error.
    """

    may_leave = frozenset({LegState.DUPLEXED, LegState.ONLINE, LegState.FAILED})
    """One without a link comes back by itself, unless it is pulled."""

    def __init__(
        self,
        mac: bytes,
        places: Sequence[tuple[str, Open]],
        mode: TeamMode,
        on_event: Callable[[Event], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.sent = 0
        self.received = 0
        self._mac = mac
        self._mode = mode
        self._on_event = on_event
        self._clock = clock
        self._events: deque[Event] = deque()
        self._delivering = False
        self._lost = 0  # while no leg had a link
        self._active: int | None = None
        self._announcements: deque[float] = deque()
        self._filter = DuplicateFilter(clock) if mode is TeamMode.BROADCAST and len(places) > 1 else None
        self._places = [_Place(index, where, opener) for index, (where, opener) in enumerate(places)]
        self._poll = select.epoll()
        try:
            for place in self._places:
                place.up = self._open(place).link_up
                place.reason = "" if place.up else str(Reason.LINK_DOWN)
        except BaseException:
            self.close()
            raise
        self._active = next((place.index for place in self._places if place.up), None)

    # ---- frames ----

    def fileno(self) -> int:
        """Can be read when ``receive`` has something to do."""
        return self._poll.fileno()

    def deadline_s(self) -> float | None:
        """When, on the monotonic clock, ``receive`` must be called even if nothing can be read."""
        moments = [place.leg.deadline_s() for place in self._places if place.leg is not None]
        if self._announcements:
            moments.append(self._announcements[0])
        return min((moment for moment in moments if moment is not None), default=None)

    @property
    def link_up(self) -> bool:
        """What the guest is to see."""
        return self._active is not None

    def receive(self, limit: int) -> list[Frame]:
        """Up to about ``limit`` frames for the guest. Brings links up to date."""
        frames: list[Frame] = []
        now_s = self._clock()
        ready = {descriptor for descriptor, _ in self._poll.poll(0)}
        for place in self._places:
            leg = place.leg
            if leg is None:
                continue
            deadline_s = leg.deadline_s()
            if leg.fileno() in ready or (deadline_s is not None and deadline_s <= now_s):
                frames += self._receive(place, leg, limit)
        if self._announcements and self._announcements[0] <= now_s:
            self._announce(now_s)
        self.received += len(frames)
        self._deliver()
        return frames

    def send(self, frames: Sequence[Frame]) -> None:
        """Frames of the guest, in order. What no leg takes is lost, as on a wire."""
        self.sent += len(frames)
        if self._filter is not None:
            plain = [Frame(data) for data in finished(frames)]
            up = [place for place in self._places if place.up]
            for place in up:
                self._send(place, plain)
            self._lost += 0 if up else len(frames)
        else:
            while self._active is not None:  # a leg that breaks now is followed by the next one
                if self._send(self._places[self._active], frames):
                    break
            else:
                self._lost += len(frames)
        self._deliver()

    # ---- the operator ----

    def pull(self, leg: int) -> None:
        """Take a leg out of service. Raises UsageError for the only one that can carry the traffic."""
        place = self._place(leg)
        if place.pulled:
            return
        if place.up and not any(other.up for other in self._places if other is not place):
            raise UsageError(f"leg {leg} is the only one with a link", "bring the other one back first")
        self._close(place)
        self._change(place, False, "by the operator", pulled=True)
        self._deliver()

    def insert(self, leg: int, on_done: Callable[[FtvmError | None], None] = lambda error: None) -> None:
        """Open a leg anew, with a link or without, and tell. Raises UsageError for one in service, and what opening it
        raises; it stays out then."""
        place = self._place(leg)
        if place.up:
            raise UsageError(f"leg {leg} is in service", "pull it first")
        self._close(place)
        up = self._open(place).link_up
        self._change(place, up, "" if up else str(Reason.LINK_DOWN), pulled=False)
        self._deliver()
        on_done(None)

    def inject(self, leg: int, fault: Fault) -> None:
        """Let a leg go wrong until it is pulled and inserted anew. Raises UsageError for one that is out of service."""
        place = self._place(leg)
        if place.leg is None:
            raise UsageError(f"leg {leg} is not in service", "insert it first")
        place.leg = FaultyLeg(place.leg, fault)
        self._look(place)
        self._deliver()

    def status(self) -> NicStatus:
        up = sum(place.up for place in self._places)
        return NicStatus(
            state=("down", "simplex", "duplex")[min(up, 2)],
            mode=self._mode,
            sent=self.sent,
            received=self.received,
            dropped=self._lost + sum(_dropped(place) for place in self._places),
            legs=[self._leg_status(place) for place in self._places],
        )

    def close(self) -> None:
        for place in self._places:
            self._close(place)
        self._poll.close()

    # ---- legs ----

    def _open(self, place: _Place) -> Leg:
        place.leg = leg = place.open()
        self._poll.register(leg.fileno(), select.EPOLLIN)
        return leg

    def _close(self, place: _Place) -> None:
        leg, place.leg = place.leg, None
        if leg is not None:
            place.dropped += leg.dropped
            self._poll.unregister(leg.fileno())
            leg.close()

    def _receive(self, place: _Place, leg: Leg, limit: int) -> list[Frame]:
        try:
            frames = leg.receive(limit)
        except LegFailed as failure:
            self._fault(place, failure)
            return []
        self._look(place)
        return list(self._for_guest(place, leg, frames)) if frames else frames

    def _for_guest(self, place: _Place, leg: Leg, frames: list[Frame]) -> Iterator[Frame]:
        if len(self._places) == 1:
            yield from frames
        elif self._filter is None and place.index != self._active:
            return  # a switch sends to both what is meant for all
        else:
            for frame in frames:
                # What left by one leg may come back by another.
                if frame.data[MAC_BYTES : 2 * MAC_BYTES] == self._mac and not leg.reflects:
                    continue
                if self._filter is None or self._filter.is_new(place.index, frame.data):
                    yield frame

    def _send(self, place: _Place, frames: Sequence[Frame]) -> bool:
        """False: the leg broke, and is out of service now."""
        assert place.leg is not None
        try:
            place.leg.send(frames)
        except LegFailed as failure:
            self._fault(place, failure)
            return False
        return True

    def _fault(self, place: _Place, failure: LegFailed) -> None:
        self._charge(place, failure.reason, failure.detail)
        self._change(place, False, str(failure.reason))

    def _look(self, place: _Place) -> None:
        """Has its link come up, or gone down?"""
        up = place.leg is not None and place.leg.link_up
        if up and place.up:
            return
        if place.up:
            self._charge(place, Reason.LINK_DOWN, f"{place.where} has lost its link")
        self._change(place, up, "" if up else str(Reason.LINK_DOWN))

    def _charge(self, place: _Place, reason: Reason, detail: str) -> None:
        place.faults[reason] = place.faults.get(reason, 0) + 1
        self._events.append(LegFault(place.index, reason, detail))

    def _change(self, place: _Place, up: bool, reason: str, pulled: bool | None = None) -> None:
        before = [self._state(each) for each in self._places]
        place.up, place.reason = up, reason
        place.pulled = place.pulled if pulled is None else pulled
        for each, state in zip(self._places, before, strict=True):
            if self._state(each) is not state:
                why = reason if each is place else f"leg {place.index} is {self._state(place)}"
                self._events.append(LegChanged(each.index, self._state(each), why or "link up"))
        self._choose()

    def _choose(self) -> None:
        """The active leg stays the one it is as long as it can: each change costs frames."""
        if self._active is not None and self._places[self._active].up:
            return
        active = next((place.index for place in self._places if place.up), None)
        if active == self._active:
            return
        self._active = active
        self._events.append(ActiveLeg(active))
        if active is not None and len(self._places) > 1:
            now_s = self._clock()
            self._announcements = deque(now_s + after_s for after_s in ANNOUNCE_AFTER_S)
            self._announce(now_s)

    def _announce(self, now_s: float) -> None:
        """Let switches learn where the NIC's address is now."""
        due = 0
        while self._announcements and self._announcements[0] <= now_s:
            self._announcements.popleft()
            due += 1
        place = None if self._active is None else self._places[self._active]
        if due and place is not None and place.leg is not None and not place.leg.reflects:
            self._send(place, [Frame(announcement.frame(self._mac))])

    def _state(self, place: _Place) -> LegState:
        if place.pulled:
            return LegState.OFFLINE
        if not place.up:
            return LegState.FAILED
        return LegState.DUPLEXED if sum(each.up for each in self._places) > 1 else LegState.ONLINE

    def _leg_status(self, place: _Place) -> LegStatus:
        return LegStatus(
            index=place.index,
            where=place.where,
            state=self._state(place),
            reason=place.reason,
            active=place.up if self._filter is not None else place.index == self._active,
            faults=dict(place.faults),
            dropped=_dropped(place),
        )

    # ---- small things ----

    def _place(self, leg: int) -> _Place:
        if not 0 <= leg < len(self._places):
            raise UsageError(f"no leg {leg}", f"this NIC has legs 0 to {len(self._places) - 1}")
        return self._places[leg]

    def _deliver(self) -> None:
        """An observer may pull a leg, which makes events of its own: they come after."""
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._events:
                self._on_event(self._events.popleft())
        finally:
            self._delivering = False


def _dropped(place: _Place) -> int:
    return place.dropped + (0 if place.leg is None else place.leg.dropped)

"""Several legs are one NIC: what the guest sees, whichever of them works."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.errors import HostError, UsageError
from ftvm.legs import LegChanged, LegFault, LegState
from ftvm.network.duplicates import FORGET_S, MAX_FRAMES, DuplicateFilter
from ftvm.network.events import ActiveLeg, Event
from ftvm.network.faulty import Fault, FaultModel
from ftvm.network.frame import Frame
from ftvm.network.leg import LegFailed, Reason
from ftvm.network.loopback import MAX_WAITING, Loopback, Wire
from ftvm.network.team import ANNOUNCE_AFTER_S, Team, TeamMode
from tests.network.legs import HOST, NIC, TestLeg, frame

BODIES = st.lists(st.binary(min_size=1, max_size=3), max_size=30)


class Bench:
    """A team on test legs, with its events and a clock of its own."""

    def __init__(self, mode: TeamMode = TeamMode.ACTIVE_BACKUP, legs: int = 2) -> None:
        self.now_s = 100.0
        self.events: list[Event] = []
        self.legs: list[TestLeg] = [TestLeg() for _ in range(legs)]
        places = [(f"test:{index}", lambda index=index: self.open(index)) for index in range(legs)]
        self.team = Team(NIC, places, mode, self.events.append, lambda: self.now_s)

    def open(self, index: int) -> TestLeg:
        if self.legs[index].closed:
            self.legs[index] = TestLeg()
        return self.legs[index]

    def bodies(self, leg: int) -> list[bytes]:
        """What left by a leg, without announcements."""
        return [each.data[14:] for each in self.legs[leg].sent if each.data[12:14] == b"\x08\x00"]

    def announcements(self, leg: int) -> int:
        return sum(each.data[12:14] == b"\x80\x35" for each in self.legs[leg].sent)

    def receive(self) -> list[bytes]:
        return [each.data[14:] for each in self.team.receive(100)]


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.team.close()


@pytest.fixture
def broadcast() -> Iterator[Bench]:
    made = Bench(TeamMode.BROADCAST)
    yield made
    made.team.close()


def test_the_traffic_takes_the_first_leg_and_the_other_one_is_not_heard(bench: Bench) -> None:
    bench.team.send([frame(b"out", NIC)])
    bench.legs[0].arrive(frame(b"in"))
    bench.legs[1].arrive(frame(b"in"))
    assert bench.receive() == [b"in"]
    assert (bench.bodies(0), bench.bodies(1)) == ([b"out"], [])


def test_a_lost_link_moves_the_traffic_and_announces_it_several_times(bench: Bench) -> None:
    bench.legs[0].link(False)
    assert bench.receive() == []
    bench.team.send([frame(b"out", NIC)])
    assert bench.bodies(1) == [b"out"] and bench.team.link_up
    assert bench.announcements(1) == 1
    for after_s in ANNOUNCE_AFTER_S[1:]:
        assert bench.team.deadline_s() == 100.0 + after_s
        bench.now_s = 100.0 + after_s
        bench.receive()
    assert bench.announcements(1) == len(ANNOUNCE_AFTER_S) and bench.team.deadline_s() is None
    announcement = bench.legs[1].sent[0].data
    assert announcement[:12] == 6 * b"\xff" + NIC and len(announcement) == 60
    assert bench.events == [
        LegFault(0, Reason.LINK_DOWN, "test:0 has lost its link"),
        LegChanged(0, LegState.FAILED, "link down"),
        LegChanged(1, LegState.ONLINE, "leg 0 is failed"),
        ActiveLeg(1),
    ]


def test_the_traffic_stays_where_it_is_when_the_first_leg_comes_back(bench: Bench) -> None:
    bench.legs[0].link(False)
    bench.receive()
    bench.legs[0].link(True)
    bench.receive()
    bench.team.send([frame(b"out", NIC)])
    assert (bench.bodies(0), bench.bodies(1)) == ([], [b"out"])
    assert bench.team.status().state == "duplex"


def test_a_leg_that_breaks_while_sending_loses_nothing_that_another_one_takes(bench: Bench) -> None:
    bench.legs[0].failure = LegFailed(Reason.GONE, "unplugged")
    bench.team.send([frame(b"1", NIC), frame(b"2", NIC)])
    assert bench.bodies(1) == [b"1", b"2"]
    assert bench.events[0] == LegFault(0, Reason.GONE, "unplugged")
    assert bench.team.status().legs[0].faults == {"interface gone": 1}


def test_without_any_link_the_guest_sees_none_and_frames_are_counted(bench: Bench) -> None:
    for leg in bench.legs:
        leg.link(False)
    bench.receive()
    assert not bench.team.link_up and bench.team.status().state == "down"
    bench.team.send([frame(b"lost", NIC)])
    assert bench.team.status().dropped == 1
    bench.legs[1].sent.clear()
    bench.legs[1].link(True)
    bench.receive()
    assert bench.team.link_up and bench.announcements(1) == 1


def test_what_left_by_one_leg_and_comes_back_by_the_other_is_no_news(bench: Bench) -> None:
    bench.legs[0].arrive(frame(b"mine", NIC), frame(b"theirs", HOST))
    assert bench.receive() == [b"theirs"]


def test_a_pulled_leg_is_closed_and_the_last_one_stays(bench: Bench) -> None:
    bench.team.pull(0)
    assert bench.legs[0].closed
    assert bench.team.status().legs[0].state is LegState.OFFLINE
    with pytest.raises(UsageError, match="only one with a link"):
        bench.team.pull(1)
    bench.team.insert(0)
    assert bench.team.status().state == "duplex"
    bench.team.pull(1)
    bench.team.send([frame(b"out", NIC)])
    assert bench.bodies(0) == [b"out"]


def test_only_what_is_out_of_service_can_be_inserted(bench: Bench) -> None:
    with pytest.raises(UsageError, match="in service"):
        bench.team.insert(0)
    with pytest.raises(UsageError, match="no leg 2"):
        bench.team.insert(2)


def test_a_leg_that_does_not_open_stays_out(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.team.pull(0)

    def refuse(index: int) -> TestLeg:
        raise HostError("no such interface")

    monkeypatch.setattr(bench, "open", refuse)
    with pytest.raises(HostError):
        bench.team.insert(0)
    assert bench.team.status().legs[0].state is LegState.OFFLINE and bench.team.link_up


def test_an_observer_may_pull_the_leg_it_is_told_of() -> None:
    bench = Bench()
    seen: list[Event] = []

    def observe(event: Event) -> None:
        seen.append(event)
        if isinstance(event, LegFault):
            bench.team.pull(event.leg)

    bench.team._on_event = observe
    bench.legs[0].link(False)
    bench.receive()
    assert bench.team.status().legs[0].state is LegState.OFFLINE
    assert [type(event) for event in seen] == [LegFault, LegChanged, LegChanged, ActiveLeg, LegChanged]
    bench.team.close()


def test_a_leg_that_does_not_open_at_the_start_closes_those_that_did() -> None:
    first = TestLeg()

    def refuse() -> TestLeg:
        raise HostError("no such interface")

    with pytest.raises(HostError):
        Team(NIC, [("a", lambda: first), ("b", refuse)], TeamMode.ACTIVE_BACKUP, lambda event: None)
    assert first.closed


# ---- broadcast ----


def test_each_frame_takes_every_leg_and_comes_once(broadcast: Bench) -> None:
    broadcast.team.send([frame(b"out", NIC)])
    assert (broadcast.bodies(0), broadcast.bodies(1)) == ([b"out"], [b"out"])
    for leg in broadcast.legs:
        leg.arrive(frame(b"1"), frame(b"2"))
    assert broadcast.receive() == [b"1", b"2"]
    assert broadcast.team.status().received == 2


def test_a_lost_leg_loses_no_frame(broadcast: Bench) -> None:
    broadcast.legs[0].arrive(frame(b"1"))
    broadcast.legs[1].arrive(frame(b"1"), frame(b"2"))
    broadcast.legs[0].failure = LegFailed(Reason.IO_ERROR, "broken")
    assert broadcast.receive() == [b"1", b"2"]
    assert broadcast.team.link_up


@given(frames=BODIES, legs=st.integers(2, 3), data=st.data())
def test_whichever_leg_is_first_each_frame_is_kept_once_even_if_it_is_like_another(
    frames: list[bytes], legs: int, data: st.DataObject
) -> None:
    copies = DuplicateFilter(lambda: 0.0)
    left = [list(frames) for _ in range(legs)]
    kept = []
    while any(left):
        leg = data.draw(st.sampled_from([index for index, each in enumerate(left) if each]))
        body = left[leg].pop(0)
        if copies.is_new(leg, body):
            kept.append(body)
    assert sorted(kept) == sorted(frames)


@given(frames=BODIES, data=st.data())
def test_a_frame_that_one_leg_loses_is_kept_from_the_other(frames: list[bytes], data: st.DataObject) -> None:
    unique = [bytes([index]) + body for index, body in enumerate(frames)]
    copies = DuplicateFilter(lambda: 0.0)
    kept = []
    for body in unique:
        arrives = data.draw(st.lists(st.sampled_from([0, 1]), min_size=1, max_size=2, unique=True))
        kept += [body for leg in arrives if copies.is_new(leg, body)]
    assert kept == unique


def test_the_filter_forgets_and_stays_small() -> None:
    now_s = 0.0
    copies = DuplicateFilter(lambda: now_s)
    for number in range(2 * MAX_FRAMES):
        copies.is_new(0, number.to_bytes(4, "big"))
    assert len(copies) <= MAX_FRAMES
    now_s = FORGET_S + 1
    assert copies.is_new(1, b"another")
    assert len(copies) == 1


# ---- loopback ----


def test_a_plug_sends_everything_back_in_order_and_nothing_beyond_its_limit() -> None:
    team = Team(NIC, [("loopback", Loopback)], TeamMode.ACTIVE_BACKUP, lambda event: None)
    sent = [frame(str(number).encode(), NIC) for number in range(MAX_WAITING + 5)]
    team.send(sent)
    assert team.receive(10) == sent[:10]
    assert team.receive(MAX_WAITING) == sent[10:MAX_WAITING]
    assert team.receive(10) == []
    assert team.status().dropped == 5
    team.close()


def test_a_wire_joins_two_nics_and_its_link_is_up_while_both_are_there() -> None:
    wire = Wire()
    one, other = (Team(NIC, [("w", wire.plug)], TeamMode.ACTIVE_BACKUP, lambda event: None) for _ in range(2))
    one.receive(1)
    assert one.link_up and other.link_up
    one.send([frame(b"hello")])
    assert other.receive(10) == [frame(b"hello")] and one.receive(10) == []
    with pytest.raises(UsageError, match="two ends"):
        wire.plug()
    other.close()
    one.receive(1)
    assert not one.link_up
    one.send([frame(b"lost")])
    assert one.status().dropped == 1
    one.close()


def test_a_fault_can_take_the_link(bench: Bench) -> None:
    bench.team.inject(0, Fault(FaultModel.LINK_DOWN))
    bench.team.send([Frame(b"")])
    assert bench.team.status().legs[1].active
    with pytest.raises(UsageError):
        bench.team.pull(0)
        bench.team.inject(0, Fault(FaultModel.DROP))

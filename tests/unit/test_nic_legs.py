"""The legs of a NIC as an operator sees them: by name in ftvm ctl, in events, and out when they fail too often."""

from collections.abc import Iterator

import pytest

from ftvm.errors import UsageError
from ftvm.management import device_status
from ftvm.monitor.eventlog import EventLog
from ftvm.monitor.legs import Legs
from ftvm.monitor.policing import Policy, Threshold
from ftvm.network.team import Team, TeamMode
from tests.network.legs import NIC, TestLeg


class Bench:
    """A NIC with two legs, behind what stands in for its I/O half."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        log = EventLog(lambda: 0)
        log.follow(lambda event: self.events.append((event.kind, event.subject)))
        self.plugged = [TestLeg(), TestLeg()]
        self.legs = Legs("nic0", log)
        places = [(f"test:{index}", lambda index=index: self.open(index)) for index in range(2)]  # type: ignore[misc]
        self.team = Team(NIC, places, TeamMode.ACTIVE_BACKUP, self.legs.on_event)
        self.legs.begin(self.team)

    def open(self, index: int) -> TestLeg:
        if self.plugged[index].closed:
            self.plugged[index] = TestLeg()
        return self.plugged[index]

    def link(self, leg: int, up: bool) -> None:
        self.plugged[leg].link(up)
        self.team.receive(1)
        self.legs.tend()

    def states(self) -> list[tuple[str, bool | None]]:
        return [(leg.state, leg.active) for leg in device_status(self.legs).legs]


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.team.close()


def test_pulled_and_inserted_by_hand(bench: Bench) -> None:
    assert (device_status(bench.legs).state, bench.states()) == ("duplex", [("duplexed", True), ("duplexed", False)])
    bench.legs.pull(0)
    assert (device_status(bench.legs).state, bench.states()) == ("simplex", [("offline", False), ("online", True)])
    with pytest.raises(UsageError, match="not in service"):
        bench.legs.pull(0)
    with pytest.raises(UsageError, match="only one with a link"):
        bench.legs.pull(1)
    bench.legs.insert(0)
    assert bench.states() == [("duplexed", False), ("duplexed", True)]
    assert bench.events == [("leg-pulled", "nic0.0"), ("nic-active", "nic0"), ("leg-joined", "nic0.0")]


def test_who_waits_for_a_leg_that_comes_back_without_a_link_is_told(bench: Bench) -> None:
    bench.link(0, False)
    bench.events.clear()
    bench.plugged[0].link_up = False
    bench.open = lambda index: _down()  # type: ignore[method-assign]
    bench.legs.insert(0)
    assert ("leg-failed", "nic0.0") in bench.events


def _down() -> TestLeg:
    leg = TestLeg()
    leg.link_up = False
    return leg


def test_a_link_that_is_lost_too_often_takes_the_leg_out(bench: Bench) -> None:
    bench.legs.records[1].policing.threshold = Threshold(seconds=1e6, samples=2)
    bench.link(1, False)
    assert bench.states()[1] == ("failed", False)
    bench.link(1, True)
    assert bench.states()[1] == ("duplexed", False)
    bench.link(1, False)
    assert bench.states()[1] == ("offline", False)
    assert device_status(bench.legs).legs[1].faults == {"link down": 2}
    assert not bench.legs.records[1].policing.may_restart()


def test_the_only_leg_with_a_link_is_kept_whatever_its_faults(bench: Bench) -> None:
    bench.legs.pull(1)
    bench.legs.records[0].policing.threshold = Threshold(policy=Policy.NEVER_RESTART)
    bench.plugged[0].link(False)
    bench.team.receive(1)
    bench.plugged[0].link(True)
    bench.team.receive(1)
    bench.legs.tend()
    assert bench.states() == [("online", True), ("offline", False)]
    assert ("leg-kept", "nic0.0") in bench.events

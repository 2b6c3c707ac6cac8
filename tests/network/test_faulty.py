"""A leg that goes wrong on purpose: each model does what it says, and the same seed does the same."""

import time

import pytest

from ftvm.errors import UsageError
from ftvm.network.faulty import Direction, Fault, FaultModel, FaultyLeg
from tests.network.legs import TestLeg, frame

NUMBERS = [str(number).encode() for number in range(200)]


def send(fault: Fault) -> tuple[list[bytes], FaultyLeg]:
    inner = TestLeg()
    leg = FaultyLeg(inner, fault)
    for number in NUMBERS:
        leg.send([frame(number)])
    sent = [each.data[14:] for each in inner.sent]
    inner.close()
    return sent, leg


def test_drop_loses_frames() -> None:
    sent, _ = send(Fault(FaultModel.DROP, rate=0.3, seed=1))
    assert len(NUMBERS) * 0.5 < len(sent) < len(NUMBERS) * 0.9
    assert sent == [number for number in NUMBERS if number in sent]


def test_corrupt_changes_one_bit() -> None:
    inner = TestLeg()
    leg = FaultyLeg(inner, Fault(FaultModel.CORRUPT, seed=3))
    before = frame(b"a body")
    leg.send([before])
    (after,) = inner.sent
    different = int.from_bytes(before.data, "big") ^ int.from_bytes(after.data, "big")
    assert different.bit_count() == 1
    inner.close()


def test_duplicate_sends_twice() -> None:
    sent, _ = send(Fault(FaultModel.DUPLICATE, count=1))
    assert sent == [NUMBERS[0], *NUMBERS]


def test_reorder_swaps_neighbours() -> None:
    sent, _ = send(Fault(FaultModel.REORDER, count=1))
    assert sent == [NUMBERS[1], NUMBERS[0], *NUMBERS[2:]]


def test_delay_keeps_the_order_and_says_when_it_is_over() -> None:
    inner = TestLeg()
    leg = FaultyLeg(inner, Fault(FaultModel.DELAY, count=1, seconds=0.05))
    leg.send([frame(b"1"), frame(b"2")])
    assert inner.sent == []
    deadline_s = leg.deadline_s()
    assert deadline_s is not None
    time.sleep(max(0.0, deadline_s - time.monotonic()))
    inner.arrive()
    leg.receive(1)
    assert [each.data[14:] for each in inner.sent] == [b"1", b"2"] and leg.deadline_s() is None
    inner.close()


def test_link_down_ends_by_itself_when_it_has_a_time() -> None:
    inner = TestLeg()
    leg = FaultyLeg(inner, Fault(FaultModel.LINK_DOWN, seconds=0.05))
    leg.send([frame(b"lost")])
    assert (leg.link_up, leg.dropped) == (False, 1)
    while not leg.link_up:
        inner.arrive()
        leg.receive(1)
    leg.send([frame(b"sent")])
    assert [each.data[14:] for each in inner.sent] == [b"sent"]
    inner.close()


def test_received_frames_alone_can_be_concerned() -> None:
    inner = TestLeg()
    leg = FaultyLeg(inner, Fault(FaultModel.DROP, Direction.RECEIVED))
    leg.send([frame(b"out")])
    inner.arrive(frame(b"in"))
    assert leg.receive(10) == [] and len(inner.sent) == 1
    inner.close()


@pytest.mark.parametrize("model", [FaultModel.DROP, FaultModel.CORRUPT, FaultModel.DUPLICATE, FaultModel.REORDER])
def test_the_same_seed_does_the_same(model: FaultModel) -> None:
    fault = Fault(model, rate=0.2, seed=7)
    assert send(fault)[0] == send(fault)[0] != send(Fault(model, rate=0.2, seed=8))[0]


@pytest.mark.parametrize("fault", [{"rate": 1.5}, {"rate": -1}, {"count": -1}, {"seconds": -1.0}])
def test_a_fault_that_cannot_be_is_refused(fault: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Fault(FaultModel.DROP, **fault)  # type: ignore[arg-type]

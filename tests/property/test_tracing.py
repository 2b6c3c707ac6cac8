"""Tracing: a guest cannot tell, and what was traced is what was done."""

import random

import pytest

from ftvm.debug.divergence.pair import Traced
from ftvm.module.board import StopKind
from ftvm.module.registers import REGISTERS
from tests.divergence.machines import kernel
from tests.property.rig import GOES_ON, Rig

KERNELS = ("exceptions", "fpu", "interrupts", "paging", "selfmod")
STRETCH = 3000


def traced_blocks(rig: Rig, count: int, except_arch: dict[int, int] | None = None) -> Traced:
    trace = rig.cpu.trace(count, except_arch or {}, {}, by_block=True)
    rig.note(rig.board.run(rig.cpu.position() + count).kind)
    return Traced(trace.end())


def traced_steps(rig: Rig, count: int, except_arch: dict[int, int] | None = None) -> Traced:
    trace = rig.cpu.trace(count, except_arch or {}, {}, by_block=False)
    rig.step(count)
    return Traced(trace.end())


@pytest.fixture
def two(request: pytest.FixtureRequest) -> tuple[Rig, Rig]:
    rigs = Rig(kernel(request.param)), Rig(kernel(request.param))
    for rig in rigs:
        request.addfinalizer(rig.close)
    return rigs


@pytest.mark.parametrize("two", KERNELS, indirect=True)
def test_a_guest_whose_blocks_and_steps_were_traced_ends_as_one_that_was_not(two: tuple[Rig, Rig]) -> None:
    traced, straight = two
    rng = random.Random(1)
    while traced.end is None:
        traced_blocks(traced, rng.randrange(1, STRETCH))
        if traced.end is None and not traced.cpu.instruction():
            traced_steps(traced, rng.randrange(1, 50))
        if traced.end is None:
            traced.run(traced.cpu.position() + rng.randrange(1, 20_000))
    straight.run()
    assert traced.end == straight.end
    assert traced.state(ram=True) == straight.state(ram=True), traced.state(True).differences(straight.state(True))


@pytest.mark.parametrize("two", KERNELS, indirect=True)
def test_equal_histories_have_equal_effects_and_every_block_has_one(two: tuple[Rig, Rig]) -> None:
    rng = random.Random(2)
    start = rng.randrange(1000)
    for rig in two:
        rig.run(start)
    for _ in range(3):
        ours, theirs = (traced_blocks(rig, STRETCH) for rig in two)
        assert ours.effects == theirs.effects and len(ours) > 1
        places = [ours.place(number) for number in range(len(ours))]
        if two[0].end is None:
            assert [place.position for place in places] == [*range(places[0].position, places[-1].position + 1)]
        assert not any(place.instruction for place in places)
        assert all(size for _, _, size, _ in ours.blocks())


@pytest.mark.parametrize("by_block", [False, True])
def test_a_register_or_a_store_that_differs_shows_and_what_is_excepted_does_not(by_block: bool) -> None:
    ours, theirs = Rig(kernel("paging")), Rig(kernel("paging"))
    trace = traced_blocks if by_block else traced_steps
    r15 = REGISTERS["r15"]
    excepted = {r15.offset + byte: 0xFF for byte in range(8)}
    for rig in (ours, theirs):
        rig.run(2000)
    value = (r15.of(theirs.arch()) ^ 1 << 40).to_bytes(8, "little")
    theirs.cpu.write_state(r15.offset, value)
    assert trace(ours, 5, excepted).effects == trace(theirs, 5, excepted).effects
    assert trace(ours, 5).effects != trace(theirs, 5).effects
    ours.close()
    theirs.close()


def test_steps_go_on_from_block_to_block() -> None:
    """In one call, and to where single ones come."""
    rig, single = Rig(kernel("interrupts")), Rig(kernel("interrupts"))
    rng = random.Random(3)
    for _ in range(20):
        count = rng.randrange(1, 400)
        stop, done = rig.board.step(count), 0
        while done < count and single.end is None:
            single.step()
            done += 1
            if stop.kind != StopKind.POSITION and single.state() == rig.state():
                break
        assert single.state() == rig.state()
        rig.note(stop.kind)
        assert stop.kind in GOES_ON
        rig.run(rig.cpu.position() + 500)
        single.run(rig.cpu.position())
    rig.close()
    single.close()

"""Single steps: a guest cannot tell, and nobody who looks at block entries either."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ftvm.guests.catalogue import Guest
from ftvm.module.registers import REGISTERS
from ftvm.units import MIB
from tests.divergence.machines import kernel
from tests.property.rig import Rig, State

KERNELS = ("hello", "echo", "exceptions", "fpu", "interrupts", "memory", "paging", "selfmod", "triplefault")


@contextmanager
def rigs(count: int, image: Path, **options: Any) -> Iterator[list[Rig]]:
    made = [Rig(image, **options) for _ in range(count)]
    try:
        yield made
    finally:
        for rig in made:
            rig.close()


def same(stepped: State, straight: State) -> None:
    assert stepped == straight, stepped.differences(straight)


def step_at(stepped: Rig, straight: Rig, places: list[int], rng: random.Random) -> None:
    """Take some steps at each of the places, leave the block one way or the other, and compare there."""
    for place in places:
        stepped.run(place)
        stepped.step(rng.randrange(1, 40))
        if rng.random() < 0.5:
            stepped.step(stepped.cpu.instructions_left())
        else:
            stepped.run(stepped.cpu.position())
        straight.run(stepped.cpu.position())
        same(stepped.state(), straight.state())


@pytest.mark.parametrize("name", KERNELS)
def test_a_guest_that_was_stepped_through_ends_as_one_that_was_not(name: str) -> None:
    with rigs(3, kernel(name)) as (stepped, straight, undisturbed):
        undisturbed.run()
        rng = random.Random(name)
        places = sorted(rng.randrange(undisturbed.cpu.position()) for _ in range(150))
        step_at(stepped, straight, places, rng)
        stepped.run()
        assert stepped.end == undisturbed.end
        same(stepped.state(ram=True), undisturbed.state(ram=True))


def test_a_stretch_of_every_instruction_of_code_that_modifies_itself() -> None:
    """Each store to the running block restarts it, which counts: the case in which a position is easily lost."""
    restarts = 0
    with rigs(2, kernel("selfmod")) as (stepped, straight):
        stepped.run(10_900)
        while stepped.cpu.position() < 11_500:
            before = stepped.cpu.position()
            stepped.step()
            restarts += stepped.cpu.position() - before > 1
            if not stepped.cpu.instruction():
                straight.run(stepped.cpu.position())
                same(stepped.state(), straight.state())
    assert restarts > 50


@pytest.mark.parametrize(("name", "first", "last"), [("exceptions", 13_000, 13_400), ("selfmod", 10_850, 11_050)])
def test_every_position_can_be_stood_at_and_gone_on_from(name: str, first: int, last: int) -> None:
    """Also where an instruction begins anew behind a block that it changed, or in which it met a data breakpoint."""
    begun_anew, compared_at = 0, None
    with rigs(3, kernel(name)) as (halting, straight, moved):
        for position in range(first, last):
            halting.run(position)
            here = halting.state(ram=True)
            assert here.position == position
            if position == compared_at:
                moved.run(position)
                same(moved.state(ram=True), here)
                compared_at = None
            if REGISTERS["alone"].of(here.arch) and compared_at is None:
                begun_anew, compared_at = begun_anew + 1, position + 3
                moved.ram[:] = here.ram
                moved.cpu.load(here.arch)
                moved.cpu.invalidate_code(0, len(moved.ram))
                moved.board.load(here.board)
                same(moved.state(ram=True), here)
        assert begun_anew > 1
        halting.run()
        straight.run()
        same(halting.state(ram=True), straight.state(ram=True))
        moved.run()
        same(moved.state(ram=True), straight.state(ram=True))


def test_linux_that_was_stepped_through_boots_as_one_that_was_not(fetched: Callable[[str], Guest]) -> None:
    guest = fetched("debian-cloud")
    options = {"initrd": guest.initrd, "append": "console=ttyS0", "ram_bytes": 128 * MIB}
    with rigs(2, guest.path, **options) as (stepped, straight):
        rng = random.Random(1)
        places = sorted(rng.randrange(60_000_000) for _ in range(300))
        step_at(stepped, straight, places, rng)
        stepped.run(61_000_000)
        straight.run(61_000_000)
        same(stepped.state(ram=True), straight.state(ram=True))


def test_the_steps_of_a_block_are_its_instructions() -> None:
    with rigs(1, kernel("hello")) as (rig,):
        rng = random.Random(2)
        for place in sorted(rng.randrange(13_000) for _ in range(100)):
            rig.run(place)
            rig.step()
            position, steps = rig.cpu.position(), 1
            instructions = rig.cpu.instruction() + rig.cpu.instructions_left()
            while rig.cpu.instruction():
                assert rig.cpu.instruction() == steps
                assert rig.cpu.instruction() + rig.cpu.instructions_left() == instructions
                assert rig.cpu.position() == position
                rig.step()
                steps += 1
            assert instructions in (0, steps)  # 0: the first step was the whole block

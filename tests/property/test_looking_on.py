"""Breakpoints and watches: they end a run in the right place, all of them do, and the guest cannot tell."""

import random

import pytest

from ftvm.module.board import StopKind
from ftvm.module.cpu import ACCESS_READ, ACCESS_WRITE
from ftvm.module.events import DebugHit, DebugWatch
from ftvm.module.registers import REGISTERS
from ftvm.platform_ports import COM1, DEBUG_EXIT
from tests.divergence.machines import kernel
from tests.property.rig import FOREVER, Rig

RIP, CS_BASE = REGISTERS["rip"], REGISTERS["cs.base"]


def here(rig: Rig) -> int:
    """The linear address of the next instruction."""
    arch = rig.arch()
    return CS_BASE.of(arch) + RIP.of(arch)


def run(rig: Rig, watch: DebugWatch, until: int = FOREVER) -> DebugHit | None:
    """Run on until something is hit; None at the guest's end."""
    while rig.end is None and rig.cpu.position() < until:
        rig.board.put([watch])
        stop = rig.board.run(until)
        rig.note(stop.kind)
        if stop.kind is StopKind.DEBUG:
            return DebugHit.decode(stop.detail.encode())
    return None


@pytest.fixture
def rig() -> Rig:
    return Rig(kernel("interrupts"))


def undisturbed() -> Rig:
    done = Rig(kernel("interrupts"))
    done.run()
    return done


def instructions(start: int, end: int) -> tuple[dict[int, int], list[tuple[int, int, int]]]:
    """How often each address is executed between two positions, and every place: (position, instruction, address)."""
    rig = Rig(kernel("interrupts"))
    rig.run(start)
    counts: dict[int, int] = {}
    places = []
    while rig.cpu.position() < end or rig.cpu.instruction():
        address, inside = here(rig), rig.cpu.instruction()
        position = rig.cpu.position() - (inside > 0)
        rig.step()
        if rig.cpu.position() - position <= 1:
            counts[address] = counts.get(address, 0) + 1
            places.append((position, inside, address))
    return counts, places


def test_breakpoints_end_a_run_before_every_block_that_has_one(rig: Rig) -> None:
    _, places = instructions(11_000, 13_000)
    rng = random.Random(1)
    chosen = rng.sample(sorted({address for _, _, address in places}), 5)
    wanted = sorted({position for position, _, address in places if address in chosen and position >= 11_000})
    rig.run(11_000)
    met = []
    while (hit := run(rig, DebugWatch(chosen), until=13_000)) is not None:
        assert hit.kind == "breakpoints" and chosen[hit.index] == hit.where
        met.append(rig.cpu.position())
        rig.step()  # into the block, and behind the breakpoints of it
        rig.run(rig.cpu.position())
    assert met == [position for position in wanted if position < 13_000]


def test_a_breakpoint_is_passed_only_where_the_run_begins(rig: Rig) -> None:
    counts, _ = instructions(11_000, 12_000)
    address = max(counts, key=lambda at: counts[at])
    rig.run(11_000)
    assert run(rig, DebugWatch([address])) is not None
    while here(rig) != address:
        rig.step()
    position = rig.cpu.position() - (rig.cpu.instruction() > 0)
    again = run(rig, DebugWatch([address]))
    assert again is not None and (rig.cpu.position(), here(rig)) == (position + (rig.cpu.instruction() > 0), address)
    assert run(rig, DebugWatch([address], passed=(position, address))) is not None
    assert rig.cpu.position() > position


def test_a_thousand_breakpoints_change_nothing(rig: Rig) -> None:
    rng = random.Random(2)
    counts, _ = instructions(11_000, 12_000)
    nowhere = [rng.getrandbits(47) for _ in range(1000)]
    while run(rig, DebugWatch([*nowhere, min(counts)])) is not None and rig.cpu.position() < 20_000:
        rig.step()
    rig.run()
    assert rig.state(ram=True) == undisturbed().state(ram=True)


def test_changed_bytes_end_the_run_after_the_block_that_changed_them(rig: Rig) -> None:
    rig.run(11_000)
    stepped = Rig(kernel("interrupts"))
    stepped.run(11_000)
    stack = REGISTERS["rsp"].of(rig.arch()) & ~0xFFF
    changed = set()
    while stepped.cpu.position() < 12_000:
        before = stepped.ram[stack : stack + 4096]
        stepped.run(stepped.cpu.position() + 1)
        if stepped.ram[stack : stack + 4096] != before:
            changed.add(stepped.cpu.position())
    met = set()
    while (hit := run(rig, DebugWatch(memory=[(stack, 4096)]), until=12_000)) is not None:
        assert hit == DebugHit("memory", 0, stack)
        met.add(rig.cpu.position())
    # An interrupt writes its frame before its handler's first block, one position earlier than that is over.
    assert all(position in changed or position + 1 in changed for position in met)
    assert all(position in met or position - 1 in met for position in changed)
    assert len(changed) > 50


@pytest.mark.parametrize("name", ["rbx", "rsp", "rflags", "cr2", "xmm0", "gdtr.limit"])
def test_a_changed_register_ends_the_run(rig: Rig, name: str) -> None:
    register = REGISTERS[name]
    stepped = Rig(kernel("interrupts"))
    before = register.of(stepped.arch())
    while stepped.end is None and register.of(stepped.arch()) == before and stepped.cpu.position() < 12_000:
        stepped.run(stepped.cpu.position() + 1)
    hit = run(rig, DebugWatch(registers=["r15", name]), until=12_000)
    assert rig.cpu.position() == stepped.cpu.position()
    if register.of(stepped.arch()) != before:
        assert hit == DebugHit("registers", 1, register.offset)


def test_ports_and_devices_end_the_run_when_they_are_accessed(rig: Rig) -> None:
    hit = run(rig, DebugWatch(ports=[(0, 1, ACCESS_READ), (COM1, 8, ACCESS_WRITE)]))
    assert hit is not None and hit.kind == "ports" and hit.index == 1 and COM1 <= hit.where < COM1 + 8
    hit = run(rig, DebugWatch(devices=[(0xFEE00000, 4096, ACCESS_READ | ACCESS_WRITE)]))
    assert hit is not None and hit.kind == "devices" and 0xFEE00000 <= hit.where < 0xFEE01000
    while run(rig, DebugWatch(ports=[(DEBUG_EXIT, 1, ACCESS_READ)])) is not None:
        raise AssertionError("the debug-exit port is only written")
    assert rig.state(ram=True) == undisturbed().state(ram=True)


def test_accesses_to_linear_addresses_end_the_run(rig: Rig) -> None:
    """The stack: written by calls, read by returns."""
    rig.run(11_000)
    slot = (REGISTERS["rsp"].of(rig.arch()) & ~7) - 8
    for access in (ACCESS_WRITE, ACCESS_READ):
        watch = DebugWatch(linear=[(slot, 8, access)])
        before = rig.ram[slot : slot + 8]
        hit = run(rig, watch)
        assert hit is not None and hit.kind == "linear" and slot - 8 < hit.where < slot + 8
        assert access == ACCESS_WRITE or rig.ram[slot : slot + 8] != before or hit.where >= slot
    rig.run()
    assert rig.state(ram=True) == undisturbed().state(ram=True)


def test_a_step_ends_at_the_instruction_that_does_it(rig: Rig) -> None:
    watch = DebugWatch(ports=[(COM1, 8, ACCESS_WRITE)])
    assert run(rig, watch) is not None
    target = rig.cpu.position()
    again = Rig(kernel("interrupts"))
    again.run(target - 1)
    again.board.put([watch])
    stop = again.board.step(10_000)
    assert stop.kind is StopKind.DEBUG
    assert DebugHit.decode(stop.detail.encode()).kind == "ports"
    assert again.cpu.position() == target  # the block is counted at its entry
    code = again.ram[here(again) - 1 : here(again)]
    assert code in (b"\xee", b"\xe6") or again.ram[here(again) - 2] == 0xE6  # OUT


@pytest.mark.parametrize(
    "watch",
    [
        DebugWatch(memory=[(1 << 40, 8)]),
        DebugWatch(memory=[(0, 0)]),
        DebugWatch(memory=[(0, 1 << 21)]),
        DebugWatch(registers=["rip"]),
        DebugWatch(registers=["position"]),
        DebugWatch(linear=[((1 << 64) - 4, 8, 1)]),
        DebugWatch(ports=[(port, 1, 1) for port in range(65)]),
    ],
)
def test_what_cannot_be_watched_is_refused(rig: Rig, watch: DebugWatch) -> None:
    with pytest.raises(ValueError, match="cannot be watched"):
        rig.cpu.look_for(watch)

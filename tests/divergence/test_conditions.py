"""A run goes on until something happens, and back to where it happened last: every place is the right one."""

import random
from collections.abc import Iterator

import pytest

from ftvm.debug import symbols
from ftvm.debug.code import code_address
from ftvm.debug.session import Session
from ftvm.guests import catalogue
from ftvm.machine import Machine, MachineConfig
from ftvm.module.cpu import ACCESS_READ, ACCESS_WRITE
from ftvm.module.events import DebugWatch
from ftvm.platform_ports import COM1

GUEST = catalogue.find("workload")
assert GUEST is not None
CONFIG = MachineConfig(image=GUEST.path, protocol=GUEST.kind, memory_bytes=16 << 20)
SYMBOLS = symbols.of_image(GUEST.path)

Place = tuple[int, int]


@pytest.fixture
def session() -> Iterator[Session]:
    with Machine(CONFIG) as machine:
        yield Session(machine)


def place(session: Session) -> Place:
    return session.position, session.instruction


def address(session: Session) -> int:
    return code_address(session.machine.modules[0].registers)


def test_a_breakpoint_stops_before_its_very_instruction_each_time(session: Session) -> None:
    main = SYMBOLS["main"]
    inside = main + 0x4C  # after a call: in the middle of main
    watch = DebugWatch(breakpoints=[inside, main])
    met = []
    for _ in range(2):
        assert session.run(watch=watch, position=10_000_000) is None
        assert session.hit is not None and session.hit.where == address(session)
        met.append(address(session))
    assert met == [main, inside]


def test_every_execution_is_met_once_forwards_and_backwards(session: Session) -> None:
    session.run(position=30_000)
    watch = DebugWatch(breakpoints=sorted({SYMBOLS["copy"], SYMBOLS["main"] + 0x4C, SYMBOLS["main"]}))
    end = 1_500_000
    forwards = []
    session.goto(0)
    while session.run(watch=watch, position=end) is None and session.hit is not None:
        forwards.append((place(session), address(session)))
    assert len(forwards) > 2
    assert len({where for where, _ in forwards}) == len(forwards), "and nowhere twice"
    backwards = []
    while session.back_to(watch):
        backwards.append((place(session), address(session)))
    assert backwards == forwards[::-1]
    assert session.position == 0


def test_a_breakpoint_in_a_tight_loop_is_met_back_and_forth(session: Session) -> None:
    session.run(position=1_000_000)
    loop = SYMBOLS["copy"] + 0x70
    watch = DebugWatch(breakpoints=[loop])
    here = place(session)
    assert address(session) == loop
    assert session.back_to(watch)
    before = place(session)
    assert before < here
    session.run(watch=watch)
    assert place(session) == here


def test_many_findings_long_ago_are_not_gone_through_one_by_one(session: Session) -> None:
    session.run(position=1_700_000)
    watch = DebugWatch(breakpoints=[SYMBOLS["copy"] + 0x70])
    assert session.back_to(watch)
    last = place(session)
    session.run(watch=watch, position=1_700_000)
    assert session.hit is None, "there is none after it"
    assert last[0] > 1_000_000


def test_changed_memory_and_touched_ports_are_found_both_ways(session: Session) -> None:
    session.run(position=1_000_000)
    top_of_stack = session.machine.modules[0].registers["rsp"] - 8
    watches = (
        DebugWatch(memory=[(top_of_stack, 8)]),
        DebugWatch(registers=["rbx"]),
        DebugWatch(ports=[(COM1, 1, ACCESS_READ | ACCESS_WRITE)]),
    )
    for watch in watches:
        session.goto(0)
        found = []
        while session.run(watch=watch, position=3_000_000) is None and session.hit is not None:
            found.append(place(session))
            if len(found) == 5:
                break
        assert len(found) > 1
        session.goto(*found[-1])
        for expected in reversed(found[:-1]):
            assert session.back_to(watch)
            assert place(session) == expected
            assert session.hit is not None and session.hit.index == 0


def test_looking_on_changes_nothing(session: Session) -> None:
    session.run(watch=DebugWatch(breakpoints=[SYMBOLS["copy"]]))
    session.run(watch=DebugWatch(ports=[(COM1, 1, ACCESS_WRITE)]))
    session.step_instructions(3)
    session.back_to(DebugWatch(breakpoints=[SYMBOLS["main"]]))
    random.seed(7)
    for _ in range(5):
        session.goto(random.randrange(session.present))
        session.run(watch=DebugWatch(breakpoints=[SYMBOLS["main"] + 0x4C, SYMBOLS["copy"] + 0x70]))
    session.goto_present()
    ending = session.run()
    assert ending is not None and ending.outcome == "exit"
    assert session.machine.digest == Machine(CONFIG).run().state_digest

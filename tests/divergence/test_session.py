"""Back and forth in a run: every place is again what it was, whatever lies between, and nothing leaves twice."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ftvm.debug import session as debug
from ftvm.debug.session import Session
from ftvm.errors import UsageError
from ftvm.machine import Machine, MachineConfig
from ftvm.module.fault import RegisterBit
from ftvm.monitor import recording as recordings
from tests.divergence.machines import build, golden

END = 6_000_000
WORKLOAD = {"append": "rounds=2"}


def straight(positions: list[int]) -> dict[int, str]:
    """Digests of an undisturbed run at these positions."""
    with build("workload", modules=1, **WORKLOAD) as machine:
        digests = {}
        for position in sorted(positions):
            assert machine.run_until(position) is None
            digests[position] = machine.digest
        return digests


def goto_at_random(count: int) -> None:
    chosen = random.Random(count)
    positions = [chosen.randrange(1, END) for _ in range(count)]
    digests = straight(positions)
    with build("workload", **WORKLOAD) as machine:
        session = Session(machine)
        session.run(position=END)
        for position in positions:
            session.goto(position)
            assert (session.position, session.instruction, machine.digest) == (position, 0, digests[position])
        session.goto_present()
        assert machine.run().state_digest == golden("workload", "rounds=2").result.state_digest


def test_random_places_are_what_they_are_on_a_straight_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debug, "CHECKPOINT_S", 0.05)
    goto_at_random(60)


@pytest.mark.campaign
def test_a_thousand_random_places_are_what_they_are_on_a_straight_run() -> None:
    goto_at_random(1000)


@pytest.fixture
def session() -> Iterator[Session]:
    """At position 1,000,000 of a run that has been at 1,200,000."""
    with build("workload", **WORKLOAD) as machine:
        session = Session(machine)
        session.run(position=1_200_000)
        session.goto(1_000_000)
        yield session


def place(session: Session) -> tuple[int, int, int, int]:
    registers = session.machine.modules[0].registers
    assert dict(registers) == dict(session.machine.modules[1].registers)
    return session.position, session.instruction, registers["rip"], registers["rax"]


def test_instructions_are_stepped_in_the_past_as_in_the_present(session: Session) -> None:
    past = [place(session)]
    for _ in range(60):
        session.step_instructions()
        past.append(place(session))
    assert past == sorted(past, key=lambda one: one[:2])
    assert len({one[0] for one in past}) > 3, "it went through some blocks"
    assert any(one[1] for one in past), "and stood inside of them"

    with build("workload", **WORKLOAD) as machine:
        live = Session(machine)
        live.run(position=1_000_000)
        present = [place(live)]
        for _ in range(60):
            live.step_instructions()
            present.append(place(live))
        assert present == past
        assert live.run() is not None
        assert machine.digest == golden("workload", "rounds=2").result.state_digest


def test_instructions_are_stepped_back(session: Session) -> None:
    seen = [place(session)]
    for _ in range(40):
        session.step_instructions()
        seen.append(place(session))
    for one in reversed(seen[:-1]):
        session.back_instructions()
        assert place(session) == one
    session.step_instructions(40)
    session.back_instructions(25)
    assert place(session) == seen[15]


def test_places_inside_of_blocks_can_be_gone_to(session: Session) -> None:
    seen = [place(session)]
    for _ in range(40):
        session.step_instructions()
        seen.append(place(session))
    for one in random.Random(1).sample(seen, 15):
        session.goto(one[0], one[1])
        assert place(session) == one
    assert session.run() is not None
    assert session.machine.digest == golden("workload", "rounds=2").result.state_digest


def test_blocks_are_stepped_both_ways(session: Session) -> None:
    session.step_blocks(3)
    session.step_instructions()
    where = session.position
    session.back_blocks()
    assert (session.position, session.instruction) == (where, 0)
    session.back_blocks(2)
    assert session.position == where - 2
    session.step_epoch()
    assert session.position > where


def test_what_is_not_there_is_refused_and_nothing_is_lost(session: Session) -> None:
    for wrong in (
        lambda: session.goto(-1),
        lambda: session.goto(1_000_000, -1),
        lambda: session.goto(1_000_000, 500),
        lambda: session.back_instructions(100_000),
    ):
        with pytest.raises(UsageError):
            wrong()
        assert (session.position, session.instruction) == (1_000_000, 0)
    session.goto(0)
    with pytest.raises(UsageError):
        session.back_blocks()
    with pytest.raises(UsageError):
        session.back_instructions()
    assert session.run() is not None
    assert session.machine.digest == golden("workload", "rounds=2").result.state_digest


def test_where_instructions_begin_anew_places_are_gone_to_and_stepped_from() -> None:
    """A block that changes itself ends at the instruction that does so, which begins again as a block of its own."""
    with build("selfmod") as machine:
        session = Session(machine)
        session.run(position=12_000)
        for position in (10_854, 10_853, 10_859):
            session.goto(position)
            assert (session.position, session.instruction) == (position, 0)
        session.goto(10_850)
        for position in range(10_851, 10_870):
            session.step_blocks()
            assert (session.position, session.instruction) == (position, 0)
        for position in reversed(range(10_850, 10_869)):
            session.back_blocks()
            assert (session.position, session.instruction) == (position, 0)


def talk(real_time: bool, **options: Any) -> Iterator[tuple[Session, bytearray]]:
    shown = bytearray()
    with build(
        "echo", lambda channel, data: shown.extend(data), interactive=True, real_time=real_time, **options
    ) as machine:
        session = Session(machine)
        session.run(text="q ends")
        for key in b"abcdef":
            machine.send_console(bytes([key]))
            session.run(text=chr(key))
        yield session, shown


@pytest.mark.parametrize("real_time", [False, True])
def test_keys_enter_again_as_they_did_and_nothing_leaves_twice(real_time: bool) -> None:
    for session, shown in talk(real_time):
        machine = session.machine
        before = bytes(shown)
        assert before.endswith(b"abcdef")
        end, digest = session.position, machine.digest
        chosen = random.Random(7)
        first = session.checkpoints[0]
        for _ in range(12):
            session.goto(chosen.randrange(first, end))
            if chosen.random() < 0.5:
                session.step_instructions(chosen.randrange(1, 20))
        session.goto_present()
        assert (session.position, machine.digest, machine.console) == (end, digest, before)
        assert bytes(shown) == before
        machine.send_console(b"q")
        assert session.run() is not None
        assert bytes(shown).startswith(before) and b"ends" in bytes(shown[len(before) :])


def test_from_the_past_another_future_can_begin() -> None:
    for session, _ in talk(False):
        machine = session.machine
        session.goto(session.checkpoints[0])
        session.run(text="abc")
        assert session.in_past
        session.branch()
        assert not session.in_past
        machine.send_console(b"xq")
        assert session.run() is not None
        assert b"abcx" in machine.console
        end = machine.digest
        session.goto(session.present - 50)
        session.goto_present()
        assert machine.digest == end


def test_checkpoints_take_only_so_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debug, "CHECKPOINT_S", 0.0)
    with build("workload", epoch_blocks=20_000, **WORKLOAD) as machine:
        session = Session(machine, memory_bytes=3 << 20)
        session.run(position=2_000_000)
        assert machine.checkpoint_bytes <= 3 << 20
        assert len(session.checkpoints) < 50
        assert session.checkpoints[0] == 0
        for position in (3, 777_777, 1_999_999):
            session.goto(position)
            assert machine.digest == straight([position])[position]


def test_a_recording_can_be_gone_through_back_and_forth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debug, "CHECKPOINT_S", 0.05)
    result = build("workload", record=tmp_path / "run", **WORKLOAD).run()
    chosen = random.Random(3)
    positions = [chosen.randrange(1, result.blocks) for _ in range(20)]
    digests = straight(positions)
    recording = recordings.load(tmp_path / "run")
    with Machine(MachineConfig.replay(recording, modules=2)) as machine:
        session = Session(machine)
        assert session.in_past and session.present == result.blocks
        for position in positions:
            session.goto(position)
            assert machine.digest == digests[position]
        session.step_instructions(5)
        session.back_instructions(3)
        assert session.run(text="sieve") is None
        assert machine.console.endswith(b"sieve")
        end = session.run()
        assert end is not None and (end.outcome, end.exit_code) == ("exit", 0)
        assert (machine.digest, session.in_past) == (result.state_digest, False)
        assert session.run() == end, "there is nothing beyond the end"
        assert session.step_instructions() == end
        assert session.goto(result.blocks + 5) == end
        session.goto(1)
        assert machine.digest == straight([1])[1]
        assert len(session.checkpoints) > 3


def test_a_recorded_conversation_is_the_same_from_any_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debug, "CHECKPOINT_S", 0.0)
    for session, shown in talk(True, record=tmp_path / "run"):
        session.machine.send_console(b"q")
        session.run()
        digest, console = session.machine.digest, bytes(shown)
    recording = recordings.load(tmp_path / "run")
    with Machine(MachineConfig.replay(recording, epoch_blocks=500)) as machine:
        session = Session(machine)
        session.run(text="abc")
        for position in (session.position, session.position - 100, session.checkpoints[0]):
            session.goto(position)
        session.goto_present()
        assert (machine.digest, machine.console) == (digest, console)


@contextmanager
def hurt(**options: Any) -> Iterator[Session]:
    """A run in which a bit flips in module 1 at 1,000,100, found at 1,100,000; it stands at 2,000,000."""
    with build("workload", epoch_blocks=100_000, **WORKLOAD, **options) as machine:
        machine.inject(1, 1_000_100, RegisterBit("r15", 40))
        session = Session(machine)
        session.run(position=2_000_000)
        yield session


def test_modules_are_shown_as_a_fault_had_left_them() -> None:
    with hurt() as session:
        machine = session.machine
        digest = machine.digest
        (episode,) = session.episodes
        assert (episode.began.position, episode.found) == (1_000_000, 1_100_000)
        assert episode.incident.verdict == "transient"

        def differ() -> bool:
            return machine.modules[0].registers["r15"] != machine.modules[1].registers["r15"]

        for _ in range(2):
            session.goto(1_000_099)
            assert not differ()
            session.step_blocks()
            session.step_instructions()
            assert (session.position, session.compared, differ()) == (1_000_100, False, True)
            session.back_instructions(2)
            assert session.position == 1_000_099 and not differ()
            session.goto(1_099_999)
            assert machine.modules[1].read_virtual(machine.modules[1].registers["rip"], 1)
            session.step_blocks()
            assert (session.position, session.compared, differ()) == (1_100_000, True, False)
            assert [module.faults for module in machine.modules] == [{}, {"register": 1}]
            session.goto(900_000)
            assert [module.faults for module in machine.modules] == [{}, {}]
        session.goto_present()
        assert (machine.digest, [module.faults for module in machine.modules]) == (digest, [{}, {"register": 1}])
        assert len(session.episodes) == 1
        assert session.run() is not None
        assert machine.digest == golden("workload", "rounds=2").result.state_digest


def test_instructions_are_stepped_through_a_fault_to_the_sync_point_that_finds_it() -> None:
    with hurt(modules=3) as session:
        session.goto(1_099_997)
        assert not session.compared
        while session.position < 1_100_000:
            assert session.step_instructions() is None
        assert session.compared
        assert len({tuple(module.registers.values()) for module in session.machine.modules}) == 1
        session.back_instructions()
        assert len({tuple(module.registers.values()) for module in session.machine.modules}) == 2


def test_another_future_may_begin_before_a_fault_and_have_one_of_its_own() -> None:
    with hurt() as session:
        machine = session.machine
        session.goto(999_999)
        session.branch()
        assert session.episodes == []
        session.run(position=1_500_000)
        assert len(session.episodes) == 1, "the fault was told before and is still to come"
        session.goto(1_400_000)
        session.branch()
        machine.inject(0, 1_400_050, RegisterBit("rbx", 9))
        session.run(position=1_600_000)
        assert [episode.incident.module for episode in session.episodes] == [1, 0]
        session.goto(1_400_051)
        assert machine.modules[0].registers["rbx"] != machine.modules[1].registers["rbx"]


def test_after_a_fail_stop_both_modules_can_be_seen_as_they_were() -> None:
    with build("workload", epoch_blocks=100_000, **WORKLOAD) as machine:
        for module, bit in ((0, 41), (1, 42)):
            machine.inject(module, 1_000_100 + module, RegisterBit("r15", bit), stuck_at=1)
        session = Session(machine)
        end = session.run(position=2_000_000)
        if end is None:  # both defects can be told from the arbiter's result
            assert len(session.episodes) >= 1
        session.goto(1_000_105)
        values = [module.registers["r15"] for module in machine.modules]
        assert values[0] != values[1]
        session.goto(500_000)
        assert machine.modules[0].registers["rip"] == machine.modules[1].registers["rip"]

"""Faults in one module: each is caught at the next sync point, named exactly, and nothing of it gets out."""

import os
import signal

import pytest

from ftvm.errors import UsageError
from ftvm.machine import Machine
from ftvm.module.link import FaultTarget, RamBit, RegisterBit
from ftvm.module.registers import register
from ftvm.monitor import deadline
from tests.divergence.machines import Run, build, run

EPOCH = 100_000
UNUSED = 0x3000000
"""RAM that the workload kernel does not touch."""


def faulty(module: int, position: int, target: FaultTarget, modules: int = 2, guest: str = "workload") -> Run:
    return run(
        guest,
        lambda machine: machine.inject(module, position, target),
        modules=modules,
        epoch_blocks=EPOCH,
    )


@pytest.mark.parametrize("module", [0, 1])
@pytest.mark.parametrize(
    ("name", "bit"),
    [
        ("rax", 0),
        ("r15", 63),
        ("rsp", 13),
        ("rip", 2),
        ("rflags", 0),
        ("cs.base", 40),
        ("gs.base", 12),
        ("tr.limit", 3),
        ("gdtr.base", 20),
        ("cr2", 31),
        ("cr3", 12),
        ("efer", 0),
        ("lstar", 47),
        ("dr0", 5),
        ("tsc_offset", 9),
        ("mtrr_fixed3", 1),
        ("st4", 70),
        ("xmm9", 127),
    ],
)
def test_a_flipped_register_bit_is_named_exactly(name: str, bit: int, module: int) -> None:
    """At a sync point, so that the flip has no consequences yet."""
    hit = faulty(module, 3 * EPOCH, RegisterBit(name, bit))
    assert hit.result.outcome == "fail-stop"
    (divergence,) = hit.result.divergences
    assert (divergence.kind, divergence.where, divergence.module) == ("register", name, None)
    assert divergence.position == 2 * EPOCH, "the last agreement"
    text = hit.machine.divergence_text
    assert text is not None
    named = [line for line in text.splitlines() if line.startswith("  register ")]
    assert named == [f"  register {name}  (bit {bit})"]


def test_a_fault_in_something_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="no register is named"):
        build("hello").inject(0, 1, RegisterBit("eax", 0))
    with pytest.raises(UsageError, match="has no bit 64"):
        build("hello").inject(0, 1, RegisterBit("rax", register("rax").size * 8))
    with pytest.raises(UsageError, match="a fault in module 2"):
        build("hello").inject(2, 1, RegisterBit("rax", 0))
    with pytest.raises(UsageError, match="RAM offset"):
        build("hello").inject(1, 1, RamBit(1 << 40, 0))


def test_a_fault_in_mid_epoch_is_caught_at_its_end() -> None:
    hit = faulty(1, 3 * EPOCH + 4711, RegisterBit("rsp", 4))
    assert hit.result.outcome == "fail-stop"
    assert hit.result.divergences[0].position == 3 * EPOCH


def test_a_flipped_ram_bit_is_named_exactly() -> None:
    hit = faulty(1, 3 * EPOCH + 5, RamBit(UNUSED + 17, 6, logged=True))
    assert hit.result.outcome == "fail-stop"
    (divergence,) = hit.result.divergences
    assert (divergence.kind, divergence.where) == ("memory", f"ram {UNUSED + 17:#x}")
    text = hit.machine.divergence_text or ""
    assert f"  memory ram {UNUSED + 17:#x}  (bit 6)\n    module 0: 00\n    module 1: 40" in text


def test_a_ram_bit_that_no_store_touched_is_caught_when_its_page_is_written() -> None:
    past_the_screen = 0xB8FFF  # hello writes the rest of this page after it greeted
    hit = faulty(0, 5_000, RamBit(past_the_screen, 0), guest="hello")
    assert hit.result.outcome == "fail-stop"
    assert hit.result.divergences[0].where == f"ram {past_the_screen:#x}"


def test_a_ram_bit_that_nobody_uses_does_not_reach_the_verified_state() -> None:
    hit = faulty(1, 3 * EPOCH, RamBit(UNUSED, 0))
    assert hit.result.outcome == "exit"
    assert hit.result.state_digest == run("workload").result.state_digest


def test_what_a_fault_corrupted_is_never_shown() -> None:
    """Flip each letter of the greeting, in memory, in one module: nothing wrong may come out, only less."""
    golden = run("hello")
    image = golden.machine.read_memory(0, 8 << 20)
    at = image.index(b"Hello from")
    for letter in range(0, 10, 3):
        hit = faulty(1, 4_000, RamBit(at + letter, 1), guest="hello")
        assert hit.result.outcome == "fail-stop"
        assert hit.result.divergences[0].kind in {"output", "register", "memory", "chip"}
        assert golden.console.startswith(hit.console)
        assert len(hit.console) < len(golden.console)


@pytest.mark.parametrize("module", [0, 1, 2])
def test_of_three_modules_the_faulty_one_is_named(module: int) -> None:
    hit = faulty(module, 2 * EPOCH, RegisterBit("rbx", 7), modules=3)
    assert hit.result.outcome == "fail-stop"
    assert hit.result.divergences[0].module == module
    assert [report.state for report in hit.result.modules] == [
        "failed" if index == module else "online" for index in range(3)
    ]
    assert hit.result.modules[module].faults == {"register": 1}


def test_one_module_alone_has_nobody_to_disagree_with() -> None:
    hit = faulty(0, 3 * EPOCH, RamBit(UNUSED, 0, logged=True), modules=1)
    assert hit.result.outcome == "exit"
    assert hit.result.state_digest != run("workload").result.state_digest


def test_the_report_shows_where_the_modules_stand_and_the_code_there() -> None:
    text = faulty(1, 3 * EPOCH, RegisterBit("rip", 1)).machine.divergence_text or ""
    assert text.startswith(f"DIVERGENCE after position {2 * EPOCH}: register rip; nobody can say which module is right")
    for line in ("code at rip of module 0 (from verified memory):", "code at rip of module 1 (from verified memory):"):
        assert line in text.splitlines()


def kill_while_running(machine: Machine, victims: list[int], number: int) -> None:
    for victim in victims:
        os.kill(machine.modules[victim].pid, number)


@pytest.mark.parametrize("victims", [[0], [1], [0, 1]])
def test_a_module_that_is_killed_is_reported(victims: list[int]) -> None:
    machine = build("spin", lambda channel, data: kill_while_running(machine, victims, signal.SIGKILL))
    result = machine.run()
    assert result.outcome == "fail-stop"
    assert result.divergences[0].kind == "death"
    assert result.divergences[0].module in victims
    assert "killed by SIGKILL" in (machine.divergence_text or "")
    assert result.modules[result.divergences[0].module].state == "failed"


def test_a_module_that_is_killed_while_the_guest_sleeps_is_reported() -> None:
    machine = build(
        "echo", lambda channel, data: kill_while_running(machine, [1], signal.SIGKILL), interactive=True, real_time=True
    )
    result = machine.run()
    assert (result.outcome, result.divergences[0].kind, result.divergences[0].module) == ("fail-stop", "death", 1)


def test_a_module_that_hangs_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline, "BEHIND_S", 0.3)
    machine = build("spin", lambda channel, data: kill_while_running(machine, [1], signal.SIGSTOP))
    result = machine.run()
    assert (result.outcome, result.divergences[0].kind, result.divergences[0].module) == ("fail-stop", "hang", 1)


def test_modules_that_all_hang_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline, "ALONE_S", 0.3)
    monkeypatch.setattr(deadline, "ALONE_TIMES", 1)
    machine = build("spin", lambda channel, data: kill_while_running(machine, [0, 1], signal.SIGSTOP))
    assert machine.run().divergences[0].kind == "hang"


def test_the_verified_state_survives_the_modules() -> None:
    """What a later recovery starts from: memory, and how far it goes."""
    machine = build("spin", lambda channel, data: kill_while_running(machine, [0, 1], signal.SIGKILL))
    result = machine.run()
    assert result.blocks > 0
    assert machine.read_memory(0, 4096) != bytes(4096)

"""A flipped bit in one module: caught at the next sync point, named exactly, charged to that module, rolled back, and
nobody outside can tell.
"""

import pytest

from ftvm.errors import UsageError
from ftvm.machine import Machine
from ftvm.module.fault import RamBit, RegisterBit, Target
from ftvm.module.registers import register
from ftvm.monitor.eventlog import MODULE_FAULT
from ftvm.monitor.lockstep import SCRUB_PAGES
from ftvm.units import PAGE_BYTES
from tests.divergence.machines import Run, build, golden, run

EPOCH = 100_000
UNUSED = 0x3000000
"""RAM that the workload kernel does not touch, and that a scrub does not reach in its short life."""


def faulty(
    module: int, position: int, target: Target, modules: int = 2, guest: str = "workload", append: str = ""
) -> Run:
    return run(
        guest,
        lambda machine: machine.inject(module, position, target),
        modules=modules,
        epoch_blocks=EPOCH,
        append=append,
    )


def assert_one_transient(hit: Run, module: int, kind: str, where: str, modules: int = 2) -> None:
    """Exactly one divergence, charged to ``module``, which stays in service."""
    (divergence,) = hit.result.divergences
    assert (divergence.kind, divergence.where) == (kind, where)
    assert (divergence.module, divergence.verdict) == (module, "transient")
    assert divergence.recovered_in_ms is not None and divergence.recovered_in_ms > 0
    assert [(report.state, report.faults, report.restarts) for report in hit.result.modules] == [
        ("duplexed", {kind: 1} if index == module else {}, 0) for index in range(modules)
    ]
    assert hit.events == [(MODULE_FAULT, module)]


@pytest.mark.parametrize(
    ("module", "name", "bit"),
    [
        (0, "rax", 0),
        (1, "r15", 63),
        (0, "rsp", 13),
        (1, "rip", 2),
        (0, "rflags", 0),
        (1, "cs.base", 40),
        (0, "gs.base", 12),
        (1, "tr.limit", 3),
        (0, "gdtr.base", 20),
        (1, "cr2", 31),
        (0, "cr3", 12),
        (1, "efer", 0),
        (0, "lstar", 47),
        (1, "dr0", 5),
        (0, "tsc_offset", 9),
        (1, "mtrr_fixed3", 1),
        (0, "st4", 70),
        (1, "xmm9", 127),
    ],
)
def test_a_flipped_register_bit_is_named_exactly_and_rolled_back(module: int, name: str, bit: int) -> None:
    """At a sync point, so that the flip has no consequences yet."""
    hit = faulty(module, 3 * EPOCH, RegisterBit(name, bit))
    assert hit.outside == golden("workload").outside
    assert_one_transient(hit, module, "register", name)
    assert hit.result.divergences[0].position == 2 * EPOCH, "the last agreement"
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
    assert hit.outside == golden("workload").outside
    assert hit.result.divergences[0].position == 3 * EPOCH
    assert (hit.result.divergences[0].module, hit.result.divergences[0].verdict) == (1, "transient")


def test_a_flipped_ram_bit_is_named_exactly() -> None:
    hit = faulty(1, 3 * EPOCH + 5, RamBit(UNUSED + 17, 6, logged=True))
    assert hit.outside == golden("workload").outside
    assert_one_transient(hit, 1, "memory", f"ram {UNUSED + 17:#x}")
    text = hit.machine.divergence_text or ""
    assert f"  memory ram {UNUSED + 17:#x}  (bit 6)\n    module 0: 00\n    module 1: 40" in text


def test_a_ram_bit_that_no_store_touched_is_caught_when_its_page_is_written() -> None:
    past_the_screen = 0xB8FFF  # hello writes the rest of this page after it greeted
    hit = faulty(0, 5_000, RamBit(past_the_screen, 0), guest="hello")
    assert hit.outside == golden("hello").outside
    assert_one_transient(hit, 0, "memory", f"ram {past_the_screen:#x}")


def test_a_ram_bit_that_nobody_uses_does_not_reach_the_verified_state() -> None:
    hit = faulty(1, 3 * EPOCH, RamBit(UNUSED, 0))
    assert hit.result.divergences == []
    assert hit.outside == golden("workload").outside


@pytest.mark.parametrize(("module", "modules"), [(0, 1), (0, 2), (1, 2), (2, 3)])
def test_a_ram_bit_that_nobody_uses_is_found_by_the_scrub(module: int, modules: int) -> None:
    """Even with one module: what the scrub compares with is the verified image."""
    offset = 45 * SCRUB_PAGES * PAGE_BYTES + 123  # behind the kernel; scrubbed after some 45 sync points
    hit = faulty(module, 3 * EPOCH, RamBit(offset, 3), modules=modules)
    assert hit.outside == golden("workload").outside
    (divergence,) = hit.result.divergences
    assert (divergence.module, divergence.where, divergence.verdict) == (module, f"ram {offset:#x}", "transient")
    assert hit.result.modules[module].faults == {"memory": 1}


def test_what_a_fault_corrupted_is_never_shown() -> None:
    """Flip letters of the greeting, in memory, in one module."""
    undisturbed = golden("hello")
    at = undisturbed.machine.read_memory(0, 8 << 20).index(b"Hello from")
    for letter in range(0, 10, 3):
        hit = faulty(1, 4_000, RamBit(at + letter, 1), guest="hello")
        assert hit.outside == undisturbed.outside
        assert [(d.module, d.verdict) for d in hit.result.divergences] == [(1, "transient")]
        assert hit.result.divergences[0].kind in {"output", "register", "memory", "chip"}


@pytest.mark.parametrize("module", [0, 1, 2])
def test_of_three_modules_the_faulty_one_is_charged(module: int) -> None:
    hit = faulty(module, 2 * EPOCH, RegisterBit("rbx", 7), modules=3)
    assert hit.outside == golden("workload").outside
    assert_one_transient(hit, module, "register", "rbx", modules=3)


@pytest.mark.parametrize("modules", [2, 3])
def test_modules_that_all_have_a_fault_in_one_epoch_are_all_charged(modules: int) -> None:
    def hit_all(machine: Machine) -> None:
        for module in range(modules):
            machine.inject(module, 3 * EPOCH + 100 * module, RegisterBit("rbp", module))

    hit = run("workload", hit_all, modules=modules, epoch_blocks=EPOCH)
    assert hit.outside == golden("workload").outside
    assert [report.faults for report in hit.result.modules] == [{"register": 1}] * modules
    assert [(d.module, d.verdict) for d in hit.result.divergences] == [(m, "transient") for m in range(modules)]


def test_the_same_fault_in_all_modules_is_what_no_comparison_can_see() -> None:
    """The limit of lockstep, and the reason why modules share no hardware."""

    def hit_all(machine: Machine) -> None:
        for module in range(2):
            machine.inject(module, 3 * EPOCH, RamBit(UNUSED, 0, logged=True))

    hit = run("workload", hit_all, epoch_blocks=EPOCH)
    assert hit.result.divergences == []
    assert hit.result.state_digest != golden("workload").result.state_digest


def test_one_module_alone_has_nobody_to_disagree_with() -> None:
    hit = faulty(0, 3 * EPOCH, RamBit(UNUSED, 0, logged=True), modules=1)
    assert hit.result.outcome == "exit"
    assert hit.result.state_digest != golden("workload").result.state_digest


def test_the_report_shows_where_the_modules_stand_and_the_code_there() -> None:
    hit = faulty(1, 3 * EPOCH, RegisterBit("rip", 1))
    text = hit.machine.divergence_text or ""
    assert text.startswith(f"DIVERGENCE after position {2 * EPOCH}: register rip; module 1 had a transient fault\n")
    for module in (0, 1):
        assert f"code at rip of module {module} (from memory at position {hit.result.blocks}):" in text.splitlines()
    assert "code at the last agreement" not in text, "which is past"

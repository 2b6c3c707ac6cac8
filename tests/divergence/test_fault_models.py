"""Every kind of fault in every kind of target, at every kind of moment: it strikes exactly there, in its module and in
no other, and nobody outside can tell.
"""

import functools
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from ftvm.errors import UsageError
from ftvm.machine import Machine
from ftvm.module.fault import (
    ALWAYS,
    Access,
    AtPosition,
    AtTime,
    Change,
    ChipBit,
    Fault,
    LinearBit,
    OnExecution,
    OnMmio,
    OnPort,
    OnText,
    OpcodeBit,
    Operation,
    PageTableBit,
    Process,
    RamBit,
    ReadBit,
    RegisterBit,
    Skip,
    Target,
    TlbBit,
    When,
    WrittenBit,
)
from ftvm.monitor import deadline
from ftvm.units import PAGE_BYTES
from tests.divergence.machines import Run, build, golden, kernel, run

EPOCH = 100_000
AT = AtPosition(3 * EPOCH)
UNUSED = 0x3000000
"""RAM that the workload kernel does not touch."""
SET, CLEAR = Change(Operation.SET), Change(Operation.CLEAR)


def hit(*faults: Fault, guest: str = "workload", **options: Any) -> Run:
    def prepare(machine: Machine) -> None:
        for fault in faults:
            machine.inject(fault)

    disturbed = run(guest, prepare, **{"epoch_blocks": EPOCH, **options})
    assert disturbed.outside == golden(guest, options.get("append", "")).outside
    return disturbed


def found(disturbed: Run) -> list[tuple[int | None, str, str]]:
    """(module, where, verdict) of each divergence."""
    return [(d.module, d.where, d.verdict) for d in disturbed.result.divergences]


# ---- what becomes of the bits ----


@pytest.mark.parametrize(
    ("change", "value"),
    [
        (Change(), 0b1000),
        (Change(width=5), 0b11111000),
        (Change(Operation.SET, 2), 0b11000),
        (Change(Operation.VALUE, 8, bytes([0b10100101])), 0b10100101000),
    ],
)
def test_a_change_of_bits_is_exact(change: Change, value: int) -> None:
    """In a register that is zero, at a sync point, so that it has no consequences yet."""
    disturbed = hit(Fault(1, AT, RegisterBit("dr1", 3), change))
    assert found(disturbed) == [(1, "dr1", "transient")]
    assert f"    module 0: 0x0\n    module 1: {value:#x}\n" in (disturbed.machine.divergence_text or "")


@pytest.mark.parametrize("change", [CLEAR, Change(Operation.VALUE, 8, bytes(1))])
def test_a_change_that_changes_nothing_is_no_fault(change: Change) -> None:
    assert found(hit(Fault(1, AT, RegisterBit("dr1", 3), change))) == []


def test_a_burst_goes_over_the_borders_of_bytes() -> None:
    disturbed = hit(Fault(0, AT, RamBit(UNUSED, 6, logged=True), Change(width=4)))
    assert found(disturbed) == [(0, f"ram {UNUSED:#x}", "transient")]
    assert "module 0: c0 03" in (disturbed.machine.divergence_text or "")


def test_a_common_fault_outlives_the_rollback_of_another_one() -> None:
    """Else what the guest has been through would depend on where epochs end."""
    common = Fault(None, AtPosition(3 * EPOCH + 100), RegisterBit("dr1", 3))
    single = Fault(1, AtPosition(3 * EPOCH + 200), RegisterBit("dr2", 5))
    alone = run("workload", lambda machine: machine.inject(common), epoch_blocks=EPOCH)

    def prepare(machine: Machine) -> None:
        machine.inject(common)
        machine.inject(single)

    both = run("workload", prepare, epoch_blocks=EPOCH)
    assert found(both) == [(1, "dr2", "transient")]
    assert both.outside == alone.outside
    assert alone.result.state_digest != golden("workload").result.state_digest


# ---- for how long ----


def test_a_bit_that_is_held_longer_than_an_epoch_takes_its_module_out() -> None:
    disturbed = hit(Fault(1, AT, RegisterBit("dr1", 3), SET, lasting=10 * EPOCH))
    assert found(disturbed) == [(1, "dr1", "failed-over")]


def test_a_bit_that_is_held_for_a_while_is_let_go_when_the_module_has_worked_so_long() -> None:
    """Short enough for the rerun to find nothing any more."""
    disturbed = hit(Fault(1, AtPosition(3 * EPOCH - 1000), RegisterBit("dr1", 3), SET, lasting=1000))
    assert found(disturbed) == [(1, "dr1", "transient")]


def test_a_flip_that_is_held_is_held_at_what_the_flip_made() -> None:
    assert found(hit(Fault(0, AT, RegisterBit("dr1", 3), lasting=ALWAYS))) == [(0, "dr1", "failed-over")]


def test_a_periodic_fault_comes_back_as_often_as_it_is_told_to() -> None:
    disturbed = hit(Fault(1, AT, RegisterBit("dr1", 3), every=3 * EPOCH, times=4))
    assert [d.position for d in disturbed.result.divergences] == [(2 + 3 * n) * EPOCH for n in range(4)]
    assert found(disturbed) == [(1, "dr1", "transient")] * 4


def test_a_fault_in_all_modules_alike_is_what_lockstep_cannot_see() -> None:
    def prepare(machine: Machine) -> None:
        machine.inject(Fault(None, AT, RegisterBit("dr1", 3)))

    disturbed = run("workload", prepare, epoch_blocks=EPOCH)
    assert disturbed.result.divergences == []
    assert disturbed.result.state_digest != golden("workload").result.state_digest


# ---- where ----


def test_a_linear_address_is_translated_when_it_is_time() -> None:
    """The workload's kernel maps all memory to itself."""
    assert found(hit(Fault(1, AT, LinearBit(UNUSED + 5, 2, logged=True)))) == [(1, f"ram {UNUSED + 5:#x}", "transient")]
    assert found(hit(Fault(1, AT, LinearBit(0xFFFF_8000_0000_0000, 2, logged=True)))) == []


@pytest.mark.parametrize("level", [0, 2, 3, 4])
def test_a_page_table_entry_is_found_by_the_address_that_it_maps(level: int) -> None:
    """Bit 9 means nothing to the processor."""
    disturbed = hit(Fault(1, AT, PageTableBit(UNUSED, level, 9, logged=True)))
    ((module, where, verdict),) = found(disturbed)
    assert (module, verdict) == (1, "transient")
    assert where.startswith("ram ")


def test_a_page_table_has_no_level_below_a_large_page() -> None:
    assert found(hit(Fault(1, AT, PageTableBit(UNUSED, 1, 9, logged=True)))) == []


def symbol(name: str, guest: str = "workload") -> int:
    with kernel(guest).open("rb") as file:
        (found,) = ELFFile(file).get_section_by_name(".symtab").get_symbol_by_name(name)
    return int(found["st_value"])


def test_a_wrong_tlb_entry_leads_to_a_wrong_page_until_it_is_gone() -> None:
    """While the workload sorts the numbers in its buffer."""
    disturbed = hit(
        *(Fault(1, AtPosition(5_000_000), TlbBit(symbol("buffer") + page * PAGE_BYTES, 13)) for page in range(16))
    )
    assert [(module, verdict) for module, _, verdict in found(disturbed)] == [(1, "transient")]


def test_a_tlb_without_the_entry_has_nothing_to_be_wrong() -> None:
    assert found(hit(Fault(1, AT, TlbBit(UNUSED, 13)))) == []


@pytest.mark.parametrize(
    ("path", "bit"),
    [("pit.counters[0].initial", 7), ("lapic.tpr", 4), ("rtc.cmos[100]", 3), ("uart.scr", 0), ("pic1.auto_eoi", 0)],
)
def test_a_field_of_a_chip_is_named_exactly(path: str, bit: int) -> None:
    ((module, where, verdict),) = found(hit(Fault(1, AT, ChipBit(path, bit))))
    assert (module, verdict) == (1, "transient")
    assert where == path.partition("[")[0] if path.startswith("rtc") else path


def test_a_field_of_a_chip_can_be_stuck() -> None:
    """The UART's transmitter is always ready, and the guest waits for that; this module's never is."""
    disturbed = hit(Fault(0, AT, ChipBit("uart.lsr", 5), CLEAR, lasting=ALWAYS))
    blamed = {module for module, _, _ in found(disturbed)}
    lost = {"death", "hang"} & {d.kind for d in disturbed.result.divergences if d.module == 0}
    assert blamed == ({0, None} if lost else {0})  # None: on a busy host it took too long, and those left agreed
    assert (0, "failed-over") in [(module, verdict) for module, _, verdict in found(disturbed)]


@pytest.mark.parametrize("module", [0, 1])
@pytest.mark.parametrize(
    ("target", "change"),
    [(Skip(), Change()), (OpcodeBit(0), Change(width=8)), (OpcodeBit(3), Change()), (OpcodeBit(9), SET)],
)
@pytest.mark.parametrize("when", [AtPosition(300_000), AtPosition(300_000, 3), OnExecution(0)])
def test_an_instruction_can_go_wrong(when: When, target: Target, change: Change, module: int) -> None:
    if isinstance(when, OnExecution):
        when = OnExecution(symbol("alu") + 0x18, 30)
    disturbed = hit(Fault(module, when, target, change))
    assert {(module, verdict) for module, _, verdict in found(disturbed)} <= {(module, "transient")}
    assert len(disturbed.result.faults) == 1


def test_a_skipped_instruction_does_not_happen() -> None:
    """``mov`` to R8D at the head of the CRC: the register keeps what it had."""
    assert found(hit(Fault(1, OnExecution(symbol("crc32")), Skip()), epoch_blocks=1000))[0][0] == 1


def test_a_value_is_wrong_only_for_the_instruction_that_reads_it() -> None:
    """The head of the buffer, as quicksort is about to compare it; memory is right before and after."""
    at = symbol("buffer")
    disturbed = hit(*(Fault(1, OnExecution(symbol("checksum")), ReadBit(at + byte, 0)) for byte in range(2)))
    assert found(disturbed) == [], "its first instruction reads nothing there"


def test_a_written_value_is_wrong_in_memory() -> None:
    at = symbol("buffer")
    disturbed = hit(Fault(1, AtPosition(5_000_000, 1), WrittenBit(at, 2)))
    assert found(disturbed) == [(1, f"ram {at:#x}", "transient")]


@pytest.mark.parametrize("number", range(1, 4))
def test_inside_a_block_a_register_is_changed_between_two_instructions(number: int) -> None:
    """And where the blocks end stays as it is: nobody uses DR1."""
    disturbed = hit(Fault(1, AtPosition(300_000, number), RegisterBit("dr1", 3)))
    assert found(disturbed) == [(1, "dr1", "transient")]
    assert positions(disturbed) == [300_001]


def test_a_block_that_is_too_short_ends_before_the_instruction_comes() -> None:
    disturbed = hit(Fault(1, AtPosition(300_000, 5000), RegisterBit("dr1", 3)))
    assert found(disturbed) == [(1, "dr1", "transient")]
    assert positions(disturbed) == [300_001]


@pytest.mark.parametrize("nth", [1, 2, 500])
def test_the_nth_execution_is_counted(nth: int) -> None:
    """All modules step through the blocks that have the instruction, and go on as if nothing had been."""
    disturbed = hit(Fault(0, OnExecution(symbol("alu") + 0x18, nth), RegisterBit("dr1", 3)), modules=3)
    assert found(disturbed) == [(0, "dr1", "transient")]
    assert positions(disturbed) == [when_it_was("workload", OnExecution(symbol("alu") + 0x18, nth))]


def test_executions_are_counted_at_full_speed_and_a_roll_back_counts_none_twice() -> None:
    """The loop is one block, so that each time is one position on."""
    loop = symbol("alu") + 0x18
    second, late = (Fault(1, OnExecution(loop, nth), RegisterBit("dr1", 3)) for nth in (2, 200_000))
    (begins,) = positions(hit(second))
    assert positions(hit(late)) == [begins + 199_998]
    disturbed = hit(Fault(0, AtPosition(begins + 150_001), RegisterBit("dr2", 1)), late)
    assert [module for module, *_ in found(disturbed)] == [0, 1]
    assert positions(disturbed) == [begins + 150_001, begins + 199_998]


@pytest.mark.parametrize(("how", "kind"), [("kill", "death"), ("hang", "hang")])
def test_a_module_as_a_whole_can_fail(how: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline, "BEHIND_S", 0.3)
    disturbed = hit(Fault(1, AtPosition(3 * EPOCH + 77), Process(how)))
    assert [(d.module, d.kind, d.verdict) for d in disturbed.result.divergences] == [(1, kind, "failed-over")]


def test_a_slow_module_is_waited_for() -> None:
    disturbed = hit(Fault(1, AT, Process("slow", 100)))
    assert found(disturbed) == []
    assert disturbed.result.longest_pause_ms >= 0
    assert disturbed.result.wall_s >= 0.1


# ---- when ----


def positions(disturbed: Run) -> list[int]:
    return [fault.position for fault in disturbed.result.faults]


@pytest.mark.parametrize("epoch", [999, EPOCH, 10_000_000])
@pytest.mark.parametrize(
    ("guest", "when"),
    [
        ("workload", AtPosition(123_457)),
        ("workload", AtTime(9_876_543)),
        ("workload", OnText(b"e", 3)),
        ("hello", OnText(b"\n")),
        ("hello", OnPort(0x3F8, Access.WRITE, 30)),
        ("interrupts", OnPort(0x40, nth=3)),
        ("interrupts", OnMmio(0xFEE000B0, Access.WRITE, 5)),
    ],
)
def test_a_moment_is_the_same_whatever_the_epoch_length_and_the_number_of_modules(
    guest: str, when: When, epoch: int
) -> None:
    fault = Fault(0, when, RegisterBit("dr1", 3))
    disturbed = hit(fault, guest=guest, epoch_blocks=epoch)
    assert found(disturbed) == [(0, "dr1", "transient")]
    assert positions(disturbed) == [when_it_was(guest, when)]


@functools.cache
def when_it_was(guest: str, when: When) -> int:
    """Found out with three modules, and a fault that none of them has."""
    disturbed = run(guest, lambda machine: machine.inject(Fault(2, when, ChipBit("uart.scr", 0), CLEAR)), modules=3)
    (position,) = positions(disturbed)
    assert position > 0
    return position


def test_virtual_time_says_when() -> None:
    disturbed = hit(Fault(1, AtTime(9_876_543), RegisterBit("dr1", 3)))
    assert positions(disturbed)[0] <= 987_655, "ports take time too"


def test_a_fault_whose_moment_never_comes_leaves_no_trace() -> None:
    disturbed = hit(
        Fault(1, OnText(b"no such text"), RegisterBit("rax", 3)), Fault(1, OnPort(0x77), RegisterBit("rax", 1))
    )
    assert found(disturbed) == []
    assert disturbed.result.faults == []


# ---- what is told ----


def test_a_run_tells_which_faults_it_had() -> None:
    disturbed = hit(
        Fault(1, AtPosition(2_000_000), RegisterBit("rax", 5)), Fault(0, OnText(b"chase"), ChipBit("lapic.tpr", 1))
    )
    assert [fault.fault for fault in disturbed.result.faults] == [
        "module=1,target=rax:5,kind=flip,at=2000000",
        "module=0,target=chip:lapic.tpr:1,kind=flip,at=text:chase",
    ]
    assert [fault.note for fault in disturbed.result.faults] == [None, None]


def test_a_fault_in_all_modules_is_told_to_be_invisible() -> None:
    machine = build("workload", epoch_blocks=EPOCH)
    machine.inject(Fault(None, AT, ChipBit("uart.scr", 0)))
    ((fault),) = machine.run().faults
    assert fault.note == "in all modules alike: no comparison can see it"


# ---- what cannot be ----


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault(2, AT, RegisterBit("rax", 0)), "a fault in module 2"),
        (Fault(0, AT, RegisterBit("rax", 60), Change(width=5)), "register rax has no bit 64"),
        (Fault(0, AT, RamBit(0, 8)), "no bit 8"),
        (Fault(0, AT, PageTableBit(0, 6, 0)), "level 6"),
        (Fault(0, AT, TlbBit(0, 5)), "bit 5 of a TLB entry"),
        (Fault(0, AT, TlbBit(0, 12), lasting=ALWAYS), "a TLB entry"),
        (Fault(0, AT, ChipBit("pit.counters", 0)), "not one field"),
        (Fault(0, AT, ChipBit("pit.counters[0].colour", 0)), "no field 'colour'"),
        (Fault(0, AT, ChipBit("tea.pot", 0)), "no chip 'tea'"),
        (Fault(0, AT, ChipBit("pic0.output", 1)), "has no bit 1"),
        (Fault(0, AT, Process("dance")), "no way to 'dance'"),
        (Fault(0, AT, Process("kill"), SET), "no bits"),
        (Fault(0, AT, RegisterBit("rax", 0), every=5), "every 5 blocks"),
        (Fault(0, AT, RegisterBit("rax", 0), times=3), "3 times"),
        (Fault(0, AT, RegisterBit("rax", 0), lasting=-7), "lasts -7"),
        (Fault(0, OnText(b""), RegisterBit("rax", 0)), "a text"),
        (Fault(0, OnPort(1 << 16), RegisterBit("rax", 0)), "port 0x10000"),
        (Fault(0, OnPort(1, nth=0), RegisterBit("rax", 0)), "0th"),
        (Fault(0, AtTime(-1), RegisterBit("rax", 0)), "-1 ns"),
        (Fault(0, AtPosition(-1), RegisterBit("rax", 0)), "a fault at -1"),
    ],
)
def test_what_cannot_be_is_refused(fault: Fault, message: str) -> None:
    machine = build("hello")
    with pytest.raises(UsageError, match=message):
        machine.inject(fault)

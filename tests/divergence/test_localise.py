"""The first wrong instruction is found, and reports say so."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.localising import Localised, flip, localised
from ftvm.cli.explain import command as explain
from ftvm.debug.divergence import report
from ftvm.debug.divergence.examine import Examiner
from ftvm.debug.divergence.page import page
from ftvm.debug.divergence.report import After, At, Dump, Item, Line, Report, Reports, State
from ftvm.debug.divergence.text import text
from ftvm.debug.symbols import Symbols, of_image
from ftvm.errors import UnusableFile
from ftvm.machine import Machine, MachineConfig
from ftvm.module.fault import (
    ALWAYS,
    AtPosition,
    Change,
    Fault,
    LinearBit,
    OnExecution,
    OpcodeBit,
    Operation,
    PageTableBit,
    Process,
    RamBit,
    RegisterBit,
    Skip,
)
from ftvm.units import MIB
from tests.divergence.machines import kernel


def examined(*faults: Fault, name: str = "workload") -> Reports:
    machine = Machine(MachineConfig(kernel(name), memory_bytes=32 * MIB, timeout_s=300.0))
    examiner = Examiner(machine, name, Symbols(of_image(kernel(name))))
    for fault in faults:
        machine.inject(fault)
    machine.run()
    return examiner.reports()


def check(found: Localised) -> None:
    """Whatever was flipped, the search ends with a reason."""
    finding, fault = found.finding, found.fault
    assert isinstance(fault.when, AtPosition)
    assert finding.reproduced and finding.as_before, fault
    assert finding.origin is not None and finding.between_blocks
    assert (finding.origin.place.position, finding.origin.place.instruction) == (fault.when.position, 0)
    assert finding.wrong is not None or finding.latent, fault
    if finding.wrong is not None:
        assert finding.wrong.before.place >= finding.origin.place
        assert not set(finding.wrong.new) & set(finding.wrong.before.differences)


@pytest.mark.parametrize("seed", [2, 6])
def test_the_first_wrong_instruction_is_what_brute_force_finds(seed: int) -> None:
    found = localised(flip(seed), brute=True)
    assert found is not None
    check(found)
    wrong = found.finding.wrong
    assert wrong is not None and wrong.before.place == found.brute


@pytest.mark.campaign
def test_a_hundred_flips_that_change_something_are_localised() -> None:
    """And twenty of them by brute force too."""
    met = agreed = 0
    seed = 1000
    while met < 100:
        seed += 1
        found = localised(flip(seed), brute=agreed < 20)
        if found is None or found.finding.latent:
            continue
        check(found)
        met += 1
        if found.brute is not None:
            assert found.finding.wrong is not None and found.finding.wrong.before.place == found.brute, seed
            agreed += 1
    assert agreed >= 20


@pytest.fixture(scope="module")
def reports() -> Reports:
    return examined(Fault(1, AtPosition(1_237_193), RegisterBit("rdx", 5)))


def test_a_report_names_the_instruction_and_shows_both_modules(reports: Reports) -> None:
    (found,) = reports.reports
    assert found.module == 1 and found.verdict == "transient"
    assert found.faults == ["module=1,target=rdx:5,kind=flip,at=1237193"]
    assert found.origin is not None and [item.where for item in found.origin.items] == ["rdx"]
    assert found.before is not None and found.after is not None
    (wrong,) = [line for line in found.listing if line.wrong]
    assert wrong.symbol.startswith("copy+") and wrong.text == "mov rax, qword ptr [rsi + rdx]"
    assert "copy+" in found.conclusion and "rax" in found.conclusion
    assert found.after.sound["rax"] != found.after.faulty["rax"]
    assert [after.instructions for after in found.aftermath][:4] == [0, 1, 10, 100]


def test_a_wrong_output_is_found_with_its_position() -> None:
    """The checksum that the kernel shows at the end of a phase comes from the flipped byte."""
    (found,) = examined(Fault(1, AtPosition(1_691_848), RamBit(0x13580D, 6))).reports
    assert found.origin is not None and [item.where for item in found.origin.items] == ["ram 0x13580d"]
    assert found.dumps and found.dumps[0].sound != found.dumps[0].faulty
    assert found.output is not None and "serial" in found.output.faulty and found.output.sound != found.output.faulty
    assert found.verified < found.output.position


@pytest.mark.parametrize(
    ("fault", "address", "made"),
    [
        (Fault(1, OnExecution(0x100210, 50), Skip()), "0x100210", "register rax"),
        (Fault(1, OnExecution(0x100210, 50), OpcodeBit(9)), "0x100210", "register"),
        (Fault(1, AtPosition(1_000_000), LinearBit(0x164000, 3)), "0x100210", "register rax"),
        (Fault(1, AtPosition(1_000_000, 2), RegisterBit("rdx", 6)), "0x100210", "register rax"),
        (Fault(1, AtPosition(1_000_000), RegisterBit("cr3", 13)), "0x100210", "stop reason crash"),
        (Fault(1, AtPosition(1_000_000), PageTableBit(0x144000, 0, 14)), "0x100499", ""),
    ],
    ids=lambda value: type(value.target).__name__ if isinstance(value, Fault) else "",
)
def test_faults_of_every_kind_are_found_where_they_show(fault: Fault, address: str, made: str) -> None:
    """The loop that copies memory loads from [rsi + rdx] at 0x100210."""
    (found, *_) = examined(fault).reports
    assert found.conclusion.startswith(f"The first wrong instruction is at {address} (")
    assert f"it made {made}" in found.conclusion and "it made stop position" not in found.conclusion


def test_a_stuck_bit_is_stuck_when_it_is_done_again() -> None:
    fault = Fault(1, AtPosition(1_500_000), RegisterBit("rbx", 7), Change(Operation.SET), ALWAYS)
    (found, *_) = examined(fault).reports
    assert found.reproduced and found.verdict == "failed-over"
    assert found.origin is not None and found.origin.items[0].where == "rbx"


def test_a_killed_module_has_no_instruction_to_look_for() -> None:
    (found,) = examined(Fault(1, AtPosition(1_500_000), Process("kill"))).reports
    assert found.kind == "death" and not found.reproduced and found.conclusion


def test_a_report_survives_its_file_and_every_way_to_show_it(reports: Reports, tmp_path: Path) -> None:
    path = tmp_path / "div.json"
    report.save(path, reports)
    assert report.load(path) == reports
    shown = CliRunner().invoke(explain, [str(path)], standalone_mode=False)
    assert shown.exception is None and shown.output == text(reports)
    assert "=> " in shown.output and "copy+" in shown.output
    html, copy = tmp_path / "div.html", tmp_path / "copy.json"
    CliRunner().invoke(explain, [str(path), "--html", str(html), "--json", str(copy)], standalone_mode=False)
    assert json.loads(copy.read_text()) == json.loads(path.read_text())
    document = html.read_text()
    assert document == page(reports)
    assert not re.search(r"https?:|src=|href=|@import|url\(", document)
    assert "class=conclusion" in document and "mov rax" in document


def test_what_a_guest_wrote_is_no_markup() -> None:
    evil = Report(0, "transient", "output", "<script>x</script>", 1, 2, ["<b>"], "<i>&")
    document = page(Reports(1, "<guest>", "build", [evil]))
    assert "<script>" not in document and "<b>" not in document and "<i>" not in document and "<guest>" not in document


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no divergence report"),
        (b"[]", "no divergence report"),
        (b"{}", "version none"),
        (b'{"version":2}', "version 2"),
        (b'{"version":1,"guest":"x","build":"y","reports":[{}]}', "damaged"),
    ],
)
def test_files_that_are_no_reports_are_refused(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "div.json"
    path.write_bytes(content)
    with pytest.raises(UnusableFile, match=says):
        report.load(path)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_damaged_reports_are_refused_or_shown(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.json"
    items = [Item("register", "rax", "0x1", "0x3", [1])]
    state = State("there", At(5, 2), {"rax": "0x1"}, {"rax": "0x3"}, items)
    lines, dumps = [Line("0x10", "90", "nop", "main", True)], [Dump(64, "00ff", "01ff")]
    after = [After(10, At(6), None, 1, 1, items)]
    whole = Report(
        1, "transient", "register", "rax", 4, 9, [], "So.", True, True, state, state, state, lines, dumps, after
    )
    report.save(path, Reports(report.VERSION, "guest", "build", [whole]))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        shown = report.load(path)
    except UnusableFile:
        return
    assert text(shown) and page(shown)


def test_the_command_line_writes_a_report(tmp_path: Path) -> None:
    path = tmp_path / "div.json"
    done = subprocess.run(
        [sys.executable, "-m", "ftvm", "run", "hello", "--divergence-report", str(path)],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0
    assert report.load(path).reports == []

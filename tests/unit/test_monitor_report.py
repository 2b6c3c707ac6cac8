"""The divergence report, as people read it."""

import pytest

from ftvm.module.board import StopKind
from ftvm.module.link import Report, Snapshot
from ftvm.module.registers import ARCH_BYTES, with_registers
from ftvm.monitor.compare import Difference, Divergence
from ftvm.monitor.image import VerifiedImage
from ftvm.monitor.recovery import VERDICT_FAIL_STOP, VERDICT_FAILED_OVER, VERDICT_TRANSIENT, Incident
from ftvm.monitor.report import MAX_DIFFERENCES, disassemble, explain
from ftvm.units import MIB

LONG, DEFAULT_32, LMA = 1 << 21, 1 << 22, 1 << 10


def state(**registers: int) -> bytes:
    dotted = {name.replace("__", "."): value for name, value in registers.items()}
    return with_registers(bytes(ARCH_BYTES), dotted)


def report(**registers: int) -> Report:
    return Report(StopKind.POSITION, 1234, 0, state(**registers), b"", b"", b"")


@pytest.mark.parametrize(
    ("registers", "expected"),
    [
        ({"rip": 0x10, "cs__base": 0x7000}, "mov ax, 0x1234"),
        ({"rip": 0x7010, "cs__flags": DEFAULT_32}, "mov eax, 0x90901234"),
        ({"rip": 0x7010, "cs__flags": LONG, "efer": LMA}, "mov eax, 0x90901234"),
        ({"rip": 0x7010, "cs__flags": LONG, "cs__base": 0x5000, "efer": LMA}, "mov eax, 0x90901234"),
    ],
)
def test_code_is_decoded_in_the_mode_of_the_cpu(registers: dict[str, int], expected: str) -> None:
    image = VerifiedImage(2 * MIB, threads=1)
    image.write(0x7010, bytes.fromhex("b8 34 12 90 90 c3"))
    with memoryview(image.ram) as ram:
        lines = disassemble(state(**registers), ram)
    assert lines[0].startswith("0x7010: b8 34 12")
    assert lines[0].endswith(expected)


def test_code_that_is_not_there_is_said_to_be_missing() -> None:
    with memoryview(bytes(2 * MIB)) as ram:
        assert disassemble(state(rip=0x40000000), ram) == ["0x40000000: nothing is mapped here"]


def test_bytes_that_are_no_instruction_are_shown() -> None:
    image = VerifiedImage(2 * MIB, threads=1)
    image.write(0, bytes.fromhex("0f 0a"))
    with memoryview(image.ram) as ram:
        assert disassemble(state(cs__flags=LONG, efer=LMA), ram)[0].endswith("(not an instruction)")


def test_the_report_names_the_difference_the_places_and_the_code() -> None:
    image = VerifiedImage(2 * MIB, threads=1)
    image.write(0x1000, b"\x90\xf4")
    divergence = Divergence(
        1000,
        (
            Difference("register", "r10", (0x15, 0x11)),
            Difference("memory", "ram 0x1234", (b"\x0f", b"\x4f")),
            Difference("chip", "uart.state", ("idle", "busy")),
        ),
        (0, 2),
        (report(rip=0x1000, r10=0x15), report(rip=0x1001, r10=0x11)),
        pages=1,
    )
    text = explain(Incident(divergence, 2, VERDICT_TRANSIENT, 1.5), image)
    assert text.splitlines()[0] == "DIVERGENCE after position 1000: register r10; module 2 had a transient fault"
    for line in (
        "  module 2: position 1234, rip 0x1001",
        "  register r10  (bit 2)",
        "    module 0: 0x15",
        "    module 2: 0x11",
        "  memory ram 0x1234  (bit 6)",
        "    module 2: 4f",
        "    module 0: idle",
        "  pages of memory that differ: 1",
        "code at rip of module 0 (from memory at position 0):",
        "code at rip of module 2 (from memory at position 0):",
    ):
        assert line in text.splitlines()
    assert "hlt" in text


def test_at_a_fail_stop_nobody_is_blamed_and_the_code_is_that_of_the_last_agreement() -> None:
    image = VerifiedImage(2 * MIB, threads=1)
    image.stand_at(Snapshot(state(rip=0x2000), b""))
    same = (report(rip=0x1000), report(rip=0x1000))
    divergence = Divergence(image.position, (Difference("register", "rax", (1, 2)),), (0, 1), same)
    lines = explain(Incident(divergence, None, VERDICT_FAIL_STOP, None), image).splitlines()
    assert lines[0] == "DIVERGENCE after position 0: register rax; nobody can say which module is right"
    assert lines.count("code at rip of module 0 and 1 (from verified memory):") == 1, "equal places are listed once"
    assert "code at the last agreement, position 0:" in lines


def test_a_lost_module_is_named_with_the_cause_and_nothing_is_compared() -> None:
    image = VerifiedImage(2 * MIB, threads=1)
    lost = Divergence(7, (Difference("death", "module 1", ("killed by SIGKILL",)),), (1,), (None,), 0, 1)
    text = explain(Incident(lost, 1, VERDICT_FAILED_OVER, 1.5), image)
    assert text == "LOSS after position 7: module 1, death: killed by SIGKILL"


def test_what_a_scrub_found_says_who_differs_and_not_where_modules_stand() -> None:
    image = VerifiedImage(2 * MIB, threads=1)
    found = Difference("memory", "ram 0x1234", ("as verified", "differs"))
    text = explain(Incident(Divergence(0, (found,), (0, 1), (None, None), 1), 1, VERDICT_TRANSIENT, 1.5), image)
    assert text.splitlines() == [
        "DIVERGENCE after position 0: memory ram 0x1234; module 1 had a transient fault",
        "what differs:",
        "  memory ram 0x1234",
        "    module 0: as verified",
        "    module 1: differs",
        "  pages of memory that differ: 1",
    ]


def test_a_flood_of_differences_is_cut() -> None:
    image = VerifiedImage(2 * MIB, threads=1)
    many = tuple(Difference("memory", f"ram {i:#x}", (b"a", b"b")) for i in range(MAX_DIFFERENCES + 5))
    incident = Incident(Divergence(1, many, (0, 1), (report(), report())), None, VERDICT_TRANSIENT, 1.5)
    assert "  and 5 more" in explain(incident, image).splitlines()

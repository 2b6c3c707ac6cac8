"""The divergence report, as people read it."""

import pytest

from ftvm.module.board import StopKind
from ftvm.module.link import Report
from ftvm.module.registers import ARCH_BYTES, with_registers
from ftvm.monitor.compare import Difference, Divergence
from ftvm.monitor.image import VerifiedImage
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
        (report(rip=0x1000, r10=0x15), report(rip=0x1001, r10=0x11)),
        pages=1,
    )
    text = explain(divergence, image)
    assert text.splitlines()[0] == (
        "DIVERGENCE after position 1000: register r10; nobody can say which module is right"
    )
    for line in (
        "  module 1: position 1234, rip 0x1001",
        "  register r10  (bit 2)",
        "    module 0: 0x15",
        "    module 1: 0x11",
        "  memory ram 0x1234  (bit 6)",
        "    module 1: 4f",
        "    module 0: idle",
        "  pages of memory that differ: 1",
        "code at rip of module 0 (from verified memory):",
        "code at rip of module 1 (from verified memory):",
    ):
        assert line in text.splitlines()
    assert "hlt" in text


def test_equal_places_are_listed_once() -> None:
    image = VerifiedImage(2 * MIB, threads=1)
    same = (report(rip=0x1000), report(rip=0x1000))
    text = explain(Divergence(1, (Difference("register", "rax", (1, 2)),), same), image)
    assert "code at rip of module 0 and 1 (from verified memory):" in text


def test_a_lost_module_is_named_with_the_cause() -> None:
    image = VerifiedImage(2 * MIB, threads=1)
    lost = Difference("death", "module 1", ("sound", "killed by SIGKILL"))
    text = explain(Divergence(7, (lost,), (None, None), 0, 1), image)
    assert text.startswith("DIVERGENCE after position 7: death module 1; module 1 is the odd one out")
    assert "    module 1: killed by SIGKILL" in text


def test_a_flood_of_differences_is_cut() -> None:
    image = VerifiedImage(2 * MIB, threads=1)
    many = tuple(Difference("memory", f"ram {i:#x}", (b"a", b"b")) for i in range(MAX_DIFFERENCES + 5))
    text = explain(Divergence(1, many, (report(), report())), image)
    assert "  and 5 more" in text.splitlines()

"""A block that may use what differs is never passed over."""

from array import array

import pytest

from ftvm.debug.divergence.pair import Traced
from ftvm.debug.divergence.uses import Uses
from ftvm.monitor.compare import Difference
from ftvm.units import PAGE_BYTES

PLAIN = "48 89 c8"
"""mov rax, rcx"""


def traced(*blocks: tuple[int, int, int], bits: int = 64) -> Traced:
    """Blocks: where, where on the second page, bytes."""
    nowhere = (1 << 64) - 1
    words = [word for at, rest, size in blocks for word in (0, 0, 0, 0, at, rest, size | bits << 32)]
    return Traced(array("Q", [*words, 0, 0, 0, 0, nowhere, nowhere, 0]).tobytes())


def used(code: str, register: str, bits: int = 64, change: int = 1) -> bool:
    data = bytes.fromhex(code)
    uses = Uses([Difference("register", register, (0, change))])
    found = uses.first(traced((8, (1 << 64) - 1, len(data)), bits=bits), memoryview(bytes(8) + data), set())
    assert found in (0, None)
    return found == 0


@pytest.mark.parametrize(
    ("code", "register"),
    [
        ("48 89 c8", "rax"),
        ("48 89 c8", "rcx"),
        ("41 88 c0", "r8"),  # mov r8b, al
        ("88 e2", "rax"),  # mov dl, ah
        ("40 8a f7", "rsi"),  # mov sil, dil
        ("8b 04 9d 00 00 00 00", "rbx"),  # mov eax, [rbx * 4]
        ("50", "rsp"),
        ("f3 a4", "rcx"),  # rep movsb
        ("48 f7 f1", "rdx"),  # div rcx
        ("e2 fe", "rcx"),  # loop
        ("d3 e0", "rcx"),  # shl eax, cl
        ("0f 05", "r11"),  # syscall
        ("48 cf", "rsp"),  # iretq
        ("d7", "rbx"),  # xlatb
        ("c8 10 00 00", "rbp"),  # enter
        ("f0 48 0f b1 0f", "rax"),  # lock cmpxchg [rdi], rcx
        ("f0 48 0f c7 0f", "rbx"),  # lock cmpxchg16b
        ("0f a2", "rbx"),  # cpuid
        ("66 0f ef c1", "xmm1"),
        ("0f ae 00", "xmm7"),  # fxsave
        ("64 48 8b 04 25 28 00 00 00", "fs.base"),
        ("0f 20 c0", "cr0"),
        ("06", "r9"),  # what is no code
    ],
)
def test_an_instruction_that_names_a_register_uses_it(code: str, register: str) -> None:
    assert used(code, register)
    assert used(PLAIN + PLAIN + code, register)


@pytest.mark.parametrize(
    ("code", "flag", "uses"),
    [
        ("0f 94 c0", 6, True),  # sete
        ("48 01 c8", 0, True),  # add: it writes them
        (PLAIN, 6, False),
        ("0f 94 c0", 9, False),  # IF is nothing to it
        ("9c", 9, True),  # pushfq
        ("fa", 9, True),  # cli
        ("f3 a4", 10, True),  # rep movsb and DF
    ],
)
def test_flags_are_used_by_those_that_look_at_them(code: str, flag: int, uses: bool) -> None:
    assert used(code, "rflags", change=1 << flag) is uses


def test_other_registers_are_not_used() -> None:
    assert not used("48 89 c8 48 8b 04 9d 00 00 00 00 48 01 d0 c3", "r12")
    assert not used("66 0f ef c1", "xmm2")


def test_code_is_decoded_as_wide_as_it_runs() -> None:
    """4C 89 C0: mov rax, r8; in 32 bits a dec of esp first."""
    assert used("4c 89 c0", "r8") and not used("4c 89 c0", "rsp")
    assert used("4c 89 c0", "rsp", bits=32) and not used("4c 89 c0", "r8", bits=32)


def test_the_first_of_several_is_named_and_code_on_two_pages_is_put_together() -> None:
    ram = bytearray(4 * PAGE_BYTES)
    ram[0:3] = bytes.fromhex(PLAIN)
    ram[PAGE_BYTES - 1], ram[3 * PAGE_BYTES : 3 * PAGE_BYTES + 2] = 0x4C, bytes.fromhex("89 c0")  # mov rax, r8
    uses = Uses([Difference("register", "r8", (0, 1))])
    nowhere = (1 << 64) - 1
    plain, split = (0, nowhere, 3), (PAGE_BYTES - 1, 3 * PAGE_BYTES, 3)
    history = traced(plain, plain, split, plain, split)
    assert uses.first(history, memoryview(ram), set()) == 2
    assert uses.first(traced(plain, plain), memoryview(ram), set()) is None
    # Nobody knows what stood on a page that was written meanwhile.
    assert uses.first(history, memoryview(ram), {0}) == 0
    assert uses.first(history, memoryview(ram), {3}) == 2
    # Nor what stands nowhere in RAM.
    assert uses.first(traced(plain, (nowhere, nowhere, 3)), memoryview(ram), set()) == 1


def test_where_no_register_differs_nothing_is_looked_for() -> None:
    uses = Uses([Difference("memory", "ram 0x10", (b"a", b"b"))])
    assert uses.first(traced((0, 0, 3)), memoryview(bytes(64)), {0}) is None

"""What a MOV to CR3 makes a CPU forget, and what not: SDM vol. 3, 4.10.4.1. Paging is that of 32 bits."""

import pytest

from ftvm.module.cpu import STOP_HALT
from tests.assembler import assemble
from tests.unit.test_cpu import FOREVER, RAM_BYTES, Bench

DIRECTORY, OTHER_DIRECTORY, LOW_TABLE, TABLE, OTHER_TABLE = 0x10000, 0x11000, 0x12000, 0x13000, 0x14000
MANY_TABLES = 0x18000
FRAME_1, FRAME_2 = 0x30000, 0x31000
WINDOW = 0x400000
LARGE = 0x800000
MANY = 0x1000000
MANY_PAGES = 4096
PRESENT, LARGE_PAGE, GLOBAL = 3, 0x80, 0x100
CR0_PG_PE, CR4_PSE, CR4_PGE = 0x80000011, 0x10, 0x80

REMAP = f"movl $({FRAME_2} + (entry & 0xfff)), {TABLE}"
LOAD_CR3 = "mov %cr3, %edx; mov %edx, %cr3"
INVLPG = f"invlpg {WINDOW}"
READ = f"mov {WINDOW}, %ebx"
CALL = f"mov ${WINDOW + 8}, %ebx; call *%ebx; mov %eax, %ebx"


def run(code: str, kind: int = GLOBAL, pge: bool = True) -> int:
    """EBX at the HLT. The window is frame 1, where the word 1 is, and 8 bytes behind it a function whose result is 1;
    frame 2 has 2. Of the two directories only the window differs."""
    bench = Bench(f".set entry, {FRAME_1 + PRESENT + kind}\n{code}\nhlt", bits=32)

    def entry(table: int, index: int, value: int) -> None:
        bench.ram[table + 4 * index : table + 4 * index + 4] = value.to_bytes(4, "little")

    for page in range(RAM_BYTES // 4096):
        entry(LOW_TABLE, page, page * 4096 | PRESENT | GLOBAL)
    for directory, table in ((DIRECTORY, TABLE), (OTHER_DIRECTORY, OTHER_TABLE)):
        entry(directory, 0, LOW_TABLE | PRESENT)
        entry(directory, WINDOW >> 22, table | PRESENT)
        entry(directory, LARGE >> 22, PRESENT | LARGE_PAGE | GLOBAL)
    entry(TABLE, 0, FRAME_1 | PRESENT | kind)
    entry(OTHER_TABLE, 0, FRAME_2 | PRESENT | kind)
    for page in range(MANY_PAGES):
        if page % 1024 == 0:
            entry(DIRECTORY, (MANY >> 22) + page // 1024, MANY_TABLES + page * 4 | PRESENT)
        entry(MANY_TABLES, page, (FRAME_1, FRAME_2)[page % 2] | PRESENT | kind)
    for frame, number in ((FRAME_1, 1), (FRAME_2, 2)):
        bench.ram[frame : frame + 4] = number.to_bytes(4, "little")
        function = assemble(f"mov ${number}, %eax; ret", bits=32)
        bench.ram[frame + 8 : frame + 8 + len(function)] = function
    segments = {f"{name}.{part}": value for name in ("cs", "ss", "ds") for part, value in flat(name).items()}
    cr4 = CR4_PSE | (CR4_PGE if pge else 0)
    bench.set(cr0=CR0_PG_PE, cr3=DIRECTORY, cr4=cr4, rip=0x1000, rsp=0x8000, **segments)
    assert bench.cpu.run(FOREVER) == STOP_HALT
    return bench.get("rbx")


def flat(name: str) -> dict[str, int]:
    return {"base": 0, "limit": 0xFFFFFFFF, "flags": 0xCF9B00 if name == "cs" else 0xCF9300}


@pytest.mark.parametrize("look", [READ, CALL])
def test_a_global_page_stays_until_it_is_invalidated(look: str) -> None:
    before = f"{look}; {REMAP}; {LOAD_CR3}"
    assert run(f"{before}; {look}") == 1
    assert run(f"{before}; {look}; {INVLPG}; {look}") == 2
    assert run(f"{before}; mov %cr4, %edx; xor ${CR4_PGE}, %edx; mov %edx, %cr4; {look}") == 2


@pytest.mark.parametrize("look", [READ, CALL])
@pytest.mark.parametrize(("kind", "pge"), [(0, True), (GLOBAL, False), (0, False)])
def test_a_page_that_is_not_global_goes(look: str, kind: int, pge: bool) -> None:
    assert run(f"{look}; {REMAP}; {LOAD_CR3}; {look}", kind, pge) == 2


@pytest.mark.parametrize("look", [READ, CALL])
def test_a_page_that_is_global_no_longer_goes(look: str) -> None:
    local = f"movl ${FRAME_1 + PRESENT}, {TABLE}; {INVLPG}"
    assert run(f"{look}; {local}; {look}; movl ${FRAME_2 + PRESENT}, {TABLE}; {LOAD_CR3}; {look}") == 2


def test_a_function_that_is_known_as_a_target_may_be_changed() -> None:
    number = FRAME_1 + 8 + 1  # the constant in its first instruction, through another mapping
    look = f"mov $3, %ecx; 1: {CALL}; loop 1b"
    assert run(f"{look}; movb $7, {number}; {look}") == 7
    assert run(f"{look}; movb $7, {number}; {look}; movb $8, {number}; {CALL}") == 8


@pytest.mark.parametrize("look", [READ, CALL])
def test_two_address_spaces_stay_apart(look: str) -> None:
    """However often they change: EBP counts those looks that saw the other one."""
    code = f"""
        xor %ebp, %ebp
        mov $500, %ecx
    1:  mov ${DIRECTORY}, %edx
        mov %edx, %cr3
        {look}
        lea -1(%ebx, %ebp), %ebp
        mov ${OTHER_DIRECTORY}, %edx
        mov %edx, %cr3
        {look}
        lea -2(%ebx, %ebp), %ebp
        dec %ecx
        jnz 1b
        mov %ebp, %ebx
    """
    assert run(code, kind=0) == 0


@pytest.mark.parametrize("kind", [0, GLOBAL])
@pytest.mark.parametrize("count", [100, 257, 600, MANY_PAGES])
def test_many_pages_go_like_one(kind: int, count: int) -> None:
    """EBX: sums over the pages that must be those of their frames, before and after all have changed places."""
    code = f"""
        xor %ebx, %ebx
        mov $3, %ebp
    2:  xor %ecx, %ecx
    1:  mov %ecx, %eax
        shl $12, %eax
        add {MANY}(%eax), %ebx
        xorl ${FRAME_1 ^ FRAME_2}, {MANY_TABLES}(, %ecx, 4)
        inc %ecx
        cmp ${count}, %ecx
        jne 1b
        {LOAD_CR3}
        mov %cr4, %edx
        xor ${CR4_PGE}, %edx
        {"mov %edx, %cr4" if kind else ""}
        dec %ebp
        jnz 2b
    """
    ones, twos = (count + 1) // 2, count // 2
    assert run(code, kind) == 2 * (ones + 2 * twos) + (twos + 2 * ones)


def test_code_on_a_large_page_goes_with_any_address_on_it() -> None:
    split = f"""
        movl ${FRAME_2 + PRESENT}, {OTHER_TABLE + 4 * (FRAME_1 >> 12)}
        movl ${OTHER_TABLE + PRESENT}, {DIRECTORY + 4 * (LARGE >> 22)}
    """
    call = f"mov ${LARGE + FRAME_1 + 8}, %ecx; call *%ecx; mov %eax, %ebx"
    assert run(f"{call}; {split}") == 1
    assert run(f"{call}; {split}; invlpg {LARGE}; {call}") == 2

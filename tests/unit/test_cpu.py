"""The CPU against the manuals, and against what the lockstep rests on: exact positions, exact stops, a complete log."""

import mmap
import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm._native import ffi
from ftvm.module.cpu import (
    ARCH_BYTES,
    STOP_CRASH,
    STOP_HALT,
    STOP_POSITION,
    STOP_REQUEST,
    Cpu,
)
from ftvm.module.registers import REGISTERS, with_registers
from ftvm.units import MIB, NS_PER_BLOCK
from tests.assembler import assemble

RAM_BYTES = 2 * MIB
FOREVER = 1 << 60


class Recorder:
    """Devices that remember what was written and answer with what they were told."""

    def __init__(self) -> None:
        self.written: list[tuple[int, int, int]] = []
        self.answer = 0
        self.vector = 0x20
        self.cpu: Cpu | None = None

    def port_read(self, port: int, size: int) -> int:
        return self.answer

    def port_write(self, port: int, size: int, value: int) -> None:
        self.written.append((port, size, value))

    def mmio_read(self, gpa: int, size: int) -> int:
        return gpa & 0xFFFF

    def mmio_write(self, gpa: int, size: int, value: int) -> None:
        self.written.append((gpa, size, value))

    def msr_read(self, index: int) -> int | None:
        return 0x1234

    def msr_write(self, index: int, value: int) -> bool:
        return value != 0xBAD

    def cr8_read(self) -> int:
        return 0

    def cr8_write(self, value: int) -> None:
        self.written.append((8, 8, value))

    def interrupt_ack(self) -> int:
        assert self.cpu is not None
        self.cpu.set_interrupt_line(False)
        return self.vector


class Bench:
    """A CPU with 2 MiB, real-mode code at 0:1000, interrupt vectors in place as far as given."""

    def __init__(self, code: str, vectors: dict[int, int] | None = None, bits: int = 16) -> None:
        self.ram = mmap.mmap(-1, RAM_BYTES)
        self.cpu = Cpu(self.ram)
        self.devices = Recorder()
        self.devices.cpu = self.cpu
        self.cpu.connect(self.devices)
        machine_code = assemble(code, 0x1000, bits)
        self.ram[0x1000 : 0x1000 + len(machine_code)] = machine_code
        for vector, offset in (vectors or {}).items():
            self.ram[vector * 4 : vector * 4 + 4] = offset.to_bytes(4, "little")
        self.set(rip=0x1000, rsp=0x8000)
        self.pages = ffi.new("uint32_t[]", RAM_BYTES // 4096)
        self.count = ffi.new("uint32_t *")
        self.cpu.set_dirty_log(self.pages, self.count)

    def arch(self) -> bytes:
        state = bytearray(ARCH_BYTES)
        self.cpu.save(state)
        return bytes(state)

    def set(self, **values: int) -> None:
        self.cpu.load(with_registers(self.arch(), values))

    def get(self, name: str) -> int:
        return REGISTERS[name].of(self.arch())

    def dirty(self) -> list[int]:
        return [self.pages[i] for i in range(self.count[0])]


COUNT_TO_1000 = """
    mov $1000, %cx
1:  incw 0x4000
    addw %cx, 0x4002
    rolw $3, 0x4004
    xorw %cx, 0x4004
    loop 1b
    hlt
"""


def test_a_block_is_counted_once_at_its_entry() -> None:
    bench = Bench("mov $3, %cx\n1: loop 1b\n hlt")
    assert bench.cpu.run(FOREVER) == STOP_HALT
    # mov+loop, then loop twice more, then hlt
    assert bench.cpu.position() == 4


def test_each_repetition_of_a_string_instruction_is_a_block() -> None:
    bench = Bench("mov $5, %cx\n mov $0x4000, %di\n cld\n rep stosb\n hlt")
    assert bench.cpu.run(FOREVER) == STOP_HALT
    assert bench.cpu.position() >= 6


@pytest.mark.parametrize("stride", [1, 2, 3, 7, 77])
def test_stopping_anywhere_changes_nothing(stride: int) -> None:
    straight = Bench(COUNT_TO_1000)
    assert straight.cpu.run(FOREVER) == STOP_HALT
    pieces = Bench(COUNT_TO_1000)
    position = 0
    while (stop := pieces.cpu.run(position + stride)) == STOP_POSITION:
        position += stride
        assert pieces.cpu.position() == position
    assert stop == STOP_HALT
    assert pieces.arch() == straight.arch()
    assert pieces.ram[:] == straight.ram[:]


@settings(max_examples=40, deadline=None)
@given(position=st.integers(0, 1003), seed=st.integers(0, 1 << 30))
def test_a_fresh_cpu_continues_from_a_saved_state(position: int, seed: int) -> None:
    straight = Bench(COUNT_TO_1000)
    straight.cpu.run(FOREVER)
    first = Bench(COUNT_TO_1000)
    first.cpu.run(position)
    second = Bench("hlt")
    second.ram[:] = first.ram[:]
    second.cpu.load(first.arch())
    assert second.arch() == first.arch()
    for target in sorted(random.Random(seed).sample(range(1100), 5)):
        if target > position:
            second.cpu.run(target)
    second.cpu.run(FOREVER)
    assert second.arch() == straight.arch()
    assert second.ram[:] == straight.ram[:]


def test_saving_after_loading_gives_every_register_back() -> None:
    bench = Bench("hlt")
    values = {f"r{n}": 0x1111111111111111 * n for n in range(8, 16)}
    values |= {f"xmm{n}": (0xABCDEF0123456789 << 64) + n for n in range(16)}
    values |= {"star": 1 << 40, "lstar": 0xFFFFFFFF81000000, "fmask": 0x47700, "kernel_gs_base": 0x1234567}
    values |= {"cr2": 0xDEADBEEF, "dr0": 0x1000, "dr7": 0x401, "fpu_status": 0x3800, "fpu_tags": 0x81}
    values |= {"mxcsr": 0x1FA0, "tsc_offset": 77, "tsc_aux": 5, "interrupt_shadow": 1, "nmi_blocked": 1}
    before = with_registers(bench.arch(), values)
    bench.cpu.load(before)
    assert bench.arch() == before


def test_read_modify_write_with_a_device_runs_once_when_the_device_asks_for_a_stop() -> None:
    bench = Bench("incw 0x4000\n out %al, $0x80\n incw 0x4002\n jmp 1f\n1: incw 0x4004\n hlt")

    def stop_here(port: int, size: int, value: int) -> None:
        bench.cpu.request_stop()

    bench.devices.port_write = stop_here  # type: ignore[method-assign]
    assert bench.cpu.run(FOREVER) == STOP_REQUEST
    # The stop waits for the next block entry.
    assert bench.ram[0x4000:0x4006] == bytes([1, 0, 1, 0, 0, 0])
    assert bench.cpu.run(FOREVER) == STOP_HALT
    assert bench.ram[0x4000:0x4006] == bytes([1, 0, 1, 0, 1, 0])


def test_the_dirty_log_names_each_written_page_once_and_rearms() -> None:
    bench = Bench("""
        mov $0x4000, %bx
    1:  movb $1, (%bx)
        movb $2, 8(%bx)
        add $0x1000, %bx
        cmp $0x7000, %bx
        jne 1b
        jmp 2f
    2:  movb $3, 0x5000
        hlt
    """)
    # Three iterations of the loop, then the jump.
    while bench.get("rbx") != 0x7000:
        bench.cpu.run(bench.cpu.position() + 1)
    assert bench.dirty() == [4, 5, 6]
    bench.cpu.rearm_dirty_log()
    assert bench.dirty() == []
    assert bench.cpu.run(FOREVER) == STOP_HALT
    assert bench.dirty() == [5]


STORES_EVERYWHERE = """
1:  imul $1103515245, %eax
    add $12345, %eax
    mov %eax, %ebx
    shr $5, %ebx
    and $0x1ffffc, %ebx
    test $0x1fe000, %ebx
    jz 1b
    incl (%ebx)
    dec %ecx
    jnz 1b
    hlt
"""


@pytest.mark.parametrize("length", [1, 40, 900, 20_000])
def test_the_log_of_each_stretch_names_the_pages_that_changed_in_it(length: int) -> None:
    """Of more pages than the TLB has entries, whose victims come back, and more than are remembered one by one."""
    bench = Bench(STORES_EVERYWHERE, bits=32)
    flat = {"base": 0, "limit": 0xFFFFFFFF}
    segments = {f"{name}.{field}": value for name in ("cs", "ds", "ss", "es") for field, value in flat.items()}
    flags = {"cs.flags": 0xC09B00, "ds.flags": 0xC09300, "ss.flags": 0xC09300, "es.flags": 0xC09300}
    bench.set(cr0=0x60000011, rcx=60 * length, rax=length, **segments, **flags)
    stop = STOP_POSITION
    while stop == STOP_POSITION:
        before = bench.ram[:]
        bench.cpu.rearm_dirty_log()
        stop = bench.cpu.run(bench.cpu.position() + length)
        after = bench.ram[:]
        pages = range(0, RAM_BYTES, 4096)
        changed = [page // 4096 for page in pages if before[page : page + 4096] != after[page : page + 4096]]
        assert sorted(bench.dirty()) == changed
    assert stop == STOP_HALT
    assert bench.cpu.position() >= 60 * length


def test_a_push_by_an_exception_is_logged() -> None:
    bench = Bench("mov $0x9000, %sp\n ud2", vectors={6: 0x1800})
    bench.ram[0x1800] = 0xF4
    assert bench.cpu.run(FOREVER) == STOP_HALT
    assert bench.dirty() == [8]
    assert bench.get("rip") == 0x1801


def test_device_writes_are_logged_and_drop_translated_code() -> None:
    bench = Bench("1: mov $1, %ax\n out %al, $0x80\n jmp 1b")
    bench.cpu.run(10)
    bench.cpu.write_ram(0x1001, b"\x02")
    assert bench.dirty() == [1]
    bench.devices.written.clear()
    bench.cpu.run(14)
    assert {value for _, _, value in bench.devices.written} == {2}


def test_code_is_dropped_where_the_owner_changed_ram() -> None:
    bench = Bench("1: mov $1, %ax\n out %al, $0x80\n jmp 1b")
    bench.cpu.run(10)
    bench.ram[0x1001] = 2
    bench.cpu.invalidate_places(struct.pack("=4Q", 0x3FFF, 2, 0x1001, 1))
    assert bench.dirty() == []
    bench.devices.written.clear()
    bench.cpu.run(14)
    assert {value for _, _, value in bench.devices.written} == {2}
    for place in [(RAM_BYTES - 1, 2), (1, (1 << 64) - 1), (RAM_BYTES + 1, 0)]:
        with pytest.raises(IndexError, match="outside RAM"):
            bench.cpu.invalidate_places(struct.pack("=2Q", *place))


@pytest.mark.parametrize("stride", [1, 2, 3, 1000000])
def test_a_store_to_the_next_instruction_is_executed(stride: int) -> None:
    """SDM vol. 3, 9.3: a write to a code segment's location in the instruction stream is seen by later fetches."""
    code = """
        mov $200, %cx
    1:  movb %cl, 2f+1
        nop
    2:  mov $0, %al
        cmp %cl, %al
        jne bad
        loop 1b
        hlt
    bad: movb $1, 0x4000
        hlt
    """
    bench = Bench(code)
    position = 0
    while bench.cpu.run(position + stride) == STOP_POSITION:
        position += stride
    assert bench.ram[0x4000] == 0
    assert bench.get("rcx") == 0
    straight = Bench(code)
    straight.cpu.run(FOREVER)
    assert bench.arch() == straight.arch()


def test_two_stores_of_one_block_to_its_own_code_are_both_seen() -> None:
    bench = Bench("""
        movb $7, far_away
        movb $9, 2f+1
    2:  mov $0, %al
        hlt
    far_away: .byte 0
    """)
    assert bench.cpu.run(FOREVER) == STOP_HALT
    assert bench.get("rax") & 0xFF == 9


def test_virtual_time_is_a_function_of_the_position() -> None:
    bench = Bench("mov $100, %cx\n1: loop 1b\n rdtsc\n hlt")
    assert bench.cpu.run(FOREVER) == STOP_HALT
    assert bench.cpu.now_ns() == bench.cpu.position() * NS_PER_BLOCK
    assert bench.get("rax") in (100 * NS_PER_BLOCK, 101 * NS_PER_BLOCK)
    bench.cpu.skip_to_ns(5_000_000)
    assert bench.cpu.now_ns() == 5_000_000
    assert bench.cpu.tsc() == 5_000_000


def test_an_interrupt_waits_for_if_and_wakes_a_halted_cpu() -> None:
    bench = Bench("cli\n nop\n jmp 1f\n1: sti\n hlt\n movb $1, 0x4000\n hlt", vectors={0x20: 0x1800})
    bench.ram[0x1800:0x1805] = assemble("incb 0x4001\n iret", 0x1800)
    bench.cpu.set_interrupt_line(True)
    assert bench.cpu.run(FOREVER) == STOP_HALT
    # Taken after the HLT that follows STI, not between the two: the second HLT stopped us.
    assert bench.ram[0x4000:0x4002] == b"\x01\x01"


def test_the_instruction_after_sti_runs_before_the_interrupt() -> None:
    bench = Bench("cli\n sti\n incb 0x4000\n incb 0x4001\n 1: jmp 1b", vectors={0x20: 0x1800})
    bench.ram[0x1800] = 0xF4
    bench.cpu.set_interrupt_line(True)
    assert bench.cpu.run(FOREVER) == STOP_HALT
    assert bench.ram[0x4000:0x4002] == b"\x01\x00"


def test_a_masked_interrupt_stays_pending_while_the_guest_runs_on() -> None:
    bench = Bench("cli\n 1: incw 0x4000\n jmp 1b")
    bench.cpu.set_interrupt_line(True)
    assert bench.cpu.run(500) == STOP_POSITION
    assert bench.cpu.position() == 500


def test_an_nmi_is_taken_with_interrupts_off_and_not_nested() -> None:
    bench = Bench("cli\n 1: jmp 1b", vectors={2: 0x1800})
    bench.ram[0x1800:0x1803] = b"\x40\xeb\xfd"  # inc %ax; jmp
    bench.cpu.raise_nmi()
    bench.cpu.run(10)
    assert bench.get("nmi_blocked") == 1
    stack = bench.get("rsp")
    bench.cpu.raise_nmi()
    bench.cpu.run(20)
    assert bench.get("rsp") == stack
    assert bench.get("nmi_pending") == 1


def test_halting_with_nothing_to_wake_it_reports_halt_again() -> None:
    bench = Bench("cli\n hlt")
    assert bench.cpu.run(FOREVER) == STOP_HALT
    position = bench.cpu.position()
    assert bench.cpu.run(FOREVER) == STOP_HALT
    assert bench.cpu.position() == position


def test_a_third_fault_is_a_crash() -> None:
    # A zero limit leaves no vector: #GP, #DF, shutdown (SDM vol. 3, 6.15).
    bench = Bench("lidt empty\n ud2\n .align 8\nempty: .word 0, 0, 0")
    assert bench.cpu.run(FOREVER) == STOP_CRASH


def test_an_unknown_msr_raises_general_protection() -> None:
    bench = Bench("mov $0x12345, %ecx\n nop\n1: rdmsr\n hlt", vectors={13: 0x1800})
    bench.ram[0x1800] = 0xF4
    assert bench.cpu.run(FOREVER) == STOP_HALT
    assert bench.get("rip") == 0x1801
    saved_ip = int.from_bytes(bench.ram[0x7FFA:0x7FFC], "little")
    assert bench.ram[saved_ip : saved_ip + 2] == b"\x0f\x32"


@pytest.mark.parametrize(("instruction", "name"), [("rdrand %ax", "RDRAND"), ("rdseed %ax", "RDSEED")])
def test_random_number_instructions_are_refused(instruction: str, name: str) -> None:
    bench = Bench(f"{instruction}\n hlt", vectors={6: 0x1800})
    bench.ram[0x1800] = 0xF4
    assert bench.cpu.run(FOREVER) == STOP_HALT
    assert bench.get("rip") == 0x1801, name


def test_cpuid_names_the_model_and_hides_random_numbers() -> None:
    bench = Bench("""
        mov $1, %eax
        cpuid
        mov %ecx, 0x4000
        mov $7, %eax
        xor %ecx, %ecx
        cpuid
        mov %ebx, 0x4004
        mov $0, %eax
        cpuid
        hlt
    """)
    assert bench.cpu.run(FOREVER) == STOP_HALT
    assert not int.from_bytes(bench.ram[0x4000:0x4004], "little") >> 30 & 1
    assert not int.from_bytes(bench.ram[0x4004:0x4008], "little") >> 18 & 1
    assert bench.get("rbx").to_bytes(4, "little") == b"Genu"


def test_writing_the_tsc_moves_tsc_adjust_with_it() -> None:
    """SDM vol. 3, 18.17.3."""
    bench = Bench("""
        mov $0x10, %ecx
        xor %edx, %edx
        mov $1000000, %eax
        wrmsr
        mov $0x3b, %ecx
        rdmsr
        hlt
    """)
    assert bench.cpu.run(FOREVER) == STOP_HALT
    assert bench.get("rax") == bench.get("tsc_adjust") == bench.get("tsc_offset")
    assert 1_000_000 - 1000 < bench.get("tsc_adjust") <= 1_000_000


def test_memory_that_is_not_ram_is_a_device() -> None:
    bench = Bench("""
        mov $0xfee00030, %ebx
        mov (%ebx), %eax
        movl $0x55, (%ebx)
        hlt
    """)
    # Big real mode: a data segment with a 4 GiB limit.
    bench.set(**{"ds.limit": 0xFFFFFFFF, "ds.flags": 0x8F9300})
    assert bench.cpu.run(FOREVER) == STOP_HALT
    assert bench.get("rax") == 0x30
    assert bench.devices.written == [(0xFEE00030, 4, 0x55)]


def test_an_exception_in_a_device_ends_the_run_and_is_raised_there() -> None:
    bench = Bench("1: out %al, $0x80\n jmp 1b")

    def fail(port: int, size: int, value: int) -> None:
        raise ZeroDivisionError("device")

    bench.devices.port_write = fail  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError, match="device"):
        bench.cpu.run(FOREVER)


def test_a_state_of_the_wrong_size_is_refused() -> None:
    bench = Bench("hlt")
    with pytest.raises(ValueError, match="has 1"):
        bench.cpu.load(bytes(10))
    with pytest.raises(IndexError, match="outside RAM"):
        bench.cpu.write_ram(RAM_BYTES - 1, b"ab")

"""What guests find when they start, seen by running them: the BIOS's services, and the CPU's state in every mode."""

import mmap
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from ftvm.boot import BootPlan
from ftvm.memory_map import ram_offset
from ftvm.module.board import Board, BoardConfig, StopKind
from ftvm.module.cpu import Cpu
from ftvm.module.events import ConsoleOut, KeyboardIn
from ftvm.module.registers import ARCH_BYTES, register, with_registers
from ftvm.units import MIB
from tests.assembler import assemble
from tests.unit.boot_images import (
    RAM_BYTES,
    Memory,
    Part,
    boot,
    boot_sector,
    bzimage,
    elf,
    multiboot1_header,
    pvh_note,
)

EPOCH_BLOCKS = 100_000
PATIENCE_BLOCKS = 20_000_000


class Pc:
    """One board with its CPU, started from a plan."""

    def __init__(self, plan: BootPlan, console_input: bytes = b"") -> None:
        self.ram = mmap.mmap(-1, RAM_BYTES)
        for segment in plan.segments:
            offset = ram_offset(segment.gpa, RAM_BYTES)
            assert offset is not None
            self.ram[offset : offset + len(segment.data)] = segment.data
        self._cpu = Cpu(self.ram)
        self._board = Board(BoardConfig(ram_bytes=RAM_BYTES, input=console_input), self._cpu)
        start = {**plan.registers, "cs.selector": plan.cs, "cs.base": plan.cs * 16, "rip": plan.ip}
        self._cpu.load(with_registers(self._state(), start))
        self.console = b""

    def run(self) -> "Pc":
        """Until the guest halts with interrupts off."""
        while self._cpu.position() < PATIENCE_BLOCKS:
            stop = self._board.run(self._cpu.position() + EPOCH_BLOCKS)
            for output in self._board.take_outputs():
                if isinstance(output, ConsoleOut):
                    self.console += output.data
            if stop.kind == StopKind.HALTED:
                return self
            assert stop.kind in (StopKind.POSITION, StopKind.OUTPUT, StopKind.IDLE), stop
        raise AssertionError(f"the guest does not halt; so far it wrote {self.console!r}")

    def press(self, *scancodes: int) -> None:
        self._board.put([KeyboardIn(bytes(scancodes))])

    def _state(self) -> bytes:
        arch = bytearray(ARCH_BYTES)
        self._cpu.save(arch)
        return bytes(arch)

    def __getitem__(self, name: str) -> int:
        """A register."""
        return register(name).of(self._state())

    def words(self, address: int, count: int) -> tuple[int, ...]:
        """16-bit words of memory."""
        return struct.unpack_from(f"<{count}H", self.ram, address)

    def row(self, number: int) -> str:
        """A row of the screen without trailing blanks."""
        start = 0xB8000 + 160 * number
        return self.ram[start : start + 160 : 2].decode("cp437").rstrip(" \0")

    def attribute(self, row: int, column: int) -> int:
        return self.ram[0xB8000 + 160 * row + 2 * column + 1]

    def close(self) -> None:
        self._cpu.close()


STORE = """
    .macro save register        # append a 16-bit value to the results at 0x6000
    movw \\register, %cs:(0x5000)
    pushw %di
    movw %cs:(0x5002), %di
    pushw %cs:(0x5000)
    popw %cs:0x6000(%di)
    addw $2, %cs:(0x5002)
    popw %di
    .endm
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
"""


@pytest.fixture
def run_sector(tmp_path: Path) -> Callable[..., Pc]:
    """Run 16-bit code as a boot sector, until it halts with interrupts off; ``save REGISTER`` stores results."""

    def run(code: str, keys: tuple[int, ...] = (), console_input: bytes = b"") -> Pc:
        image = boot_sector(assemble(f"{STORE}{code}\ncli\nhlt\n", origin=0x7C00))
        pc = Pc(boot(tmp_path, image), console_input)
        pc.press(*keys)
        return pc.run()

    return run


def results(pc: Pc, count: int) -> tuple[int, ...]:
    """What the guest saved."""
    assert pc.words(0x5002, 1) == (2 * count,)
    return pc.words(0x6000, count)


# ---- The state in which a boot sector starts ----


def test_a_boot_sector_starts_at_0_7c00_with_its_drive_in_dl_and_interrupts_on(tmp_path: Path) -> None:
    pc = Pc(boot(tmp_path, boot_sector(b"\x9c\x5f\xfa\xf4"))).run()  # pushf; pop di; cli; hlt
    assert (pc["cs.base"], pc["rip"]) == (0, 0x7C04)
    assert pc["rdi"] & 0x200
    assert (pc["ss.base"], pc["rsp"]) == (0, 0x7C00)
    assert pc["rdx"] == 0x80
    assert [pc[name] for name in ("rax", "rbx", "rcx", "rsi", "rbp", "ds.base", "es.base")] == [0] * 7
    assert not pc["cr0"] & 0xE0000001  # no paging, caches on, real mode


def test_the_rest_of_the_image_follows_the_boot_sector(tmp_path: Path) -> None:
    image = boot_sector(b"\xfa\xf4", sectors=20)[:-4] + b"last"
    pc = Pc(boot(tmp_path, image)).run()
    assert pc.ram[0x7C00 + len(image) - 4 : 0x7C00 + len(image)] == b"last"


def test_the_bios_data_area_describes_the_machine(tmp_path: Path) -> None:
    memory = Memory(boot(tmp_path, boot_sector()))
    assert memory.unpack("<H", 0x400) == (0x3F8,)
    assert memory.unpack("<H", 0x40E) == (0x9FC0,)
    assert memory.unpack("<H", 0x413) == (639,)
    assert memory.unpack("<BHH", 0x449) == (3, 80, 4096)
    assert memory.unpack("<H", 0x463) == (0x3D4,)
    assert memory.unpack("<HH", 0x41A) == memory.unpack("<H", 0x480) * 2
    assert memory.unpack("<B", 0x9FC00) == (1,)  # the EBDA's size in KiB


# ---- Services ----


def test_teletype_writes_to_the_screen_and_to_the_serial_port(run_sector: Callable[..., Pc]) -> None:
    pc = run_sector("""
        movw $text, %si
    1:  lodsb
        testb %al, %al
        jz 2f
        movb $0x0e, %ah
        int $0x10
        jmp 1b
    text: .asciz "one\\r\\ntwo\\bx"
    2:  movb $3, %ah
        int $0x10
        save %dx
    """)
    assert pc.console == b"one\r\ntwo\bx"
    assert (pc.row(0), pc.row(1)) == ("one", "twx")
    assert results(pc, 1) == (0x0103,)


def test_the_screen_scrolls_when_the_last_row_is_full(run_sector: Callable[..., Pc]) -> None:
    pc = run_sector("""
        movw $0x0003, %ax
        int $0x10
        movw $'A', %cx
    1:  movb %cl, %al
        movb $0x0e, %ah
        int $0x10
        movw $0x0e0d, %ax
        int $0x10
        movb $0x0a, %al
        int $0x10
        incw %cx
        cmpb $'Z' + 1, %cl
        jb 1b
        movw $0x0e00 + '!', %ax
        int $0x10
    """)
    assert [pc.row(number) for number in range(25)] == [*"CDEFGHIJKLMNOPQRSTUVWXYZ", "!"]
    assert pc.attribute(24, 0) == 7


def test_long_lines_wrap(run_sector: Callable[..., Pc]) -> None:
    pc = run_sector("""
        movw $85, %cx
    1:  movw $0x0e00 + 'x', %ax
        int $0x10
        loop 1b
    """)
    assert (pc.row(0), pc.row(1)) == ("x" * 80, "x" * 5)


def test_windows_scroll_both_ways(run_sector: Callable[..., Pc]) -> None:
    fill = """
        movw $0x0003, %ax
        int $0x10
        movw $0xb800, %ax
        movw %ax, %es
        xorw %di, %di
        movb $'A', %al
    1:  movw $80, %cx
    2:  stosb
        incw %di
        loop 2b
        incb %al
        cmpb $'A' + 25, %al
        jb 1b
    """
    window = "movw $0x0502, %cx; movw $0x0809, %dx; movb $0x2e, %bh; int $0x10"  # rows 5-8, columns 2-9

    def column(pc: Pc, at: int) -> str:
        return "".join(
            pc.ram[0xB8000 + 160 * row + 2 * at : 0xB8000 + 160 * row + 2 * at + 1].decode() for row in range(4, 10)
        )

    pc = run_sector(f"{fill}; movw $0x0601, %ax; {window}")
    assert [column(pc, at) for at in (1, 2, 9, 10)] == ["EFGHIJ", "EGHI J", "EGHI J", "EFGHIJ"]
    assert (pc.attribute(8, 5), pc.attribute(7, 5)) == (0x2E, 7)
    pc = run_sector(f"{fill}; movw $0x0703, %ax; {window}")
    assert [column(pc, at) for at in (1, 2, 9, 10)] == ["EFGHIJ", "E   FJ", "E   FJ", "EFGHIJ"]
    assert (pc.attribute(7, 5), pc.attribute(8, 5)) == (0x2E, 7)
    pc = run_sector(f"{fill}; movw $0x0600, %ax; {window}")
    assert column(pc, 5) == "E    J"
    pc = run_sector(f"{fill}; movw $0x0701, %ax; movw $0x1830, %cx; movw $0xff31, %dx; movb $7, %bh; int $0x10")
    assert (pc.row(23)[48:50], pc.row(24)[48:50]) == ("XX", "  ")


def test_characters_with_attributes(run_sector: Callable[..., Pc]) -> None:
    pc = run_sector("""
        movb $2, %ah
        movw $0x0305, %dx
        int $0x10
        movw $0x0900 + 'a', %ax     # with attribute, three times
        movw $0x004f, %bx
        movw $3, %cx
        int $0x10
        movw $0x0a00 + 'b', %ax     # keeps the attribute
        movw $1, %cx
        int $0x10
        movb $8, %ah
        int $0x10
        save %ax
        movb $3, %ah
        int $0x10
        save %dx
    """)
    assert pc.row(3).strip("\0 ") == "baa"
    assert results(pc, 2) == (0x4F00 | ord("b"), 0x0305)


def test_strings(run_sector: Callable[..., Pc]) -> None:
    pc = run_sector("""
        movw $0x1300, %ax           # attribute in BL, the cursor stays
        movw $0x001e, %bx
        movw $5, %cx
        movw $0x0a10, %dx
        movw $plain, %bp
        int $0x10
        movb $3, %ah
        int $0x10
        save %dx
        movw $0x1303, %ax           # attributes in the string, the cursor follows
        movw $2, %cx
        movw $0x0b10, %dx
        movw $coloured, %bp
        int $0x10
        movb $3, %ah
        int $0x10
        save %dx
        jmp 1f
    plain: .ascii "hello"
    coloured: .byte 'H', 0x2f, 'i', 0x3f
    1:
    """)
    assert pc.console == b"helloHi"
    assert pc.row(10)[16:] == "hello"
    assert pc.row(11)[16:] == "Hi"
    assert (pc.attribute(10, 16), pc.attribute(11, 16), pc.attribute(11, 17)) == (0x1E, 0x2F, 0x3F)
    assert results(pc, 2) == (0, 0x0B12)


def test_a_mode_clears_the_screen_unless_told_not_to(run_sector: Callable[..., Pc]) -> None:
    show = "movw $0x0e00 + 'x', %ax; int $0x10;"
    assert run_sector(show + "movw $0x0003, %ax; int $0x10").row(0) == ""
    assert run_sector(show + "movw $0x0083, %ax; int $0x10").row(0) == "x"
    pc = run_sector(show + "movw $0x0013, %ax; int $0x10; movb $0x0f, %ah; int $0x10; save %ax; save %bx")
    assert pc.row(0) == "x"  # there is no graphics mode to go to
    assert results(pc, 2) == (0x5003, 0)


def test_equipment_and_conventional_memory(run_sector: Callable[..., Pc]) -> None:
    assert results(run_sector("int $0x11; save %ax; int $0x12; save %ax"), 2) == (0x0222, 639)


def test_extended_memory(run_sector: Callable[..., Pc]) -> None:
    pc = run_sector("""
        movb $0x88, %ah
        int $0x15
        save %ax
        movw $0xe801, %ax
        int $0x15
        save %ax
        save %bx
        save %cx
        save %dx
    """)
    blocks = 48 * 16 - 1  # of 64 KiB: the last one holds the disk
    assert results(pc, 5) == (15 * 1024 + 64 * blocks, 15 * 1024, blocks, 15 * 1024, blocks)


def test_the_memory_map(run_sector: Callable[..., Pc]) -> None:
    pc = run_sector("""
        xorl %ebx, %ebx
        movw $0x6800, %di
    1:  movl $0xe820, %eax
        movl $0x534d4150, %edx
        movl $24, %ecx
        int $0x15
        jc 2f
        save %cx
        addw $20, %di
        testl %ebx, %ebx
        jnz 1b
    2:  cmpl $0x534d4150, %eax
        sete %al
        save %ax
        movw $0xe820, %ax
        xorl %edx, %edx
        int $0x15
        setc %al
        save %ax
    """)
    *sizes, signature, refused = results(pc, 7)
    assert sizes == [20] * 5
    assert signature & 0xFF == 1
    assert refused == 0x8601
    assert list(struct.iter_unpack("<QQI", pc.ram[0x6800 : 0x6800 + 100])) == [
        (0, 0x9FC00, 1),
        (0x9FC00, 0x400, 2),
        (0xE0000, 0x20000, 2),
        (MIB, 63 * MIB - 4096, 1),
        (64 * MIB - 4096, 4096, 2),  # the disk
    ]


def test_the_a20_line_is_on_for_good(run_sector: Callable[..., Pc]) -> None:
    call = "movw $0x24{:02x}, %ax; int $0x15; setc %cl; save %ax; save %cx;"
    pc = run_sector("xorw %cx, %cx;" + "".join(call.format(function) for function in range(4)) + "save %bx")
    assert results(pc, 9) == (0x8600, 1, 1, 0, 1, 0, 3, 0, 3)


# ---- The disk ----


def numbered_sectors(count: int, code: str) -> bytes:
    """A disk whose boot sector is ``code``; every other sector is full of its number."""
    sector = boot_sector(assemble(f"{STORE}{code}\ncli\nhlt\n", origin=0x7C00))
    return sector + b"".join(struct.pack("<H", number & 0xFFFF) * 256 for number in range(1, count))


def test_the_disk_is_read_by_cylinder_head_and_sector(tmp_path: Path) -> None:
    code = "xorl %ecx, %ecx;" + "".join(
        f"movw ${0x0200 | count}, %ax; movw ${address}, %bx; movw ${cx}, %cx; movw ${head << 8 | drive}, %dx;"
        "int $0x13; setc %cl; movb $0, %ch; save %ax; save %cx;"
        for count, address, cx, head, drive in (
            (3, 0x8000, 0x0002, 0, 0x80),  # sectors 1-3
            (1, 0x9000, 0x0003, 2, 0x80),  # head 2, sector 3 of 63
            (1, 0x9200, 0x0201, 1, 0x00),  # cylinder 2, head 1, as the other drive
            (1, 0x9400, 0x0000, 0, 0x80),  # sectors count from 1
            (2, 0x9400, 0x0264, 15, 0x80),  # cylinder 258 is not there
            (1, 0x9400, 0x0002, 0, 0x81),  # nor is the second drive
        )
    )
    pc = Pc(boot(tmp_path, numbered_sectors(3000, code))).run()
    outcomes = results(pc, 12)
    assert outcomes[0:6] == (3, 0, 1, 0, 1, 0)
    assert [status >> 8 for status in outcomes[6::2]] == [4, 4, 0x80]
    assert outcomes[7::2] == (1, 1, 1)
    assert [pc.words(0x8000 + 512 * index, 1)[0] for index in range(3)] == [1, 2, 3]
    assert pc.words(0x9000, 2) == (2 * 63 + 2,) * 2
    assert pc.words(0x9200, 1) == ((2 * 16 + 1) * 63,)
    untouched = (0x9400 - 0x7C00) // 512  # the image was loaded behind the boot sector
    assert pc.words(0x9400, 1) == (untouched,)


def test_the_disk_is_read_by_block_number_to_anywhere_below_1_mib(tmp_path: Path) -> None:
    code = """
        movb $0x41, %ah
        movb $0x80, %dl
        movw $0x55aa, %bx
        int $0x13
        save %bx
        movb $0x42, %ah
        movb $0x80, %dl
        movw $packet, %si
        int $0x13
        setc %al
        save %ax
        movl $2999, packet + 8
        movb $0x42, %ah
        int $0x13
        setc %al
        save %ax
        jmp 1f
    packet: .byte 16, 0
        .word 2, 0xfff0, 0x2000     # it crosses 64 KiB
        .quad 2000
    1:
    """
    pc = Pc(boot(tmp_path, numbered_sectors(3000, code))).run()
    extensions, read, beyond = results(pc, 3)
    assert extensions == 0xAA55
    assert read == 0x0000
    assert beyond == 0x0401
    assert pc.words(0x2FFF0, 512) == (2000,) * 256 + (2001,) * 256


@pytest.mark.parametrize(
    ("sectors", "drive", "geometry", "kind"),
    [
        (3000, 0x80, (16, 63, 2), 3),
        (2880, 0x00, (2, 18, 79), 1),
        (1440, 0x00, (2, 9, 79), 1),
        (63, 0x80, (16, 63, 0), 3),
    ],
)
def test_the_drive_and_its_geometry_follow_from_the_size(
    tmp_path: Path, sectors: int, drive: int, geometry: tuple[int, int, int], kind: int
) -> None:
    code = """
        save %dx
        movb $8, %ah
        int $0x13
        save %cx
        save %dx
        movb $0x15, %ah
        movb 0x6000, %dl
        int $0x13
        save %ax
        save %dx
    """
    pc = Pc(boot(tmp_path, numbered_sectors(sectors, code))).run()
    booted_from, cx, dx, disk_type, size_low = results(pc, 5)
    heads, sectors_per_track, last_cylinder = geometry
    assert booted_from == drive
    assert cx == (last_cylinder & 0xFF) << 8 | last_cylinder >> 8 << 6 | sectors_per_track
    assert dx == (heads - 1) << 8 | 1
    assert disk_type >> 8 == kind
    assert size_low == sectors or kind == 1
    assert pc.ram[0x475] == (kind == 3)
    assert pc.ram[0x410] & 1 == (kind == 1)


def test_the_disk_cannot_be_written_and_reading_leaves_the_cpu_as_it_was(tmp_path: Path) -> None:
    code = """
        movw $0x0301, %ax
        movw $2, %cx
        movw $0x0080, %dx
        movw $0x8000, %bx
        int $0x13
        setc %al
        save %ax
        lgdtl table
        movw $0x1234, %bp
        movw $0x0201, %ax
        int $0x13
        save %bp
        save %bx
        jmp 1f
    table: .word 0x17
        .long 0x5678
    1:
    """
    pc = Pc(boot(tmp_path, numbered_sectors(4, code))).run()
    assert results(pc, 3) == (0x0301, 0x1234, 0x8000)
    assert (pc["gdtr.base"], pc["gdtr.limit"]) == (0x5678, 0x17)
    assert (pc["ds.limit"], pc["es.limit"]) == (0xFFFF, 0xFFFF)
    assert pc["cr0"] & 1 == 0


def test_a_disk_may_be_larger_than_conventional_memory(tmp_path: Path) -> None:
    code = "movw $0x0201, %ax; movw $0x1301, %cx; movw $0x0f80, %dx; movw $0x8000, %bx; int $0x13; save %ax"
    pc = Pc(boot(tmp_path, numbered_sectors(30_000, code))).run()
    assert results(pc, 1) == (1,)
    assert pc.words(0x8000, 1) == ((19 * 16 + 15) * 63,)


def test_keys_arrive_as_scan_code_and_character(run_sector: Callable[..., Pc]) -> None:
    shift, control, caps, up = 0x2A, 0x1D, 0x3A, 0x80
    keys = (
        *(0x1E, 0x1E | up),  # a
        *(shift, 0x1E, 0x1E | up, shift | up),  # A
        *(shift, 0x02, 0x02 | up, shift | up),  # !
        *(control, 0x2E, 0x2E | up, control | up),  # Ctrl-C
        *(caps, caps | up, 0x1F, 0x1F | up),  # S
        *(shift, 0x1F, 0x1F | up, shift | up),  # s
        *(0x03, 0x03 | up, caps, caps | up),  # 2
        *(0xE0, 0x48, 0xE0, 0x48 | up),  # cursor up
        *(0x1C, 0x1C | up),  # return
    )
    pc = run_sector("9:" + "movb $0, %ah; int $0x16; save %ax;" * 9 + "movb $2, %ah; int $0x16; save %ax", keys)
    characters = [ord(character) for character in "aA!\x03Ss2\0\r"]
    codes = [0x1E, 0x1E, 0x02, 0x2E, 0x1F, 0x1F, 0x03, 0x48, 0x1C]
    *got, shift_flags = results(pc, 10)
    assert got == [code << 8 | character for code, character in zip(codes, characters, strict=True)]
    assert shift_flags & 0xFF == 0


def test_the_serial_port_is_a_keyboard_too(run_sector: Callable[..., Pc]) -> None:
    characters = b"h!\r\n\b\x7f\t\x1b\x03"
    pc = run_sector("movb $0, %ah; int $0x16; save %ax;" * len(characters), console_input=characters)
    assert results(pc, 9) == (0x2368, 0x0221, 0x1C0D, 0x1C0D, 0x0E08, 0x0E08, 0x0F09, 0x011B, 0x0003)


def test_a_look_at_the_keyboard_takes_nothing(run_sector: Callable[..., Pc]) -> None:
    look = "movb $1, %ah; int $0x16; setz %cl; save %cx; save %ax;"
    pc = run_sector(f"xorw %cx, %cx; {look} sti; hlt; {look} {look}", console_input=b"k")
    none, _, found, key, again, same = results(pc, 6)
    assert (none, found, again) in ((1, 0, 0), (0, 0, 0))  # the byte may be there at once
    assert key == same == 0x256B


def test_the_clock_ticks_18_times_a_second_and_calls_int_1c(run_sector: Callable[..., Pc]) -> None:
    pc = run_sector("""
        movw $hook, 0x1c * 4
        movw %ax, 0x1c * 4 + 2
        xorw %bp, %bp
    1:  hlt
        cmpw $5, %bp
        jb 1b
        movb $0, %ah
        int $0x1a
        save %cx
        save %dx
        jmp 2f
    hook:
        incw %bp
        iretw
    2:
    """)
    assert results(pc, 2) == (0, 5)


def test_midnight_is_told_once(run_sector: Callable[..., Pc]) -> None:
    pc = run_sector("""
        movb $1, %ah
        movw $0x18, %cx
        movw $0x00af, %dx
        int $0x1a
        hlt
        movb $0, %ah
        int $0x1a
        save %ax
        save %dx
        movb $0, %ah
        int $0x1a
        save %ax
    """)
    assert results(pc, 3) == (1, 0, 0)


def test_the_real_time_clock_is_read_in_bcd(run_sector: Callable[..., Pc]) -> None:
    pc = run_sector("movb $2, %ah; int $0x1a; save %cx; save %dx; movb $4, %ah; int $0x1a; save %cx; save %dx")
    assert results(pc, 4) == (0, 0, 0x2026, 0x0101)


def test_a_wait_lasts_at_least_as_long_as_asked(run_sector: Callable[..., Pc]) -> None:
    pc = run_sector("""
        movb $0, %ah
        int $0x1a
        movw %dx, %bp
        movb $0x86, %ah
        movw $0x0007, %cx           # half a second: 9.1 ticks
        movw $0xa120, %dx
        int $0x15
        setc %al
        save %ax
        movb $0, %ah
        int $0x1a
        subw %bp, %dx
        save %dx
    """)
    status, ticks = results(pc, 2)
    assert status & 1 == 0
    assert ticks in (9, 10)


def test_the_serial_service(run_sector: Callable[..., Pc]) -> None:
    pc = run_sector(
        """
        movw $0x0100 + 'x', %ax
        xorw %dx, %dx
        int $0x14
        sti
        hlt
        movb $3, %ah
        int $0x14
        save %ax
        movb $2, %ah
        int $0x14
        save %ax
        movb $2, %ah
        int $0x14
        save %ax
        """,
        console_input=b"y",
    )
    assert pc.console == b"x"
    status, received, nothing = results(pc, 3)
    assert status >> 8 & 0x61 == 0x61  # data ready, transmitter empty
    assert received & 0xFF == ord("y")
    assert nothing >> 8 == 0x80


def test_without_anything_to_boot_the_bios_says_so(run_sector: Callable[..., Pc]) -> None:
    assert run_sector("int $0x18").console == b"No disk to boot from.\r\n"


def test_stray_interrupts_do_no_harm(run_sector: Callable[..., Pc]) -> None:
    calls = "".join(f"int ${vector};" for vector in (0x05, 0x1B, 0x1C, 0x33, 0x60, 0xFF))
    assert results(run_sector(f"{calls} movw $0x1234, %ax; save %ax"), 1) == (0x1234,)


# ---- Protected and long mode ----

HALT = b"\xfa\xf4"


def assert_flat(pc: Pc, code_flags: int) -> None:
    assert pc["cs.selector"] == 0x10
    assert pc["cs.base"] == 0
    assert pc["cs.limit"] == 0xFFFFFFFF
    assert pc["cs.flags"] & 0xF09B00 == code_flags
    for name in ("ds", "es", "ss", "fs", "gs"):
        assert (pc[f"{name}.selector"], pc[f"{name}.base"], pc[f"{name}.limit"]) == (0x18, 0, 0xFFFFFFFF)
        assert pc[f"{name}.flags"] & 0xC09300 == 0xC09300


def test_a_multiboot_kernel_starts_in_flat_protected_mode(tmp_path: Path) -> None:
    image = elf(Part(MIB, multiboot1_header() + HALT), bits=32, entry=MIB + 12)
    pc = Pc(boot(tmp_path, image)).run()
    assert pc["rip"] == MIB + 14
    assert pc["cr0"] & 0xE0000001 == 1
    assert_flat(pc, 0xC09B00)
    assert pc["rax"] == 0x2BADB002
    assert struct.unpack_from("<I", pc.ram, pc["rbx"])[0] & 1
    assert not pc["rflags"] & 0x20200  # no interrupts, no virtual 8086 mode
    assert [pc[name] for name in ("rcx", "rdx", "rsi", "rdi", "rbp")] == [0] * 5


def test_a_pvh_kernel_has_a_task_register(tmp_path: Path) -> None:
    pc = Pc(boot(tmp_path, elf(Part(MIB, HALT), note=pvh_note(MIB)))).run()
    assert (pc["tr.base"], pc["tr.limit"], pc["tr.flags"] & 0x8D00) == (0, 0x67, 0x8900)
    assert pc["cr4"] == 0
    assert struct.unpack_from("<I", pc.ram, pc["rbx"]) == (0x336EC578,)


def test_linux_starts_in_long_mode_with_memory_mapped_to_itself(tmp_path: Path) -> None:
    probe = assemble(
        """
        movq $0x3fffff8, %rdi       # the last bytes of RAM
        movq $0x1122334455667788, %rax
        movq %rax, (%rdi)
        movl $0xfee00020, %edi      # the local APIC
        movl (%rdi), %ebx
        cli
        hlt
        """,
        bits=64,
    )
    pc = Pc(boot(tmp_path, bzimage(kernel=bytes(0x200) + probe.ljust(0x200, b"\0")))).run()
    assert pc["rip"] == 0x1000200 + len(probe)
    assert pc["cr0"] & 0xE0000001 == 0x80000001
    assert pc["efer"] & 0x500 == 0x500
    assert_flat(pc, 0xA09B00)
    assert not pc["rflags"] & 0x200
    assert struct.unpack_from("<4s", pc.ram, pc["rsi"] + 0x202) == (b"HdrS",)
    assert pc.ram[RAM_BYTES - 8 :] == bytes.fromhex("8877665544332211")
    assert pc["rbx"] == 0


@pytest.mark.parametrize("bits", [32, 64])
def test_a_plain_kernel_has_a_stack_outside_usable_memory(tmp_path: Path, bits: int) -> None:
    code = assemble("call 1f\n 1: cli\n hlt", bits=bits)
    pc = Pc(boot(tmp_path, elf(Part(MIB, code), bits=bits))).run()
    assert 0xE0000 < pc["rsp"] < 0x100000
    assert pc["rip"] == MIB + len(code)


def test_the_pic_and_the_timer_work_as_a_bios_leaves_them(tmp_path: Path) -> None:
    code = assemble(
        """
        inb $0x21, %al              # masks of both 8259s
        movb %al, %ah
        inb $0xa1, %al
        movl %eax, %esi
        movb $0xe2, %al             # read back: status of counter 0
        outb %al, $0x43
        inb $0x40, %al
        movb %al, %bl
        cli
        hlt
        """,
        bits=32,
    )
    pc = Pc(boot(tmp_path, elf(Part(MIB, code), bits=32))).run()
    assert pc["rsi"] & 0xFFFF == 0xF8FE
    assert pc["rbx"] & 0x3F == 0x34  # both bytes, mode 2

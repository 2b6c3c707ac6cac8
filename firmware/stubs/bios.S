/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A small PC BIOS, linked at its offset in segment F000: it leaves interrupt controllers, timer, keyboard
 * controller and serial port as firmware does, then jumps to what was loaded - a boot sector, or a stub that
 * changes the mode for a kernel. For boot sectors it serves the calls that print, read keys, tell time, describe
 * memory, and read the one disk there is: the image, which firmware keeps at the end of memory.
 *
 * Text goes to the 80x25 screen and to COM1; keys come from the keyboard and from COM1.
 *
 * The image starts with its parameters, which ftvm/boot/firmware.py fills in together with the BIOS data area.
 * The CPU starts at offset 0x20; nothing before the jump uses a stack, since memory holds the guest already.
 */
	.code16

/* BIOS data area, segment 0x40 */
#define BDA_SEGMENT 0x40
#define EQUIPMENT 0x10
#define MEMORY_KIB 0x13
#define SHIFT_FLAGS 0x17
#define KEY_HEAD 0x1a
#define KEY_TAIL 0x1c
#define VIDEO_MODE 0x49
#define VIDEO_COLUMNS 0x4a
#define CURSOR 0x50
#define CURSOR_SHAPE 0x60
#define TICKS 0x6c
#define MIDNIGHT 0x70
#define KEY_START 0x80
#define KEY_END 0x82
#define WAIT_MICROSECONDS 0x9c
#define WAIT_ACTIVE 0xa0
#define EXTENDED_KEY 0x96 /* bit 1: the last scan code was E0 */

#define COLUMNS 80
#define ROWS 25
#define GREY_ON_BLACK 0x07
#define TEXT_SEGMENT 0xb800

#define COM1 0x3f8
#define CRTC 0x3d4
#define TICKS_PER_DAY 0x1800b0
#define PERIODIC_INTERRUPT 0x40
#define CLOCK_PERIOD 977 /* microseconds: 1024 Hz, the real-time clock's rate at reset */

/* What `service` pushes, as offsets from BP. */
#define FRAME_ES 0
#define FRAME_DS 2
#define FRAME_DI 4
#define FRAME_SI 8
#define FRAME_BP 12
#define FRAME_BX 20
#define FRAME_DX 24
#define FRAME_CX 28
#define FRAME_AX 32
#define FRAME_FLAGS 40
#define CARRY 0x01
#define ZERO 0x40

/* Enter a service: all registers in a frame at SS:BP, DS = BIOS data area. */
	.macro service
	cld
	pushal
	pushw %ds
	pushw %es
	movw %sp, %bp
	pushw $BDA_SEGMENT
	popw %ds
	.endm

	.globl _start
parameters:
boot_ip: .word 0
boot_cs: .word 0
e820_offset: .word 0    /* in this segment: entries of base (8 bytes), length (8), type (4) */
e820_count: .word 0
kib_above_1m: .word 0   /* up to 16 MiB */
blocks_above_16m: .word 0 /* of 64 KiB, up to the first hole */
disk_address: .long 0   /* physical; the disk can be read and not written */
disk_sectors: .long 0   /* of 512 bytes; 0: there is no disk */
heads: .word 0
sectors_per_track: .word 0
last_cylinder: .word 0

	.org 0x20
_start:
	jmp power_on
	.org 0x24
	jmp reset /* from the reset vector at FFFF:0 */

/* ---- Power on ---------------------------------------------------------------------------------- */

power_on:
	cli
	cld
	movl $0x10, %eax /* real mode, caches on */
	movl %eax, %cr0
	movl %edx, %ebp /* the plan's EDX (DL: boot drive) is for the guest */

	/* Interrupt vectors: 32 from the table, then one that returns, with the slave PIC's among them. */
	xorw %ax, %ax
	movw %ax, %es
	movw %cs, %ax
	movw %ax, %ds
	shll $16, %eax
	xorw %di, %di
	movw $vectors, %si
	movw $32, %cx
1:	lodsw
	stosl
	loop 1b
	movw $ignore, %ax
	movw $256 - 32, %cx
	rep stosl
	movw $0x70 * 4, %di
	movw $real_time_clock_interrupt, %ax
	stosl
	movw $slave_interrupt, %ax
	movw $7, %cx
	rep stosl

	/* 8254: channel 0 as a rate generator that divides by 65536, 18.2 Hz. Its output rises here, before
	   the 8259 looks. */
	movb $0x34, %al
	outb %al, $0x43
	xorb %al, %al
	outb %al, $0x40
	outb %al, $0x40

	/* 8259: IRQ 0-7 at 08, IRQ 8-15 at 70; timer, keyboard, cascade and clock open. */
	movb $0x11, %al
	outb %al, $0x20
	outb %al, $0xa0
	movb $0x08, %al
	outb %al, $0x21
	movb $0x70, %al
	outb %al, $0xa1
	movb $0x04, %al
	outb %al, $0x21
	movb $0x02, %al
	outb %al, $0xa1
	movb $0x01, %al
	outb %al, $0x21
	outb %al, $0xa1
	movb $0xf8, %al
	outb %al, $0x21
	movb $0xfe, %al
	outb %al, $0xa1

	/* 8042: keyboard on, with interrupt, system flag and translation to scan code set 1; no mouse. */
	movb $0xae, %al
	outb %al, $0x64
	xorw %cx, %cx
1:	inb $0x64, %al
	testb $0x02, %al
	loopnz 1b
	movb $0x60, %al
	outb %al, $0x64
	xorw %cx, %cx
1:	inb $0x64, %al
	testb $0x02, %al
	loopnz 1b
	movb $0x65, %al
	outb %al, $0x60

	/* 16550: 115200 baud, 8N1, no interrupts. */
	movw $COM1 + 3, %dx
	movb $0x80, %al
	outb %al, %dx
	movw $COM1, %dx
	movb $1, %al
	outb %al, %dx
	incw %dx
	xorb %al, %al
	outb %al, %dx
	movw $COM1 + 3, %dx
	movb $0x03, %al
	outb %al, %dx
	incw %dx
	outb %al, %dx /* DTR, RTS */
	movw $COM1 + 1, %dx
	xorb %al, %al
	outb %al, %dx

	/* MTRRs, where there are any: all memory write-back, but [3 GiB, 4 GiB) uncached. */
	movl $1, %eax
	cpuid
	testw $1 << 12, %dx
	jz 2f
	movl $0x80000008, %eax
	cpuid
	subb $32, %al
	movb %al, %cl
	movl $1, %edi
	shll %cl, %edi
	decl %edi /* the physical address bits from 32 on */
	movl $0x200, %ecx /* IA32_MTRR_PHYSBASE0 */
	movl $0xc0000000, %eax
	xorl %edx, %edx
	wrmsr
	incw %cx /* IA32_MTRR_PHYSMASK0 */
	movl $0xc0000800, %eax
	movl %edi, %edx
	wrmsr
	movw $0x2ff, %cx /* IA32_MTRR_DEF_TYPE: enabled, write-back */
	movl $0x806, %eax
	xorl %edx, %edx
	wrmsr
2:
	xorl %eax, %eax
	xorl %ebx, %ebx
	xorl %ecx, %ecx
	movl %ebp, %edx
	xorl %esi, %esi
	xorl %edi, %edi
	xorl %ebp, %ebp
	movw %ax, %ds
	cmpw %ax, %cs:boot_cs
	jne 1f
	/* A boot sector, entered as 0:7C00, relies on interrupts and on a stack. */
	movw %ax, %ss
	movw $0x7c00, %sp
	sti
1:	ljmpw *%cs:boot_ip

reset:
	movb $0xfe, %al
	outb %al, $0x64
stop:
	cli
	hlt
	jmp stop

/* ---- Interrupts -------------------------------------------------------------------------------- */

timer_interrupt: /* IRQ 0 */
	pushl %eax
	pushw %ds
	pushw $BDA_SEGMENT
	popw %ds
	incl TICKS
	cmpl $TICKS_PER_DAY, TICKS
	jb 1f
	movl $0, TICKS
	movb $1, MIDNIGHT
1:	int $0x1c
	movb $0x20, %al
	outb %al, $0x20
	popw %ds
	popl %eax
ignore:
	iretw

real_time_clock_interrupt: /* IRQ 8: reading register C lets the next one come */
	pushw %ax
	pushw %ds
	pushw $BDA_SEGMENT
	popw %ds
	movb $0x0c, %al
	call read_clock
	subl $CLOCK_PERIOD, WAIT_MICROSECONDS
	ja 1f
	movb $0x00, %ah
	call write_clock_b
	movb $0, WAIT_ACTIVE
1:	popw %ds
	popw %ax
slave_interrupt: /* IRQ 8-15 */
	pushw %ax
	movb $0x20, %al
	outb %al, $0xa0
	jmp 1f
master_interrupt: /* IRQ 2-7 */
	pushw %ax
1:	movb $0x20, %al
	outb %al, $0x20
	popw %ax
	iretw

keyboard_interrupt: /* IRQ 1: scan codes of set 1 to shift flags and the key buffer */
	service
	inb $0x60, %al
	movb %al, %ah
	xorb $0xe0, %al
	jnz 1f
	orb $0x02, EXTENDED_KEY
	jmp 9f
1:	movb %ah, %al
	andb $0x7f, %al
	xorw %bx, %bx
2:	cmpb %cs:shift_keys(%bx), %al /* flag n belongs to the n-th key */
	je 3f
	incw %bx
	cmpw $shift_keys_end - shift_keys, %bx
	jb 2b
	jmp 5f
3:	movw %bx, %cx
	movb $1, %al
	shlb %cl, %al
	cmpb $4, %cl
	jb 4f
	testb %ah, %ah /* the locks change when the key goes down */
	js 8f
	xorb %al, SHIFT_FLAGS
	jmp 8f
4:	orb %al, SHIFT_FLAGS
	testb %ah, %ah
	jns 8f
	xorb %al, SHIFT_FLAGS
	jmp 8f
5:	testb %ah, %ah
	js 8f
	xorb %al, %al
	testb $0x02, EXTENDED_KEY
	jnz 7f
	movzbw %ah, %bx
	cmpw $keys_end - keys, %bx
	jae 7f
	movb %cs:keys(%bx), %al
	movb SHIFT_FLAGS, %cl
	testb $0x03, %cl
	setnz %ch
	testb $0x40, %cl /* caps lock: shift for letters */
	jz 6f
	cmpb $'a', %al
	jb 6f
	cmpb $'z', %al
	ja 6f
	xorb $0x01, %ch
6:	testb %ch, %ch
	jz 4f
	movb %cs:shifted_keys(%bx), %al
4:	testb $0x04, %cl
	jz 7f
	andb $0x1f, %al /* control */
7:	call put_key
8:	andb $~0x02, EXTENDED_KEY
9:	movb $0x20, %al
	outb %al, $0x20
	jmp leave

/* ---- Services ---------------------------------------------------------------------------------- */

/* Every service ends here. */
leave:
	popw %es
	popw %ds
	popal
	iretw

fail: /* carry, and AH = 86: no such function */
	movb $0x86, FRAME_AX + 1(%bp)
carry:
	orb $CARRY, FRAME_FLAGS(%bp)
	jmp leave
ok:
	andb $~CARRY, FRAME_FLAGS(%bp)
	jmp leave

video: /* int 10 */
	service
	movzbw %ah, %di
	cmpw $(video_functions_end - video_functions) / 2, %di
	jae leave
	addw %di, %di
	movw $TEXT_SEGMENT, %si
	movw %si, %es
	jmp *%cs:video_functions(%di)

set_mode:
	testb $0x7c, %al /* text modes only; all are 80x25 here */
	jnz leave
	movw $0, CURSOR
	call move_cursor
	testb $0x80, %al
	jnz leave
	xorw %di, %di
	movw $COLUMNS * ROWS, %cx
	movw $GREY_ON_BLACK << 8 | ' ', %ax
	rep stosw
	jmp leave

set_cursor_shape:
	movw %cx, CURSOR_SHAPE
	movb $0x0a, %al
	movb %ch, %ah
	movw $CRTC, %dx
	outw %ax, %dx
	movb $0x0b, %al
	movb %cl, %ah
	outw %ax, %dx
	jmp leave

set_cursor:
	movw %dx, CURSOR
	call move_cursor
	jmp leave

get_cursor:
	movw CURSOR, %ax
	movw %ax, FRAME_DX(%bp)
	movw CURSOR_SHAPE, %ax
	movw %ax, FRAME_CX(%bp)
	jmp leave

/* AL lines (0: all) of the window from row CH, column CL to row DH, column DL; BH fills. */
scroll_up:
	call clip_window
1:	call copy_row_from_below
	incb %ch
	cmpb %dh, %ch
	jbe 1b
	jmp leave

scroll_down:
	call clip_window
	xchgb %ch, %dh
	negb %al
1:	call copy_row_from_below
	decb %ch
	cmpb %dh, %ch
	jge 1b
	jmp leave

read_character:
	call cursor_address
	movw %es:(%di), %ax
	movw %ax, FRAME_AX(%bp)
	jmp leave

write_character_and_attribute: /* AL, with attribute BL, CX times */
	movb %bl, %ah
	call cursor_address
	rep stosw
	jmp leave

write_character:
	call cursor_address
	jcxz 2f
1:	stosb
	incw %di
	loop 1b
2:	jmp leave

teletype:
	call print
	jmp leave

get_mode:
	movb VIDEO_MODE, %al
	movb VIDEO_COLUMNS, %ah
	movw %ax, FRAME_AX(%bp)
	movb $0, FRAME_BX + 1(%bp)
	jmp leave

/* CX characters at ES:BP, from row DH, column DL. AL bit 0: the cursor stays behind them; bit 1: each is followed by
   its attribute. */
write_string:
	movb %al, %ah
	pushw CURSOR
	movw %dx, CURSOR
	movw FRAME_BP(%bp), %si
	jcxz 3f
1:	pushw %es
	movw FRAME_ES(%bp), %es
	lodsb %es:(%si)
	testb $0x02, %ah
	jz 2f
	movb %es:(%si), %bl
	incw %si
2:	popw %es
	cmpb $0x0d, %al
	jbe 4f
	call cursor_address
	movb %bl, %es:1(%di)
4:	call print
	loop 1b
3:	popw %dx
	testb $0x01, %ah
	jnz leave
	movw %dx, CURSOR
	call move_cursor
	jmp leave

display_combination: /* VGA with a colour monitor */
	testb %al, %al
	jnz leave
	movb $0x1a, FRAME_AX(%bp)
	movw $0x0008, FRAME_BX(%bp)
	jmp leave

equipment: /* int 11 */
	service
	movw EQUIPMENT, %ax
	movw %ax, FRAME_AX(%bp)
	jmp leave

memory_size: /* int 12 */
	service
	movw MEMORY_KIB, %ax
	movw %ax, FRAME_AX(%bp)
	jmp leave

disk: /* int 13; drives 00 and 80 are the same disk, since boot sectors are written for the one or the other */
	service
	testb $0x7f, %dl
	jnz no_drive
	cmpl $0, %cs:disk_sectors
	je no_drive
	cmpb $0x02, %ah
	jb disk_done /* reset, status */
	je read_sectors
	cmpb $0x03, %ah
	je write_sectors
	cmpb $0x08, %ah
	je disk_geometry
	cmpb $0x15, %ah
	je disk_type
	testb %dl, %dl
	jns no_function /* the extensions are for hard disks */
	cmpb $0x41, %ah
	je disk_extensions
	cmpb $0x42, %ah
	je read_blocks
no_function:
	movb $0x01, %al
	jmp disk_error
no_drive:
	movb $0x80, %al /* time-out */
	jmp disk_error
no_sector:
	movb $0, FRAME_AX(%bp) /* nothing was read */
	movb $0x04, %al
	jmp disk_error
write_sectors:
	movb $0x03, %al /* write-protected */
disk_error:
	movb %al, FRAME_AX + 1(%bp)
	jmp carry
disk_done:
	movb $0, FRAME_AX + 1(%bp)
	jmp ok

read_sectors: /* AL sectors to ES:BX, from cylinder CH and CL bits 6-7, head DH, sector CL bits 0-5 */
	movzwl FRAME_ES(%bp), %edi
	shll $4, %edi
	movzwl %bx, %ebx
	addl %ebx, %edi
	movzbl %al, %ebx
	movb %ch, %al
	movb %cl, %ah
	shrb $6, %ah
	mulw %cs:heads /* fits in 32 bits with room to spare */
	pushw %dx
	pushw %ax
	popl %eax
	movzbl FRAME_DX + 1(%bp), %edx
	addl %edx, %eax
	movzwl %cs:sectors_per_track, %edx
	mull %edx
	andl $0x3f, %ecx
	jz no_sector
	decl %ecx
	addl %ecx, %eax
	movl %ebx, %ecx
	jmp read_linear

read_blocks: /* the packet at DS:SI: count at 2, buffer's offset and segment at 4, first block at 8 */
	movw FRAME_DS(%bp), %ds
	cmpl $0, 12(%si)
	jne no_sector
	movzwl 2(%si), %ecx
	movzwl 6(%si), %edi
	shll $4, %edi
	movzwl 4(%si), %eax
	addl %eax, %edi
	movl 8(%si), %eax

/* ECX sectors from number EAX on to the physical address EDI. They may lie anywhere, so protected mode lends
   its segments; the guest's GDT comes back afterwards. */
read_linear:
	movl %eax, %edx
	addl %ecx, %edx
	jc no_sector
	cmpl %cs:disk_sectors, %edx
	ja no_sector
	shll $9, %eax
	addl %cs:disk_address, %eax
	movl %eax, %esi
	shll $7, %ecx
	subw $8, %sp
	movw %sp, %bx
	sgdtl %ss:(%bx)
	lgdtl %cs:gdt_pointer
	movl %cr0, %eax
	incw %ax /* PE */
	movl %eax, %cr0
	movw $0x08, %dx
	movw %dx, %ds
	movw %dx, %es
	addr32 rep movsl
	movw $0x10, %dx
	movw %dx, %ds
	movw %dx, %es
	decw %ax
	movl %eax, %cr0
	lgdtl %ss:(%bx)
	addw $8, %sp
	jmp disk_done

disk_geometry:
	movw %cs:last_cylinder, %ax
	movb %al, FRAME_CX + 1(%bp)
	shlb $6, %ah
	orb %cs:sectors_per_track, %ah
	movb %ah, FRAME_CX(%bp)
	movb %cs:heads, %al
	decb %al
	movb %al, FRAME_DX + 1(%bp)
	movb $1, FRAME_DX(%bp) /* drives */
	movb $4, FRAME_BX(%bp) /* of floppies: 1.44 MB */
	jmp disk_done

disk_type:
	movb $0x01, FRAME_AX + 1(%bp) /* a floppy */
	testb %dl, %dl
	jns ok
	movb $0x03, FRAME_AX + 1(%bp) /* a hard disk of CX:DX sectors */
	movl %cs:disk_sectors, %eax
	movw %ax, FRAME_DX(%bp)
	shrl $16, %eax
	movw %ax, FRAME_CX(%bp)
	jmp ok

disk_extensions: /* version 1, with the extended read */
	cmpw $0x55aa, %bx
	jne no_function
	movw $0xaa55, FRAME_BX(%bp)
	movw $0x0001, FRAME_CX(%bp)
	movb $0x01, FRAME_AX + 1(%bp)
	jmp ok

serial: /* int 14, for port 0; its speed stays */
	service
	testw %dx, %dx
	jnz leave
	cmpb $1, %ah
	jb 2f
	je 1f
	cmpb $3, %ah
	je 2f
	ja leave
	movb $0x80, FRAME_AX + 1(%bp) /* time-out */
	call serial_poll
	jz leave
	movb %al, FRAME_AX(%bp)
	jmp 3f
1:	call serial_put
	jmp 3f
2:	movw $COM1 + 6, %dx
	inb %dx, %al
	movb %al, FRAME_AX(%bp)
3:	movw $COM1 + 5, %dx
	inb %dx, %al
	movb %al, FRAME_AX + 1(%bp)
	jmp leave

system: /* int 15 */
	service
	cmpb $0x24, %ah
	je a20
	cmpb $0x86, %ah
	je wait
	cmpb $0x88, %ah
	je extended_memory
	cmpw $0xe801, %ax
	je extended_memory_in_two
	cmpw $0xe820, %ax
	je memory_map
	jmp fail

a20: /* always on */
	cmpb $1, %al
	jb fail /* off */
	movb $0, FRAME_AX + 1(%bp)
	je ok /* on */
	cmpb $3, %al
	ja fail
	je 1f
	movb $1, FRAME_AX(%bp) /* its state */
	jmp ok
1:	movw $0x03, FRAME_BX(%bp) /* what could switch it: 8042, port 92 */
	jmp ok

wait: /* CX:DX microseconds, in periods of the real-time clock */
	shll $16, %ecx
	movw %dx, %cx
	movl %ecx, WAIT_MICROSECONDS
	movb $0x01, WAIT_ACTIVE
	movb $PERIODIC_INTERRUPT, %ah
	call write_clock_b
1:	sti
	hlt
	cmpb $0, WAIT_ACTIVE
	jne 1b
	jmp ok

extended_memory: /* KiB above 1 MiB, as much as 16 bits hold */
	movzwl %cs:blocks_above_16m, %eax
	shll $6, %eax
	movzwl %cs:kib_above_1m, %ecx
	addl %ecx, %eax
	cmpl $0xffff, %eax
	jbe 1f
	movw $0xffff, %ax
1:	movw %ax, FRAME_AX(%bp)
	jmp ok

extended_memory_in_two:
	movw %cs:kib_above_1m, %ax
	movw %ax, FRAME_AX(%bp)
	movw %ax, FRAME_CX(%bp)
	movw %cs:blocks_above_16m, %ax
	movw %ax, FRAME_BX(%bp)
	movw %ax, FRAME_DX(%bp)
	jmp ok

memory_map: /* entry EBX to ES:DI, then EBX = the next one or 0 */
	movl $0x534d4150, %eax /* SMAP */
	cmpl %eax, %edx
	jne fail
	cmpl $20, %ecx
	jb fail
	movzwl %cs:e820_count, %ecx
	cmpl %ecx, %ebx
	jae fail
	movl %eax, FRAME_AX(%bp)
	imulw $20, %bx, %si
	addw %cs:e820_offset, %si
	incw %bx
	cmpw %cx, %bx
	jb 1f
	xorw %bx, %bx
1:	movl %ebx, FRAME_BX(%bp)
	movl $20, %ecx
	movl %ecx, FRAME_CX(%bp)
	movw %cs, %ax
	movw %ax, %ds
	rep movsb
	jmp ok

keyboard: /* int 16 */
	service
	andb $0xef, %ah /* the calls for enhanced keyboards differ in keys we do not have */
	cmpb $1, %ah
	jb read_key
	je peek_key
	cmpb $2, %ah
	jne leave
	movb SHIFT_FLAGS, %al
	movb %al, FRAME_AX(%bp)
	jmp leave

read_key:
	call next_key
	jnz 1f
	sti
	hlt /* the timer wakes us to look at COM1 too */
	cli
	jmp read_key
1:	movw %ax, FRAME_AX(%bp)
	incw %bx
	incw %bx
	call wrap_key
	movw %bx, KEY_HEAD
	jmp leave

peek_key: /* zero flag: none */
	orb $ZERO, FRAME_FLAGS(%bp)
	call next_key
	jz leave
	movw %ax, FRAME_AX(%bp)
	andb $~ZERO, FRAME_FLAGS(%bp)
	jmp leave

no_boot: /* int 18, int 19: there is nothing else to start */
	movw $no_boot_message, %si
	service
1:	lodsb %cs:(%si)
	testb %al, %al
	jz stop
	call print
	jmp 1b

time: /* int 1A */
	service
	cmpb $1, %ah
	jb get_ticks
	je set_ticks
	cmpb $4, %ah
	je get_date
	cmpb $2, %ah
	jne fail

get_time:
	call wait_for_clock
	movb $0x04, %al
	call read_clock
	movb %al, FRAME_CX + 1(%bp)
	movb $0x02, %al
	call read_clock
	movb %al, FRAME_CX(%bp)
	movb $0x00, %al
	call read_clock
	movb %al, FRAME_DX + 1(%bp)
	movb $0x0b, %al
	call read_clock
	andb $0x01, %al /* daylight saving */
	movb %al, FRAME_DX(%bp)
	jmp ok

get_date:
	call wait_for_clock
	movb $0x32, %al
	call read_clock
	movb %al, FRAME_CX + 1(%bp)
	movb $0x09, %al
	call read_clock
	movb %al, FRAME_CX(%bp)
	movb $0x08, %al
	call read_clock
	movb %al, FRAME_DX + 1(%bp)
	movb $0x07, %al
	call read_clock
	movb %al, FRAME_DX(%bp)
	jmp ok

get_ticks:
	movl TICKS, %eax
	movw %ax, FRAME_DX(%bp)
	shrl $16, %eax
	movw %ax, FRAME_CX(%bp)
	xorb %al, %al
	xchgb %al, MIDNIGHT
	movb %al, FRAME_AX(%bp)
	jmp ok

set_ticks:
	movw %dx, TICKS
	movw %cx, TICKS + 2
	movb $0, MIDNIGHT
	jmp ok

/* ---- Screen and COM1 --------------------------------------------------------------------------- */

/* DI = the cell of the cursor. */
cursor_address:
	pushw %ax
	movb CURSOR + 1, %al
	movb $COLUMNS, %ah
	mulb %ah
	movzbw CURSOR, %di
	addw %ax, %di
	addw %di, %di
	popw %ax
	ret

/* Show the cursor where CURSOR says. */
move_cursor:
	pushaw
	call cursor_address
	shrw $1, %di
	movw $CRTC, %dx
	movw %di, %ax
	movb $0x0e, %al
	outw %ax, %dx
	movw %di, %ax
	movb %al, %ah
	movb $0x0f, %al
	outw %ax, %dx
	popaw
	ret

/* AL to COM1, and to the screen at the cursor, which moves on. ES = TEXT_SEGMENT or anything. */
print:
	pushaw
	pushw %es
	pushw $TEXT_SEGMENT
	popw %es
	call serial_put
	cmpb $0x07, %al
	je 9f
	cmpb $0x08, %al
	je 3f
	cmpb $0x0a, %al
	je 2f
	cmpb $0x0d, %al
	je 1f
	call cursor_address
	stosb
	incb CURSOR
	cmpb $COLUMNS, CURSOR
	jb 8f
	movb $0, CURSOR
	jmp 2f
1:	movb $0, CURSOR
	jmp 8f
3:	cmpb $0, CURSOR
	je 8f
	decb CURSOR
	jmp 8f
2:	incb CURSOR + 1
	cmpb $ROWS, CURSOR + 1
	jb 8f
	movb $ROWS - 1, CURSOR + 1
	xorw %cx, %cx
	movw $(ROWS - 1) << 8 | COLUMNS - 1, %dx
	movb $GREY_ON_BLACK, %bh
	movb $1, %al
4:	call copy_row_from_below
	incb %ch
	cmpb %dh, %ch
	jbe 4b
8:	call move_cursor
9:	popw %es
	popaw
	ret

/* Keep a window's corners on the screen, and AL lines within it. */
clip_window:
	cmpb $ROWS - 1, %dh
	jbe 1f
	movb $ROWS - 1, %dh
1:	cmpb $COLUMNS - 1, %dl
	jbe 2f
	movb $COLUMNS - 1, %dl
2:	movb %dh, %ah
	subb %ch, %ah
	jb 9f
	cmpb %dl, %cl
	ja 9f
	testb %al, %al
	jz 3f
	cmpb %ah, %al
	jbe 4f
3:	movb %ah, %al
	incb %al
4:	ret
9:	popw %ax /* an empty window */
	jmp leave

/* Row CH from column CL to DL: from AL rows below, or filled with BH where that leaves the rows CH..DH. */
copy_row_from_below:
	pushaw
	movzbw %cl, %di
	movb %dl, %bl
	subb %cl, %bl
	incb %bl /* width */
	movb %ch, %ah
	addb %al, %ah /* the source row */
	testb %al, %al
	js 1f
	cmpb %dh, %ah
	jg 2f
	jmp 3f
1:	cmpb %dh, %ah
	jge 3f
2:	movb $COLUMNS, %al
	mulb %ch
	addw %ax, %di
	addw %di, %di
	movzbw %bl, %cx
	movb %bh, %ah
	movb $' ', %al
	rep stosw
	popaw
	ret
3:	movw %di, %si
	movb %ah, %dl
	movb $COLUMNS, %al
	mulb %ch
	addw %ax, %di
	addw %di, %di
	movb $COLUMNS, %al
	mulb %dl
	addw %ax, %si
	addw %si, %si
	movzbw %bl, %cx
	rep movsw %es:(%si), %es:(%di)
	popaw
	ret

/* Send AL; gives up on a transmitter that never gets empty. */
serial_put:
	pushaw
	movb %al, %ah
	movw $COM1 + 5, %dx
	xorw %cx, %cx
1:	inb %dx, %al
	testb $0x20, %al
	loopz 1b
	movw $COM1, %dx
	movb %ah, %al
	outb %al, %dx
	popaw
	ret

/* AL = a received byte, or zero flag. */
serial_poll:
	pushw %dx
	movw $COM1 + 5, %dx
	inb %dx, %al
	testb $0x01, %al
	movw $COM1, %dx
	jz 1f
	inb %dx, %al
	testw %dx, %dx /* clears the zero flag */
1:	popw %dx
	ret

/* ---- Keys and clock ------------------------------------------------------------------------------- */

/* Key AX to the end of the buffer; lost when that is full. */
put_key:
	movw KEY_TAIL, %bx
	movw %bx, %si
	incw %bx
	incw %bx
	call wrap_key
	cmpw KEY_HEAD, %bx
	je 1f
	movw %ax, (%si)
	movw %bx, KEY_TAIL
1:	ret

wrap_key:
	cmpw KEY_END, %bx
	jb 1f
	movw KEY_START, %bx
1:	ret

/* AH = the scan code of the key that makes character AL, 0 if there is none. Terminals send other codes for some. */
find_scan_code:
	cmpb $0x0a, %al
	jne 1f
	movb $0x0d, %al
1:	cmpb $0x7f, %al
	jne 2f
	movb $0x08, %al
2:	pushw %es
	pushw %cs
	popw %es
	movw $keys, %di
	movw $2 * (keys_end - keys), %cx
	movb $0, %ah
	repne scasb
	popw %es
	jne 4f
	leaw -1 - keys(%di), %di
	cmpw $keys_end - keys, %di
	jb 3f
	subw $keys_end - keys, %di
3:	movw %di, %cx
	movb %cl, %ah
4:	ret

/* AX = the first key in the buffer, BX = its place; zero flag: there is none. */
next_key:
	call serial_poll
	jz 1f
	call find_scan_code
	call put_key
1:	movw KEY_HEAD, %bx
	movw (%bx), %ax
	cmpw KEY_TAIL, %bx
	ret

wait_for_clock: /* until no update is in progress */
	movb $0x0a, %al
	call read_clock
	testb $0x80, %al
	jnz wait_for_clock
	ret

read_clock: /* AL = register AL */
	outb %al, $0x70
	inb $0x71, %al
	ret

write_clock_b: /* the interrupts of AH, 24 hours, BCD */
	movb $0x0b, %al
	outb %al, $0x70
	movb $0x02, %al
	orb %ah, %al
	outb %al, $0x71
	ret

/* ---- Tables ------------------------------------------------------------------------------------ */

	.balign 8
gdt:
	.quad 0
	.quad 0x00cf93000000ffff /* 0x08: data, 4 GiB */
	.quad 0x000093000000ffff /* 0x10: data as in real mode */
gdt_pointer:
	.word . - gdt - 1
	.long gdt + 0xf0000

vectors:
	.word ignore, ignore, ignore, ignore, ignore, ignore, ignore, ignore
	.word timer_interrupt, keyboard_interrupt, master_interrupt, master_interrupt
	.word master_interrupt, master_interrupt, master_interrupt, master_interrupt
	.word video, equipment, memory_size, disk, serial, system, keyboard, ignore
	.word no_boot, no_boot, time, ignore, ignore, ignore, ignore, ignore

video_functions:
	.word set_mode, set_cursor_shape, set_cursor, get_cursor
	.word leave, leave, scroll_up, scroll_down
	.word read_character, write_character_and_attribute, write_character, leave
	.word leave, leave, teletype, get_mode
	.word leave, leave, leave, write_string
	.word leave, leave, leave, leave
	.word leave, leave, display_combination
video_functions_end:

/* Scan codes in the order of the shift flags: right and left shift, control, alt, scroll, num and caps lock. */
shift_keys:
	.byte 0x36, 0x2a, 0x1d, 0x38, 0x46, 0x45, 0x3a
shift_keys_end:

/* ASCII by scan code of set 1, US layout. */
keys:
	.ascii "\0\0331234567890-=\b\tqwertyuiop[]\r\0asdfghjkl;'`\0\\zxcvbnm,./\0*\0 "
keys_end:
shifted_keys:
	.ascii "\0\033!@#$%^&*()_+\b\tQWERTYUIOP{}\r\0ASDFGHJKL:\"~\0|ZXCVBNM<>?\0*\0 "

no_boot_message:
	.asciz "No disk to boot from.\r\n"

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From real mode to flat 32-bit protected mode, paging off, then to a kernel: the machine state that
 * Multiboot 1 (section 3.2), Multiboot 2 (section 3.3) and the x86/HVM direct boot ABI (PVH) ask for.
 *
 * The stub starts with its parameters, which ftvm/boot/firmware.py fills in; the CPU enters at offset 0x20 with
 * CS = link address / 16. The page below the stub is the stack of a kernel that does not set its own.
 */
	.globl _start
	.code16
parameters:
start_eip: .long 0
start_eax: .long 0
start_ebx: .long 0
start_ecx: .long 0
start_edx: .long 0
start_esi: .long 0
start_edi: .long 0
start_ebp: .long 0

	.org 0x20
_start:
	cli
	lgdtl %cs:gdt_pointer - parameters
	movl $0x11, %eax /* ET, PE; caches on */
	movl %eax, %cr0
	ljmpl $0x10, $protected_mode

	.code32
protected_mode:
	movl $0x18, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	movl %eax, %fs
	movl %eax, %gs
	movl $0x08, %eax /* PVH: TR holds a 32-bit TSS, base 0, limit 0x67 */
	ltr %ax
	movl $parameters, %esp
	movl start_eax, %eax
	movl start_ebx, %ebx
	movl start_ecx, %ecx
	movl start_edx, %edx
	movl start_esi, %esi
	movl start_edi, %edi
	movl start_ebp, %ebp
	jmp *start_eip

	.balign 8
gdt:
	.quad 0
	.quad 0x0000890000000067 /* 0x08: available 32-bit TSS */
	.quad 0x00cf9b000000ffff /* 0x10: code, 4 GiB */
	.quad 0x00cf93000000ffff /* 0x18: data, 4 GiB */
gdt_pointer:
	.word . - gdt - 1
	.long gdt

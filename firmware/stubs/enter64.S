/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From real mode to long mode with flat segments and identity-mapped memory, then to a kernel: the machine
 * state of the 64-bit entry in the Linux/x86 boot protocol (__BOOT_CS = 0x10, __BOOT_DS = 0x18).
 *
 * The stub starts with its parameters, which ftvm/boot/firmware.py fills in, page tables included; the CPU enters at
 * offset 0x48 with CS = link address / 16. The page below the stub is the stack of a kernel that does not set its own.
 */
	.globl _start
	.code16
parameters:
start_rip: .quad 0
start_rax: .quad 0
start_rbx: .quad 0
start_rcx: .quad 0
start_rdx: .quad 0
start_rsi: .quad 0
start_rdi: .quad 0
start_rbp: .quad 0
page_map: .quad 0 /* physical address of the PML4, below 4 GiB */

	.org 0x48
_start:
	cli
	lgdtl %cs:gdt_pointer - parameters
	movl $0x20, %eax /* PAE */
	movl %eax, %cr4
	movl %cs:page_map - parameters, %eax
	movl %eax, %cr3
	movl $0xc0000080, %ecx /* EFER */
	movl $0x100, %eax      /* LME */
	xorl %edx, %edx
	wrmsr
	movl $0x80000011, %eax /* PG, ET, PE; caches on */
	movl %eax, %cr0
	ljmpl $0x10, $long_mode

	.code64
long_mode:
	movl $0x18, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	movl %eax, %fs
	movl %eax, %gs
	movl $parameters, %esp
	movq start_rax(%rip), %rax
	movq start_rbx(%rip), %rbx
	movq start_rcx(%rip), %rcx
	movq start_rdx(%rip), %rdx
	movq start_rsi(%rip), %rsi
	movq start_rdi(%rip), %rdi
	movq start_rbp(%rip), %rbp
	jmp *start_rip(%rip)

	.balign 8
gdt:
	.quad 0
	.quad 0
	.quad 0x00af9b000000ffff /* 0x10: 64-bit code */
	.quad 0x00cf93000000ffff /* 0x18: data, 4 GiB */
gdt_pointer:
	.word . - gdt - 1
	.long gdt

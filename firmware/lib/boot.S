/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From a boot loader to long mode. Multiboot 1, multiboot 2 and PVH all enter in 32-bit protected mode
 * without paging, with flat segments, interrupts off and a magic number that says which of them it was.
 */
#include "gdt.h"
#include "x86.h"

#define MULTIBOOT1_MAGIC 0x1badb002
#define MULTIBOOT1_FLAGS 0x3                    /* modules page aligned; memory map wanted */
#define MULTIBOOT2_MAGIC 0xe85250d6
#define MULTIBOOT2_I386 0
#define XEN_ELFNOTE_PHYS32_ENTRY 18
#define PVH_MAGIC 0x336ec578

#define PRESENT_WRITE 0x3
#define PRESENT_WRITE_LARGE 0x83

/* ---- Headers ---------------------------------------------------------------------------- */

        .section .boot_headers, "a"
        .balign 4
        .long   MULTIBOOT1_MAGIC, MULTIBOOT1_FLAGS, -(MULTIBOOT1_MAGIC + MULTIBOOT1_FLAGS)

        .balign 8
multiboot2:
        .long   MULTIBOOT2_MAGIC, MULTIBOOT2_I386, multiboot2_end - multiboot2
        .long   -(MULTIBOOT2_MAGIC + MULTIBOOT2_I386 + (multiboot2_end - multiboot2))
        .short  0, 0                            /* the tag that ends the list */
        .long   8
multiboot2_end:

        .section .note.pvh, "a", @note
        .balign 4
        .long   4, 4, XEN_ELFNOTE_PHYS32_ENTRY
        .asciz  "Xen"
        .long   pvh_start

/* ---- 32-bit entry ----------------------------------------------------------------------- */

        .text
        .code32
        .globl  _start
pvh_start:
        mov     $PVH_MAGIC, %eax
_start:
        cld
        lgdt    gdt_pointer
        mov     %eax, %edi                      /* the arguments of start() */
        mov     %ebx, %esi
        mov     $KERNEL_DATA, %eax              /* the loader's descriptors may be anywhere */
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        xor     %eax, %eax
        mov     %eax, %fs
        mov     %eax, %gs

        /* One to one: four level-2 tables in a row map 4 GiB, 2 MiB at a time. */
        movl    $level3 + PRESENT_WRITE, level4
        mov     $3, %ecx
1:      mov     %ecx, %eax
        shl     $12, %eax
        add     $level2 + PRESENT_WRITE, %eax
        mov     %eax, level3(, %ecx, 8)
        dec     %ecx
        jns     1b
        mov     $2047, %ecx
2:      mov     %ecx, %eax
        shl     $21, %eax
        or      $PRESENT_WRITE_LARGE, %eax
        mov     %eax, level2(, %ecx, 8)
        dec     %ecx
        jns     2b

        mov     %cr4, %eax
        or      $(CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT), %eax
        mov     %eax, %cr4
        mov     $level4, %eax
        mov     %eax, %cr3
        mov     $MSR_EFER, %ecx
        rdmsr
        or      $(EFER_LME | EFER_NXE), %eax
        wrmsr
        mov     %cr0, %eax
        and     $~(CR0_EM | CR0_TS), %eax
        or      $(CR0_PG | CR0_WP | CR0_NE | CR0_MP), %eax
        mov     %eax, %cr0
        ljmp    $KERNEL_CODE, $long_mode

        .code64
long_mode:
        mov     $stack_top, %esp
        call    start

/* ---- Data -------------------------------------------------------------------------------- */

        .data
        .balign 8
gdt_pointer:                                    /* six bytes of it for 32-bit code, ten for 64-bit code */
        .short  GDT_BYTES - 1
        .quad   gdt

        .bss
        .balign 4096
level4: .skip   4096
level3: .skip   4096
level2: .skip   4 * 4096
        .balign 16
        .skip   16384
stack_top:

        .section .note.GNU-stack, "", @progbits

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From long mode to 32-bit protected mode without paging, from there to 16-bit protected or to real mode,
 * and back (SDM vol. 3, 9.8.5.4 and 9.9). legacy.h describes run_legacy().
 */
#include "gdt.h"
#include "x86.h"

#define VECTORS 64

        .section .low, "awx"
        .globl  run_legacy, legacy_frame

        .code64
run_legacy:
        push    %rbx
        push    %rbp
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        mov     %edi, mode
        mov     %esi, code
        mov     %rsp, long_stack
        push    $KERNEL_CODE32
        push    $leave_long_mode
        lretq

        .code32
leave_long_mode:
        mov     %cr0, %eax
        and     $~CR0_PG, %eax
        mov     %eax, %cr0
        mov     $MSR_EFER, %ecx
        rdmsr
        and     $~EFER_LME, %eax
        wrmsr
        mov     $KERNEL_DATA, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     $legacy_stack, %esp
        lidt    idt_pointer
        mov     code, %edx
        mov     mode, %ecx
        jecxz   1f
        push    $KERNEL_CODE16
        push    %edx
        dec     %ecx
        jz      2f
        ljmp    $KERNEL_CODE16, $leave_protected_mode
1:      jmp     *%edx
2:      lret

        .code16
leave_protected_mode:
        mov     $KERNEL_DATA16, %ax             /* real mode keeps limits: they must be 64 KiB */
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        mov     %cr0, %eax
        and     $~CR0_PE, %al
        mov     %eax, %cr0
        ljmp    $0, $1f
1:      xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        lidt    ivt_pointer
        jmp     *%dx

/* Vectors in real mode: no error codes. */
        .set    vector, 0
        .balign 8
real_vectors:
        .rept   VECTORS
        .balign 8
        push    $vector
        jmp     real_enter
        .set    vector, vector + 1
        .endr

real_enter:
        xor     %eax, %eax
        pop     %ax
        mov     %eax, legacy_frame
        pop     %ax
        mov     %eax, legacy_frame + 8
        pop     %ax
        mov     %eax, legacy_frame + 12
        pop     %ax
        mov     %eax, legacy_frame + 16
        movl    $0, legacy_frame + 4
        mov     %cr0, %eax
        or      $CR0_PE, %al
        mov     %eax, %cr0
        ljmpl   $KERNEL_CODE32, $enter_long_mode

/* Vectors in protected mode. */
        .code32
        .set    vector, 0
        .balign 16
protected_vectors:
        .rept   VECTORS
        .balign 16
        .if     !(vector == VECTOR_DF || (vector >= VECTOR_TS && vector <= VECTOR_PF) || vector == VECTOR_AC)
        push    $0
        .endif
        push    $vector
        jmp     protected_enter
        .set    vector, vector + 1
        .endr

protected_enter:
        pop     legacy_frame
        pop     legacy_frame + 4
        pop     legacy_frame + 8
        pop     legacy_frame + 12
        pop     legacy_frame + 16

enter_long_mode:
        mov     $KERNEL_DATA, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     $MSR_EFER, %ecx
        rdmsr
        or      $EFER_LME, %eax
        wrmsr
        mov     %cr0, %eax
        or      $CR0_PG, %eax
        mov     %eax, %cr0
        ljmp    $KERNEL_CODE, $1f

        .code64
1:      mov     long_stack, %rsp
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbp
        pop     %rbx
        ret

        .balign 8
long_stack:
        .quad   0
mode:   .long   0
code:   .long   0
legacy_frame:
        .long   0, 0, 0, 0, 0

idt_pointer:
        .short  VECTORS * 8 - 1
        .long   protected_idt
ivt_pointer:
        .short  VECTORS * 4 - 1
        .long   real_ivt

/* Both tables at assembly time: all of it lies below 64 KiB. */
        .balign 8
protected_idt:
        .set    vector, 0
        .rept   VECTORS
        .short  protected_vectors + vector * 16, KERNEL_CODE32, 0x8e00, 0
        .set    vector, vector + 1
        .endr
real_ivt:
        .set    vector, 0
        .rept   VECTORS
        .short  real_vectors + vector * 8, 0
        .set    vector, vector + 1
        .endr

        .balign 16
        .skip   1024
legacy_stack:

        .section .note.GNU-stack, "", @progbits

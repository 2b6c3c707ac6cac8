/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The first and last instructions of every interrupt, and of run(). */
#include "gdt.h"
#include "idt.h"
#include "x86.h"

        .text
        .globl  vectors, run, code_returned

/* 256 entries of 16 bytes. Those for which the CPU pushes no error code push 0 (SDM vol. 3, table 6-1). */
        .balign 16
vectors:
        .set    vector, 0
        .rept   256
        .balign 16
        .if     !(vector == VECTOR_DF || (vector >= VECTOR_TS && vector <= VECTOR_PF) || \
                  vector == VECTOR_AC || vector == VECTOR_CP)
        push    $0
        .endif
        push    $vector
        jmp     enter
        .set    vector, vector + 1
        .endr

enter:
        push    %rax
        push    %rbx
        push    %rcx
        push    %rdx
        push    %rsi
        push    %rdi
        push    %rbp
        push    %r8
        push    %r9
        push    %r10
        push    %r11
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        mov     %rsp, %rdi              /* 16-byte aligned: the CPU aligned before it pushed 5 words */
        cld
        call    interrupt_dispatch

leave:  pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %r11
        pop     %r10
        pop     %r9
        pop     %r8
        pop     %rbp
        pop     %rdi
        pop     %rsi
        pop     %rdx
        pop     %rcx
        pop     %rbx
        pop     %rax
        add     $16, %rsp               /* vector and error code */
        iretq

/* unsigned run(struct frame *frame): interrupt_dispatch() ends it by an IRETQ to run_ends. */
run:
        push    %rbx
        push    %rbp
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        pushfq
        mov     %rdi, run_frame(%rip)
        mov     %rsp, run_stack(%rip)
        mov     %rdi, %rsp              /* `leave` only reads the frame: nothing is pushed before IRETQ */
        cli
        jmp     leave

        .globl  run_ends
run_ends:
        mov     $KERNEL_DATA, %ecx      /* an IRETQ to ring 3 has cleared them */
        mov     %ecx, %ds
        mov     %ecx, %es
        popfq
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbp
        pop     %rbx
        ret

/* The return address of code that frame_calling() calls. */
code_returned:
        int     $VECTOR_RETURNED

        .section .note.GNU-stack, "", @progbits

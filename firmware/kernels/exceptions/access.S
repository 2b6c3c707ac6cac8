/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One memory access each, at the address in %rdi, to test #PF; ..._at is the instruction that makes it. */

#include "idt.h"

        .macro  ACCESS name, instruction:vararg
        .globl  \name, \name\()_at
\name:  nop
\name\()_at:
        \instruction
        int     $VECTOR_RETURNED
        .endm

        .macro  ACCESSES prefix
        ACCESS  \prefix\()_read, mov (%rdi), %eax
        ACCESS  \prefix\()_write, mov %eax, (%rdi)
        ACCESS  \prefix\()_fetch, jmp *%rdi
        .endm

        .text
        ACCESSES kernel
        ACCESS  kernel_pop, popq (%rdi)
        ACCESS  kernel_exchange, xchg %rax, (%rdi)
        ACCESS  kernel_rep, rep movsb
        ACCESS  kernel_add, add %rax, (%rdi)

        .section .user, "ax"
        ACCESSES user

        .section .note.GNU-stack, "", @progbits

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What 64-bit code in ring 0 can raise. At entry %rdi is an address that is not mapped, %rsi one that is not
 * canonical, and %rdx points to 1 KiB of scratch memory at a page boundary. CR0, CR4, DR7 and the x87 state
 * may be left changed. For #DB, the bits of DR6 stand in the place of the error code. Ring 3, page faults and
 * double faults are in main.c.
 */
#include "fault_case.inc"
#include "gdt.h"
#include "x86.h"


#define TF_ON (RFLAGS_TF | RFLAGS_FIXED)

        .macro  SET_CR0 bits
        mov     %cr0, %rax
        or      $\bits, %rax
        mov     %rax, %cr0
        .endm

        .text
        CASES   long_mode_cases

/* ---- #DE ---- */
        CASE    de_zero, "#DE: division by zero", VECTOR_DE
        xor     %ecx, %ecx
de_zero_at:
        div     %rcx

        CASE    de_overflow, "#DE: quotient too large", VECTOR_DE
        mov     $2, %edx
        mov     $2, %ecx
de_overflow_at:
        div     %rcx

        CASE    de_signed, "#DE: most negative number by -1", VECTOR_DE
        mov     $0x80000000, %eax
        cltd
        mov     $-1, %ecx
de_signed_at:
        idiv    %ecx

        CASE    de_memory, "#DE: memory operand, long instruction", VECTOR_DE
        movq    $0, 0x120(%rdx)
        mov     $4, %ecx
de_memory_at:
        divq    0x100(%rdx, %rcx, 8)

/* ---- #DB ---- */
        CASE    db_step, "#DB: single step", VECTOR_DB, DR6_BS
        push    $TF_ON
        popfq
        nop
db_step_at:
        nop

        CASE    db_step_branch, "#DB: single step over a jump", VECTOR_DB, DR6_BS
        push    $TF_ON
        popfq
        jmp     db_step_branch_at
        nop
db_step_branch_at:
        nop

        CASE    db_step_rep, "#DB: single step inside rep", VECTOR_DB, DR6_BS
        mov     %rdx, %rsi
        lea     64(%rdx), %rdi
        mov     $16, %ecx
        push    $TF_ON
        popfq
db_step_rep_at:
        rep movsb

        CASE    db_execute, "#DB: breakpoint on an instruction", VECTOR_DB, DR6_B0
        lea     db_execute_at(%rip), %rax
        mov     %rax, %dr0
        mov     $0x402, %eax
        mov     %rax, %dr7
        nop
db_execute_at:
        mov     %eax, %eax

        CASE    db_write, "#DB: breakpoint on a write", VECTOR_DB, DR6_B1
        mov     %rdx, %dr1
        mov     $0xd00408, %eax                 /* G1: write, 4 bytes */
        mov     %rax, %dr7
        mov     (%rdx), %ecx
        mov     %ecx, 4(%rdx)
        mov     %ecx, 2(%rdx)
db_write_at:
        nop

        CASE    db_read, "#DB: breakpoint on a read or write", VECTOR_DB, DR6_B3
        lea     8(%rdx), %rcx
        mov     %rcx, %dr3
        mov     $0xb0000480, %eax               /* G3: read or write, 8 bytes */
        mov     %rax, %dr7
        mov     (%rdx), %rcx
        mov     12(%rdx), %cl
db_read_at:
        nop

        CASE    db_int1, "#DB: int1", VECTOR_DB
        .byte   0xf1
db_int1_at:
        nop

/* ---- #BP, INT n ---- */
        CASE    bp_int3, "#BP: int3", VECTOR_BP
        int3
bp_int3_at:
        nop

        CASE    bp_cd03, "#BP: int \$3 in two bytes", VECTOR_BP
        .byte   0xcd, 3
bp_cd03_at:
        nop

        CASE    int_n, "int n: any vector", 0x81
        int     $0x81
int_n_at:
        nop

        CASE    int_absent, "#NP: gate of int n not present", VECTOR_NP, 0x82*8+2
        nop
int_absent_at:
        int     $0x82

        CASE    int_limit, "#GP: int n beyond the limit of the IDT", VECTOR_GP, 0xf8*8+2
        nop
int_limit_at:
        int     $0xf8

/* ---- #UD ---- */
        CASE    ud_ud2, "#UD: ud2", VECTOR_UD
        nop
ud_ud2_at:
        ud2

        CASE    ud_into, "#UD: into in 64-bit mode", VECTOR_UD
        nop
ud_into_at:
        .byte   0xce

        CASE    ud_push_es, "#UD: push %es in 64-bit mode", VECTOR_UD
        nop
ud_push_es_at:
        .byte   0x06

        CASE    ud_lock, "#UD: lock on a register", VECTOR_UD
        nop
ud_lock_at:
        .byte   0xf0, 0x01, 0xc0

        CASE    ud_mov_cs, "#UD: mov to %cs", VECTOR_UD
        mov     %ds, %eax
ud_mov_cs_at:
        .byte   0x8e, 0xc8

        CASE    ud_cr1, "#UD: control register 1", VECTOR_UD
        nop
ud_cr1_at:
        .byte   0x0f, 0x20, 0xc8

        CASE    ud_osfxsr, "#UD: SSE with CR4.OSFXSR off", VECTOR_UD
        mov     %cr4, %rax
        and     $~CR4_OSFXSR, %rax
        mov     %rax, %cr4
ud_osfxsr_at:
        xorps   %xmm0, %xmm0

        CASE    ud_em, "#UD: SSE with CR0.EM on", VECTOR_UD
        SET_CR0 CR0_EM
ud_em_at:
        xorps   %xmm0, %xmm0

        CASE    ud_syscall, "#UD: syscall with EFER.SCE off", VECTOR_UD
        nop
ud_syscall_at:
        syscall

/* ---- #NM ---- */
        CASE    nm_x87, "#NM: x87 with CR0.TS on", VECTOR_NM
        SET_CR0 CR0_TS
nm_x87_at:
        fld1

        CASE    nm_sse, "#NM: SSE with CR0.TS on", VECTOR_NM
        SET_CR0 CR0_TS
nm_sse_at:
        movaps  %xmm1, %xmm0

        CASE    nm_wait, "#NM: fwait with CR0.TS and CR0.MP on", VECTOR_NM
        SET_CR0 CR0_TS | CR0_MP
nm_wait_at:
        fwait

        CASE    nm_no_wait, "no #NM: fwait with CR0.TS on and CR0.MP off", VECTOR_UD
        SET_CR0 CR0_TS
        and     $~CR0_MP, %rax
        mov     %rax, %cr0
        fwait
nm_no_wait_at:
        ud2

        CASE    nm_em, "#NM: x87 with CR0.EM on", VECTOR_NM
        SET_CR0 CR0_EM
nm_em_at:
        fldpi

/* ---- #NP, #SS, #GP with a selector ---- */
        CASE    np_data, "#NP: data segment not present", VECTOR_NP, SPARE_SEGMENT
        mov     $SPARE_SEGMENT, %eax
np_data_at:
        mov     %eax, %ds

        CASE    ss_stack, "#SS: stack segment not present", VECTOR_SS, SPARE_SEGMENT
        mov     $SPARE_SEGMENT, %eax
ss_stack_at:
        mov     %eax, %ss

        CASE    gp_limit, "#GP: selector beyond the limit of the GDT", VECTOR_GP, 0xfff8
        mov     $0xfff8, %eax
gp_limit_at:
        mov     %eax, %ds

        CASE    gp_local, "#GP: selector into a null LDT", VECTOR_GP, 0x14
        xor     %eax, %eax
        lldt    %ax
        mov     $0x14, %eax
gp_local_at:
        mov     %eax, %es

        CASE    gp_code_as_stack, "#GP: code segment as stack", VECTOR_GP, KERNEL_CODE
        mov     $KERNEL_CODE, %eax
gp_code_as_stack_at:
        mov     %eax, %ss

        CASE    gp_stack_ring, "#GP: stack segment of ring 3", VECTOR_GP, USER_DATA&~3
        mov     $USER_DATA, %eax
gp_stack_ring_at:
        mov     %eax, %ss

        CASE    gp_far_data, "#GP: far return to a data segment", VECTOR_GP, KERNEL_DATA
        push    $KERNEL_DATA
        push    $0
gp_far_data_at:
        lretq

        CASE    gp_iret_null, "#GP: iret to a null code segment", VECTOR_GP
        mov     %rsp, %rax
        push    $KERNEL_DATA
        push    %rax
        push    $0x2
        push    $0
        push    $0
gp_iret_null_at:
        iretq

        CASE    gp_ltr_data, "#GP: ltr of a data segment", VECTOR_GP, KERNEL_DATA
        mov     $KERNEL_DATA, %eax
gp_ltr_data_at:
        ltr     %ax

        CASE    gp_ltr_busy, "#GP: ltr of a TSS that is in use", VECTOR_GP, KERNEL_TSS
        mov     $KERNEL_TSS, %eax
gp_ltr_busy_at:
        ltr     %ax

/* ---- #GP(0) ---- */
        CASE    gp_canonical_load, "#GP: load from a non-canonical address", VECTOR_GP
        nop
gp_canonical_load_at:
        mov     8(%rsi), %rax

        CASE    gp_canonical_store, "#GP: store to a non-canonical address", VECTOR_GP
        nop
gp_canonical_store_at:
        mov     %rax, (%rsi)

        CASE    gp_rdmsr, "#GP: read of an unknown MSR", VECTOR_GP
        mov     $0xdeadbeef, %ecx
gp_rdmsr_at:
        rdmsr

        CASE    gp_wrmsr, "#GP: write of an unknown MSR", VECTOR_GP
        mov     $0xdeadbeef, %ecx
        xor     %eax, %eax
        xor     %edx, %edx
gp_wrmsr_at:
        wrmsr

        CASE    gp_fxsave, "#GP: fxsave to an address not a multiple of 16", VECTOR_GP
        nop
gp_fxsave_at:
        fxsave  8(%rdx)

        CASE    gp_cmpxchg16b, "#GP: cmpxchg16b of an address not a multiple of 16", VECTOR_GP
        mov     %rdx, %rdi
        mov     8(%rdi), %rax
        mov     16(%rdi), %rdx
gp_cmpxchg16b_at:
        cmpxchg16b 8(%rdi)

        CASE    gp_length, "#GP: instruction of 16 bytes", VECTOR_GP
        nop
gp_length_at:
        .fill   15, 1, 0x66
        nop

/* ---- #MF ---- */
        CASE    mf_wait, "#MF: waits for the next x87 instruction", VECTOR_MF
        fninit
        movw    $0x37b, (%rdx)                  /* zero divide not masked */
        fldcw   (%rdx)
        fldz
        fld1
        fdiv    %st(1), %st
        nop
mf_wait_at:
        fwait

        END_CASES

        .section .note.GNU-stack, "", @progbits

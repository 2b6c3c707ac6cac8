/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Code for ring 3, and the few instructions of ring 0 that lead there and back. Prototypes: user_code.h */
#include "fault_case.inc"
#include "gdt.h"
#include "user_code.h"
#include "x86.h"

        .section .user, "ax"

/* ---- What ring 3 must not do ---- */
        CASES   privileged_cases

        .macro  PRIVILEGED id, name, instruction:vararg
        CASE    \id, "ring 3, #GP: \name", VECTOR_GP
        xor     %eax, %eax
\id\()_at:
        \instruction
        .endm

        PRIVILEGED u_hlt, "hlt", hlt
        PRIVILEGED u_cli, "cli", cli
        PRIVILEGED u_sti, "sti", sti
        PRIVILEGED u_in, "in", in $0x80, %al
        PRIVILEGED u_out, "out", out %al, $0x80
        PRIVILEGED u_outs, "outs", outsb        /* from %rsi, which can be read */
        PRIVILEGED u_read_cr0, "read cr0", mov %cr0, %rax
        PRIVILEGED u_write_cr3, "write cr3", mov %rax, %cr3
        PRIVILEGED u_write_cr8, "write cr8", mov %rax, %cr8
        PRIVILEGED u_read_dr7, "read dr7", mov %dr7, %rax
        PRIVILEGED u_rdmsr, "rdmsr", rdmsr
        PRIVILEGED u_wrmsr, "wrmsr", wrmsr
        PRIVILEGED u_lgdt, "lgdt", lgdt (%rsp)
        PRIVILEGED u_lidt, "lidt", lidt (%rsp)
        PRIVILEGED u_lldt, "lldt", lldt %ax
        PRIVILEGED u_ltr, "ltr", ltr %ax
        PRIVILEGED u_lmsw, "lmsw", lmsw %ax
        PRIVILEGED u_clts, "clts", clts
        PRIVILEGED u_invlpg, "invlpg", invlpg (%rsp)
        PRIVILEGED u_wbinvd, "wbinvd", wbinvd
        PRIVILEGED u_swapgs, "swapgs", swapgs
        PRIVILEGED u_sysret, "sysret", sysretq

        CASE    u_load_ds, "ring 3, #GP: segment of ring 0", VECTOR_GP, KERNEL_DATA
        mov     $KERNEL_DATA, %eax
u_load_ds_at:
        mov     %eax, %ds

        CASE    u_far_return, "ring 3, #GP: far return to ring 0", VECTOR_GP, KERNEL_CODE
        push    $KERNEL_CODE
        push    $0
u_far_return_at:
        lretq

        CASE    u_iret, "ring 3, #GP: iret to ring 0", VECTOR_GP, KERNEL_CODE
        push    $KERNEL_DATA
        push    %rsp
        push    $2
        push    $KERNEL_CODE
        push    $0
u_iret_at:
        iretq

        CASE    u_rdtsc, "ring 3: rdtsc, smsw and sgdt are allowed", VECTOR_DONE
        rdtsc
        smsw    %eax
        sub     $16, %rsp
        sgdt    (%rsp)
        int     $VECTOR_DONE
u_rdtsc_at:
        nop

        END_CASES

/* ---- The rest of ring 3's code ---- */
        .macro  USER_CODE_OF name, code:vararg
        .globl  \name
\name:  \code
        int     $VECTOR_DONE
        .endm

        USER_CODE_OF user_done, nop
        USER_CODE_OF user_in8, in $0x80, %al
        USER_CODE_OF user_in16, in $0x80, %ax
        USER_CODE_OF user_in_far, in %dx, %al
        USER_CODE_OF user_cli, cli
        USER_CODE_OF user_rdtsc, rdtsc
        USER_CODE_OF user_sysexit, sysexitq
        USER_CODE_OF user_load, mov (%rdi), %rax
        USER_CODE_OF user_store, mov %rax, (%rdi)

        .globl  user_popf, user_syscall, user_syscall_end, user_sysenter, user_spin, user_sum

user_popf:
        pushfq
        orl     $0x3200, (%rsp)                 /* IOPL 3, IF */
        popfq
        pushfq
        pop     %rax
        int     $VECTOR_DONE

user_syscall:
        syscall
user_syscall_end:
        int     $VECTOR_DONE

user_sysenter:
        sysenter

user_spin:
        jmp     user_spin

/* rax = sum of the first word of each of %rcx pages from %rdi on */
user_sum:
        xor     %eax, %eax
1:      add     (%rdi), %rax
        add     $4096, %rdi
        dec     %rcx
        jnz     1b
        int     $VECTOR_DONE

/* ---- Ring 0 ---- */
        .text
        .globl  enter_here, enter_here_end
        .globl  leave_by_sysret, leave_by_sysret32, leave_by_sysexit, leave_by_sysexit32
        .globl  kernel_load, kernel_store, kernel_swapgs, kernel_stac_load

enter_here:
        int     $VECTOR_ENTERED
enter_here_end:

leave_by_sysret:
        sysretq
leave_by_sysret32:
        sysretl
leave_by_sysexit:
        sysexitq
leave_by_sysexit32:
        sysexitl

kernel_load:
        mov     (%rdi), %rax
        ret

kernel_stac_load:
        stac
        mov     (%rdi), %rax
        clac
        ret

kernel_store:
        mov     %rax, (%rdi)
        ret

kernel_swapgs:
        swapgs
        mov     %gs:0, %rax
        swapgs
        mov     %gs:0, %rdx
        ret

        .section .note.GNU-stack, "", @progbits

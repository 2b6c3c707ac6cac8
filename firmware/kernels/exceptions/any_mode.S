/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The same exceptions in each mode of the CPU: 64-bit, compatibility (32 and 16 bits), protected (32 and 16
 * bits) and real. All of it stands in low memory, where real-mode code with segment 0 reaches it.
 */
#include "fault_case.inc"
#include "gdt.h"
#include "x86.h"

#define IRQ0 0x20
#define TF_ON (RFLAGS_TF | RFLAGS_FIXED)

        .macro  COMMON_CASES id, mode
        CASE    \id\()_de, "\mode: #DE", VECTOR_DE
        xor     %cl, %cl
\id\()_de_at:
        div     %cl

        CASE    \id\()_db, "\mode: #DB single step", VECTOR_DB, DR6_BS
        push    $TF_ON
        popf
        nop
\id\()_db_at:
        nop

        CASE    \id\()_bp, "\mode: #BP", VECTOR_BP
        int3
\id\()_bp_at:
        nop

        CASE    \id\()_ud, "\mode: #UD", VECTOR_UD
        nop
\id\()_ud_at:
        ud2

        CASE    \id\()_int, "\mode: int n", 0x30
        int     $0x30
\id\()_int_at:
        nop

        CASE    \id\()_irq, "\mode: hardware interrupt ends hlt", IRQ0
        mov     $0x30, %al                      /* 8254: channel 0, mode 0, two bytes */
        out     %al, $0x43
        mov     $100, %al
        out     %al, $0x40
        xor     %al, %al
        out     %al, $0x40
        sti
        hlt
\id\()_irq_at:
        nop
        .endm

        .macro  LEGACY_CASES id, mode           /* not in 64-bit mode */
        CASE    \id\()_of, "\mode: #OF", VECTOR_OF
        mov     $0x7f, %al
        inc     %al
        into
\id\()_of_at:
        nop

        CASE    \id\()_no_of, "\mode: no #OF", VECTOR_UD
        xor     %al, %al
        into
\id\()_no_of_at:
        ud2

        CASE    \id\()_br, "\mode: #BR", VECTOR_BR
        mov     $3, %ax
\id\()_br_at:
        bound   %ax, bounds

        CASE    \id\()_no_br, "\mode: no #BR", VECTOR_UD
        mov     $2, %ax
        bound   %ax, bounds
\id\()_no_br_at:
        ud2

        CASE    \id\()_aam, "\mode: #DE of aam", VECTOR_DE
        mov     $1, %al
\id\()_aam_at:
        aam     $0
        .endm

        .macro  PROTECTED_CASES id, mode        /* where selectors are checked */
        CASE    \id\()_gp, "\mode: #GP with a selector", VECTOR_GP, 0xfff8
        mov     $0xfff8, %ax
\id\()_gp_at:
        mov     %ax, %es

        CASE    \id\()_np, "\mode: #NP with a selector", VECTOR_NP, SPARE_SEGMENT
        mov     $SPARE_SEGMENT, %ax
\id\()_np_at:
        mov     %ax, %es
        .endm

        .section .low, "awx"

        .code64
        CASES   long64_cases
        COMMON_CASES long64, "64-bit mode"
        PROTECTED_CASES long64, "64-bit mode"
        END_CASES

        .code32
        CASES   compat32_cases
        COMMON_CASES compat32, "compatibility mode, 32 bits"
        LEGACY_CASES compat32, "compatibility mode, 32 bits"
        PROTECTED_CASES compat32, "compatibility mode, 32 bits"
        END_CASES

        CASES   protected32_cases
        COMMON_CASES protected32, "protected mode, 32 bits"
        LEGACY_CASES protected32, "protected mode, 32 bits"
        PROTECTED_CASES protected32, "protected mode, 32 bits"
        END_CASES

        .code16
        CASES   compat16_cases
        COMMON_CASES compat16, "compatibility mode, 16 bits"
        LEGACY_CASES compat16, "compatibility mode, 16 bits"
        PROTECTED_CASES compat16, "compatibility mode, 16 bits"
        END_CASES

        CASES   protected16_cases
        COMMON_CASES protected16, "protected mode, 16 bits"
        LEGACY_CASES protected16, "protected mode, 16 bits"
        PROTECTED_CASES protected16, "protected mode, 16 bits"
        END_CASES

        CASES   real_cases
        COMMON_CASES real, "real mode"
        LEGACY_CASES real, "real mode"
        END_CASES

bounds: .short  1, 2

        .section .note.GNU-stack, "", @progbits

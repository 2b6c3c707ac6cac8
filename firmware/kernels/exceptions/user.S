/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What ring 3 raises by INT, whose gates have a privilege level of their own. Gate 0x80 is open to ring 3. */
#include "fault_case.inc"
#include "x86.h"


        .section .user, "ax"

        CASES   user_cases

        CASE    user_open, "ring 3: int n through a gate of ring 3", 0x80
        int     $0x80
user_open_at:
        nop

        CASE    user_closed, "ring 3: #GP for a gate of ring 0", VECTOR_GP, 0x81*8+2
        nop
user_closed_at:
        int     $0x81

        CASE    user_fault, "ring 3: #GP for int n with an exception's vector", VECTOR_GP, VECTOR_PF*8+2
        nop
user_fault_at:
        int     $VECTOR_PF

        CASE    user_int3, "ring 3: #GP for int3", VECTOR_GP, VECTOR_BP*8+2
        nop
user_int3_at:
        int3

        CASE    user_int1, "ring 3: int1 needs no privilege", VECTOR_DB
        .byte   0xf1
user_int1_at:
        nop

        END_CASES

        .section .note.GNU-stack, "", @progbits

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Instructions at whose boundaries an interrupt may, or may not, be taken. Prototypes: shadow.h */

        .text
        .globl  take_after_sti, take_after_sti_rip, no_take_sti_cli, take_after_popf, take_after_popf_rip
        .globl  take_after_iret, take_after_iret_rip, take_at_halt, take_at_halt_rip
        .globl  sti_under_fire, sti_under_fire_shadow, mov_ss_under_fire, mov_ss_under_fire_shadow

take_after_sti:
        sti
        nop
take_after_sti_rip:
        nop
        cli
        ret

no_take_sti_cli:
        sti
        cli
        ret

take_after_popf:
        pushfq
        orl     $0x200, (%rsp)
        popfq
take_after_popf_rip:
        nop
        cli
        ret

take_after_iret:
        mov     %rsp, %rdx
        mov     %ss, %eax
        push    %rax
        push    %rdx
        push    $0x202
        mov     %cs, %eax
        push    %rax
        push    $take_after_iret_rip
        iretq
take_after_iret_rip:
        nop
        cli
        ret

take_at_halt:
        sti
        hlt
take_at_halt_rip:
        cli
        ret

sti_under_fire:
        cli
        sti
sti_under_fire_shadow:
        nop
        dec     %rdi
        jnz     sti_under_fire
        cli
        ret

mov_ss_under_fire:
        mov     %ss, %eax
        sti
1:      nop
        mov     %eax, %ss
mov_ss_under_fire_shadow:
        nop
        dec     %rdi
        jnz     1b
        cli
        ret

        .section .note.GNU-stack, "", @progbits

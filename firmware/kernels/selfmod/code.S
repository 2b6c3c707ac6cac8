/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Code that changes itself, and every kind of store that can change code. Prototypes: code.h */

        /* In .data: what writes here must not slow the rest of the kernel. All RAM is executable. */
        .data
        .balign 4096
        .globl  next_instruction, same_block, growing_loop, copied_next_instruction, changed_opcode

next_instruction:
        mov     %edi, 1f + 1(%rip)
1:      mov     $0, %eax
        ret

same_block:
        mov     %edi, 1f + 1(%rip)
        lea     (%rdi, %rdi), %edx
        sub     %edi, %edx
        xor     %eax, %eax
1:      add     $0x11111111, %eax
        add     %edx, %eax
        ret

growing_loop:
        xor     %eax, %eax
        movl    $1, 1f + 1(%rip)
1:      add     $0x11111111, %eax
        incl    1b + 1(%rip)
        dec     %edi
        jnz     1b
        ret

copied_next_instruction:
        mov     %rdi, %rsi
        lea     1f(%rip), %rdi
        mov     $5, %ecx
        rep     movsb
1:      mov     $0, %eax
        ret

changed_opcode:
        mov     %edi, %eax
        test    $1, %sil
        mov     $0xc0, %ecx                     /* ff c0: inc %eax */
        mov     $0xc8, %edx                     /* ff c8: dec %eax */
        cmovnz  %edx, %ecx
        mov     %cl, 1f + 1(%rip)
1:      inc     %eax
        ret

        .text
        .globl  call_on_stack, break_on_stack

call_on_stack:
        push    %rbx
        mov     %rsp, %rbx
        mov     %rdx, %rsp
        mov     %rdi, %rax
        mov     %esi, %edi
        call    *%rax
        mov     %rbx, %rsp
        pop     %rbx
        ret

break_on_stack:
        mov     %rsp, %rdx
        mov     %rdi, %rsp
        int3
        mov     %rdx, %rsp
        ret

/* void store_...(void *to [%rdi], uint64_t value [%rsi]) */
        .globl  store_byte, store_word, store_long, store_quad, store_xchg, store_cmpxchg, store_xadd
        .globl  store_add, store_cmpxchg16b, store_push, store_stos, store_movs, store_movnti
        .globl  store_movups, store_fistp

store_byte:
        mov     $8, %ecx
1:      mov     %sil, (%rdi)
        inc     %rdi
        shr     $8, %rsi
        dec     %ecx
        jnz     1b
        ret

store_word:
        mov     $4, %ecx
1:      mov     %si, (%rdi)
        add     $2, %rdi
        shr     $16, %rsi
        dec     %ecx
        jnz     1b
        ret

store_long:
        mov     %esi, (%rdi)
        shr     $32, %rsi
        mov     %esi, 4(%rdi)
        ret

store_quad:
        mov     %rsi, (%rdi)
        ret

store_xchg:
        xchg    %rsi, (%rdi)
        ret

store_cmpxchg:
        mov     (%rdi), %rax
        lock cmpxchg %rsi, (%rdi)
        ret

store_xadd:
        sub     (%rdi), %rsi
        lock xadd %rsi, (%rdi)
        ret

store_add:
        sub     (%rdi), %rsi
        add     %rsi, (%rdi)
        ret

store_cmpxchg16b:
        push    %rbx
        mov     (%rdi), %rax
        mov     8(%rdi), %rdx
        mov     %rsi, %rbx
        mov     %rdx, %rcx
        lock cmpxchg16b (%rdi)
        pop     %rbx
        ret

store_push:
        mov     %rsp, %rdx
        lea     8(%rdi), %rsp
        push    %rsi
        mov     %rdx, %rsp
        ret

store_stos:
        mov     %rsi, %rax
        stosq
        ret

store_movs:
        push    %rsi
        mov     %rsp, %rsi
        mov     $8, %ecx
        rep     movsb
        pop     %rsi
        ret

store_movnti:
        movnti  %rsi, (%rdi)
        ret

store_movups:
        movq    %rsi, %xmm0
        movq    8(%rdi), %xmm1
        punpcklqdq %xmm1, %xmm0
        movups  %xmm0, (%rdi)
        ret

store_fistp:
        push    %rsi
        fildll  (%rsp)
        fistpll (%rdi)
        pop     %rsi
        ret

        .section .note.GNU-stack, "", @progbits

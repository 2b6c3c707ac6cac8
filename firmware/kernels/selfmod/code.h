/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What code.S offers. Each function of the first group changes itself before it returns. */
#ifndef CODE_H
#define CODE_H

#include <stdint.h>

/* Return `value`, by an instruction whose immediate is stored one, or a few, instructions before it. */
uint32_t next_instruction(uint32_t value);
uint32_t same_block(uint32_t value);

/* 1 + 2 + ... + n, by an instruction that every turn of the loop changes. */
uint32_t growing_loop(uint32_t n);

/* Runs the 5-byte instruction at `code`, which REP MOVS puts in its own way; returns EAX. */
uint32_t copied_next_instruction(const void *code);

/* value - 1 if `down` is odd, else value + 1. */
uint32_t changed_opcode(uint32_t value, uint32_t down);

/* Call code(argument) on another stack. */
uint32_t call_on_stack(const void *code, uint32_t argument, void *stack);

/* A breakpoint with this stack pointer, which no memory needs to stand behind: the gate must have an IST. */
void break_on_stack(uint64_t rsp);

/* Store 8 bytes, each in its own way. store_cmpxchg16b wants an address that is a multiple of 16. */
typedef void store(void *to, uint64_t value);
store store_byte, store_word, store_long, store_quad, store_xchg, store_cmpxchg, store_xadd, store_add;
store store_cmpxchg16b, store_push, store_stos, store_movs, store_movnti, store_movups, store_fistp;

#endif

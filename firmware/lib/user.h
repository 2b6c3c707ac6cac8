/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Ring 3. Code for it stands in section .user, is position independent and leaves by an exception or a
 * system call; user_init() shows the section to ring 3 at another address, executable and read-only.
 */
#ifndef USER_H
#define USER_H

#include "idt.h"

#define USER_TEXT 0x8000000000ul  /* the second entry of the top-level table */
#define USER_STACK 0x8010000000ul /* one writable, non-executable page */

void user_init(void);

/* Where ring 3 sees something that stands in section .user. */
uint64_t user_address(const void *in_section);

/* The reverse: what stands at an address that ring 3 sees. */
uint64_t user_origin(uint64_t address);

/* A frame at the start of `code`, in 64-bit ring 3 with an empty stack, for run(). */
struct frame user_frame(const void *code);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The parts of this kernel, one file each. */
#ifndef TESTS_H
#define TESTS_H

#include <stdbool.h>

#include "idt.h"
#include "x86.h"

void test_translation(void); /* translation.c */
void test_protection(void);  /* protection.c */
void test_rings(void);       /* rings.c */

/* A page's worth of ring 0's data that tests may map elsewhere: two pages in a row. */
extern volatile uint64_t pages[2][512];

/* Where they map it, in a top-level entry of its own. */
#define TEST_ADDRESS 0x10000000000ul

static inline bool is_page_fault(const struct frame *frame, uint64_t error)
{
    return frame->vector == VECTOR_PF && frame->error == error;
}

/* Run `code` with `rdi`, in ring 0 or, with rsi at its stack's page, in ring 3. */
struct frame run_kernel(const char *code, uint64_t rdi);
struct frame run_user(const char *code, uint64_t rdi);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Code that ends in an exception or interrupt, and what must be true of it. fault_case.inc makes tables of
 * them. */
#ifndef FAULT_CASE_H
#define FAULT_CASE_H

#include <stdint.h>

struct fault_case {
    const char *name;
    const void *code;
    const void *at; /* the RIP that must be saved */
    uint32_t vector;
    uint32_t error;
};

/* One check: this is what came of running `expected->code`. */
void check_fault(const struct fault_case *expected, uint64_t vector, uint64_t error, uint64_t rip);

#endif

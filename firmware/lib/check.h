/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a kernel asserts. Every check prints one line, `ok NAME` or `not ok NAME: why`, and the kernel goes
 * on: the expectation file holds the lines of a machine on which everything is right.
 */
#ifndef CHECK_H
#define CHECK_H

#include <stdbool.h>
#include <stdint.h>

#define CHECK(name, condition) check(name, condition, #condition)

void check(const char *name, bool condition, const char *text);
void check_equal(const char *name, uint64_t actual, uint64_t expected);

/* The start of a check's line: counts it, prints the verdict and the name, returns `good`. The caller ends
 * the line. */
bool check_verdict(const char *name, bool good);

/* For a feature that CPUID or the board does not offer; neither good nor bad. */
void check_absent(const char *name);

/* For a test of many rounds: prints `wrong N of M`, which must be 0. */
void check_wrong(const char *name, unsigned wrong, unsigned rounds);

/* Prints the totals. EXIT_SUCCESS when no check failed, else EXIT_FAILURE. */
int check_result(void);

#endif

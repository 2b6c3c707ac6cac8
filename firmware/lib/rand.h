/* SPDX-License-Identifier: GPL-2.0-or-later */
/* xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators"): the same in every
 * run. */
#ifndef RAND_H
#define RAND_H

#include <stdint.h>

/* `state` must not start as 0. */
static inline uint64_t random_next(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1d;
}

#endif

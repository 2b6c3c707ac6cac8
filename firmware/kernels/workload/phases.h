/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the workload kernel does. Each phase is a pure function of `seed`, some 7 million instructions long.
 */
#ifndef PHASES_H
#define PHASES_H

#include <stdint.h>

uint64_t alu(uint64_t seed);
uint64_t copy(uint64_t seed);
uint64_t chase(uint64_t seed);
uint64_t sieve(uint64_t seed);
uint64_t quicksort(uint64_t seed);
uint64_t checksum(uint64_t seed);
uint64_t matmul(uint64_t seed);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * SSE instructions as functions of two vectors: %xmm0 is the first operand and the result, %xmm1 the second.
 * Approximate ones (RCPPS, RSQRTPS) are not among them, since their low bits are the CPU's own business.
 */
#ifndef SSE_OPERATIONS_H
#define SSE_OPERATIONS_H

#include <stdint.h>

union vector {
    uint8_t byte[16];
    uint32_t word32[4];
    uint64_t word64[2];
};

struct sse_operation {
    const char *name;
    void (*run)(union vector *result, const union vector *a, const union vector *b);
};

/* Each list ends with an entry whose name is NULL. */
extern const struct sse_operation single_arithmetic[], single_logic[]; /* on four numbers */
extern const struct sse_operation double_arithmetic[], double_logic[]; /* on two numbers */
extern const struct sse_operation integer_operations[];
extern const struct sse_operation ssse3_operations[], sse41_operations[], sse42_operations[];
extern const struct sse_operation aes_operations[], pclmulqdq_operations[];

#endif

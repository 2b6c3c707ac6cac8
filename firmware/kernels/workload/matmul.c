/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The phase that works on floating-point vectors. */
#pragma GCC target("sse2")

#include <emmintrin.h>

#include "phases.h"
#include "rand.h"
#include "string.h"

enum { N = 144 };

static float a[N][N], b[N][N] __attribute__((aligned(16))), c[N][N] __attribute__((aligned(16)));

/* C = A * B, a row of B at a time, so that the sums have one order and exactly one result. */
uint64_t matmul(uint64_t seed)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < N; i++) {
        for (unsigned j = 0; j < N; j++) {
            a[i][j] = (float)(random_next(&seed) >> 40) * 0x1p-24f;
            b[i][j] = (float)(random_next(&seed) >> 40) * 0x1p-24f;
        }
    }
    for (unsigned i = 0; i < N; i++) {
        for (unsigned j = 0; j < N; j += 4)
            _mm_store_ps(&c[i][j], _mm_setzero_ps());
        for (unsigned k = 0; k < N; k++) {
            __m128 factor = _mm_set1_ps(a[i][k]);
            for (unsigned j = 0; j < N; j += 4) {
                __m128 product = _mm_mul_ps(factor, _mm_load_ps(&b[k][j]));
                _mm_store_ps(&c[i][j], _mm_add_ps(_mm_load_ps(&c[i][j]), product));
            }
        }
    }
    for (unsigned i = 0; i < N; i++) {
        for (unsigned j = 0; j < N; j++) {
            uint32_t bits;
            memcpy(&bits, &c[i][j], sizeof bits);
            sum = sum * 31 + bits;
        }
    }
    return sum;
}

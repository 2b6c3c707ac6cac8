/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Control and state of x87 and SSE (SDM vol. 1, 8.1, 10.2 and 10.5). */
#ifndef FPU_H
#define FPU_H

#include <stdint.h>

enum rounding { ROUND_NEAREST = 0, ROUND_DOWN = 1, ROUND_UP = 2, ROUND_ZERO = 3 };
enum precision { PRECISION_SINGLE = 0, PRECISION_DOUBLE = 2, PRECISION_EXTENDED = 3 };

enum {
    MXCSR_DAZ = 1 << 6,
    MXCSR_MASKS = 0x3f << 7, /* also the value after reset */
    MXCSR_ROUNDING_SHIFT = 13,
    MXCSR_FTZ = 1 << 15,
    X87_MASKS = 0x3f,
    X87_RESERVED = 1 << 6, /* always reads as one */
    X87_PRECISION_SHIFT = 8,
    X87_ROUNDING_SHIFT = 10,
};

static inline void set_mxcsr(uint32_t value)
{
    asm volatile("ldmxcsr %0" : : "m"(value));
}

static inline uint32_t get_mxcsr(void)
{
    uint32_t value;
    asm volatile("stmxcsr %0" : "=m"(value));
    return value;
}

static inline void x87_init(enum rounding rounding, enum precision precision)
{
    uint16_t control = (uint16_t)(X87_MASKS | X87_RESERVED | precision << X87_PRECISION_SHIFT |
                                  rounding << X87_ROUNDING_SHIFT);
    asm volatile("fninit; fldcw %0" : : "m"(control));
}

/* The memory image of FXSAVE. */
struct fxsave_area {
    uint16_t control, status;
    uint8_t tags; /* one bit for each physical register: 1 = in use */
    uint8_t reserved0;
    uint16_t opcode;
    uint64_t instruction, operand;
    uint32_t mxcsr, mxcsr_mask;
    uint8_t st[8][16];
    uint8_t xmm[16][16];
    uint8_t reserved1[96];
} __attribute__((aligned(16)));

static inline void fxsave(struct fxsave_area *area)
{
    asm volatile("fxsaveq %0" : "=m"(*area));
}

static inline void fxrstor(const struct fxsave_area *area)
{
    asm volatile("fxrstorq %0" : : "m"(*area));
}

#endif

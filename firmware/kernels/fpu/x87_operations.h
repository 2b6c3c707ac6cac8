/* SPDX-License-Identifier: GPL-2.0-or-later */
/* x87 instructions as functions of two numbers in double extended precision. */
#ifndef X87_OPERATIONS_H
#define X87_OPERATIONS_H

#include <stdint.h>

struct extended {
    uint64_t significand;
    uint16_t sign_and_exponent;
} __attribute__((packed));

struct x87_operation {
    const char *name;
    /* ST(0) = b, ST(1) = a before; the result is ST(0). */
    void (*run)(struct extended *result, const struct extended *a, const struct extended *b);
};

/* Rounded as IEEE 754 says, to the precision in the control word. Ends with an entry whose name is NULL. */
extern const struct x87_operation x87_arithmetic[];

/* To which the precision does not apply. */
extern const struct x87_operation x87_others[];

/* Transcendental: no two makes of CPU agree on the last bit. These are functions of `b`, but for FYL2X and
 * FPATAN. */
extern const struct x87_operation x87_transcendentals[];

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The modes without long mode around them. */
#ifndef LEGACY_H
#define LEGACY_H

#include <stdint.h>

enum legacy_mode { PROTECTED_32 = 0, PROTECTED_16 = 1, REAL = 2 };

/* What the first exception or interrupt left on the stack. */
struct legacy_frame {
    uint32_t vector, error, eip, cs, eflags;
};

extern struct legacy_frame legacy_frame;

/*
 * Leave long mode, run `code` (in section .low) in `mode` until an exception or interrupt comes, fill
 * legacy_frame with it, and come back. The IDTR is left changed.
 */
void run_legacy(enum legacy_mode mode, uint32_t code);

#endif

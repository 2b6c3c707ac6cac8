/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The 8254 timer: channel 0 drives IRQ 0, channel 2 the speaker gate at port 0x61. */
#ifndef PIT_H
#define PIT_H

#include <stdbool.h>
#include <stdint.h>

enum { PIT_HZ = 1193182 };

enum pit_mode { PIT_ONE_SHOT = 0, PIT_RATE = 2, PIT_SQUARE_WAVE = 3 };

/* Load a count of 1..65536 clock ticks (65536 is written as 0). */
void pit_start(unsigned channel, enum pit_mode mode, unsigned count);

/* Latch and read the count of a channel. */
uint16_t pit_read(unsigned channel);

/* The gate of channel 2, and its output. */
void pit_set_gate2(bool open);
bool pit_output2(void);

#endif

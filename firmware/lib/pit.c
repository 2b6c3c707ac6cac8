/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "pit.h"

#include "io.h"

enum { CHANNEL0 = 0x40, CONTROL = 0x43, PORT_61 = 0x61 };

enum { ACCESS_LOW_HIGH = 3 << 4, GATE2 = 1 << 0, OUTPUT2 = 1 << 5 };

void pit_start(unsigned channel, enum pit_mode mode, unsigned count)
{
    out8(CONTROL, (uint8_t)(channel << 6 | ACCESS_LOW_HIGH | mode << 1));
    out8((uint16_t)(CHANNEL0 + channel), (uint8_t)count);
    out8((uint16_t)(CHANNEL0 + channel), (uint8_t)(count >> 8));
}

uint16_t pit_read(unsigned channel)
{
    out8(CONTROL, (uint8_t)(channel << 6)); /* counter latch */
    uint8_t low = in8((uint16_t)(CHANNEL0 + channel));
    return (uint16_t)(low | in8((uint16_t)(CHANNEL0 + channel)) << 8);
}

void pit_set_gate2(bool open)
{
    out8(PORT_61, (uint8_t)((in8(PORT_61) & ~GATE2) | (open ? GATE2 : 0)));
}

bool pit_output2(void)
{
    return in8(PORT_61) & OUTPUT2;
}

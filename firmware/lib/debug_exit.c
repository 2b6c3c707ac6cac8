/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "debug_exit.h"

#include "io.h"

enum { DEBUG_EXIT_PORT = 0xf4 };

void debug_exit(int code)
{
    out8(DEBUG_EXIT_PORT, (uint8_t)code);
    for (;;)
        asm volatile("cli; hlt");
}

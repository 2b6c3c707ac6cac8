/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Runs away: loops with interrupts off, and nothing more is ever heard of it. */
#include "print.h"

int main(void)
{
    print("spin: running away\n");
    for (;;)
        asm volatile("");
}

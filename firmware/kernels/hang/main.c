/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Halts with interrupts off: nothing can ever wake it. */
#include "print.h"

int main(void)
{
    print("hang: halting with interrupts off\n");
    for (;;)
        asm volatile("cli; hlt");
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* An exception with no IDT to deliver it, or the double fault that follows: the CPU shuts down. */
#include "idt.h"
#include "print.h"

int main(void)
{
    print("triple fault: now\n");
    idt_load(0);
    asm volatile("ud2");
    __builtin_unreachable();
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The smallest kernel: says how it was loaded, on COM1 and on the screen. */
#include "boot_info.h"
#include "debug_exit.h"
#include "print.h"

#define VGA_TEXT ((volatile uint16_t *)0xb8000)
#define LIGHT_GREY 0x0700

static void show(unsigned row, const char *text)
{
    for (unsigned column = 0; text[column]; column++)
        VGA_TEXT[row * 80 + column] = (uint16_t)(LIGHT_GREY | (uint8_t)text[column]);
}

int main(void)
{
    print("Hello from 64-bit mode, loaded by %s.\n", boot_info.protocol);
    for (unsigned cell = 0; cell < 80 * 25; cell++)
        VGA_TEXT[cell] = LIGHT_GREY | ' ';
    show(0, "Hello from 64-bit mode, loaded by");
    show(1, boot_info.protocol);
    return EXIT_SUCCESS;
}

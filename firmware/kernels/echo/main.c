/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Echoes what arrives at COM1, and what is typed on the PS/2 keyboard, until a 'q' arrives at either. It
 * sleeps in between, so that an interrupt of each device has to wake it.
 */
#include "cpu.h"
#include "debug_exit.h"
#include "idt.h"
#include "io.h"
#include "pic.h"
#include "print.h"
#include "serial.h"

enum { KEYBOARD_DATA = 0x60, KEYBOARD_STATUS = 0x64, KEYBOARD_COMMAND = 0x64 };

enum {
    STATUS_OUTPUT_FULL = 1 << 0,
    STATUS_INPUT_FULL = 1 << 1,
    COMMAND_WRITE_CONFIGURATION = 0x60,
    COMMAND_ENABLE_KEYBOARD = 0xae,
    CONFIGURATION = 0x45, /* interrupt on, self-test passed, translation to scan code set 1 */
    SCANCODE_RELEASED = 0x80,
};

/* Scan code set 1 of a US keyboard, unshifted. */
static const char keys[] = "\0\0331234567890-=\b\tqwertyuiop[]\n\0asdfghjkl;'`\0\\zxcvbnm,./\0*\0 ";

static void keyboard_write(uint16_t port, uint8_t value)
{
    while (in8(KEYBOARD_STATUS) & STATUS_INPUT_FULL)
        ;
    out8(port, value);
}

static void keyboard_init(void)
{
    keyboard_write(KEYBOARD_COMMAND, COMMAND_WRITE_CONFIGURATION);
    keyboard_write(KEYBOARD_DATA, CONFIGURATION);
    keyboard_write(KEYBOARD_COMMAND, COMMAND_ENABLE_KEYBOARD);
    while (in8(KEYBOARD_STATUS) & STATUS_OUTPUT_FULL)
        in8(KEYBOARD_DATA);
}

/* The next key pressed, or -1 when there is none. */
static int keyboard_get(void)
{
    while (in8(KEYBOARD_STATUS) & STATUS_OUTPUT_FULL) {
        uint8_t code = in8(KEYBOARD_DATA);
        if (!(code & SCANCODE_RELEASED) && code < sizeof keys - 1 && keys[code])
            return keys[code];
    }
    return -1;
}

/* An interrupt only ends the sleep; main() looks what there is. */
static void wake(struct frame *frame)
{
    pic_end_of_interrupt((unsigned)frame->vector - PIC_VECTORS);
}

static bool echo(int c)
{
    if (c >= 0)
        print("%c", c == '\r' ? '\n' : c);
    return c != 'q';
}

int main(void)
{
    idt_set_handler(PIC_VECTORS + IRQ_COM1, wake);
    idt_set_handler(PIC_VECTORS + IRQ_KEYBOARD, wake);
    keyboard_init();
    out8(COM1 + UART_IER, IER_RECEIVED);
    pic_unmask(IRQ_COM1);
    pic_unmask(IRQ_KEYBOARD);
    print("echo: type, q ends\n");

    for (;;) {
        int serial = serial_get(), key = keyboard_get();
        if (!echo(serial) || !echo(key))
            break;
        if (serial < 0 && key < 0)
            wait_for_interrupt();
    }
    print("\necho: ends\n");
    return EXIT_SUCCESS;
}

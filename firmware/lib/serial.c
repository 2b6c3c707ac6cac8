/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "serial.h"

#include "io.h"

enum { LCR_8N1 = 3, LCR_DLAB = 0x80, FCR_ENABLE_AND_CLEAR = 7, DIVISOR_115200 = 1 };

void serial_init(void)
{
    out8(COM1 + UART_IER, 0);
    out8(COM1 + UART_LCR, LCR_DLAB);
    out8(COM1 + UART_DATA, DIVISOR_115200);
    out8(COM1 + UART_IER, 0);
    out8(COM1 + UART_LCR, LCR_8N1);
    out8(COM1 + UART_FCR, FCR_ENABLE_AND_CLEAR);
    out8(COM1 + UART_MCR, MCR_DTR_RTS | MCR_OUT2);
}

void serial_put(char c)
{
    while (!(in8(COM1 + UART_LSR) & LSR_TRANSMITTER_EMPTY))
        ;
    out8(COM1 + UART_DATA, (uint8_t)c);
}

int serial_get(void)
{
    return in8(COM1 + UART_LSR) & LSR_DATA_READY ? in8(COM1 + UART_DATA) : -1;
}

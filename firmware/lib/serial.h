/* SPDX-License-Identifier: GPL-2.0-or-later */
/* COM1, a 16550A: 115200 baud, 8 data bits, no parity, 1 stop bit, polled. */
#ifndef SERIAL_H
#define SERIAL_H

#include <stdint.h>

enum {
    COM1 = 0x3f8,
    UART_DATA = 0, /* with LCR.DLAB: divisor, low byte */
    UART_IER = 1,  /* with LCR.DLAB: divisor, high byte */
    UART_IIR = 2,
    UART_FCR = 2,
    UART_LCR = 3,
    UART_MCR = 4,
    UART_LSR = 5,
};

enum {
    IER_RECEIVED = 1 << 0,
    IER_TRANSMITTER_EMPTY = 1 << 1,
    MCR_DTR_RTS = 3 << 0,
    MCR_OUT2 = 1 << 3, /* on a PC, the gate between the UART and its interrupt line */
    LSR_DATA_READY = 1 << 0,
    LSR_TRANSMITTER_EMPTY = 1 << 5,
};

void serial_init(void);
void serial_put(char c);

/* The next byte received, or -1 when there is none. */
int serial_get(void);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The two 8259A interrupt controllers of a PC. */
#ifndef PIC_H
#define PIC_H

#include <stdint.h>

enum { PIC_VECTORS = 0x20 }; /* IRQ n arrives at vector PIC_VECTORS + n */

enum { IRQ_PIT = 0, IRQ_KEYBOARD = 1, IRQ_CASCADE = 2, IRQ_COM1 = 4, IRQ_RTC = 8 };

/* Edge triggered, every line masked. */
void pic_init(void);

void pic_mask(unsigned irq);
void pic_unmask(unsigned irq);
void pic_end_of_interrupt(unsigned irq);

/* Lines that ask, and interrupts in service, of the master in bits 0..7 and of the slave in bits 8..15. */
uint16_t pic_requests(void);
uint16_t pic_in_service(void);

#endif

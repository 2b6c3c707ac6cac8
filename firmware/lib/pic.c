/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "pic.h"

#include "io.h"

enum { MASTER = 0x20, SLAVE = 0xa0, COMMAND = 0, DATA = 1 };

enum {
    ICW1_INIT_WITH_ICW4 = 0x11,
    ICW4_8086 = 0x01,
    OCW2_END_OF_INTERRUPT = 0x20,
    OCW3_READ_IRR = 0x0a,
    OCW3_READ_ISR = 0x0b,
};

void pic_init(void)
{
    out8(MASTER + COMMAND, ICW1_INIT_WITH_ICW4);
    out8(MASTER + DATA, PIC_VECTORS);
    out8(MASTER + DATA, 1 << IRQ_CASCADE);
    out8(MASTER + DATA, ICW4_8086);
    out8(SLAVE + COMMAND, ICW1_INIT_WITH_ICW4);
    out8(SLAVE + DATA, PIC_VECTORS + 8);
    out8(SLAVE + DATA, IRQ_CASCADE);
    out8(SLAVE + DATA, ICW4_8086);
    out8(MASTER + DATA, 0xff);
    out8(SLAVE + DATA, 0xff);
}

static uint16_t mask_port(unsigned irq)
{
    return irq < 8 ? MASTER + DATA : SLAVE + DATA;
}

void pic_mask(unsigned irq)
{
    out8(mask_port(irq), (uint8_t)(in8(mask_port(irq)) | 1 << irq % 8));
}

void pic_unmask(unsigned irq)
{
    out8(mask_port(irq), (uint8_t)(in8(mask_port(irq)) & ~(1 << irq % 8)));
    if (irq >= 8)
        pic_unmask(IRQ_CASCADE);
}

void pic_end_of_interrupt(unsigned irq)
{
    if (irq >= 8)
        out8(SLAVE + COMMAND, OCW2_END_OF_INTERRUPT);
    out8(MASTER + COMMAND, OCW2_END_OF_INTERRUPT);
}

static uint16_t read_both(uint8_t command)
{
    out8(MASTER + COMMAND, command);
    out8(SLAVE + COMMAND, command);
    return (uint16_t)(in8(MASTER + COMMAND) | in8(SLAVE + COMMAND) << 8);
}

uint16_t pic_requests(void)
{
    return read_both(OCW3_READ_IRR);
}

uint16_t pic_in_service(void)
{
    return read_both(OCW3_READ_ISR);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "apic.h"

#define LOCAL_APIC 0xfee00000ul
#define IO_APIC 0xfec00000ul

enum { IOAPIC_SELECT = 0x00, IOAPIC_WINDOW = 0x10, IOAPIC_ENTRIES = 0x10, SOFTWARE_ENABLE = 0x100 };

static volatile uint32_t *reg(uint64_t base, unsigned offset)
{
    return (volatile uint32_t *)(base + offset);
}

uint32_t apic_read(enum apic_register offset)
{
    return *reg(LOCAL_APIC, offset);
}

void apic_write(enum apic_register offset, uint32_t value)
{
    *reg(LOCAL_APIC, offset) = value;
}

void apic_init(void)
{
    apic_write(APIC_SPURIOUS, SOFTWARE_ENABLE | VECTOR_SPURIOUS);
    apic_write(APIC_TPR, 0);
    apic_write(APIC_LVT_TIMER, LVT_MASKED);
    apic_write(APIC_LVT_LINT0, LVT_EXTINT);
}

void apic_end_of_interrupt(void)
{
    apic_write(APIC_EOI, 0);
}

void apic_send_self(unsigned vector)
{
    apic_write(APIC_ICR, ICR_SELF | ICR_ASSERT | vector);
}

bool apic_vector_bit(enum apic_register base, unsigned vector)
{
    return apic_read(base + vector / 32 * 16) >> vector % 32 & 1;
}

static void ioapic_write(unsigned index, uint32_t value)
{
    *reg(IO_APIC, IOAPIC_SELECT) = index;
    *reg(IO_APIC, IOAPIC_WINDOW) = value;
}

void ioapic_route(unsigned pin, unsigned vector, uint32_t flags)
{
    ioapic_write(IOAPIC_ENTRIES + 2 * pin, IOAPIC_MASKED); /* while it is half written */
    ioapic_write(IOAPIC_ENTRIES + 2 * pin + 1, apic_read(APIC_ID) & 0xff000000);
    ioapic_write(IOAPIC_ENTRIES + 2 * pin, vector | flags);
}

uint32_t ioapic_entry(unsigned pin)
{
    *reg(IO_APIC, IOAPIC_SELECT) = IOAPIC_ENTRIES + 2 * pin;
    return *reg(IO_APIC, IOAPIC_WINDOW);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The local APIC in xAPIC mode and the first I/O APIC, at their usual addresses (SDM vol. 3, 11). */
#ifndef APIC_H
#define APIC_H

#include <stdbool.h>
#include <stdint.h>

enum apic_register {
    APIC_ID = 0x020,
    APIC_VERSION = 0x030,
    APIC_TPR = 0x080,
    APIC_EOI = 0x0b0,
    APIC_SPURIOUS = 0x0f0,
    APIC_ISR = 0x100, /* eight registers of 32 vectors, 16 bytes apart */
    APIC_TMR = 0x180,
    APIC_IRR = 0x200,
    APIC_ICR = 0x300,
    APIC_ICR_HIGH = 0x310,
    APIC_LVT_TIMER = 0x320,
    APIC_LVT_LINT0 = 0x350,
    APIC_TIMER_INITIAL = 0x380,
    APIC_TIMER_CURRENT = 0x390,
    APIC_TIMER_DIVIDE = 0x3e0,
};

enum {
    LVT_EXTINT = 7u << 8,
    LVT_MASKED = 1u << 16,
    LVT_TIMER_PERIODIC = 1u << 17,
    LVT_TIMER_TSC_DEADLINE = 2u << 17,
    TIMER_DIVIDE_BY_1 = 0xb,
    TIMER_DIVIDE_BY_16 = 0x3,
    ICR_NMI = 4u << 8,
    ICR_ASSERT = 1u << 14,
    ICR_SELF = 1u << 18,
    IOAPIC_LEVEL = 1u << 15,
    IOAPIC_MASKED = 1u << 16,
};

enum { VECTOR_SPURIOUS = 0xff };

uint32_t apic_read(enum apic_register offset);
void apic_write(enum apic_register offset, uint32_t value);

/* Software-enable, with everything masked but LINT0, through which the 8259s keep interrupting. */
void apic_init(void);

void apic_end_of_interrupt(void);

/* Send a fixed interrupt to this CPU. */
void apic_send_self(unsigned vector);

/* Is `vector` set in the 256-bit register that starts at `base` (APIC_ISR, APIC_TMR, APIC_IRR)? */
bool apic_vector_bit(enum apic_register base, unsigned vector);

/* Route input `pin` to this CPU; `flags` are IOAPIC_*. */
void ioapic_route(unsigned pin, unsigned vector, uint32_t flags);
uint32_t ioapic_entry(unsigned pin); /* its low half */

#endif

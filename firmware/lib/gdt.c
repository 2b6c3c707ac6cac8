/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "gdt.h"

#include "string.h"

/* Descriptors' access byte and flags, in place; base 0, limit 4 GiB (64 KiB for the 16-bit ones). */
#define CODE64 0x00af9a000000ffff
#define CODE32 0x00cf9a000000ffff
#define CODE16 0x00009a000000ffff
#define DATA32 0x00cf92000000ffff
#define DATA16 0x000092000000ffff
#define RING3 0x0000600000000000
#define AVAILABLE_TSS64 0x0000890000000000

#define SLOT(selector) [(selector) / 8]

/* Already used by boot.S, so initialised here and not by gdt_init(). Accessed bits are set by the CPU. */
uint64_t gdt[GDT_BYTES / 8] __attribute__((aligned(8))) = {
    SLOT(KERNEL_CODE) = CODE64,         SLOT(KERNEL_DATA) = DATA32,
    SLOT(USER_CODE32) = CODE32 | RING3, SLOT(USER_DATA) = DATA32 | RING3,
    SLOT(USER_CODE) = CODE64 | RING3,   SLOT(USER_DATA_SYSEXIT) = DATA32 | RING3,
    SLOT(KERNEL_CODE32) = CODE32,       SLOT(KERNEL_CODE16) = CODE16,
    SLOT(KERNEL_DATA16) = DATA16,
};

struct tss tss __attribute__((aligned(16)));

static uint8_t ring0_stack[4096] __attribute__((aligned(16)));
static uint8_t double_fault_stack[4096] __attribute__((aligned(16)));

void gdt_load_tss(uint32_t tss_limit)
{
    uint64_t base = (uint64_t)&tss;

    gdt[KERNEL_TSS / 8] = AVAILABLE_TSS64 | (tss_limit & 0xffff) | (base & 0xffffff) << 16 |
                          (uint64_t)(tss_limit >> 16 & 0xf) << 48 | (base >> 24 & 0xff) << 56;
    gdt[KERNEL_TSS / 8 + 1] = base >> 32;
    asm volatile("ltr %w0" : : "r"(KERNEL_TSS) : "memory");
}

void gdt_init(void)
{
    tss.rsp[0] = (uint64_t)(ring0_stack + sizeof ring0_stack);
    tss.ist[IST_DOUBLE_FAULT - 1] = (uint64_t)(double_fault_stack + sizeof double_fault_stack);
    tss.io_bitmap_offset = (uint16_t) __builtin_offsetof(struct tss, io_bitmap);
    memset(tss.io_bitmap, 0xff, sizeof tss.io_bitmap);
    gdt_load_tss(sizeof tss - 1);
}

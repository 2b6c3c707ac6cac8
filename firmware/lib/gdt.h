/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Segments and the task state segment (SDM vol. 3, 3.4.5 and 8.7). Included by assembly too. */
#ifndef GDT_H
#define GDT_H

/*
 * The order is the CPU's choice. SYSCALL: code, then stack. SYSRET: 32-bit code, stack, 64-bit code.
 * SYSEXIT: 64-bit code at SYSENTER_CS + 32, then stack.
 */
#define KERNEL_CODE 0x08
#define KERNEL_DATA 0x10
#define USER_CODE32 0x1b
#define USER_DATA 0x23
#define USER_CODE 0x2b
#define USER_DATA_SYSEXIT 0x33
#define KERNEL_CODE32 0x38
#define KERNEL_CODE16 0x40
#define KERNEL_DATA16 0x48
#define KERNEL_TSS 0x50
#define SPARE_SEGMENT 0x60 /* for tests: any 8-byte descriptor */
#define GDT_BYTES 0x68

#ifndef __ASSEMBLER__

#include <stdint.h>

enum { IST_DOUBLE_FAULT = 1, IST_TEST = 2, IO_BITMAP_BYTES = 65536 / 8 };

struct tss {
    uint32_t reserved0;
    uint64_t rsp[3];
    uint64_t reserved1;
    uint64_t ist[7]; /* ist[0] is IST1 */
    uint64_t reserved2;
    uint16_t reserved3;
    uint16_t io_bitmap_offset;
    uint8_t io_bitmap[IO_BITMAP_BYTES + 1]; /* the CPU reads two bytes at a time */
} __attribute__((packed));

extern uint64_t gdt[GDT_BYTES / 8];
extern struct tss tss;

/* RSP0 and IST1 get stacks of their own, and ring 3 gets no port. */
void gdt_init(void);

/* (Re)load the task register, with a limit of `tss_limit`: the last byte of the TSS that may be used. */
void gdt_load_tss(uint32_t tss_limit);

#endif
#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Exceptions and interrupts. Each of the 256 vectors has a gate; what arrives goes to the handler of
 * its vector, else to run() if that waits for something, else it ends the kernel with a report.
 */
#ifndef IDT_H
#define IDT_H

#define VECTOR_RETURNED 0xfe /* code under run() raises it by returning */

#ifndef __ASSEMBLER__

#include <stdbool.h>
#include <stdint.h>

#include "x86.h"

/* The registers of interrupted code, in the order in which vectors.S saves them on the stack. */
struct frame {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8;
    uint64_t rbp, rdi, rsi, rdx, rcx, rbx, rax;
    uint64_t vector;
    uint64_t error; /* 0 where the CPU pushes none */
    uint64_t rip, cs, rflags, rsp, ss;
};

typedef void (*interrupt_handler)(struct frame *frame);

void idt_init(void);

/* NULL: no handler of its own. Handlers run with interrupts off. */
void idt_set_handler(unsigned vector, interrupt_handler handler);

/* Attributes of a gate that a test may want different: all start as DPL 0, IST 0, present. */
struct gate_options {
    unsigned dpl;
    unsigned ist;
    bool absent;
};
void idt_set_gate(unsigned vector, struct gate_options options);

/* Load the IDT with only `vectors` of its gates: the rest is beyond the limit. */
void idt_load(unsigned vectors);

/*
 * Continue at `frame`, in whatever mode and ring its selectors say, until something arrives that has no
 * handler; the state at that moment then replaces `*frame`, and its vector is returned. Not reentrant.
 */
unsigned run(struct frame *frame);

/* A frame that calls `code` in ring 0 on a stack of its own; when it returns, run() gives VECTOR_RETURNED. */
struct frame frame_calling(const void *code);

#endif
#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "idt.h"

#include "cpu.h"
#include "debug_exit.h"
#include "gdt.h"
#include "print.h"

struct gate {
    uint16_t offset_low;
    uint16_t selector;
    uint8_t ist;
    uint8_t type;
    uint16_t offset_middle;
    uint32_t offset_high;
    uint32_t reserved;
};

enum { INTERRUPT_GATE = 0xe, GATE_PRESENT = 0x80, VECTORS = 256, VECTOR_BYTES = 16 };

extern const char vectors[], run_ends[], code_returned[];

/* Of the run() in progress: where its result goes and where its own stack is; NULL when none is. */
struct frame *run_frame;
uint64_t run_stack;

static struct gate idt[VECTORS] __attribute__((aligned(16)));
static interrupt_handler handlers[VECTORS];

void idt_set_handler(unsigned vector, interrupt_handler handler)
{
    handlers[vector] = handler;
}

void idt_set_gate(unsigned vector, struct gate_options options)
{
    uint64_t offset = (uint64_t)(vectors + vector * VECTOR_BYTES);

    idt[vector] = (struct gate){
        .offset_low = (uint16_t)offset,
        .selector = KERNEL_CODE,
        .ist = (uint8_t)options.ist,
        .type = (uint8_t)(INTERRUPT_GATE | options.dpl << 5 | (options.absent ? 0 : GATE_PRESENT)),
        .offset_middle = (uint16_t)(offset >> 16),
        .offset_high = (uint32_t)(offset >> 32),
    };
}

void idt_load(unsigned count)
{
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) idtr = {(uint16_t)(count ? count * sizeof *idt - 1 : 0), (uint64_t)idt};

    asm volatile("lidt %0" : : "m"(idtr));
}

void idt_init(void)
{
    for (unsigned vector = 0; vector < VECTORS; vector++)
        idt_set_gate(vector, (struct gate_options){0});
    idt_set_gate(VECTOR_DF, (struct gate_options){.ist = IST_DOUBLE_FAULT});
    idt_load(VECTORS);
}

struct frame frame_calling(const void *code)
{
    static uint64_t stack[512] __attribute__((aligned(16)));
    const unsigned top = sizeof stack / sizeof *stack - 1; /* the ABI wants RSP + 8 aligned at entry */

    stack[top] = (uint64_t)code_returned;
    return (struct frame){
        .rip = (uint64_t)code,
        .cs = KERNEL_CODE,
        .rflags = RFLAGS_FIXED,
        .rsp = (uint64_t)&stack[top],
        .ss = KERNEL_DATA,
    };
}

/* Called by vectors.S, and returns to `leave` there, which continues at `*frame`. */
void interrupt_dispatch(struct frame *frame)
{
    if (handlers[frame->vector]) {
        handlers[frame->vector](frame);
    } else if (run_frame) {
        *run_frame = *frame;
        *frame = (struct frame){
            .rax = frame->vector,
            .rip = (uint64_t)run_ends,
            .cs = KERNEL_CODE,
            .rflags = RFLAGS_FIXED,
            .rsp = run_stack,
            .ss = KERNEL_DATA,
        };
        run_frame = 0;
    } else {
        print("unexpected exception or interrupt %lu, error code 0x%lx\n", frame->vector, frame->error);
        print("cs:rip %lx:%016lx ss:rsp %lx:%016lx rflags %lx cr2 %lx\n", frame->cs, frame->rip, frame->ss,
              frame->rsp, frame->rflags, read_cr2());
        debug_exit(EXIT_UNEXPECTED);
    }
}

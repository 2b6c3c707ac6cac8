/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Paging and privilege: how addresses are translated, what protects pages, and the ways between ring 0 and
 * ring 3. The error codes of all kinds of page faults are in the exceptions kernel.
 */
#include "check.h"
#include "paging.h"
#include "tests.h"
#include "user.h"
#include "user_code.h"

volatile uint64_t pages[2][512] __attribute__((aligned(PAGE_BYTES)));

struct frame run_kernel(const char *code, uint64_t rdi)
{
    struct frame frame = frame_calling(code);
    frame.rdi = rdi;
    run(&frame);
    return frame;
}

struct frame run_user(const char *code, uint64_t rdi)
{
    struct frame frame = user_frame(code);
    frame.rdi = rdi;
    frame.rsi = USER_STACK;
    run(&frame);
    return frame;
}

int main(void)
{
    user_init();
    idt_set_gate(VECTOR_DONE, (struct gate_options){.dpl = 3});
    test_translation();
    test_protection();
    test_rings();
    return check_result();
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Between ring 0 and ring 3: what ring 3 may not do, its I/O ports, and the system call instructions. */
#include "check.h"
#include "cpu.h"
#include "gdt.h"
#include "paging.h"
#include "pic.h"
#include "pit.h"
#include "tests.h"
#include "user.h"
#include "user_code.h"

/* A 32-bit address for ring 3's code, between RAM and the devices: 2 MiB are taken out of boot.S's mapping.
 */
#define USER_TEXT32 0xd0000000ul

static uint32_t address32(const char *code)
{
    return (uint32_t)(user_address(code) - USER_TEXT + USER_TEXT32);
}

static void map_user_text32(void)
{
    *page_entry(USER_TEXT32, PAGE_2M) = 0;
    page_map(USER_TEXT32, user_origin(USER_TEXT), PAGE_USER);
    *page_entry(USER_TEXT32, PAGE_512G) |= PAGE_USER;
    *page_entry(USER_TEXT32, PAGE_1G) |= PAGE_USER;
    write_cr3(read_cr3());
}

static void test_privileged_instructions(void)
{
    for (const struct fault_case *c = privileged_cases; c->name; c++) {
        struct frame frame = run_user(c->code, 0);
        check_fault(c, frame.vector, frame.error, user_origin(frame.rip));
    }
    struct frame frame = run_user(user_popf, 0);
    check_equal("ring 3: popf changes neither IF nor IOPL", frame.rax & (RFLAGS_IF | RFLAGS_IOPL), 0);

    write_cr4(read_cr4() | CR4_TSD);
    frame = run_user(user_rdtsc, 0);
    write_cr4(read_cr4() & ~(uint64_t)CR4_TSD);
    CHECK("ring 3, #GP: rdtsc with cr4.tsd", frame.vector == VECTOR_GP && frame.error == 0);
}

static struct frame run_with_iopl3(const char *code)
{
    struct frame frame = user_frame(code);
    frame.rflags |= RFLAGS_IOPL;
    run(&frame);
    return frame;
}

static void test_ports(void)
{
    enum { PORT = 0x80 };

    CHECK("iopl 3: in", run_with_iopl3(user_in8).vector == VECTOR_DONE);
    CHECK("iopl 3: cli", run_with_iopl3(user_cli).vector == VECTOR_DONE);

    tss.io_bitmap[PORT / 8] &= (uint8_t) ~(1 << PORT % 8);
    CHECK("i/o bitmap: open port", run_user(user_in8, 0).vector == VECTOR_DONE);
    CHECK("i/o bitmap: half open word", run_user(user_in16, 0).vector == VECTOR_GP);
    tss.io_bitmap[PORT / 8] &= (uint8_t) ~(2 << PORT % 8);
    CHECK("i/o bitmap: open word", run_user(user_in16, 0).vector == VECTOR_DONE);

    struct frame frame = user_frame(user_in_far);
    frame.rdx = 0xffff;
    run(&frame);
    CHECK("i/o bitmap: last port closed", frame.vector == VECTOR_GP);
    tss.io_bitmap[0xffff / 8] = 0;
    frame = user_frame(user_in_far);
    frame.rdx = 0xffff;
    run(&frame);
    CHECK("i/o bitmap: last port open", frame.vector == VECTOR_DONE);

    /* The CPU needs two bytes of the bitmap, and the second is beyond the limit. */
    gdt_load_tss(__builtin_offsetof(struct tss, io_bitmap) + PORT / 8);
    CHECK("i/o bitmap: beyond the limit of the TSS", run_user(user_in8, 0).vector == VECTOR_GP);
    gdt_load_tss(sizeof tss - 1);
}

static void test_interrupts(void)
{
    pit_start(0, PIT_ONE_SHOT, 100);
    pic_unmask(IRQ_PIT);
    struct frame frame = user_frame(user_spin);
    frame.rflags |= RFLAGS_IF;
    run(&frame);
    pic_mask(IRQ_PIT);
    pic_end_of_interrupt(IRQ_PIT);
    CHECK("hardware interrupt in ring 3", frame.vector == PIC_VECTORS + IRQ_PIT && frame.cs == USER_CODE &&
                                              frame.ss == USER_DATA && frame.rip == user_address(user_spin));

    frame = user_frame(user_done);
    frame.rip = address32(user_done);
    frame.cs = USER_CODE32;
    run(&frame);
    CHECK("int n from 32-bit ring 3", frame.vector == VECTOR_DONE && frame.cs == USER_CODE32);
}

static void test_syscall(void)
{
    const uint64_t flags = RFLAGS_FIXED | RFLAGS_CF | RFLAGS_DF;

    write_msr(MSR_STAR, (uint64_t)USER_CODE32 << 48 | (uint64_t)KERNEL_CODE << 32);
    write_msr(MSR_LSTAR, (uint64_t)enter_here);
    write_msr(MSR_FMASK, RFLAGS_DF | RFLAGS_IF | RFLAGS_TF);

    struct frame frame = user_frame(user_syscall);
    frame.rflags = flags;
    run(&frame);
    check_equal("syscall: arrives", frame.rip, (uint64_t)enter_here_end);
    CHECK("syscall: segments", frame.cs == KERNEL_CODE && frame.ss == KERNEL_DATA);
    check_equal("syscall: rcx", frame.rcx, user_address(user_syscall_end));
    check_equal("syscall: r11", frame.r11, flags);
    check_equal("syscall: flags are masked", frame.rflags, flags & ~(uint64_t)RFLAGS_DF);
    check_equal("syscall: rsp stays", frame.rsp, USER_STACK + PAGE_BYTES);

    frame.rip = (uint64_t)leave_by_sysret;
    run(&frame);
    CHECK("sysret: arrives",
          frame.vector == VECTOR_DONE && user_origin(frame.rip) == (uint64_t)user_syscall_end + 2);
    CHECK("sysret: segments", frame.cs == USER_CODE && frame.ss == USER_DATA);
    check_equal("sysret: flags", frame.rflags, flags);

    frame = frame_calling(leave_by_sysret32);
    frame.rcx = address32(user_done);
    frame.r11 = RFLAGS_FIXED;
    run(&frame);
    CHECK("sysret to 32-bit code",
          frame.vector == VECTOR_DONE && frame.cs == USER_CODE32 && frame.ss == USER_DATA);
}

static void test_sysenter(void)
{
    enum { GENU = 0x756e6547 }; /* Intel's CPUs alone have it in long mode */
    if (cpuid(0, 0).ebx != GENU) {
        check_absent("sysenter");
        return;
    }
    write_msr(MSR_SYSENTER_CS, 0);
    struct frame frame = run_user(user_sysenter, 0);
    CHECK("sysenter: #GP without a code segment", frame.vector == VECTOR_GP && frame.error == 0);

    write_msr(MSR_SYSENTER_CS, KERNEL_CODE);
    write_msr(MSR_SYSENTER_EIP, (uint64_t)enter_here);
    write_msr(MSR_SYSENTER_ESP, tss.rsp[0]);
    frame = run_user(user_sysenter, 0);
    check_equal("sysenter: arrives", frame.rip, (uint64_t)enter_here_end);
    CHECK("sysenter: segments", frame.cs == KERNEL_CODE && frame.ss == KERNEL_DATA);
    check_equal("sysenter: rsp", frame.rsp, tss.rsp[0]);

    struct frame refused = run_user(user_sysexit, 0);
    CHECK("sysexit: #GP in ring 3", refused.vector == VECTOR_GP && refused.error == 0);

    frame.rip = (uint64_t)leave_by_sysexit;
    frame.rdx = user_address(user_done);
    frame.rcx = USER_STACK + PAGE_BYTES;
    run(&frame);
    CHECK("sysexit: arrives", frame.vector == VECTOR_DONE && frame.rsp == USER_STACK + PAGE_BYTES);
    CHECK("sysexit: segments", frame.cs == USER_CODE && frame.ss == USER_DATA_SYSEXIT);

    frame = frame_calling(leave_by_sysexit32);
    frame.rdx = address32(user_done);
    frame.rcx = 0x1000;
    run(&frame);
    CHECK("sysexit to 32-bit code", frame.vector == VECTOR_DONE && frame.cs == USER_CODE32 &&
                                        frame.ss == USER_DATA && frame.rsp == 0x1000);
}

static void test_swapgs(void)
{
    static uint64_t outer = 0x1111, inner = 0x2222;

    write_msr(MSR_GS_BASE, (uint64_t)&outer);
    write_msr(MSR_KERNEL_GS_BASE, (uint64_t)&inner);
    struct frame frame = run_kernel(kernel_swapgs, 0);
    CHECK("swapgs", frame.rax == inner && frame.rdx == outer);
    CHECK("swapgs: msrs",
          read_msr(MSR_GS_BASE) == (uint64_t)&outer && read_msr(MSR_KERNEL_GS_BASE) == (uint64_t)&inner);
}

void test_rings(void)
{
    map_user_text32();
    write_msr(MSR_EFER, read_msr(MSR_EFER) | EFER_SCE);
    test_privileged_instructions();
    test_ports();
    test_interrupts();
    test_syscall();
    test_sysenter();
    test_swapgs();
}

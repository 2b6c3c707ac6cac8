/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What page-table entries and control registers allow: ring 3, writes, execution. */
#include "check.h"
#include "cpu.h"
#include "paging.h"
#include "tests.h"
#include "user.h"
#include "user_code.h"

enum { CPUID_SMEP = 1 << 7, CPUID_SMAP = 1 << 20 };

/* All levels have a say: the strictest wins. */
static void test_levels(void)
{
    for (unsigned level = PAGE_2M; level <= PAGE_512G; level++) {
        static const char *const names[][3] = {
            [PAGE_2M] = {"level 2 keeps ring 3 out", "level 2 refuses stores", "level 2 refuses execution"},
            [PAGE_1G] = {"level 3 keeps ring 3 out", "level 3 refuses stores", "level 3 refuses execution"},
            [PAGE_512G] = {"level 4 keeps ring 3 out", "level 4 refuses stores", "level 4 refuses execution"},
        };
        uint64_t *entry = page_entry(TEST_ADDRESS, level), before = *entry;
        struct frame frame;

        page_map(TEST_ADDRESS, (uint64_t)pages[0], PAGE_USER | PAGE_WRITE);
        *entry = before & ~PAGE_USER;
        write_cr3(read_cr3());
        frame = run_user(user_load, TEST_ADDRESS);
        CHECK(names[level][0], is_page_fault(&frame, PF_PROTECTION | PF_USER));
        *entry = before & ~PAGE_WRITE;
        write_cr3(read_cr3());
        frame = run_user(user_store, TEST_ADDRESS);
        CHECK(names[level][1], is_page_fault(&frame, PF_PROTECTION | PF_USER | PF_WRITE));
        *entry = before | PAGE_NX;
        write_cr3(read_cr3());
        frame = run_kernel((const char *)TEST_ADDRESS, 0);
        CHECK(names[level][2], is_page_fault(&frame, PF_PROTECTION | PF_FETCH));
        *entry = before;
        write_cr3(read_cr3());
        frame = run_user(user_store, TEST_ADDRESS);
        CHECK("     and again allows", frame.vector == VECTOR_DONE);
    }
}

static void test_write_protect(void)
{
    page_map(TEST_ADDRESS, (uint64_t)pages[0], 0);
    write_cr0(read_cr0() & ~(uint64_t)CR0_WP);
    struct frame frame = run_kernel(kernel_store, TEST_ADDRESS);
    CHECK("wp off: ring 0 may store", frame.vector == VECTOR_RETURNED);
    write_cr0(read_cr0() | CR0_WP);
    frame = run_kernel(kernel_store, TEST_ADDRESS);
    CHECK("wp on: ring 0 may not store", is_page_fault(&frame, PF_PROTECTION | PF_WRITE));
}

static void test_no_execute(void)
{
    *(volatile uint8_t *)pages[0] = 0xc3; /* ret */
    page_map(TEST_ADDRESS, (uint64_t)pages[0], 0);
    struct frame frame = run_kernel((const char *)TEST_ADDRESS, 0);
    CHECK("nx off: executes", frame.vector == VECTOR_RETURNED);
    page_map(TEST_ADDRESS, (uint64_t)pages[0], PAGE_NX);
    frame = run_kernel((const char *)TEST_ADDRESS, 0);
    CHECK("nx on: does not execute", is_page_fault(&frame, PF_PROTECTION | PF_FETCH));
    frame = run_kernel(kernel_load, TEST_ADDRESS);
    CHECK("nx on: can be read", frame.vector == VECTOR_RETURNED);

    /* Without EFER.NXE the bit is reserved. No page in use may have it then. */
    *page_entry(USER_STACK, PAGE_4K) &= ~PAGE_NX;
    write_msr(MSR_EFER, read_msr(MSR_EFER) & ~(uint64_t)EFER_NXE);
    write_cr3(read_cr3());
    frame = run_kernel(kernel_load, TEST_ADDRESS);
    write_msr(MSR_EFER, read_msr(MSR_EFER) | EFER_NXE);
    CHECK("nx without efer.nxe: reserved", is_page_fault(&frame, PF_PROTECTION | PF_RESERVED));
}

static void test_smep_and_smap(void)
{
    page_map(TEST_ADDRESS, (uint64_t)pages[0], PAGE_USER);
    if (cpuid(7, 0).ebx & CPUID_SMEP) {
        write_cr4(read_cr4() | CR4_SMEP);
        struct frame frame = run_kernel((const char *)TEST_ADDRESS, 0);
        CHECK("smep: ring 0 does not execute ring 3's pages",
              is_page_fault(&frame, PF_PROTECTION | PF_FETCH));
        frame = run_user(user_done, 0);
        CHECK("smep: ring 3 does", frame.vector == VECTOR_DONE);
        write_cr4(read_cr4() & ~(uint64_t)CR4_SMEP);
    } else {
        check_absent("smep");
    }
    if (cpuid(7, 0).ebx & CPUID_SMAP) {
        write_cr4(read_cr4() | CR4_SMAP);
        struct frame frame = run_kernel(kernel_load, TEST_ADDRESS);
        CHECK("smap: ring 0 does not read ring 3's pages", is_page_fault(&frame, PF_PROTECTION));
        frame = run_kernel(kernel_stac_load, TEST_ADDRESS);
        CHECK("smap: but with rflags.ac", frame.vector == VECTOR_RETURNED);
        write_cr4(read_cr4() & ~(uint64_t)CR4_SMAP);
    } else {
        check_absent("smap");
    }
}

void test_protection(void)
{
    test_levels();
    test_write_protect();
    test_no_execute();
    test_smep_and_smap();
}

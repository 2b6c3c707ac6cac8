/* SPDX-License-Identifier: GPL-2.0-or-later */
/* From a linear to a physical address: page sizes, accessed and dirty bits, and when the TLB must forget. */
#include "apic.h"
#include "check.h"
#include "cpu.h"
#include "paging.h"
#include "string.h"
#include "tests.h"
#include "user.h"
#include "user_code.h"

enum { CPUID_1G_PAGES = 1 << 26 };

static volatile uint64_t *const word = (volatile uint64_t *)TEST_ADDRESS;

static void test_mappings(void)
{
    page_map(TEST_ADDRESS, (uint64_t)pages[0], PAGE_WRITE);
    page_map(TEST_ADDRESS + PAGE_BYTES, (uint64_t)pages[1], PAGE_WRITE);
    *word = 1;
    check_equal("a store through one mapping is seen through another", pages[0][0], 1);

    page_map(TEST_ADDRESS, (uint64_t)pages[1], PAGE_WRITE);
    page_map(TEST_ADDRESS + PAGE_BYTES, (uint64_t)pages[0], PAGE_WRITE);
    *(volatile uint64_t *)(TEST_ADDRESS + PAGE_BYTES - 4) = 0x1122334455667788;
    check_equal("a store across pages: low half", pages[1][511] >> 32, 0x55667788);
    check_equal("a store across pages: high half", pages[0][0] & 0xffffffff, 0x11223344);

    page_map(TEST_ADDRESS, 0xfee00000, PAGE_WRITE);
    check_equal("a device through a mapping", *(volatile uint32_t *)(TEST_ADDRESS + APIC_VERSION),
                apic_read(APIC_VERSION));
}

static void test_large_pages(void)
{
    const uint64_t size_2m = 1ul << 21, size_1g = 1ul << 30;
    uint64_t at = (uint64_t)pages[0];

    pages[0][0] = 0x2222;
    uint64_t address = TEST_ADDRESS + size_1g; /* where no table is yet */
    *page_entry(address, PAGE_2M) = (at & -size_2m) | PAGE_LARGE | PAGE_WRITE | PAGE_PRESENT;
    check_equal("2 MiB page", *(volatile uint64_t *)(address + at % size_2m), 0x2222);
    *(volatile uint64_t *)(address + at % size_2m) = 0x3333;
    check_equal("2 MiB page: store", pages[0][0], 0x3333);
    check_equal("2 MiB page: accessed and dirty",
                *page_entry(address, PAGE_2M) & (PAGE_ACCESSED | PAGE_DIRTY), PAGE_ACCESSED | PAGE_DIRTY);

    /* The same 2 MiB, as a table of 4 KiB pages of which one leads elsewhere. */
    uint64_t *table = page_alloc();
    for (unsigned i = 0; i < 512; i++)
        table[i] = ((at & -size_2m) + i * PAGE_BYTES) | PAGE_WRITE | PAGE_PRESENT;
    table[at / PAGE_BYTES % 512] = (uint64_t)pages[1] | PAGE_WRITE | PAGE_PRESENT;
    pages[1][0] = 0x4444;
    *page_entry(address, PAGE_2M) = (uint64_t)table | PAGE_WRITE | PAGE_PRESENT;
    invlpg((void *)(address + at % size_2m));
    check_equal("2 MiB page: split", *(volatile uint64_t *)(address + at % size_2m), 0x4444);

    if (!(cpuid(0x80000001, 0).edx & CPUID_1G_PAGES)) {
        check_absent("1 GiB page");
        return;
    }
    address = TEST_ADDRESS + 2 * size_1g;
    *page_entry(address, PAGE_1G) = PAGE_LARGE | PAGE_WRITE | PAGE_PRESENT;
    check_equal("1 GiB page", *(volatile uint64_t *)(address + at), 0x3333);
}

/* Accessed and dirty bits of the entry at `level`, after which they are cleared. */
static uint64_t take_bits(enum page_level level)
{
    uint64_t *entry = page_entry(TEST_ADDRESS, level), bits = *entry & (PAGE_ACCESSED | PAGE_DIRTY);
    *entry &= ~(PAGE_ACCESSED | PAGE_DIRTY);
    invlpg((void *)TEST_ADDRESS);
    return bits;
}

static void test_accessed_and_dirty(void)
{
    page_map(TEST_ADDRESS, (uint64_t)pages[0], PAGE_WRITE);
    for (unsigned level = PAGE_4K; level <= PAGE_512G; level++)
        take_bits(level);
    *word;
    check_equal("accessed: by a load", take_bits(PAGE_4K), PAGE_ACCESSED);
    check_equal("accessed: level 2", take_bits(PAGE_2M), PAGE_ACCESSED);
    check_equal("accessed: level 3", take_bits(PAGE_1G), PAGE_ACCESSED);
    check_equal("accessed: level 4", take_bits(PAGE_512G), PAGE_ACCESSED);
    *word = 1;
    check_equal("dirty: by a store", take_bits(PAGE_4K), PAGE_ACCESSED | PAGE_DIRTY);
    check_equal("dirty: not in level 2", take_bits(PAGE_2M) & PAGE_ACCESSED, PAGE_ACCESSED);

    *word;
    *word = 2; /* the TLB holds the page as clean */
    check_equal("dirty: by a store after a load", take_bits(PAGE_4K), PAGE_ACCESSED | PAGE_DIRTY);
    page_map(TEST_ADDRESS, (uint64_t)pages[0], 0);
    struct frame frame = run_kernel(kernel_store, TEST_ADDRESS);
    check_equal("dirty: not by a store that is refused",
                is_page_fault(&frame, PF_PROTECTION | PF_WRITE) ? take_bits(PAGE_4K) & PAGE_DIRTY : 1, 0);
}

static void test_tlb(void)
{
    uint64_t *entry = page_entry(TEST_ADDRESS, PAGE_4K);
    uint64_t first = (uint64_t)pages[0] | PAGE_WRITE | PAGE_PRESENT;
    uint64_t second = (uint64_t)pages[1] | PAGE_WRITE | PAGE_PRESENT;

    pages[0][0] = 1;
    pages[1][0] = 2;

    *entry = first;
    invlpg((void *)TEST_ADDRESS);
    *word;
    *entry = second;
    invlpg((char *)TEST_ADDRESS + 0x800);
    check_equal("tlb: invlpg", *word, 2);

    *entry = first;
    write_cr3(read_cr3());
    check_equal("tlb: write of cr3", *word, 1);

    write_cr4(read_cr4() | CR4_PGE);
    *entry = first | PAGE_GLOBAL;
    invlpg((void *)TEST_ADDRESS);
    *word;
    *entry = second | PAGE_GLOBAL;
    invlpg((void *)TEST_ADDRESS);
    check_equal("tlb: invlpg of a global page", *word, 2);
    *entry = first | PAGE_GLOBAL;
    write_cr4(read_cr4() & ~CR4_PGE);
    check_equal("tlb: change of cr4.pge", *word, 1);

    *entry = 0;
    invlpg((void *)TEST_ADDRESS);
    struct frame frame = run_kernel(kernel_load, TEST_ADDRESS);
    CHECK("tlb: a page taken away", is_page_fault(&frame, 0));
    *entry = first; /* from not present to present: nothing to forget (SDM vol. 3, 4.10.4.3) */
    check_equal("tlb: a page given back", *word, 1);

    /* Two address spaces that differ in one page. */
    uint64_t one = read_cr3(), *other = page_alloc();
    memcpy(other, (void *)one, PAGE_BYTES);
    write_cr3((uint64_t)other);
    *page_entry(TEST_ADDRESS, PAGE_512G) = 0;
    page_map(TEST_ADDRESS, (uint64_t)pages[1], PAGE_WRITE);
    unsigned wrong = 0;
    for (unsigned i = 0; i < 1000; i++) {
        write_cr3(i % 2 ? (uint64_t)other : one);
        wrong += *word != 1 + i % 2;
    }
    write_cr3(one);
    check_wrong("tlb: two address spaces", wrong, 1000);
}

/* ---- Demand paging ---- */

enum { LAZY_PAGES = 32 };
#define LAZY_ADDRESS (TEST_ADDRESS + 0x1000000)

static unsigned faults;

static void give_page(struct frame *frame)
{
    uint64_t *page = page_alloc();
    (void)frame;
    page[0] = ++faults;
    page_map(read_cr2() & -(uint64_t)PAGE_BYTES, (uint64_t)page, PAGE_WRITE | PAGE_USER);
}

static void copy_on_write(struct frame *frame)
{
    uint64_t *copy = page_alloc();
    (void)frame;
    faults++;
    memcpy(copy, (void *)pages[0], PAGE_BYTES);
    page_map(read_cr2() & -(uint64_t)PAGE_BYTES, (uint64_t)copy, PAGE_WRITE);
}

static void test_page_fault_handlers(void)
{
    struct frame frame = user_frame(user_sum);
    frame.rdi = LAZY_ADDRESS;
    frame.rcx = LAZY_PAGES;
    idt_set_handler(VECTOR_PF, give_page);
    run(&frame);
    check_equal("demand paging: pages given", faults, LAZY_PAGES);
    check_equal("demand paging: sum that ring 3 read", frame.rax, LAZY_PAGES * (LAZY_PAGES + 1) / 2);

    faults = 0;
    idt_set_handler(VECTOR_PF, copy_on_write);
    memset((void *)pages[0], 0x77, PAGE_BYTES);
    page_map(TEST_ADDRESS, (uint64_t)pages[0], 0);
    word[5] = 1;
    word[6] = 2;
    idt_set_handler(VECTOR_PF, 0);
    CHECK("copy on write", faults == 1 && word[5] == 1 && word[6] == 2 && word[7] == 0x7777777777777777 &&
                               pages[0][5] == 0x7777777777777777);
}

void test_translation(void)
{
    test_mappings();
    test_large_pages();
    test_accessed_and_dirty();
    test_tlb();
    test_page_fault_handlers();
}

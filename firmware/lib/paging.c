/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "paging.h"

#include "cpu.h"
#include "debug_exit.h"
#include "print.h"

enum { POOL_PAGES = 128, BITS_PER_LEVEL = 9, PAGE_SHIFT = 12 };

#define ADDRESS_MASK 0x000ffffffffff000ul

static uint8_t pool[POOL_PAGES][PAGE_BYTES] __attribute__((aligned(PAGE_BYTES)));

void *page_alloc(void)
{
    static unsigned used;

    if (used == POOL_PAGES) {
        print("out of pages\n");
        debug_exit(EXIT_UNEXPECTED);
    }
    return pool[used++];
}

uint64_t *page_entry(uint64_t address, enum page_level level)
{
    uint64_t *table = (uint64_t *)(read_cr3() & ADDRESS_MASK);

    for (unsigned l = PAGE_512G;; l--) {
        uint64_t *entry = &table[address >> (PAGE_SHIFT + BITS_PER_LEVEL * (l - 1)) & 511];
        if (l == level)
            return entry;
        /* The last level alone decides about access. */
        if (!(*entry & PAGE_PRESENT))
            *entry = (uint64_t)page_alloc() | PAGE_PRESENT | PAGE_WRITE | PAGE_USER;
        table = (uint64_t *)(*entry & ADDRESS_MASK);
    }
}

void page_map(uint64_t address, uint64_t physical, uint64_t flags)
{
    *page_entry(address, PAGE_4K) = physical | flags | PAGE_PRESENT;
    invlpg((void *)address);
}

void page_unmap(uint64_t address)
{
    *page_entry(address, PAGE_4K) = 0;
    invlpg((void *)address);
}

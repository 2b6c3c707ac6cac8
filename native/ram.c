/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The host's pages behind the RAM. It is shared memory, which hosts make of small pages, each brought in by a fault of its
 * own when it is touched first, and each with its own place in the host's TLB. So 2 MiB of RAM that are written to here and
 * there are made one huge page. A guest cannot see any of this, and a host that refuses (Linux before 6.1, or no memory in one
 * piece) only makes it slower.
 */
#include <sys/mman.h>

#include "cpu.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* Pages written, before it pays: a small guest does not need 2 MiB for each of the few pages that it has. */
enum { WORN_IN = 32 };

void *ft_ram_map(int memory_file, uint64_t bytes)
{
    const uintptr_t huge_page = (uintptr_t)1 << FT_HUGE_PAGE_SHIFT;
    void *room = mmap(NULL, bytes + huge_page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (room == MAP_FAILED) {
        return NULL;
    }
    uintptr_t first = (uintptr_t)room, start = (first + huge_page - 1) & ~(huge_page - 1);
    void *ram = mmap((void *)start, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memory_file, 0);
    if (ram == MAP_FAILED) {
        munmap(room, bytes + huge_page);
        return NULL;
    }
    if (start > first) {
        munmap(room, start - first);
    }
    munmap((void *)(start + bytes), first + huge_page - start);
    return ram;
}

void ft_ram_unmap(void *ram, uint64_t bytes)
{
    munmap(ram, bytes);
}

void ft_ram_written(ft_cpu *cpu, uint64_t page)
{
    uint64_t huge_page = page >> (FT_HUGE_PAGE_SHIFT - FT_PAGE_SHIFT);
    uint64_t start = huge_page << FT_HUGE_PAGE_SHIFT, bytes = 1ull << FT_HUGE_PAGE_SHIFT;
    uint8_t *wear = &cpu->huge_page_wear[huge_page];

    if (*wear < WORN_IN && ++*wear == WORN_IN && bytes <= cpu->ram_bytes - start) {
        (void)madvise(cpu->ram + start, bytes, MADV_COLLAPSE);
    }
}

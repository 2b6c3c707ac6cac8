/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Four-level paging (SDM vol. 3, 4.5). boot.S maps the first 4 GiB one to one with 2 MiB pages, so that
 * every table can be reached at its physical address; what is mapped here lies beside that.
 */
#ifndef PAGING_H
#define PAGING_H

#include <stdint.h>

enum { PAGE_BYTES = 4096 };

#define PAGE_PRESENT (1ul << 0)
#define PAGE_WRITE (1ul << 1)
#define PAGE_USER (1ul << 2)
#define PAGE_ACCESSED (1ul << 5)
#define PAGE_DIRTY (1ul << 6)
#define PAGE_LARGE (1ul << 7) /* at levels 2 and 3 */
#define PAGE_GLOBAL (1ul << 8)
#define PAGE_NX (1ul << 63)

/* Level of an entry: what it maps when it is the last one. */
enum page_level { PAGE_4K = 1, PAGE_2M = 2, PAGE_1G = 3, PAGE_512G = 4 };

/* A zeroed page of RAM from a small pool; never given back. */
void *page_alloc(void);

/* The entry for `address` at `level` under the current CR3. Missing tables on the way are made. */
uint64_t *page_entry(uint64_t address, enum page_level level);

/* Map one page, PAGE_PRESENT implied, and drop what the TLB knew of it. */
void page_map(uint64_t address, uint64_t physical, uint64_t flags);
void page_unmap(uint64_t address);

#endif

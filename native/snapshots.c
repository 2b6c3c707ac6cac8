/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Earlier states of the verified image: a table of page versions per state, which share what did not change. */
#include "ftvm.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    PAGE_BYTES = 4096,
    CHUNK_SLOTS = 256, /* pages per allocation: 1 MiB */
    NO_SLOT = 0        /* the version of a page that is all zero; it takes no memory */
};

struct ft_snapshots {
    unsigned char *image;
    uint8_t *changed; /* per page: it may differ from `base` */
    uint32_t ram_pages;

    uint32_t *base; /* slot per page: the state that was kept or restored last */
    uint32_t **tables;
    uint32_t table_count;
    uint32_t kept;

    /* Slots 1..slot_count: memory of a page each, with a count of the tables that have it. */
    unsigned char **chunks;
    uint32_t *references;
    uint32_t slot_count;
    uint32_t chunk_count;
    uint32_t free_slot; /* a list through `references` */
    uint32_t slots_used;
};

static unsigned char *page_of(const ft_snapshots *s, uint32_t slot)
{
    return s->chunks[(slot - 1) / CHUNK_SLOTS] + (size_t)((slot - 1) % CHUNK_SLOTS) * PAGE_BYTES;
}

static int is_zero(const unsigned char *page)
{
    return page[0] == 0 && memcmp(page, page + 1, PAGE_BYTES - 1) == 0;
}

static int add_chunk(ft_snapshots *s)
{
    uint32_t slots = s->slot_count + CHUNK_SLOTS;
    unsigned char **chunks = realloc(s->chunks, (s->chunk_count + 1) * sizeof(*chunks));
    uint32_t *references;
    void *chunk;

    if (!chunks) {
        return -1;
    }
    s->chunks = chunks;
    references = realloc(s->references, (slots + 1) * sizeof(*references));
    if (!references) {
        return -1;
    }
    s->references = references;
    /* Touched at once: page by page, keeping a whole image takes a sixth longer. */
    chunk = mmap(NULL, (size_t)CHUNK_SLOTS * PAGE_BYTES, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (chunk == MAP_FAILED) {
        return -1;
    }
    s->chunks[s->chunk_count++] = chunk;
    for (uint32_t slot = slots; slot > s->slot_count; slot--) {
        references[slot] = s->free_slot;
        s->free_slot = slot;
    }
    s->slot_count = slots;
    return 0;
}

/* A slot with one reference, or NO_SLOT without memory. */
static uint32_t take_slot(ft_snapshots *s)
{
    uint32_t slot;

    if (s->free_slot == NO_SLOT && add_chunk(s) != 0) {
        return NO_SLOT;
    }
    slot = s->free_slot;
    s->free_slot = s->references[slot];
    s->references[slot] = 1;
    s->slots_used++;
    return slot;
}

static void release_slot(ft_snapshots *s, uint32_t slot)
{
    if (slot != NO_SLOT && --s->references[slot] == 0) {
        s->references[slot] = s->free_slot;
        s->free_slot = slot;
        s->slots_used--;
    }
}

static void share_slot(ft_snapshots *s, uint32_t slot)
{
    if (slot != NO_SLOT) {
        s->references[slot]++;
    }
}

ft_snapshots *ft_snapshots_open(void *image, uint64_t ram_bytes, uint8_t *changed)
{
    ft_snapshots *s = calloc(1, sizeof *s);

    if (!s) {
        return NULL;
    }
    s->image = image;
    s->changed = changed;
    s->ram_pages = (uint32_t)(ram_bytes / PAGE_BYTES);
    s->base = calloc(s->ram_pages, sizeof *s->base);
    if (!s->base) {
        free(s);
        return NULL;
    }
    return s;
}

void ft_snapshots_close(ft_snapshots *s)
{
    for (uint32_t i = 0; i < s->table_count; i++) {
        free(s->tables[i]);
    }
    for (uint32_t i = 0; i < s->chunk_count; i++) {
        munmap(s->chunks[i], (size_t)CHUNK_SLOTS * PAGE_BYTES);
    }
    free(s->chunks);
    free(s->references);
    free(s->tables);
    free(s->base);
    free(s);
}

uint64_t ft_snapshots_bytes(const ft_snapshots *s)
{
    return (uint64_t)s->slots_used * PAGE_BYTES + (uint64_t)(s->kept + 1) * s->ram_pages * sizeof(uint32_t);
}

/* Bring `base` up to what the image holds. */
static int update_base(ft_snapshots *s)
{
    const uint8_t *next = s->changed, *end = s->changed + s->ram_pages;

    while ((next = memchr(next, 1, (size_t)(end - next)))) {
        uint32_t page = (uint32_t)(next - s->changed), slot = NO_SLOT;
        const unsigned char *content = s->image + (uint64_t)page * PAGE_BYTES;

        if (s->base[page] == NO_SLOT || memcmp(page_of(s, s->base[page]), content, PAGE_BYTES) != 0) {
            if (!is_zero(content)) {
                slot = take_slot(s);
                if (slot == NO_SLOT) {
                    return -1;
                }
                memcpy(page_of(s, slot), content, PAGE_BYTES);
            }
            release_slot(s, s->base[page]);
            s->base[page] = slot;
        }
        s->changed[page] = 0;
        next++;
    }
    return 0;
}

int64_t ft_snapshots_keep(ft_snapshots *s)
{
    uint32_t id = 0;
    uint32_t *table;

    if (update_base(s) != 0) {
        return -1;
    }
    while (id < s->table_count && s->tables[id]) {
        id++;
    }
    if (id == s->table_count) {
        uint32_t **tables = realloc(s->tables, (s->table_count + 1) * sizeof(*tables));

        if (!tables) {
            return -1;
        }
        s->tables = tables;
        s->tables[s->table_count++] = NULL;
    }
    table = malloc(s->ram_pages * sizeof *table);
    if (!table) {
        return -1;
    }
    memcpy(table, s->base, s->ram_pages * sizeof *table);
    for (uint32_t page = 0; page < s->ram_pages; page++) {
        share_slot(s, table[page]);
    }
    s->tables[id] = table;
    s->kept++;
    return id;
}

void ft_snapshots_drop(ft_snapshots *s, uint32_t id)
{
    for (uint32_t page = 0; page < s->ram_pages; page++) {
        release_slot(s, s->tables[id][page]);
    }
    free(s->tables[id]);
    s->tables[id] = NULL;
    s->kept--;
}

uint32_t ft_snapshots_restore(ft_snapshots *s, uint32_t id, uint32_t *pages)
{
    const uint32_t *table = s->tables[id];
    uint32_t count = 0;

    for (uint32_t page = 0; page < s->ram_pages; page++) {
        unsigned char *content = s->image + (uint64_t)page * PAGE_BYTES;

        if (s->base[page] == table[page] && !s->changed[page]) {
            continue;
        }
        if (table[page] == NO_SLOT) {
            memset(content, 0, PAGE_BYTES);
        } else {
            memcpy(content, page_of(s, table[page]), PAGE_BYTES);
        }
        share_slot(s, table[page]);
        release_slot(s, s->base[page]);
        s->base[page] = table[page];
        s->changed[page] = 0;
        pages[count++] = page;
    }
    return count;
}

int ft_snapshots_holds(const ft_snapshots *s, uint32_t id)
{
    const uint32_t *table = s->tables[id];

    for (uint32_t page = 0; page < s->ram_pages; page++) {
        const unsigned char *content = s->image + (uint64_t)page * PAGE_BYTES;

        if (s->base[page] == table[page] && !s->changed[page]) {
            continue;
        }
        if (table[page] == NO_SLOT ? !is_zero(content)
                                   : memcmp(page_of(s, table[page]), content, PAGE_BYTES) != 0) {
            return 0;
        }
    }
    return 1;
}

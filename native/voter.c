/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Compares the modules' memory page by page, on several threads, and keeps the verified image. */
#include "ftvm.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    PAGE_BYTES = 4096,
    CHUNK_PAGES = 16, /* one claim of work: some 10 us */
    ALONE_PAGES = 48, /* up to here, waking a helper takes longer than the work */
    SPINS = 2000,
    MAX_MEMORIES = 32 /* bits in ft_difference.modules */
};

/* Staging that grew past this goes back to the host after the commit. */
static const uint32_t STAGED_PAGES_KEPT = 16384;

typedef void page_work(ft_voter *v, uint32_t first, uint32_t end);

/* Bytes of one page that are put into RAM. */
typedef struct {
    uint64_t offset;
    uint32_t bytes;
    const unsigned char *data;
} placement;

/* What was put into a page in a round: nothing outside of these bytes. */
typedef struct {
    uint32_t round;
    uint32_t listed; /* the newest comparison that has the page behind those of the dirty logs */
    uint16_t first, end;
} covered;

struct ft_voter {
    unsigned char *image;
    uint32_t ram_pages;
    unsigned char *verified; /* per page: it may hold more than zeros */
    uint8_t *changed;        /* per page: written to since whoever keeps track last cleared it */

    uint32_t *pages; /* of the last comparison: of the dirty logs, then where else something was placed */
    uint32_t page_count;
    uint32_t logged_count;
    unsigned char *staged; /* the first module's pages[i], at i * PAGE_BYTES */
    uint32_t *listed;      /* per page: the newest comparison that has it in `pages` */
    uint32_t comparison;

    placement *placed; /* what was put into all modules last */
    uint32_t placed_count;
    uint32_t placed_capacity;
    int placed_twice;  /* in some byte, perhaps: the last one wins */
    covered *coverage; /* per page */
    uint32_t placing_round;

    /* The job at hand: `work` on items 0..items-1, in chunks. A thread reads it only after it took a chunk.
     */
    page_work *work;
    uint32_t items;
    const ft_memory *memories;
    uint32_t memory_count;
    uint32_t scrub_first;
    void *restoring;
    void *const *placing; /* RAM of `memory_count` modules */
    atomic_uint chunks_left;
    atomic_uint chunks_done;
    atomic_uint pages_differing;
    atomic_int spins;

    pthread_t *helpers;
    uint32_t helper_count;
    pthread_mutex_t lock;
    pthread_cond_t news;
    uint32_t sleepers; /* under lock */
    int closing;       /* under lock */
};

/* ---- Threads: one job at a time, taken in chunks. A helper that comes late finds no chunk left. ---- */

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void take_chunks(ft_voter *v)
{
    unsigned left = atomic_load(&v->chunks_left);

    while (left) {
        uint32_t first, end;

        if (!atomic_compare_exchange_weak(&v->chunks_left, &left, left - 1)) {
            continue;
        }
        first = (left - 1) * CHUNK_PAGES;
        end = v->items - first < CHUNK_PAGES ? v->items : first + CHUNK_PAGES;
        v->work(v, first, end);
        atomic_fetch_add(&v->chunks_done, 1);
        left = atomic_load(&v->chunks_left);
    }
}

static void *help(void *voter)
{
    ft_voter *v = voter;
    int closing = 0;

    while (!closing) {
        take_chunks(v);
        /* A commit follows a comparison at once; after it, the modules need this core. */
        for (int i = atomic_load(&v->spins); i > 0 && !atomic_load(&v->chunks_left); i--) {
            relax();
        }
        pthread_mutex_lock(&v->lock);
        v->sleepers++;
        while (!atomic_load(&v->chunks_left) && !v->closing) {
            pthread_cond_wait(&v->news, &v->lock);
        }
        v->sleepers--;
        closing = v->closing;
        pthread_mutex_unlock(&v->lock);
    }
    return NULL;
}

/* `spins`: how long a helper that is done looks for the next job before it sleeps. */
static void do_together(ft_voter *v, page_work *work, uint32_t items, int spins)
{
    uint32_t chunks = (items + CHUNK_PAGES - 1) / CHUNK_PAGES;

    if (items <= ALONE_PAGES || v->helper_count == 0) {
        work(v, 0, items);
        return;
    }
    v->work = work;
    v->items = items;
    atomic_store(&v->spins, spins);
    atomic_store(&v->chunks_done, 0);
    atomic_store(&v->chunks_left, chunks);
    pthread_mutex_lock(&v->lock);
    if (v->sleepers) {
        pthread_cond_broadcast(&v->news);
    }
    pthread_mutex_unlock(&v->lock);
    take_chunks(v);
    for (int i = 0; atomic_load(&v->chunks_done) != chunks; i++) {
        if (i < SPINS) {
            relax();
        } else {
            sched_yield();
        }
    }
}

static int start_helpers(ft_voter *v, uint32_t count)
{
    sigset_t all, before;
    int failed = 0;

    if (count == 0) {
        return 0;
    }
    v->helpers = calloc(count, sizeof *v->helpers);
    if (!v->helpers) {
        return -1;
    }
    /* Signals belong to the caller's threads. */
    sigfillset(&all);
    if (pthread_sigmask(SIG_SETMASK, &all, &before) != 0) {
        return -1;
    }
    while (!failed && v->helper_count < count) {
        failed = pthread_create(&v->helpers[v->helper_count], NULL, help, v) != 0;
        v->helper_count += !failed;
    }
    if (pthread_sigmask(SIG_SETMASK, &before, NULL) != 0) {
        failed = 1;
    }
    return failed ? -1 : 0;
}

static void stop_helpers(ft_voter *v)
{
    pthread_mutex_lock(&v->lock);
    v->closing = 1;
    pthread_cond_broadcast(&v->news);
    pthread_mutex_unlock(&v->lock);
    for (uint32_t i = 0; i < v->helper_count; i++) {
        pthread_join(v->helpers[i], NULL);
    }
    free(v->helpers);
}

/* ---- Life ---- */

ft_voter *ft_voter_open(void *image, uint64_t ram_bytes, uint32_t threads)
{
    ft_voter *v = calloc(1, sizeof *v);

    if (!v) {
        return NULL;
    }
    if (pthread_mutex_init(&v->lock, NULL) != 0) {
        free(v);
        return NULL;
    }
    if (pthread_cond_init(&v->news, NULL) != 0) {
        pthread_mutex_destroy(&v->lock);
        free(v);
        return NULL;
    }
    v->image = image;
    v->ram_pages = (uint32_t)(ram_bytes / PAGE_BYTES);
    v->verified = calloc(v->ram_pages, 1);
    v->changed = calloc(v->ram_pages, 1);
    v->pages = malloc(v->ram_pages * sizeof *v->pages);
    v->listed = calloc(v->ram_pages, sizeof *v->listed);
    v->coverage = calloc(v->ram_pages, sizeof *v->coverage);
    v->staged =
        mmap(NULL, ram_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (v->staged == MAP_FAILED) {
        v->staged = NULL;
    } else {
        /* A first touch costs a quarter then. A kernel without huge pages refuses, which does no harm. */
        madvise(v->staged, ram_bytes, MADV_HUGEPAGE);
    }
    if (!v->verified || !v->changed || !v->pages || !v->listed || !v->coverage || !v->staged ||
        start_helpers(v, threads - 1) != 0) {
        ft_voter_close(v);
        return NULL;
    }
    return v;
}

void ft_voter_close(ft_voter *v)
{
    stop_helpers(v);
    pthread_cond_destroy(&v->news);
    pthread_mutex_destroy(&v->lock);
    if (v->staged) {
        munmap(v->staged, (size_t)v->ram_pages * PAGE_BYTES);
    }
    free(v->coverage);
    free(v->placed);
    free(v->listed);
    free(v->pages);
    free(v->changed);
    free(v->verified);
    free(v);
}

/* ---- Differences ---- */

/* Which memories differ from `truth` in this byte of the page. */
static uint32_t differs_at(const ft_voter *v, const unsigned char *truth, uint64_t page_offset, uint32_t byte)
{
    uint32_t modules = 0;

    for (uint32_t m = 0; m < v->memory_count; m++) {
        if (((const unsigned char *)v->memories[m].ram)[page_offset + byte] != truth[byte]) {
            modules |= 1u << m;
        }
    }
    return modules;
}

/* Append the page's runs of differing bytes; returns how many there are in `found` now. */
static uint32_t find_runs(const ft_voter *v, const unsigned char *truth, uint32_t page, ft_difference *found,
                          uint32_t capacity, uint32_t count)
{
    uint64_t page_offset = (uint64_t)page * PAGE_BYTES;
    int in_run = 0;

    for (uint32_t byte = 0; byte < PAGE_BYTES; byte++) {
        uint32_t modules = differs_at(v, truth, page_offset, byte);

        if (modules && !in_run) {
            if (count == capacity) {
                break;
            }
            found[count++] = (ft_difference){.offset = page_offset + byte};
        }
        if (modules) {
            found[count - 1].bytes++;
            found[count - 1].modules |= modules;
        }
        in_run = modules != 0;
    }
    return count;
}

static int page_differs(const ft_voter *v, const unsigned char *truth, uint32_t page, uint32_t first_memory)
{
    for (uint32_t m = first_memory; m < v->memory_count; m++) {
        if (memcmp(truth, (const unsigned char *)v->memories[m].ram + (uint64_t)page * PAGE_BYTES,
                   PAGE_BYTES) != 0) {
            return 1;
        }
    }
    return 0;
}

/* ---- Placing ---- */

static int append_placement(ft_voter *v, placement piece)
{
    if (v->placed_count == v->placed_capacity) {
        uint32_t capacity = v->placed_capacity ? 2 * v->placed_capacity : CHUNK_PAGES;
        placement *grown = realloc(v->placed, capacity * sizeof *grown);

        if (!grown) {
            return -1;
        }
        v->placed = grown;
        v->placed_capacity = capacity;
    }
    v->placed[v->placed_count++] = piece;
    return 0;
}

static void cover(ft_voter *v, uint32_t page, uint16_t first, uint16_t end)
{
    covered *here = &v->coverage[page];

    if (here->round != v->placing_round) {
        *here = (covered){.round = v->placing_round, .first = first, .end = end};
        return;
    }
    v->placed_twice |= first < here->end && here->first < end;
    here->first = first < here->first ? first : here->first;
    here->end = end > here->end ? end : here->end;
}

/* Cut at the borders of pages. */
static int list_placements(ft_voter *v, ft_extent place, const unsigned char *data)
{
    uint64_t ram_bytes = (uint64_t)v->ram_pages * PAGE_BYTES;

    if (place.offset > ram_bytes || place.bytes > ram_bytes - place.offset) {
        return -1;
    }
    while (place.bytes) {
        uint64_t room = PAGE_BYTES - place.offset % PAGE_BYTES;
        uint32_t bytes = (uint32_t)(place.bytes < room ? place.bytes : room);

        if (append_placement(v, (placement){place.offset, bytes, data}) != 0) {
            return -1;
        }
        cover(v, (uint32_t)(place.offset / PAGE_BYTES), (uint16_t)(PAGE_BYTES - room),
              (uint16_t)(PAGE_BYTES - room + bytes));
        place.offset += bytes;
        place.bytes -= bytes;
        data += bytes;
    }
    return 0;
}

static int list_all(ft_voter *v, const ft_bulk *bulks, uint32_t bulk_count, const ft_extent *places,
                    uint32_t place_count)
{
    uint32_t next = 0;

    for (uint32_t b = 0; b < bulk_count; b++) {
        const unsigned char *data = bulks[b].data;
        uint64_t left = bulks[b].bytes;

        if (bulks[b].places > place_count - next) {
            return -1;
        }
        for (uint32_t i = 0; i < bulks[b].places; i++, next++) {
            if (places[next].bytes > left || list_placements(v, places[next], data) != 0) {
                return -1;
            }
            data += places[next].bytes;
            left -= places[next].bytes;
        }
        if (left) {
            return -1;
        }
    }
    return next == place_count ? 0 : -1;
}

static void place(ft_voter *v, uint32_t first, uint32_t end)
{
    for (uint32_t i = first; i < end; i++) {
        const placement *piece = &v->placed[i];

        for (uint32_t m = 0; m < v->memory_count; m++) {
            memcpy((unsigned char *)v->placing[m] + piece->offset, piece->data, piece->bytes);
        }
    }
}

static void do_placed(ft_voter *v, page_work *work)
{
    if (v->placed_twice) { /* a guest that gives two requests one buffer: in their order, wherever it is done */
        work(v, 0, v->placed_count);
    } else {
        do_together(v, work, v->placed_count, 0);
    }
}

int ft_voter_place(ft_voter *v, void *const *rams, uint32_t count, const ft_bulk *bulks, uint32_t bulk_count,
                   const ft_extent *places, uint32_t place_count)
{
    v->placed_count = 0;
    v->placed_twice = 0;
    if (++v->placing_round == 0) {
        memset(v->coverage, 0, v->ram_pages * sizeof *v->coverage);
        v->placing_round = 1;
    }
    if (list_all(v, bulks, bulk_count, places, place_count) != 0) {
        v->placed_count = 0;
        return -1;
    }
    v->placing = rams;
    v->memory_count = count;
    do_placed(v, place);
    return 0;
}

/* ---- Compare and commit ---- */

static void begin_list(ft_voter *v)
{
    v->page_count = v->logged_count = 0;
    if (++v->comparison == 0) {
        memset(v->listed, 0, v->ram_pages * sizeof *v->listed);
        for (uint32_t page = 0; page < v->ram_pages; page++) {
            v->coverage[page].listed = 0;
        }
        v->comparison = 1;
    }
}

/* The union of the lists, each page once. Returns 0, or -1 - m when module m's list is impossible. */
static int64_t unite(ft_voter *v)
{
    begin_list(v);
    for (uint32_t m = 0; m < v->memory_count; m++) {
        for (uint32_t i = 0; i < v->memories[m].count; i++) {
            uint32_t page = ((const volatile uint32_t *)v->memories[m].written)[i];

            if (page >= v->ram_pages) {
                return -1 - (int64_t)m;
            }
            if (v->listed[page] == v->comparison) {
                continue;
            }
            v->listed[page] = v->comparison;
            v->pages[v->page_count++] = page;
        }
    }
    v->logged_count = v->page_count;
    return 0;
}

static void list_placed(ft_voter *v)
{
    for (uint32_t i = 0; i < v->placed_count; i++) {
        uint32_t page = (uint32_t)(v->placed[i].offset / PAGE_BYTES);

        if (v->listed[page] != v->comparison && v->coverage[page].listed != v->comparison) {
            v->coverage[page].listed = v->comparison;
            v->pages[v->page_count++] = page;
        }
    }
}

static void stage_and_compare(ft_voter *v, uint32_t first, uint32_t end)
{
    for (uint32_t i = first; i < end; i++) {
        unsigned char *truth = v->staged + (uint64_t)i * PAGE_BYTES;

        memcpy(truth, (const unsigned char *)v->memories[0].ram + (uint64_t)v->pages[i] * PAGE_BYTES,
               PAGE_BYTES);
        if (page_differs(v, truth, v->pages[i], 1)) {
            atomic_fetch_add(&v->pages_differing, 1);
        }
    }
}

static void begin(ft_voter *v, const ft_memory *memories, uint32_t count)
{
    v->memories = memories;
    v->memory_count = count < MAX_MEMORIES ? count : MAX_MEMORIES;
    atomic_store(&v->pages_differing, 0);
}

int64_t ft_voter_compare(ft_voter *v, const ft_memory *memories, uint32_t count, ft_difference *found,
                         uint32_t capacity, uint32_t *found_count)
{
    int64_t bad_list;
    uint32_t differing;

    *found_count = 0;
    begin(v, memories, count);
    bad_list = unite(v);
    if (bad_list) {
        begin_list(v);
    }
    list_placed(v);
    if (bad_list) {
        return bad_list;
    }
    do_together(v, stage_and_compare, v->logged_count, SPINS);
    differing = atomic_load(&v->pages_differing);
    for (uint32_t i = 0; differing && i < v->logged_count && *found_count < capacity; i++) {
        const unsigned char *truth = v->staged + (uint64_t)i * PAGE_BYTES;

        if (page_differs(v, truth, v->pages[i], 1)) {
            *found_count = find_runs(v, truth, v->pages[i], found, capacity, *found_count);
        }
    }
    return differing;
}

static void fold(ft_voter *v, uint32_t first, uint32_t end)
{
    for (uint32_t i = first; i < end; i++) {
        memcpy(v->image + (uint64_t)v->pages[i] * PAGE_BYTES, v->staged + (uint64_t)i * PAGE_BYTES,
               PAGE_BYTES);
        v->verified[v->pages[i]] = 1;
        v->changed[v->pages[i]] = 1;
    }
}

/* Where no module wrote, there is what was placed. */
static void fold_placed(ft_voter *v, uint32_t first, uint32_t end)
{
    for (uint32_t i = first; i < end; i++) {
        const placement *piece = &v->placed[i];

        if (v->listed[piece->offset / PAGE_BYTES] != v->comparison) {
            memcpy(v->image + piece->offset, piece->data, piece->bytes);
        }
    }
}

void ft_voter_commit(ft_voter *v)
{
    do_together(v, fold, v->logged_count, 0);
    do_placed(v, fold_placed);
    for (uint32_t i = v->logged_count; i < v->page_count; i++) { /* not by threads: pieces can share a page */
        v->verified[v->pages[i]] = 1;
        v->changed[v->pages[i]] = 1;
    }
    v->placed_count = 0;
    if (v->logged_count > STAGED_PAGES_KEPT) {
        madvise(v->staged, (size_t)v->logged_count * PAGE_BYTES, MADV_DONTNEED);
    }
}

const uint32_t *ft_voter_pages(const ft_voter *v, uint32_t *count)
{
    *count = v->page_count;
    return v->pages;
}

/* ---- Scrub ---- */

/* Which of `count` pages have memory somewhere. Looking at one that nobody has touched would give it some. */
static void find_existing(const ft_voter *v, uint32_t page, uint32_t count, unsigned char *exists)
{
    unsigned char resident[ALONE_PAGES];

    memcpy(exists, v->verified + page, count);
    for (uint32_t m = 0; m < v->memory_count; m++) {
        void *ram = (unsigned char *)v->memories[m].ram + (uint64_t)page * PAGE_BYTES;
        int known = mincore(ram, (size_t)count * PAGE_BYTES, resident) == 0;

        for (uint32_t i = 0; i < count; i++) {
            exists[i] |= !known || (resident[i] & 1);
        }
    }
}

static void scrub(ft_voter *v, uint32_t first, uint32_t end)
{
    unsigned char exists[ALONE_PAGES];

    for (uint32_t count; first < end; first += count) {
        uint32_t page = v->scrub_first + first;

        count = end - first < ALONE_PAGES ? end - first : ALONE_PAGES;
        find_existing(v, page, count, exists);
        for (uint32_t i = 0; i < count; i++) {
            if (exists[i] && page_differs(v, v->image + (uint64_t)(page + i) * PAGE_BYTES, page + i, 0)) {
                atomic_fetch_add(&v->pages_differing, 1);
            }
        }
    }
}

int64_t ft_voter_scrub(ft_voter *v, const ft_memory *memories, uint32_t count, uint32_t first, uint32_t pages,
                       ft_difference *found, uint32_t capacity, uint32_t *found_count)
{
    uint32_t differing, end;

    *found_count = 0;
    if (first >= v->ram_pages) {
        return 0;
    }
    end = v->ram_pages - first < pages ? v->ram_pages : first + pages;
    begin(v, memories, count);
    v->scrub_first = first;
    do_together(v, scrub, end - first, 0);
    differing = atomic_load(&v->pages_differing);
    for (uint32_t page = first; differing && page < end && *found_count < capacity; page++) {
        const unsigned char *truth = v->image + (uint64_t)page * PAGE_BYTES;
        unsigned char exists;

        find_existing(v, page, 1, &exists);
        if (exists && page_differs(v, truth, page, 0)) {
            *found_count = find_runs(v, truth, page, found, capacity, *found_count);
        }
    }
    return differing;
}

/* ---- Going back to the image ---- */

void ft_voter_restore(const ft_voter *v, void *ram)
{
    for (uint32_t i = 0; i < v->page_count; i++) {
        uint64_t offset = (uint64_t)v->pages[i] * PAGE_BYTES;

        memcpy((unsigned char *)ram + offset, v->image + offset, PAGE_BYTES);
    }
}

static void restore_differing(ft_voter *v, uint32_t first, uint32_t end)
{
    for (uint32_t page = first; page < end; page++) {
        uint64_t offset = (uint64_t)page * PAGE_BYTES;
        unsigned char *own = (unsigned char *)v->restoring + offset;

        if (memcmp(own, v->image + offset, PAGE_BYTES) != 0) {
            memcpy(own, v->image + offset, PAGE_BYTES);
            atomic_fetch_add(&v->pages_differing, 1);
        }
    }
}

uint32_t ft_voter_restore_all(ft_voter *v, void *ram)
{
    v->restoring = ram;
    atomic_store(&v->pages_differing, 0);
    do_together(v, restore_differing, v->ram_pages, 0);
    return atomic_load(&v->pages_differing);
}

void ft_voter_copy_pages(const ft_voter *v, void *ram, const uint32_t *pages, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        uint64_t offset = (uint64_t)pages[i] * PAGE_BYTES;

        memcpy((unsigned char *)ram + offset, v->image + offset, PAGE_BYTES);
    }
}

/* ---- Bringing a module in while the others run ---- */

void ft_voter_mark_content(const ft_voter *v, uint8_t *pending)
{
    memcpy(pending, v->verified, v->ram_pages);
}

void ft_voter_mark_compared(const ft_voter *v, uint8_t *pending)
{
    for (uint32_t i = 0; i < v->page_count; i++) {
        pending[v->pages[i]] = 1;
    }
}

uint32_t ft_voter_copy_pending(const ft_voter *v, void *ram, uint8_t *pending, uint32_t first, uint32_t limit)
{
    uint32_t page = first;

    while (page < v->ram_pages && limit) {
        const uint8_t *next = memchr(pending + page, 1, v->ram_pages - page);

        if (!next) {
            return v->ram_pages;
        }
        page = (uint32_t)(next - pending);
        memcpy((unsigned char *)ram + (uint64_t)page * PAGE_BYTES, v->image + (uint64_t)page * PAGE_BYTES,
               PAGE_BYTES);
        pending[page++] = 0;
        limit--;
    }
    return page;
}

/* ---- The image as a whole ---- */

int ft_voter_write(ft_voter *v, uint64_t offset, const void *data, uint64_t bytes)
{
    uint64_t ram_bytes = (uint64_t)v->ram_pages * PAGE_BYTES;

    if (offset > ram_bytes || bytes > ram_bytes - offset) {
        return -1;
    }
    if (bytes == 0) {
        return 0;
    }
    memcpy(v->image + offset, data, bytes);
    memset(v->verified + offset / PAGE_BYTES, 1, (offset + bytes - 1) / PAGE_BYTES - offset / PAGE_BYTES + 1);
    memset(v->changed + offset / PAGE_BYTES, 1, (offset + bytes - 1) / PAGE_BYTES - offset / PAGE_BYTES + 1);
    return 0;
}

uint8_t *ft_voter_changed(ft_voter *v)
{
    return v->changed;
}

static int is_zero(const unsigned char *page)
{
    return page[0] == 0 && memcmp(page, page + 1, PAGE_BYTES - 1) == 0;
}

uint32_t ft_voter_content(const ft_voter *v, uint32_t page, uint32_t *count)
{
    uint32_t end;

    while (page < v->ram_pages && (!v->verified[page] || is_zero(v->image + (uint64_t)page * PAGE_BYTES))) {
        page++;
    }
    end = page;
    while (end < v->ram_pages && v->verified[end] && !is_zero(v->image + (uint64_t)end * PAGE_BYTES)) {
        end++;
    }
    *count = end - page;
    return page;
}

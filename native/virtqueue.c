/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Split virtqueues in verified memory. Source: Virtual I/O Device (VIRTIO) 1.2, 2.7.
 *
 * Whatever the guest wrote there is a claim, not a fact: every address, length, index and chain is checked before it is
 * used. Nothing here writes memory of the guest.
 */
#include "ftvm.h"
#include "memory_map.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { NEXT = 1, WRITE = 2, INDIRECT = 4 }; /* flags of a descriptor */
enum { NO_INTERRUPT = 1 };                  /* flag of the available ring */
enum { NO_NOTIFY = 1 };                     /* flag of the used ring */
enum { RING_HEAD_BYTES = 4 };               /* flags, index */

typedef struct {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t next;
} descriptor;

__attribute__((format(printf, 2, 3))) static int broken(ft_queue *q, const char *why, ...)
{
    va_list arguments;

    va_start(arguments, why);
    vsnprintf(q->error, sizeof q->error, why, arguments);
    va_end(arguments);
    return -1;
}

static uint16_t word_at(const ft_queue *q, uint64_t offset)
{
    uint16_t word;

    memcpy(&word, (const unsigned char *)q->ram + offset, sizeof word);
    return word;
}

/* The offset in RAM of `bytes` bytes that must all be inside one part of it. */
static int find(ft_queue *q, uint64_t gpa, uint64_t bytes, const char *what, uint64_t *offset)
{
    uint64_t low = q->ram_bytes < FT_LOW_RAM_LIMIT ? q->ram_bytes : FT_LOW_RAM_LIMIT;
    uint64_t high = q->ram_bytes - low;

    if (bytes <= low && gpa <= low - bytes) {
        *offset = gpa;
        return 0;
    }
    if (gpa >= FT_HIGH_RAM && bytes <= high && gpa - FT_HIGH_RAM <= high - bytes) {
        *offset = gpa - FT_HIGH_RAM + FT_LOW_RAM_LIMIT;
        return 0;
    }
    return broken(q, "a %s of %llu bytes at %#llx is not inside RAM", what, (unsigned long long)bytes,
                  (unsigned long long)gpa);
}

static int find_ring(ft_queue *q, uint64_t gpa, uint64_t bytes, uint32_t alignment, const char *what,
                     uint64_t *offset)
{
    if (gpa % alignment) {
        return broken(q, "the %s of queue %u at %#llx is not aligned", what, q->index,
                      (unsigned long long)gpa);
    }
    return find(q, gpa, bytes, what, offset);
}

int ft_queue_open(ft_queue *q, const void *ram, uint64_t ram_bytes, uint32_t index, uint32_t size,
                  uint64_t descriptors, uint64_t driver_area, uint64_t device_area)
{
    *q = (ft_queue){.ram = ram, .ram_bytes = ram_bytes, .index = index, .size = size};
    if (size == 0 || size > FT_QUEUE_MAX || size & (size - 1)) {
        return broken(q, "queue %u with %u entries is not one", index, size);
    }
    if (find_ring(q, descriptors, 16ull * size, 16, "descriptor table", &q->descriptors) != 0 ||
        find_ring(q, driver_area, 6 + 2ull * size, 2, "available ring", &q->driver) != 0 ||
        find_ring(q, device_area, 6 + 8ull * size, 4, "used ring", &q->device) != 0) {
        return -1;
    }
    return 0;
}

/* ---- Taking ---- */

int ft_queue_waiting(ft_queue *q)
{
    uint16_t ahead = (uint16_t)(word_at(q, q->driver + 2) - q->next_avail);

    if (ahead > q->size) {
        return broken(q, "the available ring of queue %u is %u entries ahead of %u", q->index, ahead,
                      q->size);
    }
    return ahead;
}

/* Add the descriptors from `at` in a table of `count` to the chain, which is never longer than the queue. */
static int follow(ft_queue *q, uint64_t table, uint32_t count, uint32_t at, int indirect, ft_extent *spans)
{
    for (;;) {
        descriptor d;
        uint64_t offset;
        uint32_t length = q->readable + q->writable;

        if (length >= q->size) {
            return broken(q, "a chain of more than %u descriptors", q->size);
        }
        memcpy(&d, (const unsigned char *)q->ram + table + 16ull * at, sizeof d);
        if (d.length == 0) {
            return broken(q, "a buffer of no bytes");
        }
        if (d.flags & INDIRECT) {
            if (!indirect) {
                return broken(q, "an indirect table where there can be none");
            }
            /* Whether the table may be written is to be ignored (2.7.5.3.2). */
            if (d.flags & NEXT || d.length % 16) {
                return broken(q, "an indirect table of %u bytes with flags %#x", d.length, d.flags);
            }
            if (find(q, d.address, d.length, "table", &table) != 0) {
                return -1;
            }
            count = d.length / 16;
            at = 0;
            indirect = 0;
            continue;
        }
        if (find(q, d.address, d.length, "buffer", &offset) != 0) {
            return -1;
        }
        if (d.flags & WRITE) {
            q->writable++;
        } else if (q->writable) {
            return broken(q, "a buffer to read behind one to write");
        } else {
            q->readable++;
        }
        spans[length] = (ft_extent){offset, d.length};
        if (!(d.flags & NEXT)) {
            return 0;
        }
        if (d.next >= count) {
            return broken(q, "descriptor %u of %u", d.next, count);
        }
        at = d.next;
    }
}

int ft_queue_take(ft_queue *q, ft_extent *spans)
{
    uint64_t at = q->driver + RING_HEAD_BYTES + 2ull * (q->next_avail & (q->size - 1));

    q->readable = q->writable = 0;
    q->head = word_at(q, at);
    if (q->head >= q->size) {
        return broken(q, "descriptor %u of %u", q->head, q->size);
    }
    q->next_avail++;
    return follow(q, q->descriptors, q->size, q->head, q->indirect, spans);
}

int ft_queue_take_room(ft_queue *q, uint32_t bytes, uint32_t least, uint32_t limit, ft_used *used,
                       ft_extent *spans, uint32_t *span_count)
{
    uint16_t first = q->next_avail;
    uint32_t taken = 0;

    *span_count = 0;
    while (bytes && taken < limit) {
        ft_extent *chain = spans + *span_count;
        uint64_t room = 0;
        uint32_t left;

        if (ft_queue_take(q, chain) != 0) {
            return -1;
        }
        for (uint32_t i = 0; i < q->writable; i++) {
            room += chain[q->readable + i].bytes;
        }
        if (q->readable || room < least) {
            return broken(q, "a buffer for received frames of %llu bytes", (unsigned long long)room);
        }
        left = room < bytes ? (uint32_t)room : bytes;
        used[taken++] = (ft_used){q->head, left};
        bytes -= left;
        for (; left; chain++, ++*span_count) {
            if (chain->bytes > left) {
                chain->bytes = left;
            }
            left -= (uint32_t)chain->bytes;
        }
    }
    if (bytes) {
        q->next_avail = first;
        return 0;
    }
    return (int)taken;
}

/* ---- Giving back ---- */

/* Whether the driver wants an interrupt for what was used since `before` (2.7.7, 2.7.10). */
static int wanted(const ft_queue *q, uint16_t before)
{
    uint16_t event;

    if (!q->event_index) {
        return !(word_at(q, q->driver) & NO_INTERRUPT);
    }
    event = word_at(q, q->driver + RING_HEAD_BYTES + 2ull * q->size);
    return (uint16_t)(q->next_used - event - 1) < (uint16_t)(q->next_used - before);
}

void ft_queue_complete(ft_queue *q, const ft_used *used, uint32_t count, int notify)
{
    uint16_t before = q->next_used;
    uint64_t ring = q->device + RING_HEAD_BYTES;
    uint32_t first = before & (q->size - 1);
    uint32_t until_wrap = q->size - first < count ? q->size - first : count;

    q->write_count = 0;
    if (count) {
        q->writes[q->write_count++] = (ft_ring_write){ring + 8ull * first, used, 8 * until_wrap};
        if (count > until_wrap) {
            q->writes[q->write_count++] = (ft_ring_write){ring, used + until_wrap, 8 * (count - until_wrap)};
        }
        q->next_used = (uint16_t)(before + count);
        q->used_index = q->next_used;
        q->writes[q->write_count++] = (ft_ring_write){q->device + 2, &q->used_index, 2};
    }
    /* Behind the used ring: notify when this one is made available; one behind is never next. */
    if (q->event_index) {
        q->word = notify ? q->next_avail : (uint16_t)(q->next_avail - 1);
        q->writes[q->write_count++] = (ft_ring_write){ring + 8ull * q->size, &q->word, 2};
    } else if (word_at(q, q->device) != (notify ? 0 : NO_NOTIFY)) {
        q->word = notify ? 0 : NO_NOTIFY;
        q->writes[q->write_count++] = (ft_ring_write){q->device, &q->word, 2};
    }
    q->interrupt = count && wanted(q, before);
}

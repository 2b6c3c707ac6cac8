/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Serving the driver of a disk, in verified memory. Source: Virtual I/O Device (VIRTIO) 1.2, 5.2.6. */
#define _GNU_SOURCE /* preadv2 */
#include "turn_disk.h"
#include "packed.h"

#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

enum {
    MAX_CHAINS = 64, /* of one sync point; more than that are the caller's to serve, as is more data */
    MAX_SPANS = 1024,
    MAX_RING_WRITES = 4,
    RING_BYTES = 8 * MAX_CHAINS + 16,
    DATA_BYTES = 1 << 20,
    PACKED_BYTES = DATA_BYTES + (64 << 10),
    MAX_WRITE_BYTES = 256 << 10, /* so that it is done in a moment */
    MAX_WRITTEN = 512,           /* places, until the caller has to know of them */
    PATIENCE_US = 1000,          /* with the host's page cache; then the caller does what takes longer */
    SECTOR_BYTES = 512
};

enum { REQUEST_IN = 0, REQUEST_OUT = 1, STATUS_OK = 0 };
typedef struct {
    uint32_t kind;
    uint32_t reserved;
    uint64_t sector;
} request_header;

typedef struct {
    int writes;
    uint64_t offset; /* of the disk */
    uint64_t bytes;
    uint32_t first, count; /* of what is written: in `pieces` */
    uint64_t status_at;
} request;

struct ft_turn_service {
    /* The requests of one sync point: what was read for them, and where it goes; what they write. */
    request requests[MAX_CHAINS];
    ft_used used[MAX_CHAINS];
    uint32_t request_count;
    uint64_t data_bytes;
    unsigned char *data;
    ft_extent *spans; /* of one chain */
    ft_bulk bulks[2 * MAX_CHAINS + MAX_RING_WRITES];
    uint32_t bulk_count;
    ft_extent into[MAX_SPANS + MAX_CHAINS + MAX_RING_WRITES];
    uint32_t into_count;
    uint32_t small_count; /* behind those, in one place each: statuses, and what goes into the ring */
    unsigned char ring[RING_BYTES];
    ft_piece pieces[MAX_SPANS];
    uint32_t piece_count;
    ft_extent written[MAX_WRITTEN]; /* since the caller knows */
    uint32_t written_count;
    unsigned char *packed; /* the input that comes of it */
};

static const unsigned char status_ok = STATUS_OK;

ft_turn_service *ft_turn_service_open(void)
{
    ft_turn_service *s = calloc(1, sizeof *s);

    if (!s) {
        return NULL;
    }
    s->data = malloc(DATA_BYTES);
    s->spans = malloc(FT_QUEUE_MAX * sizeof *s->spans);
    s->packed = malloc(PACKED_BYTES);
    if (!s->data || !s->spans || !s->packed) {
        ft_turn_service_close(s);
        return NULL;
    }
    return s;
}

void ft_turn_service_close(ft_turn_service *s)
{
    free(s->data);
    free(s->spans);
    free(s->packed);
    free(s);
}

void ft_turn_service_begin(ft_turn_service *s)
{
    s->written_count = 0;
}

const ft_extent *ft_turn_written(const ft_turn_service *s, uint32_t *count)
{
    *count = s->written_count;
    return s->written;
}

/* ---- What is wanted ---- */

static int eat(const unsigned char **at, uint32_t *left, const void *data, uint32_t bytes)
{
    if (*left < bytes || memcmp(*at, data, bytes) != 0) {
        return 0;
    }
    *at += bytes;
    *left -= bytes;
    return 1;
}

static int eat_number(const unsigned char **at, uint32_t *left, uint64_t value)
{
    unsigned char number[9];
    ft_packer packer = {number, number + sizeof number, 0};

    ft_pack_uint(&packer, value);
    return eat(at, left, number, (uint32_t)(packer.at - number));
}

static int is_as_known(const ft_turn_disk *disk, const unsigned char *state, uint32_t bytes)
{
    return eat(&state, &bytes, disk->state[0], disk->state_bytes[0]) &&
           eat_number(&state, &bytes, disk->queue.next_avail) &&
           eat(&state, &bytes, disk->state[1], disk->state_bytes[1]) &&
           eat_number(&state, &bytes, disk->queue.next_used) &&
           eat(&state, &bytes, disk->state[2], disk->state_bytes[2]) && bytes == 0;
}

int ft_turn_is_kick(const ft_turn_disk *disk, const ft_report *head, const unsigned char *payload)
{
    const unsigned char *state;
    uint32_t bytes;

    if (head->output_bytes != disk->kick_bytes || head->detail_bytes || head->instruction ||
        memcmp(payload + head->board_bytes, disk->kick, disk->kick_bytes) != 0) {
        return 0;
    }
    state = ft_packed_value(payload, head->board_bytes, disk->name, disk->name_bytes, &bytes);
    return state && is_as_known(disk, state, bytes);
}

/* What has a mark on the medium of every leg: only there may be written before that is so. */
static int is_marked(const ft_turn_disk *disk, uint64_t offset, uint64_t bytes)
{
    uint32_t first = 0, end = disk->marked_count;

    while (first < end) {
        uint32_t middle = first + (end - first) / 2;
        ft_extent place = disk->marked[middle];

        if (offset < place.offset) {
            end = middle;
        } else if (offset - place.offset >= place.bytes) {
            first = middle + 1;
        } else {
            return bytes <= place.bytes - (offset - place.offset);
        }
    }
    return 0;
}

static int note_read(ft_turn_service *s, const ft_queue *q)
{
    ft_bulk *bulk = &s->bulks[s->bulk_count];
    ft_extent last = s->spans[q->readable + q->writable - 1];

    if (q->readable != 1 || q->writable < 2 || q->writable > MAX_SPANS - s->into_count) {
        return 0;
    }
    *bulk = (ft_bulk){.places = q->writable - (last.bytes == 1)};
    for (uint32_t i = 0; i < bulk->places; i++) {
        bulk->bytes += s->spans[1 + i].bytes;
        s->into[s->into_count++] = s->spans[1 + i];
    }
    if (last.bytes > 1) { /* the last byte is the status */
        bulk->bytes--;
        s->into[s->into_count - 1].bytes--;
    }
    s->bulk_count++;
    return 1;
}

static int note_write(ft_turn_service *s, const ft_queue *q, request *r)
{
    if (q->writable != 1 || s->spans[q->readable].bytes != 1 ||
        q->readable - 1 > MAX_SPANS - s->piece_count) {
        return 0;
    }
    r->first = s->piece_count;
    for (uint32_t i = 1; i < q->readable; i++) {
        r->bytes += s->spans[i].bytes;
        s->pieces[s->piece_count++] =
            (ft_piece){(const unsigned char *)q->ram + s->spans[i].offset, s->spans[i].bytes};
    }
    r->count = s->piece_count - r->first;
    return 1;
}

/* The chain that was just taken. 0: what it asks for is nothing for us. */
static int note(ft_turn_service *s, const ft_turn_disk *disk, const ft_queue *q)
{
    request_header header;
    request *r = &s->requests[s->request_count];
    ft_extent last = s->spans[q->readable + q->writable - 1];

    if (q->readable == 0 || s->spans[0].bytes != sizeof header || q->writable == 0) {
        return 0;
    }
    memcpy(&header, (const unsigned char *)q->ram + s->spans[0].offset, sizeof header);
    *r = (request){.status_at = last.offset + last.bytes - 1, .writes = header.kind == REQUEST_OUT};
    if (header.kind == REQUEST_IN && note_read(s, q)) {
        r->bytes = s->bulks[s->bulk_count - 1].bytes;
    } else if (header.kind != REQUEST_OUT || !disk->legs || !note_write(s, q, r)) {
        return 0;
    }
    if (s->data_bytes + r->bytes > DATA_BYTES || r->bytes == 0 || r->bytes % SECTOR_BYTES ||
        r->bytes > disk->room_bytes - s->data_bytes || r->bytes > disk->size_bytes ||
        header.sector > (disk->size_bytes - r->bytes) / SECTOR_BYTES) {
        return 0;
    }
    r->offset = header.sector * SECTOR_BYTES;
    if (r->writes && (r->bytes > MAX_WRITE_BYTES || !is_marked(disk, r->offset, r->bytes))) {
        return 0;
    }
    s->data_bytes += r->bytes;
    s->used[s->request_count++] = (ft_used){q->head, r->writes ? 1 : (uint32_t)r->bytes + 1};
    return 1;
}

/* In their order. 0: one has failed, or takes longer: the caller does them all once more. */
static int do_requests(ft_turn_service *s, const ft_turn_disk *disk)
{
    unsigned char *data = s->data;
    ft_bulk *bulk = s->bulks;
    ft_leg_write *late;

    for (uint32_t i = 0; i < s->request_count; i++) {
        const request *r = &s->requests[i];
        struct iovec into = {data, r->bytes};
        int done;

        if (!r->writes) {
            if (preadv2(disk->fd, &into, 1, (off_t)r->offset, RWF_NOWAIT) != (ssize_t)r->bytes) {
                return 0;
            }
            (bulk++)->data = data;
            data += r->bytes;
            continue;
        }
        s->written[s->written_count++] = (ft_extent){r->offset, r->bytes};
        done = ft_legs_write(disk->legs, r->offset, s->pieces + r->first, r->count, PATIENCE_US, &late);
        if (done == 0) {
            ft_leg_write_close(late);
        }
        if (done != 1) {
            return 0;
        }
    }
    return 1;
}

static void append_small(ft_turn_service *s, uint64_t offset, const void *data, uint32_t bytes)
{
    s->bulks[s->bulk_count + s->small_count] = (ft_bulk){data, bytes, 1};
    s->into[s->into_count + s->small_count++] = (ft_extent){offset, bytes};
}

static void list_small(ft_turn_service *s, const ft_queue *q)
{
    unsigned char *ring = s->ring;

    s->small_count = 0;
    for (uint32_t r = 0; r < s->request_count; r++) {
        append_small(s, s->requests[r].status_at, &status_ok, 1);
    }
    for (uint32_t i = 0; i < q->write_count; i++) { /* a copy: it must stay as it is until the commit */
        memcpy(ring, q->writes[i].data, q->writes[i].bytes);
        append_small(s, q->writes[i].offset, ring, q->writes[i].bytes);
        ring += q->writes[i].bytes;
    }
}

int ft_turn_serve(ft_turn_service *s, ft_turn_disk *disk)
{
    ft_queue *q = &disk->queue;
    int waiting = ft_queue_waiting(q);

    if (waiting <= 0 || waiting > MAX_CHAINS || waiting > (int)(MAX_WRITTEN - s->written_count)) {
        return 0;
    }
    s->request_count = s->bulk_count = s->into_count = s->piece_count = 0;
    s->data_bytes = 0;
    for (int i = 0; i < waiting; i++) {
        if (ft_queue_take(q, s->spans) != 0 || !note(s, disk, q)) {
            return 0;
        }
    }
    if (!do_requests(s, disk)) {
        return 0;
    }
    ft_queue_complete(q, s->used, s->request_count, 1);
    list_small(s, q);
    return 1;
}

int ft_turn_place(const ft_turn_service *s, ft_voter *voter, void *const *rams, uint32_t count)
{
    return ft_voter_place(voter, rams, count, s->bulks, s->bulk_count + s->small_count, s->into,
                          s->into_count + s->small_count);
}

/* ---- What becomes of it ---- */

static void pack_text(ft_packer *packer, const char *text)
{
    unsigned char length = (unsigned char)(0xa0 | strlen(text));

    ft_pack_raw(packer, &length, 1);
    ft_pack_raw(packer, text, (uint32_t)strlen(text));
}

static void pack_write(ft_packer *packer, uint64_t offset, const void *data, uint32_t bytes)
{
    ft_pack_array(packer, 2);
    ft_pack_uint(packer, offset);
    ft_pack_bytes(packer, data, bytes);
}

static void pack_bulks(ft_packer *packer, const ft_turn_service *s)
{
    const ft_extent *next = s->into;

    ft_pack_array(packer, s->bulk_count);
    for (uint32_t b = 0; b < s->bulk_count; b++) {
        ft_pack_array(packer, 2);
        ft_pack_array(packer, s->bulks[b].places);
        for (uint32_t i = 0; i < s->bulks[b].places; i++, next++) {
            ft_pack_array(packer, 2);
            ft_pack_uint(packer, next->offset);
            ft_pack_uint(packer, next->bytes);
        }
        ft_pack_bytes(packer, s->bulks[b].data, (uint32_t)s->bulks[b].bytes);
    }
}

const void *ft_turn_input(ft_turn_service *s, const ft_turn_disk *disk, int placed, uint32_t *bytes)
{
    const ft_queue *q = &disk->queue;
    ft_packer packer = {s->packed, s->packed + PACKED_BYTES, 0};

    ft_pack_array(&packer, placed ? 2 : 1);
    if (placed) {
        ft_pack_array(&packer, 2);
        pack_text(&packer, "placed");
        ft_pack_bytes(&packer, s->into, (s->into_count + s->small_count) * (uint32_t)sizeof s->into[0]);
    }
    ft_pack_array(&packer, 5);
    pack_text(&packer, "device");
    ft_pack_raw(&packer, disk->name, disk->name_bytes);
    ft_pack_array(&packer, placed ? 0 : s->request_count + q->write_count);
    for (uint32_t r = 0; !placed && r < s->request_count; r++) {
        pack_write(&packer, s->requests[r].status_at, &status_ok, 1);
    }
    for (uint32_t i = 0; !placed && i < q->write_count; i++) {
        pack_write(&packer, q->writes[i].offset, q->writes[i].data, q->writes[i].bytes);
    }
    ft_pack_array(&packer, 1);
    ft_pack_array(&packer, 4);
    ft_pack_uint(&packer, q->index);
    ft_pack_uint(&packer, q->next_avail);
    ft_pack_uint(&packer, q->next_used);
    ft_pack_bool(&packer, q->interrupt);
    if (placed) {
        ft_pack_array(&packer, 0);
    } else {
        pack_bulks(&packer, s);
    }
    *bytes = (uint32_t)(packer.at - s->packed);
    return packer.full ? NULL : s->packed;
}

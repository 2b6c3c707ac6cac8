/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sync points: all modules are told the same, and are compared when they have reported. As long as they agree and nothing
 * happens but that the guest reads and writes blocks of a disk that the host's memory has or takes, one after the other
 * without the caller.
 */
#define _GNU_SOURCE /* preadv2 */
#include "ftvm.h"
#include "packed.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>

enum {
    MAX_MODULES = 8,
    MAX_WATCHED = 256, /* descriptors */
    MAX_CHAINS = 64,   /* of one sync point; more than that are the caller's to serve, as is more data */
    MAX_SPANS = 1024,
    MAX_RING_WRITES = 4,
    RING_BYTES = 8 * MAX_CHAINS + 16,
    DATA_BYTES = 1 << 20,
    PACKED_BYTES = DATA_BYTES + (64 << 10),
    MAX_WRITE_BYTES = 256 << 10, /* so that it is done in a moment */
    MAX_WRITTEN = 512,           /* places, until the caller has to know of them */
    PATIENCE_US = 1000,          /* with the host's page cache; then the caller does what takes longer */
    WATCH_NS = 1000 * 1000,
    SECTOR_BYTES = 512
};

/* virtio-blk (VIRTIO 1.2, 5.2.6) */
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

/* What all modules reported, in memory that no module can reach. */
typedef struct {
    ft_report head;
    unsigned char *payload;
    uint32_t capacity;
} agreed;

struct ft_turns {
    agreed reports[2];
    agreed *newest;   /* of the last judgement */
    agreed *verified; /* of the last sync point that was passed */
    ft_report heads[MAX_MODULES];
    struct pollfd watched[MAX_WATCHED];
    uint32_t watched_count;

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
    uint32_t
        small_count; /* behind those, each in one place: the status of each request, and what goes into the ring */
    unsigned char ring[RING_BYTES];
    ft_piece pieces[MAX_SPANS];
    uint32_t piece_count;
    void *rams[MAX_MODULES];
    ft_extent written[MAX_WRITTEN]; /* since the caller knows */
    uint32_t written_count;
    unsigned char *packed; /* the input that comes of it */
    uint32_t packed_bytes;
};

static const unsigned char status_ok = STATUS_OK;

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

ft_turns *ft_turns_open(void)
{
    ft_turns *t = calloc(1, sizeof *t);

    if (!t) {
        return NULL;
    }
    t->newest = &t->reports[0];
    t->verified = &t->reports[1];
    t->data = malloc(DATA_BYTES);
    t->spans = malloc(FT_QUEUE_MAX * sizeof *t->spans);
    t->packed = malloc(PACKED_BYTES);
    if (!t->data || !t->spans || !t->packed) {
        ft_turns_close(t);
        return NULL;
    }
    return t;
}

void ft_turns_close(ft_turns *t)
{
    free(t->reports[0].payload);
    free(t->reports[1].payload);
    free(t->data);
    free(t->spans);
    free(t->packed);
    free(t);
}

int ft_turns_watch(ft_turns *t, const int *fds, uint32_t count)
{
    if (count > MAX_WATCHED) {
        return -1;
    }
    for (uint32_t i = 0; i < count; i++) {
        t->watched[i] = (struct pollfd){.fd = fds[i], .events = POLLIN};
    }
    t->watched_count = count;
    return 0;
}

/* ---- Comparing ---- */

static uint32_t payload_bytes(const ft_report *head)
{
    return head->board_bytes + head->output_bytes + head->detail_bytes;
}

static int heads_are_equal(const ft_report *a, const ft_report *b)
{
    return a->stop == b->stop && a->instruction == b->instruction && a->position == b->position &&
           a->wake_ns == b->wake_ns && a->board_bytes == b->board_bytes &&
           a->output_bytes == b->output_bytes && a->detail_bytes == b->detail_bytes &&
           memcmp(&a->arch, &b->arch, sizeof a->arch) == 0;
}

static int make_room(agreed *report, uint32_t bytes)
{
    unsigned char *payload;

    if (bytes <= report->capacity) {
        return 0;
    }
    payload = realloc(report->payload, bytes);
    if (!payload) {
        return -1;
    }
    report->payload = payload;
    report->capacity = bytes;
    return 0;
}

/* What is compared is the copy, which is also what is believed: a faulty module may go on writing. */
static int agree(ft_turns *t, ft_turn_plan *plan)
{
    agreed *newest = t->newest;
    ft_report *heads = t->heads;
    uint32_t bytes, none;

    for (uint32_t m = 0; m < plan->count; m++) {
        if (ft_link_collect(plan->links[m], &heads[m]) != 0) {
            return 0;
        }
        plan->memories[m].count = heads[m].written_count;
    }
    bytes = payload_bytes(&heads[0]);
    if (make_room(newest, bytes) != 0) {
        return 0;
    }
    newest->head = heads[0];
    memcpy(newest->payload, ft_link_report_payload(plan->links[0]), bytes);
    for (uint32_t m = 1; m < plan->count; m++) {
        if (!heads_are_equal(&heads[0], &heads[m]) ||
            memcmp(newest->payload, ft_link_report_payload(plan->links[m]), bytes) != 0) {
            return 0;
        }
    }
    return ft_voter_compare(plan->voter, plan->memories, plan->count, NULL, 0, &none) == 0;
}

int ft_turns_judge(ft_turns *t, ft_turn_plan *plan)
{
    return agree(t, plan) ? FT_TURN_AGREED : FT_TURN_APART;
}

/* ---- Serving a disk, in verified memory ---- */

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

/* The driver has kicked this disk and nothing else has left the guest, and the chip is as it was, but for its progress. */
static int is_plain_kick(const ft_turns *t, const ft_turn_disk *disk)
{
    const ft_report *head = &t->newest->head;
    const unsigned char *board = t->newest->payload;
    const unsigned char *state;
    uint32_t bytes;

    if (head->output_bytes != disk->kick_bytes || head->detail_bytes || head->instruction ||
        memcmp(board + head->board_bytes, disk->kick, disk->kick_bytes) != 0) {
        return 0;
    }
    state = ft_packed_value(board, head->board_bytes, disk->name, disk->name_bytes, &bytes);
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

static int note_read(ft_turns *t, const ft_queue *q)
{
    ft_bulk *bulk = &t->bulks[t->bulk_count];
    ft_extent last = t->spans[q->readable + q->writable - 1];

    if (q->readable != 1 || q->writable < 2 || q->writable > MAX_SPANS - t->into_count) {
        return 0;
    }
    *bulk = (ft_bulk){.places = q->writable - (last.bytes == 1)};
    for (uint32_t i = 0; i < bulk->places; i++) {
        bulk->bytes += t->spans[1 + i].bytes;
        t->into[t->into_count++] = t->spans[1 + i];
    }
    if (last.bytes > 1) { /* the last byte is the status */
        bulk->bytes--;
        t->into[t->into_count - 1].bytes--;
    }
    t->bulk_count++;
    return 1;
}

static int note_write(ft_turns *t, const ft_queue *q, request *r)
{
    if (q->writable != 1 || t->spans[q->readable].bytes != 1 ||
        q->readable - 1 > MAX_SPANS - t->piece_count) {
        return 0;
    }
    r->first = t->piece_count;
    for (uint32_t i = 1; i < q->readable; i++) {
        r->bytes += t->spans[i].bytes;
        t->pieces[t->piece_count++] =
            (ft_piece){(const unsigned char *)q->ram + t->spans[i].offset, t->spans[i].bytes};
    }
    r->count = t->piece_count - r->first;
    return 1;
}

/* The chain that was just taken. 0: what it asks for is nothing for us. */
static int note(ft_turns *t, const ft_turn_disk *disk, const ft_queue *q)
{
    request_header header;
    request *r = &t->requests[t->request_count];
    ft_extent last = t->spans[q->readable + q->writable - 1];

    if (q->readable == 0 || t->spans[0].bytes != sizeof header || q->writable == 0) {
        return 0;
    }
    memcpy(&header, (const unsigned char *)q->ram + t->spans[0].offset, sizeof header);
    *r = (request){.status_at = last.offset + last.bytes - 1, .writes = header.kind == REQUEST_OUT};
    if (header.kind == REQUEST_IN && note_read(t, q)) {
        r->bytes = t->bulks[t->bulk_count - 1].bytes;
    } else if (header.kind != REQUEST_OUT || !disk->legs || !note_write(t, q, r)) {
        return 0;
    }
    if (t->data_bytes + r->bytes > DATA_BYTES || r->bytes == 0 || r->bytes % SECTOR_BYTES ||
        r->bytes > disk->room_bytes - t->data_bytes || r->bytes > disk->size_bytes ||
        header.sector > (disk->size_bytes - r->bytes) / SECTOR_BYTES) {
        return 0;
    }
    r->offset = header.sector * SECTOR_BYTES;
    if (r->writes && (r->bytes > MAX_WRITE_BYTES || !is_marked(disk, r->offset, r->bytes))) {
        return 0;
    }
    t->data_bytes += r->bytes;
    t->used[t->request_count++] = (ft_used){q->head, r->writes ? 1 : (uint32_t)r->bytes + 1};
    return 1;
}

/* In their order. 0: one has failed, or takes longer: the caller does them all once more. */
static int do_requests(ft_turns *t, const ft_turn_disk *disk)
{
    unsigned char *data = t->data;
    ft_bulk *bulk = t->bulks;
    ft_leg_write *late;

    for (uint32_t i = 0; i < t->request_count; i++) {
        const request *r = &t->requests[i];
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
        t->written[t->written_count++] = (ft_extent){r->offset, r->bytes};
        done = ft_legs_write(disk->legs, r->offset, t->pieces + r->first, r->count, PATIENCE_US, &late);
        if (done == 0) {
            ft_leg_write_close(late);
        }
        if (done != 1) {
            return 0;
        }
    }
    return 1;
}

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

static void pack_bulks(ft_packer *packer, const ft_turns *t)
{
    const ft_extent *next = t->into;

    ft_pack_array(packer, t->bulk_count);
    for (uint32_t b = 0; b < t->bulk_count; b++) {
        ft_pack_array(packer, 2);
        ft_pack_array(packer, t->bulks[b].places);
        for (uint32_t i = 0; i < t->bulks[b].places; i++, next++) {
            ft_pack_array(packer, 2);
            ft_pack_uint(packer, next->offset);
            ft_pack_uint(packer, next->bytes);
        }
        ft_pack_bytes(packer, t->bulks[b].data, (uint32_t)t->bulks[b].bytes);
    }
}

/* A list of one DeviceIn, as ftvm/module/events.py has it. `placed`: as ftvm/monitor/delivery.py has it. 0: there is no room. */
static int pack(ft_turns *t, const ft_turn_disk *disk, int placed)
{
    const ft_queue *q = &disk->queue;
    ft_packer packer = {t->packed, t->packed + PACKED_BYTES, 0};

    ft_pack_array(&packer, placed ? 2 : 1);
    if (placed) {
        ft_pack_array(&packer, 2);
        pack_text(&packer, "placed");
        ft_pack_bytes(&packer, t->into, (t->into_count + t->small_count) * (uint32_t)sizeof t->into[0]);
    }
    ft_pack_array(&packer, 5);
    pack_text(&packer, "device");
    ft_pack_raw(&packer, disk->name, disk->name_bytes);
    ft_pack_array(&packer, placed ? 0 : t->request_count + q->write_count);
    for (uint32_t r = 0; !placed && r < t->request_count; r++) {
        pack_write(&packer, t->requests[r].status_at, &status_ok, 1);
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
        pack_bulks(&packer, t);
    }
    t->packed_bytes = (uint32_t)(packer.at - t->packed);
    return !packer.full;
}

static void append_small(ft_turns *t, uint64_t offset, const void *data, uint32_t bytes)
{
    t->bulks[t->bulk_count + t->small_count] = (ft_bulk){data, bytes, 1};
    t->into[t->into_count + t->small_count++] = (ft_extent){offset, bytes};
}

static void list_small(ft_turns *t, const ft_queue *q)
{
    unsigned char *ring = t->ring;

    t->small_count = 0;
    for (uint32_t r = 0; r < t->request_count; r++) {
        append_small(t, t->requests[r].status_at, &status_ok, 1);
    }
    for (uint32_t i = 0; i < q->write_count; i++) { /* a copy: it must stay as it is until the commit */
        memcpy(ring, q->writes[i].data, q->writes[i].bytes);
        append_small(t, q->writes[i].offset, ring, q->writes[i].bytes);
        ring += q->writes[i].bytes;
    }
}

/* Do all that the driver has made available, or nothing: then what is left of `disk` is of no use. */
static int serve(ft_turns *t, const ft_turn_plan *plan, ft_turn_disk *disk)
{
    ft_queue *q = &disk->queue;
    int waiting = ft_queue_waiting(q);

    if (waiting <= 0 || waiting > MAX_CHAINS || waiting > (int)(MAX_WRITTEN - t->written_count)) {
        return 0;
    }
    t->request_count = t->bulk_count = t->into_count = t->piece_count = 0;
    t->data_bytes = 0;
    for (int i = 0; i < waiting; i++) {
        if (ft_queue_take(q, t->spans) != 0 || !note(t, disk, q)) {
            return 0;
        }
    }
    if (!do_requests(t, disk)) {
        return 0;
    }
    ft_queue_complete(q, t->used, t->request_count, 1);
    list_small(t, q);
    return pack(t, disk, 1) &&
           ft_voter_place(plan->voter, t->rams, plan->count, t->bulks, t->bulk_count + t->small_count,
                          t->into, t->into_count + t->small_count) == 0;
}

/* ---- Going on ---- */

/* Somebody else wants the caller, or it is its turn. */
static int is_wanted(ft_turns *t, const ft_turn_plan *plan, uint64_t *looked_ns)
{
    if (plan->ended_ns >= plan->until_ns) {
        return 1;
    }
    if (plan->ended_ns - *looked_ns < WATCH_NS) {
        return 0;
    }
    *looked_ns = plan->ended_ns;
    return poll(t->watched, t->watched_count, 0) != 0;
}

/* If it is time for that. The caller looks at the same pages then, and does what is to be done. */
static int scrub_finds(ft_turn_plan *plan)
{
    uint32_t next = (plan->scrub_first + plan->scrub_pages) % plan->ram_pages, none;

    if (--plan->scrub_in) {
        return 0;
    }
    plan->scrub_in = plan->scrub_every;
    if (ft_voter_scrub(plan->voter, plan->memories, plan->count, next, plan->scrub_pages, NULL, 0, &none) !=
        0) {
        return 1;
    }
    plan->scrub_first = next;
    return 0;
}

/* The newest sync point is one that can be passed: make it verified, and serve the disk. */
static int pass(ft_turns *t, ft_turn_plan *plan, uint64_t *looked_ns)
{
    const ft_report *head = &t->newest->head;
    agreed *before = t->verified;

    if (!plan->disk || head->stop != plan->stop || head->position <= plan->position ||
        head->position >= plan->target || !is_plain_kick(t, plan->disk) || is_wanted(t, plan, looked_ns)) {
        return 0;
    }
    ft_voter_commit(plan->voter);
    plan->in_image = 1;
    if (scrub_finds(plan) || !serve(t, plan, plan->disk)) {
        return 0;
    }
    t->verified = t->newest;
    t->newest = before;
    plan->position = head->position;
    plan->target = head->position + plan->blocks;
    plan->passed++;
    plan->in_image = 0;
    return 1;
}

static void post(ft_turn_plan *plan, const void *payload, uint32_t payload_bytes)
{
    const ft_command command = {plan->kind, payload_bytes, plan->target};

    for (uint32_t m = 0; m < plan->count; m++) {
        if (ft_link_post(plan->links[m], &command, payload) != 0) {
            plan->refused |= 1u << m;
        }
    }
}

/* As long as the caller does not have to look what keeps somebody from reporting. */
static int await(ft_turns *t, const ft_turn_plan *plan)
{
    while (!ft_link_await_reports(plan->links, plan->count, plan->spin_us, plan->sleep_us)) {
        if (!plan->disk || now_ns() >= plan->until_ns || poll(t->watched, t->watched_count, 0) != 0) {
            return 0;
        }
    }
    return 1;
}

int ft_turns_run(ft_turns *t, ft_turn_plan *plan, const void *payload, uint32_t payload_bytes)
{
    uint64_t looked_ns;

    plan->passed = plan->refused = plan->in_image = 0;
    plan->longest_pause_ns = plan->longest_epoch_ns = 0;
    t->written_count = 0;
    looked_ns = plan->first_ns = plan->began_ns = now_ns();
    for (uint32_t m = 0; m < plan->count; m++) {
        t->rams[m] = (void *)plan->memories[m].ram;
    }
    for (;;) {
        post(plan, payload, payload_bytes);
        if (plan->refused || !await(t, plan)) {
            return FT_TURN_SILENT;
        }
        plan->ended_ns = now_ns();
        if (plan->ended_ns - plan->began_ns > plan->longest_epoch_ns) {
            plan->longest_epoch_ns = plan->ended_ns - plan->began_ns;
        }
        if (!agree(t, plan)) {
            return FT_TURN_APART;
        }
        if (!pass(t, plan, &looked_ns)) {
            return FT_TURN_AGREED;
        }
        payload = t->packed;
        payload_bytes = t->packed_bytes;
        plan->began_ns = now_ns();
        if (plan->began_ns - plan->ended_ns > plan->longest_pause_ns) {
            plan->longest_pause_ns = plan->began_ns - plan->ended_ns;
        }
    }
}

const ft_report *ft_turns_report(const ft_turns *t, int verified, const void **payload)
{
    const agreed *report = verified ? t->verified : t->newest;

    *payload = report->payload;
    return &report->head;
}

const void *ft_turns_inputs(ft_turns *t, const ft_turn_disk *disk, uint32_t *bytes)
{
    *bytes = pack(t, disk, 0) ? t->packed_bytes : 0;
    return t->packed;
}

const ft_extent *ft_turns_written(const ft_turns *t, uint32_t *count)
{
    *count = t->written_count;
    return t->written;
}

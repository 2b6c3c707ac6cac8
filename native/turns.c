/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sync points: all modules are told the same, and are compared when they have reported. As long as they agree and nothing
 * happens but that the guest reads and writes blocks of a disk that the host's memory has or takes, one after the other
 * without the caller.
 */
#include "ftvm.h"
#include "turn_disk.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    MAX_MODULES = 8,
    MAX_WATCHED = 256, /* descriptors */
    WATCH_NS = 1000 * 1000
};

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

    void *rams[MAX_MODULES];
    ft_turn_service *service;
};

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
    t->service = ft_turn_service_open();
    if (!t->service) {
        free(t);
        return NULL;
    }
    return t;
}

void ft_turns_close(ft_turns *t)
{
    free(t->reports[0].payload);
    free(t->reports[1].payload);
    ft_turn_service_close(t->service);
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

/* The newest sync point is one that can be passed: make it verified, and serve the disk. What enters is in `payload`. */
static int pass(ft_turns *t, ft_turn_plan *plan, uint64_t *looked_ns, const void **payload,
                uint32_t *payload_bytes)
{
    const ft_report *head = &t->newest->head;
    agreed *before = t->verified;

    if (!plan->disk || head->stop != plan->stop || head->position <= plan->position ||
        head->position >= plan->target || !ft_turn_is_kick(plan->disk, head, t->newest->payload) ||
        is_wanted(t, plan, looked_ns)) {
        return 0;
    }
    ft_voter_commit(plan->voter);
    plan->in_image = 1;
    if (scrub_finds(plan) || !ft_turn_serve(t->service, plan->disk)) {
        return 0;
    }
    *payload = ft_turn_input(t->service, plan->disk, 1, payload_bytes);
    if (!*payload || ft_turn_place(t->service, plan->voter, t->rams, plan->count) != 0) {
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

/* Whoever is woken on this core takes it at once: the others first. */
static void post(ft_turn_plan *plan, const void *payload, uint32_t payload_bytes)
{
    const ft_command command = {plan->kind, payload_bytes, plan->target};
    uint32_t here = 0;

    ft_link_spread(plan->links, plan->count);
    for (uint32_t m = 0; m < plan->count; m++) {
        here |= (uint32_t)ft_link_is_here(plan->links[m]) << m;
    }
    for (uint32_t local = 0; local < 2; local++) {
        for (uint32_t m = 0; m < plan->count; m++) {
            if ((here >> m & 1) == local && ft_link_post(plan->links[m], &command, payload) != 0) {
                plan->refused |= 1u << m;
            }
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
    ft_turn_service_begin(t->service);
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
        if (!pass(t, plan, &looked_ns, &payload, &payload_bytes)) {
            return FT_TURN_AGREED;
        }
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
    return ft_turn_input(t->service, disk, 0, bytes);
}

const ft_extent *ft_turns_written(const ft_turns *t, uint32_t *count)
{
    return ft_turn_written(t->service, count);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Queues of legs under load, for sanitizers: writes, actions, late ones, and queues that are abandoned meanwhile. */
#include "ftvm.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { LEGS = 3, LIVES = 20, ROUNDS = 200, BLOCK = 512, BLOCKS = 16 };

typedef struct {
    ft_leg_queue *queue;
    pthread_t thread;
    atomic_uint actions;
} leg;

static void *serve(void *argument)
{
    leg *leg = argument;

    while (ft_leg_queue_run(leg->queue)) {
        atomic_fetch_add(&leg->actions, 1);
    }
    return NULL;
}

static int ended(ft_leg_write *write, int event_fd)
{
    for (uint32_t i = 0; i < LEGS; i++) {
        uint64_t done_bytes, rings;
        int outcome;

        while ((outcome = ft_leg_write_outcome(write, i, &done_bytes)) == FT_LEG_RUNNING) {
            if (read(event_fd, &rings, sizeof rings) != sizeof rings) {
                return -1;
            }
        }
        if (outcome != 0 || done_bytes != 2 * BLOCK) {
            return -1;
        }
    }
    ft_leg_write_close(write);
    return 0;
}

/* Both halves of a block hold its number, on every leg. */
static int all_have(const ft_legs *legs, uint64_t offset, unsigned char number)
{
    unsigned char found[2 * BLOCK], expected[2 * BLOCK];

    memset(expected, number, sizeof expected);
    for (uint32_t i = 0; i < LEGS; i++) {
        if (pread(legs->fds[i], found, sizeof found, (off_t)offset) != sizeof found ||
            memcmp(found, expected, sizeof found) != 0) {
            return 0;
        }
    }
    return 1;
}

static int one_write(const ft_legs *legs, int round)
{
    unsigned char data[BLOCK];
    const ft_piece pieces[2] = {{data, BLOCK}, {data, BLOCK}};
    uint64_t offset = (uint64_t)(rand() % BLOCKS) * 2 * BLOCK;
    ft_leg_write *write;
    int done;

    memset(data, round & 0xFF, sizeof data);
    done = ft_legs_write(legs, offset, pieces, 2, round % 3 ? 1000000 : 0, &write);
    memset(data, 0xEE, sizeof data);
    if (done < 0 || (done == 0 && ended(write, legs->event_fd) != 0)) {
        return -1;
    }
    return all_have(legs, offset, (unsigned char)round) ? 0 : -1;
}

static int one_life(ft_legs *legs)
{
    static const unsigned char data[BLOCK];
    const ft_piece piece = {data, BLOCK};
    leg all[LEGS];
    int failed = 0;

    for (int i = 0; i < LEGS; i++) {
        atomic_init(&all[i].actions, 0);
        all[i].queue = legs->queues[i] = ft_leg_queue_open();
        if (!all[i].queue || pthread_create(&all[i].thread, NULL, serve, &all[i]) != 0) {
            return -1;
        }
    }
    for (int round = 0; !failed && round < ROUNDS; round++) {
        failed = ft_leg_queue_post(legs->queues[round % LEGS]) != 0 || one_write(legs, round) != 0;
    }
    /* Nobody waits for these, and some are never begun. */
    for (int i = 0; !failed && i < 10; i++) {
        ft_leg_write *write = NULL;

        failed = ft_leg_queue_post(legs->queues[0]) != 0 || ft_legs_write(legs, 0, &piece, 1, 0, &write) < 0;
        if (!failed && write) {
            ft_leg_write_close(write);
        }
    }
    for (int i = 0; i < LEGS; i++) {
        ft_leg_queue_abandon(all[i].queue);
    }
    failed = failed || ft_leg_queue_post(legs->queues[0]) != 0;
    for (int i = 0; i < LEGS; i++) {
        pthread_join(all[i].thread, NULL);
        /* All those before a write that was waited for were done. */
        failed = failed || atomic_load(&all[i].actions) < ROUNDS / LEGS;
        ft_leg_queue_close(all[i].queue);
    }
    return failed ? -1 : 0;
}

int main(void)
{
    ft_legs legs = {.count = LEGS, .event_fd = eventfd(0, 0)};

    for (int i = 0; i < LEGS; i++) {
        FILE *file = tmpfile();

        if (!file || ftruncate(fileno(file), BLOCKS * 2 * BLOCK) != 0) {
            return 1;
        }
        legs.fds[i] = fileno(file);
    }
    for (int life = 0; life < LIVES; life++) {
        if (one_life(&legs) != 0) {
            printf("life %d failed\n", life);
            return 1;
        }
    }
    puts("SUCCESS");
    return 0;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The queue of one leg's thread, and writes that go to all legs of a disk without the interpreter. */
#include "ftvm.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* One thing to do: a leg's part of a write or, where `write` is NULL, an action of the owner's. */
typedef struct job {
    struct job *next;
    ft_leg_write *write;
    int fd;
    int outcome;         /* under write->lock, as ft_leg_write_outcome() has it */
    uint64_t done_bytes; /* under write->lock */
} job;

struct ft_leg_queue {
    pthread_mutex_t lock;
    pthread_cond_t news;
    job *first; /* these three under lock */
    job **end;
    int abandoned;
};

/* Lives until every leg has ended its part, however late that is, and whoever began it has let go. */
struct ft_leg_write {
    uint64_t offset;
    uint64_t size;
    uint32_t count;
    int event_fd;
    atomic_uint holders;
    pthread_mutex_t lock;
    pthread_cond_t ended;
    uint32_t running; /* these two under lock */
    int late;         /* nobody waits for it any more: ring */
    job jobs[FT_LEGS_MAX];
    unsigned char data[];
};

/* ---- One write ---- */

static void let_go(ft_leg_write *write)
{
    if (atomic_fetch_sub(&write->holders, 1) == 1) {
        pthread_cond_destroy(&write->ended);
        pthread_mutex_destroy(&write->lock);
        free(write);
    }
}

static int open_locks(ft_leg_write *write)
{
    pthread_condattr_t monotonic;
    int failed;

    if (pthread_condattr_init(&monotonic) != 0) {
        return -1;
    }
    failed = pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC) != 0 ||
             pthread_cond_init(&write->ended, &monotonic) != 0;
    pthread_condattr_destroy(&monotonic);
    if (failed) {
        return -1;
    }
    if (pthread_mutex_init(&write->lock, NULL) != 0) {
        pthread_cond_destroy(&write->ended);
        return -1;
    }
    return 0;
}

static ft_leg_write *new_write(uint64_t offset, const ft_piece *pieces, uint32_t piece_count)
{
    ft_leg_write *write;
    uint64_t size = 0;

    for (uint32_t i = 0; i < piece_count; i++) {
        size += pieces[i].bytes;
    }
    write = malloc(sizeof *write + size);
    if (!write) {
        return NULL;
    }
    if (open_locks(write) != 0) {
        free(write);
        return NULL;
    }
    write->offset = offset;
    write->size = 0;
    for (uint32_t i = 0; i < piece_count; i++) {
        memcpy(write->data + write->size, pieces[i].data, pieces[i].bytes);
        write->size += pieces[i].bytes;
    }
    return write;
}

static void ring(int event_fd)
{
    const uint64_t one = 1;
    ssize_t n;

    do {
        n = write(event_fd, &one, sizeof one);
    } while (n < 0 && errno == EINTR);
    /* EAGAIN: whoever is to look was told more than once. Nothing else can be wrong with an event descriptor. */
}

static void end_job(job *job, int outcome, uint64_t done_bytes)
{
    ft_leg_write *write = job->write;
    int late, last;

    pthread_mutex_lock(&write->lock);
    job->outcome = outcome;
    job->done_bytes = done_bytes;
    late = write->late;
    last = --write->running == 0;
    pthread_mutex_unlock(&write->lock);
    if (late) {
        ring(write->event_fd);
    } else if (last) {
        pthread_cond_signal(&write->ended);
    }
    let_go(write);
}

static void do_write(job *job)
{
    const ft_leg_write *write = job->write;
    uint64_t done = 0;
    int outcome = 0;

    while (done < write->size && outcome == 0) {
        ssize_t n = pwrite(job->fd, write->data + done, write->size - done, (off_t)(write->offset + done));

        if (n > 0) {
            done += (uint64_t)n;
        } else if (n == 0) {
            outcome = FT_LEG_SHORT;
        } else if (errno != EINTR) {
            outcome = errno;
        }
    }
    end_job(job, outcome, done);
}

/* ---- Queues ---- */

ft_leg_queue *ft_leg_queue_open(void)
{
    ft_leg_queue *queue = calloc(1, sizeof *queue);

    if (!queue) {
        return NULL;
    }
    queue->end = &queue->first;
    if (pthread_mutex_init(&queue->lock, NULL) != 0) {
        free(queue);
        return NULL;
    }
    if (pthread_cond_init(&queue->news, NULL) != 0) {
        pthread_mutex_destroy(&queue->lock);
        free(queue);
        return NULL;
    }
    return queue;
}

void ft_leg_queue_close(ft_leg_queue *queue)
{
    ft_leg_queue_abandon(queue);
    pthread_cond_destroy(&queue->news);
    pthread_mutex_destroy(&queue->lock);
    free(queue);
}

static void drop(job *job)
{
    if (job->write) {
        end_job(job, ECANCELED, 0);
    } else {
        free(job);
    }
}

static void post(ft_leg_queue *queue, job *job)
{
    int abandoned;

    pthread_mutex_lock(&queue->lock);
    abandoned = queue->abandoned;
    if (!abandoned) {
        *queue->end = job;
        queue->end = &job->next;
    }
    pthread_mutex_unlock(&queue->lock);
    if (abandoned) {
        drop(job);
    } else {
        pthread_cond_signal(&queue->news);
    }
}

int ft_leg_queue_post(ft_leg_queue *queue)
{
    job *action = calloc(1, sizeof *action);

    if (!action) {
        return -1;
    }
    post(queue, action);
    return 0;
}

void ft_leg_queue_abandon(ft_leg_queue *queue)
{
    job *job;

    pthread_mutex_lock(&queue->lock);
    queue->abandoned = 1;
    job = queue->first;
    queue->first = NULL;
    queue->end = &queue->first;
    pthread_cond_signal(&queue->news);
    pthread_mutex_unlock(&queue->lock);
    while (job) {
        struct job *next = job->next;

        drop(job);
        job = next;
    }
}

/* The next job, or NULL when there will be none. */
static job *take(ft_leg_queue *queue)
{
    job *job;

    pthread_mutex_lock(&queue->lock);
    while (!queue->first && !queue->abandoned) {
        pthread_cond_wait(&queue->news, &queue->lock);
    }
    job = queue->first;
    if (job) {
        queue->first = job->next;
        if (!queue->first) {
            queue->end = &queue->first;
        }
    }
    pthread_mutex_unlock(&queue->lock);
    return job;
}

int ft_leg_queue_run(ft_leg_queue *queue)
{
    job *job;
    int due;

    while ((job = take(queue)) && job->write) {
        do_write(job);
    }
    due = job != NULL;
    free(job); /* nobody needs more of an action than that it is due */
    return due;
}

/* ---- Writes to all legs ---- */

/* Whether all legs have written all of it, after at most `patience_us`. */
static int await(ft_leg_write *write, uint32_t patience_us)
{
    struct timespec until;
    int timed_out = 0, done;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)(patience_us % 1000000) * 1000;
    until.tv_sec += patience_us / 1000000 + until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&write->lock);
    while (write->running && !timed_out) {
        timed_out = pthread_cond_timedwait(&write->ended, &write->lock, &until) != 0;
    }
    write->late = write->running != 0;
    done = !write->late;
    for (uint32_t i = 0; i < write->count; i++) {
        done = done && write->jobs[i].outcome == 0;
    }
    pthread_mutex_unlock(&write->lock);
    return done;
}

int ft_legs_write(const ft_legs *legs, uint64_t offset, const ft_piece *pieces, uint32_t piece_count,
                  uint32_t patience_us, ft_leg_write **late)
{
    ft_leg_write *write = new_write(offset, pieces, piece_count);

    if (!write) {
        return -1;
    }
    write->count = write->running = legs->count;
    atomic_init(&write->holders, legs->count + 1);
    write->late = 0;
    write->event_fd = legs->event_fd;
    for (uint32_t i = 0; i < legs->count; i++) {
        write->jobs[i] = (job){.write = write, .fd = legs->fds[i], .outcome = FT_LEG_RUNNING};
        post(legs->queues[i], &write->jobs[i]);
    }
    if (await(write, patience_us)) {
        let_go(write);
        return 1;
    }
    *late = write;
    return 0;
}

int ft_leg_write_outcome(ft_leg_write *write, uint32_t leg, uint64_t *done_bytes)
{
    int outcome;

    pthread_mutex_lock(&write->lock);
    outcome = write->jobs[leg].outcome;
    *done_bytes = write->jobs[leg].done_bytes;
    pthread_mutex_unlock(&write->lock);
    return outcome;
}

void ft_leg_write_close(ft_leg_write *write)
{
    let_go(write);
}

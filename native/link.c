/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The mailbox between the monitor and one module, and the doorbells beside it. */
#define _GNU_SOURCE /* ppoll, sched_getcpu, syscall */
#include "ftvm.h"

#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
    PAGE_BYTES = 4096,
    CACHE_LINE = 64,
    LOOKS_PER_CLOCK = 16,
    SHORT_TURN_NS = 100 * 1000, /* the least that Linux takes */
    HOLD_NS = 100 * 1000 * 1000,
    /* Memory that is never written takes none. */
    COMMAND_PAYLOAD_BYTES = 4 << 20,
    REPORT_PAYLOAD_BYTES = 16 << 20,
    BOARD_BYTES = COMMAND_PAYLOAD_BYTES - (64 << 10) /* with the rest of a snapshot it fits into a command */
};

/* What one side writes. A cache line has one writer, so that a spinning reader disturbs only when there is news. */
typedef struct {
    alignas(CACHE_LINE) atomic_uint told; /* commands posted, or reports published, so far */
    atomic_uint sleeps;
    atomic_uint core; /* where it was when it told or saw the newest */
} side;

/* Shared. */
typedef struct {
    side monitor;
    side module;
    alignas(CACHE_LINE) ft_command command;
    alignas(CACHE_LINE) ft_report report;
    uint32_t written_count;
    alignas(PAGE_BYTES) unsigned char command_payload[COMMAND_PAYLOAD_BYTES];
    unsigned char report_payload[REPORT_PAYLOAD_BYTES];
    uint32_t written_pages[];
} mailbox;

struct ft_link {
    mailbox *box;
    uint32_t ram_pages;
    uint32_t turn; /* commands posted or taken by this side */
    int command_doorbell;
    int report_doorbell;
    int process;      /* the module's; 0: not known */
    uint64_t held_ns; /* since then it may run on one core only; 0: it may run on any */
};

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int ring(int doorbell)
{
    const uint64_t one = 1;
    ssize_t n;

    do {
        n = write(doorbell, &one, sizeof one);
    } while (n < 0 && errno == EINTR);
    /* EAGAIN: the counter is full, so the sleeper has been told more than once. */
    return n == (ssize_t)sizeof one || errno == EAGAIN ? 0 : -1;
}

static void tell_core(side *self)
{
    atomic_store_explicit(&self->core, (uint32_t)sched_getcpu(), memory_order_relaxed);
}

/*
 * To look for news from there keeps them from coming. It happens: Linux puts a process that is woken on the core of its
 * waker when the others are idle for so long that a hypervisor has taken them away.
 */
static bool is_here(side *other)
{
    return atomic_load_explicit(&other->core, memory_order_relaxed) == (uint32_t)sched_getcpu();
}

/*
 * A sequence counter is announced by its writer and awaited by its reader. Writer: counter, then flag.
 * Reader: flag, then counter. All are sequentially consistent, so one of the two always sees the other: no
 * wake-up is lost.
 */
static int announce(side *self, side *other, uint32_t value, int doorbell)
{
    tell_core(self);
    atomic_store(&self->told, value);
    return atomic_load(&other->sleeps) ? ring(doorbell) : 0;
}

static bool has_told(side *other, uint32_t value)
{
    return atomic_load_explicit(&other->told, memory_order_acquire) == value;
}

static int arrived(side *self, side *other, uint32_t value, uint32_t spins)
{
    for (uint32_t i = 0; i < spins && !has_told(other, value); i++) {
        if (i % LOOKS_PER_CLOCK == 0 && is_here(other)) {
            break;
        }
        relax();
    }
    atomic_store(&self->sleeps, 1);
    if (atomic_load(&other->told) != value) {
        return 0;
    }
    atomic_store_explicit(&self->sleeps, 0, memory_order_relaxed);
    tell_core(self);
    return 1;
}

uint64_t ft_link_mailbox_bytes(uint64_t ram_bytes)
{
    uint64_t bytes = sizeof(mailbox) + ram_bytes / PAGE_BYTES * sizeof(uint32_t);

    return (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
}

ft_link *ft_link_open(void *memory, uint64_t ram_bytes, int command_doorbell, int report_doorbell)
{
    ft_link *link = calloc(1, sizeof *link);

    if (!link) {
        return NULL;
    }
    link->box = memory;
    link->ram_pages = (uint32_t)(ram_bytes / PAGE_BYTES);
    link->command_doorbell = command_doorbell;
    link->report_doorbell = report_doorbell;
    return link;
}

void ft_link_close(ft_link *link)
{
    free(link);
}

uint64_t ft_link_command_capacity(void)
{
    return COMMAND_PAYLOAD_BYTES;
}

uint64_t ft_link_board_capacity(void)
{
    return BOARD_BYTES;
}

uint64_t ft_link_report_capacity(void)
{
    return REPORT_PAYLOAD_BYTES;
}

int ft_link_post(ft_link *link, const ft_command *command, const void *payload)
{
    mailbox *box = link->box;

    if (command->payload_bytes > COMMAND_PAYLOAD_BYTES) {
        return -1;
    }
    if (command->payload_bytes) {
        memcpy(box->command_payload, payload, command->payload_bytes);
    }
    box->command = *command;
    return announce(&box->monitor, &box->module, ++link->turn, link->command_doorbell);
}

int ft_link_reported(ft_link *link, uint32_t spins)
{
    return arrived(&link->box->monitor, &link->box->module, link->turn, spins);
}

int ft_link_collect(ft_link *link, ft_report *report)
{
    uint64_t payload_bytes;

    *report = link->box->report;
    report->written_count = link->box->written_count;
    /* What is checked is the copy: a faulty module may go on writing. */
    atomic_signal_fence(memory_order_seq_cst);
    payload_bytes = (uint64_t)report->board_bytes + report->output_bytes + report->detail_bytes;
    return report->board_bytes <= BOARD_BYTES && payload_bytes <= REPORT_PAYLOAD_BYTES &&
                   report->written_count <= link->ram_pages
               ? 0
               : -1;
}

void ft_link_set_process(ft_link *link, int process)
{
    link->process = process;
}

/* The last of them that has not reported, `count` if all have. */
static uint32_t last_missing(ft_link *const *links, uint32_t count)
{
    for (uint32_t i = count; i-- > 0;) {
        if (!has_told(&links[i]->box->module, links[i]->turn)) {
            return i;
        }
    }
    return count;
}

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint32_t core_of(const ft_link *link)
{
    return atomic_load_explicit(&link->box->module.core, memory_order_relaxed);
}

int ft_link_is_here(ft_link *link)
{
    return is_here(&link->box->module);
}

/* Whether one of those before it was last seen on the same core. */
static bool shares_core(ft_link *const *links, uint32_t index)
{
    for (uint32_t i = 0; i < index; i++) {
        if (core_of(links[i]) == core_of(links[index])) {
            return true;
        }
    }
    return false;
}

/* A refusal is of no consequence, and neither is a process that has ended. */
static void let_run_on(ft_link *link, const cpu_set_t *cores, uint64_t held_ns)
{
    (void)sched_setaffinity(link->process, sizeof *cores, cores);
    link->held_ns = held_ns;
}

static void put_on_free_core(ft_link *const *links, uint32_t count, uint32_t index, const cpu_set_t *ours)
{
    cpu_set_t left = *ours, one;

    for (uint32_t i = 0; i < count; i++) {
        if (i != index && core_of(links[i]) < CPU_SETSIZE) {
            CPU_CLR(core_of(links[i]), &left);
        }
    }
    CPU_ZERO(&one);
    for (uint32_t core = 0; core < CPU_SETSIZE; core++) {
        if (CPU_ISSET(core, &left)) {
            CPU_SET(core, &one);
            let_run_on(links[index], &one, now_ns());
            return;
        }
    }
}

void ft_link_spread(ft_link *const *links, uint32_t count)
{
    uint64_t here_ns = 0;
    cpu_set_t ours;

    for (uint32_t i = 0; i < count; i++) {
        ft_link *link = links[i];

        if (!link->process || (!link->held_ns && !shares_core(links, i))) {
            continue;
        }
        if (!here_ns) {
            here_ns = now_ns();
            if (sched_getaffinity(0, sizeof ours, &ours) != 0) {
                return;
            }
        }
        if (link->held_ns && here_ns - link->held_ns > HOLD_NS) {
            let_run_on(link, &ours, 0);
        } else if (!link->held_ns) {
            put_on_free_core(links, count, i, &ours);
        }
    }
}

int ft_link_await_reports(ft_link *const *links, uint32_t count, uint32_t spin_us, uint32_t sleep_us)
{
    const uint64_t began_ns = now_ns();
    const uint64_t end_ns = began_ns + 1000u * (uint64_t)sleep_us;
    uint32_t missing;

    while ((missing = last_missing(links, count)) != count && !is_here(&links[missing]->box->module) &&
           now_ns() < began_ns + 1000u * (uint64_t)spin_us) {
        for (int i = 0; i < LOOKS_PER_CLOCK; i++) {
            relax();
        }
    }
    /* One by one: whoever is done before the one that is waited for wakes nobody. */
    while (missing != count) {
        ft_link *link = links[missing];
        struct pollfd doorbell = {.fd = link->report_doorbell, .events = POLLIN};
        uint64_t rings, here_ns;
        struct timespec left;

        if (!arrived(&link->box->monitor, &link->box->module, link->turn, 0)) {
            here_ns = now_ns();
            if (here_ns >= end_ns) {
                break;
            }
            left = (struct timespec){.tv_nsec = (long)(end_ns - here_ns)};
            if (ppoll(&doorbell, 1, &left, NULL) < 0) {
                break;
            }
            if (doorbell.revents && read(link->report_doorbell, &rings, sizeof rings) < 0 &&
                errno != EAGAIN) {
                break;
            }
        }
        missing = last_missing(links, count);
    }
    if (missing == count) {
        for (uint32_t i = 0; i < count; i++) {
            /* Or it would be told of the next report, too, which it may see. */
            atomic_store_explicit(&links[i]->box->monitor.sleeps, 0, memory_order_relaxed);
            tell_core(&links[i]->box->monitor);
        }
    }
    return missing == count;
}

const void *ft_link_report_payload(ft_link *link)
{
    return link->box->report_payload;
}

int ft_link_await_command(ft_link *link, uint32_t spins, int lifeline, ft_command *command)
{
    mailbox *box = link->box;
    struct pollfd wait[2] = {{.fd = link->command_doorbell, .events = POLLIN},
                             {.fd = lifeline, .events = POLLIN}};
    uint64_t rings;

    link->turn++;
    while (!arrived(&box->module, &box->monitor, link->turn, spins)) {
        if (poll(wait, 2, -1) < 0 && errno != EINTR) {
            return -1;
        }
        if (wait[0].revents && read(link->command_doorbell, &rings, sizeof rings) < 0 && errno != EAGAIN) {
            return -1;
        }
        /* The monitor sends nothing on this socket any more: readable means closed. */
        if (wait[1].revents) {
            return 1;
        }
    }
    *command = box->command;
    return command->payload_bytes <= COMMAND_PAYLOAD_BYTES ? 0 : -1;
}

const void *ft_link_command_payload(ft_link *link)
{
    return link->box->command_payload;
}

int ft_link_publish(ft_link *link, const ft_report *report, const void *board, const void *outputs,
                    const void *detail)
{
    mailbox *box = link->box;
    unsigned char *end = box->report_payload;

    if (report->board_bytes > BOARD_BYTES ||
        (uint64_t)report->board_bytes + report->output_bytes + report->detail_bytes > REPORT_PAYLOAD_BYTES) {
        return -1;
    }
    memcpy(end, board, report->board_bytes);
    end += report->board_bytes;
    memcpy(end, outputs, report->output_bytes);
    end += report->output_bytes;
    memcpy(end, detail, report->detail_bytes);
    box->report = *report;
    return announce(&box->module, &box->monitor, link->turn, link->report_doorbell);
}

uint32_t *ft_link_written_pages(ft_link *link)
{
    return link->box->written_pages;
}

uint32_t *ft_link_written_count(ft_link *link)
{
    return &link->box->written_count;
}

void ft_link_take_short_turns(void)
{
    /* struct sched_attr, first version; the C library has none. SCHED_OTHER. */
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime_ns, deadline_ns, period_ns;
    } attr = {.size = sizeof attr, .runtime_ns = SHORT_TURN_NS, .nice = getpriority(PRIO_PROCESS, 0)};

    /* A host that knows nothing of this, or refuses it, only lets us wait longer. */
    (void)syscall(SYS_sched_setattr, 0, &attr, 0);
}

void ft_link_keep_memory(void)
{
    /* Refusals are of no consequence. */
    (void)mallopt(M_MMAP_THRESHOLD, COMMAND_PAYLOAD_BYTES);
    (void)mallopt(M_TRIM_THRESHOLD, 4 * COMMAND_PAYLOAD_BYTES);
}

int ft_link_die_with(int parent)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) {
        return -1;
    }
    /* It may have died before the line above. */
    return getppid() == parent ? 0 : -1;
}

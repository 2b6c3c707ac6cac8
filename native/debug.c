/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What ends a run for somebody who looks on: an address that is about to be executed, bytes that have changed, an access
 * to a port or to memory. A run ends for it at a block entry, as for everything else. Nothing of it can be seen by the
 * guest, and it costs nothing while nobody looks on.
 */
#include "cpu.h"

#include <stdlib.h>
#include <string.h>

/* Code is looked up in pieces of 64 bytes: most blocks lie in one or two. */
#define CODE_SHIFT 6

static uint32_t filter_bit(uint64_t address)
{
    uint64_t code = address >> CODE_SHIFT;

    return (uint32_t)(code ^ code >> 12 ^ code >> 24) % (8 * sizeof(((ft_debug *)0)->filter));
}

/* Also at the end of the address space. */
static bool overlap(uint64_t first, uint64_t bytes, uint64_t other, uint64_t other_bytes)
{
    return other - first < bytes || first - other < other_bytes;
}

void ft_debug_clear(ft_cpu *cpu)
{
    ft_debug *debug = &cpu->debug;

    free(debug->breakpoints);
    for (uint32_t i = 0; i < debug->watch_count; i++) {
        free(debug->watches[i].before);
    }
    memset(debug, 0, sizeof(*debug));
    ft_engine_mark_watched_pages(cpu);
}

int ft_debug_break(ft_cpu *cpu, const uint64_t *addresses, uint32_t count, uint64_t passed_position,
                   uint64_t passed_address)
{
    ft_debug *debug = &cpu->debug;

    free(debug->breakpoints);
    debug->breakpoint_count = 0;
    memset(debug->filter, 0, sizeof(debug->filter));
    debug->breakpoints = calloc(count ? count : 1, sizeof(*addresses));
    if (!debug->breakpoints) {
        return -1;
    }
    memcpy(debug->breakpoints, addresses, count * sizeof(*addresses));
    debug->breakpoint_count = count;
    debug->passed_position = passed_position;
    debug->passed_address = passed_address;
    for (uint32_t i = 0; i < count; i++) {
        debug->filter[filter_bit(addresses[i]) / 8] |= (uint8_t)(1u << filter_bit(addresses[i]) % 8);
    }
    return 0;
}

static bool compares(uint32_t kind)
{
    return kind == FT_HIT_RAM || kind == FT_HIT_REGISTER;
}

/* At a block entry the instruction pointer is right only after it was asked for, and the position is never the same. */
static bool register_can_be_watched(uint64_t first, uint64_t bytes)
{
    return first < sizeof(ft_arch) && bytes <= sizeof(ft_arch) - first &&
           !overlap(first, bytes, offsetof(ft_arch, rip), sizeof(uint64_t)) &&
           !overlap(first, bytes, offsetof(ft_arch, position), sizeof(uint64_t));
}

int ft_debug_watch(ft_cpu *cpu, uint32_t kind, uint64_t first, uint64_t bytes, uint32_t access)
{
    ft_debug *debug = &cpu->debug;
    ft_watch watch = {.kind = kind, .access = access, .first = first, .bytes = bytes};
    bool inside_ram = first < cpu->ram_bytes && bytes <= cpu->ram_bytes - first;

    if (debug->watch_count == FT_MAX_WATCHES || bytes == 0 || bytes > FT_MAX_WATCHED_BYTES ||
        bytes - 1 > UINT64_MAX - first || ((kind == FT_HIT_RAM || kind == FT_HIT_ACCESS) && !inside_ram) ||
        (kind == FT_HIT_REGISTER && !register_can_be_watched(first, bytes))) {
        return -1;
    }
    if (compares(kind) && !(watch.before = malloc(bytes))) {
        return -1;
    }
    debug->compares |= compares(kind);
    debug->watches[debug->watch_count++] = watch;
    if (kind == FT_HIT_LINEAR || kind == FT_HIT_ACCESS) {
        ft_engine_mark_watched_pages(cpu);
    }
    return 0;
}

/* Where the bytes of a value watch are; `arch` is filled when they are in it, once for all watches. */
static const uint8_t *watched_bytes(ft_cpu *cpu, const ft_watch *watch, ft_arch *arch, bool *saved)
{
    enum { GPR = offsetof(ft_arch, gpr), GPR_END = GPR + sizeof(arch->gpr) };

    if (watch->kind == FT_HIT_RAM) {
        return cpu->ram + watch->first;
    }
    if (watch->first >= GPR && watch->first + watch->bytes <= GPR_END) {
        return ft_engine_general_registers(cpu) + (watch->first - GPR);
    }
    if (!*saved) {
        ft_cpu_save(cpu, arch);
        *saved = true;
    }
    return (const uint8_t *)arch + watch->first;
}

void ft_debug_begin(ft_cpu *cpu)
{
    ft_debug *debug = &cpu->debug;
    bool saved = false;
    ft_arch arch;

    debug->hit = (ft_hit){.kind = FT_HIT_NONE};
    for (uint32_t i = 0; debug->compares && i < debug->watch_count; i++) {
        ft_watch *watch = &debug->watches[i];
        if (compares(watch->kind)) {
            memcpy(watch->before, watched_bytes(cpu, watch, &arch, &saved), watch->bytes);
        }
    }
}

bool ft_debug_happened(ft_cpu *cpu)
{
    ft_debug *debug = &cpu->debug;
    bool saved = false;
    ft_arch arch;

    for (uint32_t i = 0; debug->compares && i < debug->watch_count && debug->hit.kind == FT_HIT_NONE; i++) {
        const ft_watch *watch = &debug->watches[i];
        if (compares(watch->kind) &&
            memcmp(watch->before, watched_bytes(cpu, watch, &arch, &saved), watch->bytes) != 0) {
            debug->hit = (ft_hit){watch->kind, i, watch->first};
        }
    }
    return debug->hit.kind != FT_HIT_NONE;
}

void ft_debug_touched(ft_cpu *cpu, uint32_t kind, uint64_t address, uint64_t bytes, uint32_t access)
{
    ft_debug *debug = &cpu->debug;

    for (uint32_t i = 0; i < debug->watch_count && debug->hit.kind == FT_HIT_NONE; i++) {
        const ft_watch *watch = &debug->watches[i];
        if (watch->kind == kind && watch->access & access &&
            overlap(watch->first, watch->bytes, address, bytes)) {
            debug->hit = (ft_hit){kind, i, address};
            ft_engine_poll_next_block(cpu);
        }
    }
}

bool ft_debug_watches(const ft_cpu *cpu, uint32_t kind, uint64_t address, uint64_t bytes, uint32_t access)
{
    const ft_debug *debug = &cpu->debug;

    for (uint32_t i = 0; i < debug->watch_count; i++) {
        const ft_watch *watch = &debug->watches[i];
        if (watch->kind == kind && watch->access & access &&
            overlap(watch->first, watch->bytes, address, bytes)) {
            return true;
        }
    }
    return false;
}

/* Index of the first breakpoint that is not before the address. */
static uint32_t first_from(const ft_debug *debug, uint64_t address)
{
    uint32_t low = 0, high = debug->breakpoint_count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (debug->breakpoints[middle] < address) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

bool ft_debug_breaks(ft_cpu *cpu, uint64_t position, uint64_t address, uint64_t bytes)
{
    ft_debug *debug = &cpu->debug;
    uint64_t last = (address + bytes - 1) >> CODE_SHIFT;
    bool possible = false;

    for (uint64_t code = address >> CODE_SHIFT; !possible && code <= last; code++) {
        uint32_t bit = filter_bit(code << CODE_SHIFT);
        possible = debug->filter[bit / 8] >> bit % 8 & 1;
    }
    if (!possible) {
        return false;
    }
    for (uint32_t i = first_from(debug, address); i < debug->breakpoint_count; i++) {
        uint64_t at = debug->breakpoints[i];
        if (at - address >= bytes) {
            break;
        }
        if (position != debug->passed_position || at != debug->passed_address) {
            debug->hit = (ft_hit){FT_HIT_BREAKPOINT, i, at};
            return true;
        }
    }
    return false;
}

void ft_debug_hit(const ft_cpu *cpu, ft_hit *hit)
{
    *hit = cpu->debug.hit;
}

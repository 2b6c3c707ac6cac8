/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What each instruction does, or each block, as a number: so that two modules can be compared by them at the pace at which
 * they step, or run. The number is a hash over the architectural state after it, the bytes that it stored and what it told
 * devices, without the bits that are known to differ. Those have a number of their own.
 */
#include "cpu.h"

#include <stdlib.h>
#include <string.h>

static uint64_t mix(uint64_t hash, uint64_t value)
{
    hash = (hash ^ value) * 0x9e3779b97f4a7c15ull;
    return hash ^ hash >> 29;
}

/* Whole words, in lanes that do not wait for each other. */
static uint64_t hash_words(uint64_t hash, const uint8_t *bytes, uint64_t count)
{
    enum { LANES = 4 };
    uint64_t word, lane[LANES] = {1, 2, 3, 4};

    for (uint64_t i = 0; i < count; i += sizeof(word)) {
        memcpy(&word, bytes + i, sizeof(word));
        lane[i / sizeof(word) % LANES] = mix(lane[i / sizeof(word) % LANES], word);
    }
    for (uint32_t i = 0; i < LANES; i++) {
        hash = mix(hash, lane[i]);
    }
    return hash;
}

ft_trace *ft_trace_open(ft_effect *effects, uint32_t capacity, int by_block)
{
    ft_trace *trace = calloc(1, sizeof(*trace));

    if (trace) {
        trace->effects = effects;
        trace->capacity = capacity;
        trace->by_block = by_block != 0;
    }
    return trace;
}

void ft_trace_close(ft_trace *trace)
{
    free(trace);
}

int ft_trace_except(ft_trace *trace, int in_ram, uint64_t offset, uint8_t mask)
{
    if (trace->except_count == FT_MAX_EXCEPTIONS || (!in_ram && offset >= sizeof(ft_arch))) {
        return -1;
    }
    trace->except[trace->except_count++] = (ft_exception){in_ram != 0, mask, offset};
    return 0;
}

void ft_cpu_trace(ft_cpu *cpu, ft_trace *trace)
{
    if (cpu->trace && cpu->trace->by_block) {
        ft_trace_note(cpu);
    }
    cpu->trace = trace;
    if (trace) {
        trace->count = trace->store_count = 0;
        trace->devices = 0;
        ft_engine_rearm_dirty_log(cpu); /* from now on every store comes by */
        if (!trace->by_block) {         /* else the first one is that */
            ft_trace_note(cpu);
        }
    }
}

uint32_t ft_trace_count(const ft_trace *trace)
{
    return trace->count;
}

void ft_trace_stored(ft_cpu *cpu, uint64_t offset, uint64_t bytes)
{
    ft_trace *trace = cpu->trace;

    if (trace->store_count < FT_MAX_STORES) {
        trace->stores[trace->store_count++] = (ft_store){offset, bytes};
    } else {
        trace->devices =
            mix(mix(trace->devices, offset), bytes); /* more than any instruction makes: no content */
    }
}

void ft_trace_told(ft_cpu *cpu, uint64_t where, uint64_t bytes, uint64_t value)
{
    cpu->trace->devices = mix(mix(mix(cpu->trace->devices, where), bytes), value);
}

static uint64_t hash_store(const ft_trace *trace, uint64_t hash, const ft_cpu *cpu, ft_store store)
{
    hash = mix(mix(hash, store.offset), store.bytes);
    for (uint64_t i = 0; i < store.bytes && store.offset + i < cpu->ram_bytes; i++) {
        uint8_t value = cpu->ram[store.offset + i];
        for (uint32_t e = 0; e < trace->except_count; e++) {
            const ft_exception *except = &trace->except[e];
            if (except->in_ram && except->offset == store.offset + i) {
                value &= (uint8_t)~except->mask;
            }
        }
        hash = mix(hash, value);
    }
    return hash;
}

/* `block`: NULL, or the one at whose entry the engine knows not yet where it is. */
static void note(ft_cpu *cpu, const ft_entered *block)
{
    ft_trace *trace = cpu->trace;
    uint32_t instruction = block ? 0 : ft_cpu_instruction(cpu);
    uint64_t effect = trace->devices, excepted = 0;
    ft_arch arch;

    if (trace->count == trace->capacity) {
        return;
    }
    ft_effect *noted = &trace->effects[trace->count++];
    *noted = (ft_effect){.position = ft_engine_position(cpu) - (instruction ? 1 : 0),
                         .instruction = instruction,
                         .code = {UINT64_MAX, UINT64_MAX}};
    ft_cpu_save(cpu, &arch);
    if (block) {
        arch.rip = block->address;
        memcpy(noted->code, block->code, sizeof(noted->code));
        noted->code_bytes = block->bytes;
        noted->code_bits = block->bits;
    }
    for (uint32_t i = 0; i < trace->except_count; i++) {
        const ft_exception *except = &trace->except[i];
        uint8_t *byte = except->in_ram ? &cpu->ram[except->offset] : (uint8_t *)&arch + except->offset;
        excepted = mix(excepted, *byte & except->mask);
        if (!except->in_ram) {
            *byte &= (uint8_t)~except->mask;
        }
    }
    effect = hash_words(effect, (const uint8_t *)&arch, sizeof(arch));
    for (uint32_t i = 0; i < trace->store_count; i++) {
        effect = hash_store(trace, effect, cpu, trace->stores[i]);
    }
    noted->effect = effect;
    noted->excepted = excepted;
    trace->store_count = 0;
    trace->devices = 0;
}

void ft_trace_note(ft_cpu *cpu)
{
    note(cpu, NULL);
}

void ft_trace_entered(ft_cpu *cpu, const ft_entered *block)
{
    note(cpu, block);
}

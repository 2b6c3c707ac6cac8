/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The CPU as its owner sees it: open, run to a position, save, load, dirty log. */
#include "cpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void ft_cpu_reset_state(ft_arch *arch)
{
    enum { PRESENT = 0x8000, CODE_OR_DATA = 0x1000, DATA_RW_ACCESSED = 0x300, CODE_RX_ACCESSED = 0xb00 };
    enum { LDT = 0x200, BUSY_TSS = 0xb00 };

    memset(arch, 0, sizeof(*arch));
    for (int i = 0; i < 6; i++) {
        arch->segment[i] =
            (ft_segment){.limit = 0xffff,
                         .flags = PRESENT | CODE_OR_DATA | (i == 1 ? CODE_RX_ACCESSED : DATA_RW_ACCESSED)};
    }
    arch->ldtr = (ft_segment){.limit = 0xffff, .flags = PRESENT | LDT};
    arch->tr = (ft_segment){.limit = 0xffff, .flags = PRESENT | BUSY_TSS};
    arch->gdtr.limit = 0xffff;
    arch->idtr.limit = 0xffff;
    arch->rflags = 2;
    arch->cr0 = 0x60000010;
    arch->dr[6] = 0xffff0ff0;
    arch->dr[7] = 0x400;
    arch->fpu_control = 0x37f;
    arch->mxcsr = 0x1f80;
    ft_msr_reset_state(arch);
}

ft_cpu *ft_cpu_open(void *ram, uint64_t ram_bytes, uint32_t ns_per_block, void *device, char *error,
                    size_t error_bytes)
{
    ft_cpu *cpu = calloc(1, sizeof(*cpu));
    uint64_t pages = ram_bytes >> FT_PAGE_SHIFT;
    ft_arch arch;

    if (!cpu || !(cpu->page_dirty = calloc(pages, 1)) ||
        !(cpu->huge_page_wear = calloc((ram_bytes >> FT_HUGE_PAGE_SHIFT) + 1, 1)) ||
        !(cpu->own_pages = calloc(pages, sizeof(*cpu->own_pages)))) {
        snprintf(error, error_bytes, "out of memory");
        ft_cpu_close(cpu);
        return NULL;
    }
    cpu->dirty_pages = cpu->own_pages;
    cpu->dirty_count = &cpu->own_count;
    cpu->ram = ram;
    cpu->ram_bytes = ram_bytes;
    cpu->ns_per_block = ns_per_block;
    cpu->device = device;
    cpu->signal = FT_NO_SIGNAL;
    cpu->stop = FT_STOP_NONE;
    if (ft_engine_open(cpu) != 0) {
        snprintf(error, error_bytes, "%s", cpu->error);
        ft_cpu_close(cpu);
        return NULL;
    }
    ft_cpu_reset_state(&arch);
    ft_cpu_load(cpu, &arch);
    ft_cpu_set_dirty_log(cpu, cpu->own_pages, &cpu->own_count);
    return cpu;
}

void ft_cpu_close(ft_cpu *cpu)
{
    if (cpu) {
        ft_debug_clear(cpu);
        ft_engine_close(cpu);
        free(cpu->page_dirty);
        free(cpu->huge_page_wear);
        free(cpu->own_pages);
        free(cpu->forces);
        free(cpu->awaited);
        free(cpu);
    }
}

/* Only an interrupt that can be delivered ends HLT (SDM vol. 2A, HLT). */
static bool awake(ft_cpu *cpu)
{
    if (cpu->halted && (cpu->nmi_pending || (cpu->interrupt_line && ft_engine_interrupts_enabled(cpu)))) {
        cpu->halted = false;
    }
    return !cpu->halted;
}

static int run_engine(ft_cpu *cpu)
{
    cpu->stop = FT_STOP_NONE;
    ft_engine_limit_changed(cpu);
    return ft_engine_run(cpu) == 0 ? cpu->stop : FT_STOP_ENGINE;
}

/* What the caller is told that the CPU stopped for; a request is met then. */
static int result(ft_cpu *cpu, int stop)
{
    if (stop == FT_STOP_REQUEST) {
        cpu->stop_requested = false;
    }
    return stop != FT_STOP_CRASH && stop != FT_STOP_ENGINE && ft_debug_happened(cpu) ? FT_STOP_DEBUG : stop;
}

static bool breaks_in_block(ft_cpu *cpu)
{
    uint64_t bytes, address = ft_engine_rest_of_block(cpu, &bytes);

    return bytes && ft_debug_breaks(cpu, ft_engine_position(cpu) - 1, address, bytes);
}

/* Run `instructions` of the block at hand. FT_STOP_POSITION: they, or the block, are done. */
static int run_piece(ft_cpu *cpu, uint32_t instructions)
{
    cpu->stop = FT_STOP_NONE;
    if (ft_engine_run_piece(cpu, instructions) != 0) {
        return FT_STOP_ENGINE;
    }
    return cpu->stop == FT_STOP_HALT && awake(cpu) ? FT_STOP_POSITION : cpu->stop;
}

int ft_cpu_run(ft_cpu *cpu, uint64_t position)
{
    cpu->limit = position;
    cpu->error[0] = '\0';
    ft_debug_begin(cpu);
    if (ft_engine_instructions_left(cpu)) {
        if (breaks_in_block(cpu)) {
            return FT_STOP_DEBUG;
        }
        int stop = run_piece(cpu, ft_engine_instructions_left(cpu));
        if (stop != FT_STOP_POSITION) {
            return result(cpu, stop);
        }
    }
    while (awake(cpu)) {
        int stop = run_engine(cpu);
        if (stop != FT_STOP_HALT) {
            return result(cpu, stop);
        }
    }
    return result(cpu, FT_STOP_HALT);
}

/* A block that is done: to stand at the next one as ft_cpu_run() does, look for it. That may fault. */
static int finish_step(ft_cpu *cpu, int stop)
{
    if (stop != FT_STOP_POSITION || ft_engine_instructions_left(cpu)) {
        return stop;
    }
    cpu->limit = ft_engine_position(cpu);
    stop = run_engine(cpu);
    return stop == FT_STOP_POSITION && cpu->stop_requested ? FT_STOP_REQUEST : stop;
}

/* One instruction, or what comes instead. */
static int step(ft_cpu *cpu)
{
    int stop = FT_STOP_POSITION;

    do {
        if (!ft_engine_instructions_left(cpu)) {
            cpu->stop = FT_STOP_NONE;
            if (ft_engine_enter(cpu) != 0) {
                return FT_STOP_ENGINE;
            }
            stop = cpu->stop;
        }
        if (ft_engine_instructions_left(cpu)) {
            stop = run_piece(cpu, 1);
        }
    } while (ft_engine_restarting(cpu));
    return finish_step(cpu, stop);
}

int ft_cpu_step(ft_cpu *cpu, uint32_t instructions, uint64_t limit, uint32_t *done)
{
    int stop = FT_STOP_POSITION;

    *done = 0;
    cpu->error[0] = '\0';
    cpu->step_limit = limit;
    while (*done < instructions && stop == FT_STOP_POSITION) {
        uint64_t position = ft_engine_position(cpu);
        uint32_t instruction = ft_cpu_instruction(cpu);
        if (!instruction && position >= cpu->step_limit) {
            break;
        }
        ft_debug_begin(cpu);
        if (!awake(cpu)) {
            return FT_STOP_HALT;
        }
        stop = result(cpu, step(cpu));
        if (position == ft_engine_position(cpu) && instruction == ft_cpu_instruction(cpu)) {
            break; /* a device asked for a stop before the block */
        }
        ++*done;
        if (cpu->trace && !cpu->trace->by_block) {
            ft_trace_note(cpu);
        }
    }
    return stop;
}

int ft_cpu_skip(ft_cpu *cpu, uint32_t bytes)
{
    int stop = FT_STOP_POSITION;

    cpu->error[0] = '\0';
    ft_debug_begin(cpu);
    if (!awake(cpu)) {
        return FT_STOP_HALT;
    }
    if (!ft_engine_instructions_left(cpu)) {
        cpu->stop = FT_STOP_NONE;
        if (ft_engine_enter(cpu) != 0) {
            return FT_STOP_ENGINE;
        }
        stop = cpu->stop;
    }
    if (ft_engine_instructions_left(cpu)) {
        ft_engine_skip(cpu, bytes);
    }
    return result(cpu, finish_step(cpu, stop));
}

void ft_cpu_begin_block(ft_cpu *cpu)
{
    ft_engine_forget_block(cpu);
}

uint32_t ft_cpu_instruction(const ft_cpu *cpu)
{
    return ft_engine_instructions_done(cpu);
}

uint32_t ft_cpu_instructions_left(const ft_cpu *cpu)
{
    return ft_engine_instructions_left(cpu);
}

const char *ft_cpu_error(const ft_cpu *cpu)
{
    return cpu->error;
}

uint64_t ft_cpu_position(const ft_cpu *cpu)
{
    return ft_engine_position(cpu);
}

uint64_t ft_cpu_now_ns(const ft_cpu *cpu)
{
    return ft_engine_position(cpu) * cpu->ns_per_block + cpu->skipped_ns;
}

uint64_t ft_cpu_tsc(const ft_cpu *cpu)
{
    return ft_cpu_now_ns(cpu) + cpu->msr.tsc_offset;
}

int ft_cpu_interrupts_enabled(const ft_cpu *cpu)
{
    return ft_engine_interrupts_enabled(cpu);
}

void ft_cpu_request_stop(ft_cpu *cpu)
{
    cpu->stop_requested = true;
    ft_engine_poll_next_block(cpu);
}

void ft_cpu_limit(ft_cpu *cpu, uint64_t position)
{
    if (position < cpu->step_limit) {
        cpu->step_limit = position;
    }
    if (position < cpu->limit) {
        cpu->limit = position;
        ft_engine_limit_changed(cpu);
    }
}

void ft_cpu_set_interrupt_line(ft_cpu *cpu, int level)
{
    cpu->interrupt_line = level != 0;
    if (cpu->interrupt_line && ft_engine_interrupts_enabled(cpu)) {
        ft_engine_poll_next_block(cpu);
    }
}

void ft_cpu_raise_nmi(ft_cpu *cpu)
{
    cpu->nmi_pending = true;
    ft_engine_poll_next_block(cpu);
}

/* ---- The local APIC ------------------------------------------------------------------------------------------- */

void ft_cpu_attach_lapic(ft_cpu *cpu, ft_lapic *lapic)
{
    cpu->lapic = lapic;
}

uint64_t ft_cpu_position_of(const ft_cpu *cpu, uint64_t ns)
{
    uint64_t now = ft_cpu_now_ns(cpu), position = ft_engine_position(cpu);
    uint64_t left_ns = ns > now ? ns - now : 0;
    uint64_t blocks = left_ns / cpu->ns_per_block + (left_ns % cpu->ns_per_block != 0);

    return ns != FT_NEVER && blocks < FT_NO_POSITION - position ? position + blocks : FT_NO_POSITION;
}

void ft_cpu_take_effect(ft_cpu *cpu, uint32_t effects)
{
    if (effects & FT_LAPIC_INTR) {
        ft_cpu_set_interrupt_line(cpu, cpu->lapic->output != 0);
    }
    if (effects & FT_LAPIC_NMI) {
        ft_cpu_raise_nmi(cpu);
    }
    if (effects & FT_LAPIC_REARM) {
        /* The limit allows for all other events already. */
        ft_cpu_limit(cpu, ft_cpu_position_of(cpu, ft_lapic_next_event_ns(cpu->lapic)));
    }
}

bool ft_cpu_read_lapic(ft_cpu *cpu, uint64_t gpa, uint32_t bytes, uint64_t *value)
{
    uint32_t effects;

    if (!cpu->lapic || bytes > 4 || !ft_lapic_answers(cpu->lapic, gpa)) {
        return false;
    }
    *value = ft_lapic_read(cpu->lapic, gpa % FT_PAGE_BYTES, bytes, ft_cpu_now_ns(cpu), &effects);
    ft_cpu_take_effect(cpu, effects);
    return true;
}

bool ft_cpu_write_lapic(ft_cpu *cpu, uint64_t gpa, uint32_t bytes, uint64_t value)
{
    /* The I/O APICs, which hear of the end of a level-triggered interrupt, are not here. */
    if (!cpu->lapic || bytes > 4 || !ft_lapic_answers(cpu->lapic, gpa) ||
        (gpa % FT_PAGE_BYTES == FT_LAPIC_EOI_REGISTER && ft_lapic_ends_level(cpu->lapic))) {
        return false;
    }
    ft_cpu_take_effect(
        cpu, ft_lapic_write(cpu->lapic, gpa % FT_PAGE_BYTES, bytes, (uint32_t)value, ft_cpu_now_ns(cpu)));
    return true;
}

bool ft_cpu_read_tsc_deadline(ft_cpu *cpu, uint64_t *value)
{
    uint32_t effects;

    if (!cpu->lapic) {
        return false;
    }
    *value = ft_lapic_read_deadline(cpu->lapic, ft_cpu_now_ns(cpu), &effects);
    ft_cpu_take_effect(cpu, effects);
    return true;
}

bool ft_cpu_write_tsc_deadline(ft_cpu *cpu, uint64_t value)
{
    if (!cpu->lapic) {
        return false;
    }
    ft_cpu_take_effect(cpu, ft_lapic_write_deadline(cpu->lapic, value, ft_cpu_now_ns(cpu), ft_cpu_tsc(cpu)));
    return true;
}

bool ft_cpu_write_task_priority(ft_cpu *cpu, uint64_t cr8)
{
    if (!cpu->lapic) {
        return false;
    }
    ft_cpu_take_effect(cpu, ft_lapic_write_cr8(cpu->lapic, cr8));
    return true;
}

bool ft_cpu_write_signal(ft_cpu *cpu, uint64_t gpa, uint32_t bytes)
{
    if ((gpa & ~(uint64_t)3) != cpu->signal || bytes > 4 || cpu->asked) {
        return false;
    }
    cpu->signalled = true;
    ft_cpu_request_stop(cpu);
    return true;
}

int ft_cpu_take_signal(ft_cpu *cpu)
{
    bool signalled = cpu->signalled;

    cpu->signalled = false;
    return signalled;
}

int ft_cpu_acknowledge(ft_cpu *cpu)
{
    uint32_t effects;
    int vector;

    if (!cpu->lapic) {
        return -1;
    }
    vector = ft_lapic_acknowledge(cpu->lapic, &effects);
    ft_cpu_take_effect(cpu, effects);
    return vector;
}

void ft_cpu_skip_to_ns(ft_cpu *cpu, uint64_t ns)
{
    uint64_t now = ft_cpu_now_ns(cpu);

    if (ns > now) {
        cpu->skipped_ns += ns - now;
    }
}

void ft_cpu_save(const ft_cpu *cpu, ft_arch *arch)
{
    const ft_msrs *msr = &cpu->msr;

    memset(arch, 0, sizeof(*arch));
    ft_engine_save(cpu, arch);
    arch->position = ft_engine_position(cpu);
    arch->skipped_ns = cpu->skipped_ns;
    arch->halted = cpu->halted;
    arch->nmi_pending = cpu->nmi_pending;
    arch->pat = msr->pat;
    arch->tsc_offset = msr->tsc_offset;
    arch->tsc_adjust = msr->tsc_adjust;
    arch->tsc_aux = msr->tsc_aux;
    arch->apic_base = msr->apic_base;
    arch->misc_enable = msr->misc_enable;
    arch->spec_ctrl = msr->spec_ctrl;
    arch->debug_ctl = msr->debug_ctl;
    arch->mtrr_def_type = msr->mtrr_def_type;
    memcpy(arch->mtrr_fixed, msr->mtrr_fixed, sizeof(arch->mtrr_fixed));
    memcpy(arch->mtrr_base, msr->mtrr_base, sizeof(arch->mtrr_base));
    memcpy(arch->mtrr_mask, msr->mtrr_mask, sizeof(arch->mtrr_mask));
}

static void load_state(ft_cpu *cpu, const ft_arch *arch)
{
    ft_msrs *msr = &cpu->msr;

    cpu->skipped_ns = arch->skipped_ns;
    cpu->halted = arch->halted != 0;
    cpu->nmi_pending = arch->nmi_pending != 0;
    msr->pat = arch->pat;
    msr->tsc_offset = arch->tsc_offset;
    msr->tsc_adjust = arch->tsc_adjust;
    msr->tsc_aux = arch->tsc_aux;
    msr->apic_base = arch->apic_base;
    msr->misc_enable = arch->misc_enable;
    msr->spec_ctrl = arch->spec_ctrl;
    msr->debug_ctl = arch->debug_ctl;
    msr->mtrr_def_type = arch->mtrr_def_type;
    memcpy(msr->mtrr_fixed, arch->mtrr_fixed, sizeof(arch->mtrr_fixed));
    memcpy(msr->mtrr_base, arch->mtrr_base, sizeof(arch->mtrr_base));
    memcpy(msr->mtrr_mask, arch->mtrr_mask, sizeof(arch->mtrr_mask));
    ft_engine_load(cpu, arch);
    ft_engine_set_position(cpu, arch->position);
    if (arch->alone) {
        ft_engine_restart(cpu);
    }
}

void ft_cpu_load(ft_cpu *cpu, const ft_arch *arch)
{
    cpu->stop_requested = false;
    cpu->interrupt_line = false;
    ft_engine_forget_block(cpu);
    load_state(cpu, arch);
    ft_engine_flush_tlb(cpu);
}

int ft_cpu_write_state(ft_cpu *cpu, uint64_t offset, const void *data, uint64_t bytes)
{
    ft_arch before, changed;

    if (offset > sizeof(ft_arch) || bytes > sizeof(ft_arch) - offset) {
        return -1;
    }
    ft_cpu_save(cpu, &before);
    changed = before;
    memcpy((uint8_t *)&changed + offset, data, bytes);
    load_state(cpu, &changed);
    if (changed.rip != before.rip || changed.segment[1].base != before.segment[1].base) {
        ft_engine_forget_block(cpu);
    }
    if (ft_paging_differs(&changed, &before)) {
        ft_engine_flush_tlb(cpu);
    }
    return 0;
}

void ft_cpu_set_dirty_log(ft_cpu *cpu, uint32_t *pages, uint32_t *count)
{
    memset(cpu->page_dirty, 0, cpu->ram_bytes >> FT_PAGE_SHIFT);
    cpu->dirty_pages = pages;
    cpu->dirty_count = count;
    *count = 0;
    ft_engine_rearm_dirty_log(cpu);
}

void ft_cpu_rearm_dirty_log(ft_cpu *cpu)
{
    for (uint32_t i = 0; i < *cpu->dirty_count; i++) {
        cpu->page_dirty[cpu->dirty_pages[i]] = 0;
    }
    *cpu->dirty_count = 0;
    ft_engine_rearm_dirty_log(cpu);
}

int ft_cpu_write_ram(ft_cpu *cpu, uint64_t ram_offset, const void *data, uint64_t bytes)
{
    if (ram_offset > cpu->ram_bytes || bytes > cpu->ram_bytes - ram_offset) {
        return -1;
    }
    if (bytes == 0) {
        return 0;
    }
    uint64_t first = ram_offset >> FT_PAGE_SHIFT;
    uint64_t last = (ram_offset + bytes - 1) >> FT_PAGE_SHIFT;
    for (uint64_t page = first; page <= last; page++) {
        ft_cpu_log_page(cpu, page);
    }
    memcpy(cpu->ram + ram_offset, data, bytes);
    ft_engine_drop_code(cpu, first, last - first + 1);
    return 0;
}

void ft_cpu_invalidate_code(ft_cpu *cpu, uint64_t ram_offset, uint64_t bytes)
{
    uint64_t first = ram_offset >> FT_PAGE_SHIFT;
    uint64_t last = (ram_offset + bytes - 1) >> FT_PAGE_SHIFT;

    if (bytes) {
        ft_engine_drop_code(cpu, first, last - first + 1);
    }
}

int ft_cpu_invalidate_places(ft_cpu *cpu, const ft_extent *places, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (places[i].offset > cpu->ram_bytes || places[i].bytes > cpu->ram_bytes - places[i].offset) {
            return -1;
        }
        ft_cpu_invalidate_code(cpu, places[i].offset, places[i].bytes);
    }
    return 0;
}

void ft_cpu_invalidate_pages(ft_cpu *cpu, const uint32_t *pages, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (pages[i] < cpu->ram_bytes >> FT_PAGE_SHIFT) {
            ft_engine_drop_code(cpu, pages[i], 1);
        }
    }
}

void ft_cpu_flush_tlb(ft_cpu *cpu)
{
    ft_engine_flush_tlb(cpu);
}

int ft_cpu_flip_tlb(ft_cpu *cpu, uint64_t linear, uint64_t mask)
{
    return ft_engine_flip_tlb(cpu, linear, mask);
}

static int force(ft_cpu *cpu, ft_force added, uint64_t bytes)
{
    ft_force *forces;

    if (added.offset >= bytes ||
        !(forces = realloc(cpu->forces, (cpu->force_count + 1) * sizeof(*cpu->forces)))) {
        return -1;
    }
    cpu->forces = forces;
    cpu->forces[cpu->force_count++] = added;
    return 0;
}

int ft_cpu_force_register(ft_cpu *cpu, uint64_t offset, uint8_t and_mask, uint8_t or_mask)
{
    return force(cpu, (ft_force){false, offset, and_mask, or_mask}, sizeof(ft_arch));
}

int ft_cpu_force_ram(ft_cpu *cpu, uint64_t offset, uint8_t and_mask, uint8_t or_mask)
{
    return force(cpu, (ft_force){true, offset, and_mask, or_mask}, cpu->ram_bytes);
}

int ft_cpu_await(ft_cpu *cpu, const uint64_t *addresses, const uint64_t *passes, uint32_t count)
{
    ft_awaited *awaited = realloc(cpu->awaited, (count ? count : 1) * sizeof(*awaited));

    if (!awaited) {
        return -1;
    }
    for (uint32_t i = 0; i < count; i++) {
        awaited[i] = (ft_awaited){.address = addresses[i], .passes = passes[i]};
    }
    cpu->awaited = awaited;
    cpu->awaited_count = count;
    return 0;
}

uint64_t ft_cpu_passed(ft_cpu *cpu, uint32_t index)
{
    uint64_t passed = cpu->awaited[index].passed;

    cpu->awaited[index].passed = 0;
    return passed;
}

void ft_cpu_clear_forces(ft_cpu *cpu)
{
    cpu->force_count = 0;
}

bool ft_cpu_apply_forces(const ft_cpu *cpu, bool in_ram, uint8_t *bytes)
{
    bool changed = false;

    for (unsigned i = 0; i < cpu->force_count; i++) {
        const ft_force *forced = &cpu->forces[i];
        if (forced->in_ram == in_ram) {
            uint8_t value = (uint8_t)((bytes[forced->offset] & forced->and_mask) | forced->or_mask);
            changed |= value != bytes[forced->offset];
            bytes[forced->offset] = value;
        }
    }
    return changed;
}

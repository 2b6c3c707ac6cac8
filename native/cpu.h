/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of one CPU share: cpu.c (the public interface), engine.c (everything that reaches into
 * Unicorn), msr.c and cpuid.c (registers that Unicorn does not have). Not for users of the core.
 */
#ifndef FTVM_CPU_H
#define FTVM_CPU_H

#include <stdbool.h>

#include "ftvm.h"
#include "memory_map.h"

#define FT_PAGE_SHIFT 12
#define FT_PAGE_BYTES (1u << FT_PAGE_SHIFT)
#define FT_HUGE_PAGE_SHIFT 21

/* Physical addresses have this many bits: CPUID says so, and every hole below is open bus. */
#define FT_PHYSICAL_BITS 40

/* Vectors (SDM vol. 3, 6.3.1). */
#define FT_VECTOR_DB 1
#define FT_VECTOR_NMI 2
#define FT_VECTOR_UD 6
#define FT_VECTOR_NP 11
#define FT_VECTOR_GP 13

#define FT_NO_POSITION UINT64_MAX
#define FT_NO_SIGNAL UINT64_MAX

typedef struct {
    uint64_t pat;
    uint64_t tsc_offset;
    uint64_t tsc_adjust;
    uint64_t tsc_aux;
    uint64_t apic_base; /* the local APIC's copy is the valid one; kept so that CPUID can follow it */
    uint64_t misc_enable;
    uint64_t spec_ctrl;
    uint64_t debug_ctl;
    uint64_t mtrr_def_type;
    uint64_t mtrr_fixed[11];
    uint64_t mtrr_base[8];
    uint64_t mtrr_mask[8];
} ft_msrs;

/* A byte of the architectural state or of RAM that is forced at every block entry. */
typedef struct {
    bool in_ram;
    uint64_t offset;
    uint8_t and_mask, or_mask;
} ft_force;

/* An instruction that a run stops before; so many blocks that begin with it are passed over first, and so many were. */
typedef struct {
    uint64_t address, passes, passed;
} ft_awaited;

/* See debug.c. `before` are the bytes of a value watch when the run began. */
typedef struct {
    uint32_t kind, access;
    uint64_t first, bytes;
    uint8_t *before;
} ft_watch;

#define FT_MAX_WATCHES 64
#define FT_MAX_WATCHED_BYTES (1u << 20)

typedef struct {
    uint64_t *breakpoints; /* ascending */
    uint32_t breakpoint_count;
    uint8_t filter[8192]; /* a bit, by a hash, for code in which there are breakpoints */
    uint64_t passed_position, passed_address;
    ft_watch watches[FT_MAX_WATCHES];
    uint32_t watch_count;
    bool compares; /* there are value watches */
    ft_hit hit;
} ft_debug;

/* See trace.c. */
#define FT_MAX_EXCEPTIONS 1024
#define FT_MAX_STORES \
    1024 /* of one instruction or block: of those that save the state of the FPU, far fewer */

typedef struct {
    bool in_ram;
    uint8_t mask;
    uint64_t offset;
} ft_exception;

typedef struct {
    uint64_t offset, bytes;
} ft_store;

struct ft_trace {
    ft_effect *effects;
    uint32_t capacity, count;
    bool by_block;
    ft_exception except[FT_MAX_EXCEPTIONS];
    uint32_t except_count;
    ft_store stores[FT_MAX_STORES]; /* of the running instruction or block */
    uint32_t store_count;
    uint64_t devices; /* what it told them, as a hash */
};

/* Why the current run ends; FT_STOP_* once it has been decided. */
#define FT_STOP_NONE (-1)

struct ft_cpu {
    struct ft_engine *engine;
    void *device;
    uint8_t *ram;
    uint64_t ram_bytes;
    ft_lapic *lapic; /* NULL: what concerns it goes to the callbacks */

    /* A write to these four bytes is only noted (rounds.c), unless the owner was asked for something before. */
    uint64_t signal;
    bool signalled;
    bool asked; /* the owner, by a callback */

    /* Virtual time is position * ns_per_block + skipped_ns. */
    uint64_t skipped_ns;
    uint32_t ns_per_block;

    uint64_t limit;      /* position at which the current run ends */
    uint64_t step_limit; /* the same for the current ft_cpu_step() */
    int stop;            /* FT_STOP_* */
    bool stop_requested;
    bool interrupt_line;
    bool nmi_pending;
    bool halted;

    ft_msrs msr;

    /* Dirty log: the caller's list, and a byte per page that says whether it is in it. */
    uint32_t *dirty_pages;
    uint32_t *dirty_count;
    uint8_t *page_dirty;
    uint8_t *huge_page_wear; /* see ram.c */
    /* Used until the caller gives a list of his own. */
    uint32_t *own_pages;
    uint32_t own_count;

    ft_force *forces;
    unsigned force_count;

    ft_awaited *awaited;
    uint32_t awaited_count;

    ft_debug debug;
    ft_trace *trace; /* NULL: nobody wants one */

    char error[160];
};

/* ---- ram.c ---------------------------------------------------------------------------- */

/* A page is written, the first time in its epoch. */
void ft_ram_written(ft_cpu *cpu, uint64_t page);

/* Whom a callback goes to. */
static inline void *ft_cpu_owner(ft_cpu *cpu)
{
    cpu->asked = true;
    return cpu->device;
}

/* Record a write to the page; cheap when it is logged already. */
static inline void ft_cpu_log_page(ft_cpu *cpu, uint64_t page)
{
    if (!cpu->page_dirty[page]) {
        cpu->page_dirty[page] = 1;
        cpu->dirty_pages[(*cpu->dirty_count)++] = (uint32_t)page;
        ft_ram_written(cpu, page);
    }
}

/* Offset into RAM of a guest physical address, or UINT64_MAX where there is no RAM. */
static inline uint64_t ft_ram_offset(const ft_cpu *cpu, uint64_t gpa)
{
    uint64_t low = cpu->ram_bytes < FT_LOW_RAM_LIMIT ? cpu->ram_bytes : FT_LOW_RAM_LIMIT;

    if (gpa < low) {
        return gpa;
    }
    if (gpa >= FT_HIGH_RAM && gpa - FT_HIGH_RAM < cpu->ram_bytes - low) {
        return gpa - FT_HIGH_RAM + low;
    }
    return UINT64_MAX;
}

/* Do the states translate addresses differently, so that a TLB of the one is no use to the other? */
static inline bool ft_paging_differs(const ft_arch *a, const ft_arch *b)
{
    return a->cr0 != b->cr0 || a->cr3 != b->cr3 || a->cr4 != b->cr4 || a->efer != b->efer;
}

/* ---- engine.c --------------------------------------------------------------------------- */

int ft_engine_open(ft_cpu *cpu);
void ft_engine_close(ft_cpu *cpu);

/* Run from the current state until cpu->stop is decided or the engine gives up (then -1, and cpu->error). */
int ft_engine_run(ft_cpu *cpu);

/*
 * Inside a block. `enter` runs to behind the count of the next block, unless something stops the CPU before; then, as
 * long as instructions are left of it, `run_piece` runs some of them. Both as ft_engine_run(). Where the CPU is `restarting` an
 * instruction as a block of its own, steps do not stand: enter that. `restart`: it is, in a state that was loaded.
 */
int ft_engine_enter(ft_cpu *cpu);
int ft_engine_run_piece(ft_cpu *cpu, uint32_t instructions);
uint32_t ft_engine_instructions_done(const ft_cpu *cpu);
uint32_t ft_engine_instructions_left(const ft_cpu *cpu);
bool ft_engine_restarting(const ft_cpu *cpu);
void ft_engine_restart(ft_cpu *cpu);
/* The state was replaced: it is that at a block entry. */
void ft_engine_forget_block(ft_cpu *cpu);
/* The next instruction of the block at hand, of `bytes` bytes, counts as done. */
void ft_engine_skip(ft_cpu *cpu, uint32_t bytes);

uint64_t ft_engine_position(const ft_cpu *cpu);
void ft_engine_set_position(ft_cpu *cpu, uint64_t position);
/* The conditions for a stop have changed: look at them again at the next block entry. */
void ft_engine_poll_next_block(ft_cpu *cpu);
void ft_engine_limit_changed(ft_cpu *cpu);

bool ft_engine_interrupts_enabled(const ft_cpu *cpu);
const uint8_t *ft_engine_general_registers(const ft_cpu *cpu);

/* Accesses to pages with linear watches are looked at from now on, and others not. */
void ft_engine_mark_watched_pages(ft_cpu *cpu);
/* Inside a block: the linear address of the next instruction, and the bytes from there to the block's end. */
uint64_t ft_engine_rest_of_block(const ft_cpu *cpu, uint64_t *bytes);

void ft_engine_save(const ft_cpu *cpu, ft_arch *arch);
/* The TLB is left alone; see ft_paging_differs(). */
void ft_engine_load(ft_cpu *cpu, const ft_arch *arch);

/* Apply the forces of this kind to `bytes`; true when one of them changed. */
bool ft_cpu_apply_forces(const ft_cpu *cpu, bool in_ram, uint8_t *bytes);

void ft_engine_rearm_dirty_log(ft_cpu *cpu);
void ft_engine_drop_code(ft_cpu *cpu, uint64_t first_page, uint64_t pages);
void ft_engine_flush_tlb(ft_cpu *cpu);
bool ft_engine_flip_tlb(ft_cpu *cpu, uint64_t linear, uint64_t mask);

/* ---- cpu.c: of the local APIC, as far as the CPU can do it alone; false, or -1, when it cannot ------------------ */

void ft_cpu_take_effect(ft_cpu *cpu, uint32_t effects); /* of its local APIC on the CPU */
bool ft_cpu_read_lapic(ft_cpu *cpu, uint64_t gpa, uint32_t bytes, uint64_t *value);
bool ft_cpu_write_lapic(ft_cpu *cpu, uint64_t gpa, uint32_t bytes, uint64_t value);
bool ft_cpu_read_tsc_deadline(ft_cpu *cpu, uint64_t *value);
bool ft_cpu_write_tsc_deadline(ft_cpu *cpu, uint64_t value);
bool ft_cpu_write_task_priority(ft_cpu *cpu, uint64_t cr8);
int ft_cpu_acknowledge(ft_cpu *cpu);
/* The first block entry that is not before a time, if virtual time does not jump; FT_NO_POSITION: none. */
uint64_t ft_cpu_position_of(const ft_cpu *cpu, uint64_t ns);
bool ft_cpu_write_signal(ft_cpu *cpu, uint64_t gpa, uint32_t bytes);

/* ---- debug.c --------------------------------------------------------------------------- */

/* A run begins: nothing has happened, and watched bytes are compared with what they are now. */
void ft_debug_begin(ft_cpu *cpu);
/* Since then, something that is watched has. */
bool ft_debug_happened(ft_cpu *cpu);
/* The guest accesses something; FT_HIT_PORT, FT_HIT_MMIO, FT_HIT_LINEAR or FT_HIT_ACCESS. */
void ft_debug_touched(ft_cpu *cpu, uint32_t kind, uint64_t address, uint64_t bytes, uint32_t access);
bool ft_debug_watches(const ft_cpu *cpu, uint32_t kind, uint64_t address, uint64_t bytes, uint32_t access);
/* The instructions in these bytes come next, at `position`: is one of them a breakpoint? */
bool ft_debug_breaks(ft_cpu *cpu, uint64_t position, uint64_t address, uint64_t bytes);

/* ---- trace.c: only while cpu->trace is there --------------------------------------------- */

/* A block that is about to run: its linear address, and the rest as in ft_effect. */
typedef struct {
    uint64_t address, code[2];
    uint32_t bytes, bits;
} ft_entered;

/* The running instruction, or block, stores to RAM; tells a device something. */
void ft_trace_stored(ft_cpu *cpu, uint64_t offset, uint64_t bytes);
void ft_trace_told(ft_cpu *cpu, uint64_t where, uint64_t bytes, uint64_t value);
/* It is done. */
void ft_trace_note(ft_cpu *cpu);
/* In a trace by block: the one before this is done. */
void ft_trace_entered(ft_cpu *cpu, const ft_entered *block);

/* ---- msr.c: 0, or -1 for #GP. Engine registers that are MSRs go through ft_engine_msr(). --- */

void ft_msr_reset_state(ft_arch *arch);
int ft_msr_read(ft_cpu *cpu, uint32_t index, uint64_t *value);
int ft_msr_write(ft_cpu *cpu, uint32_t index, uint64_t value);

/* Where the engine keeps an MSR of its own (STAR, LSTAR, FS base, ...), or NULL. */
uint64_t *ft_engine_msr(ft_cpu *cpu, uint32_t index);
uint64_t ft_engine_efer(const ft_cpu *cpu);
int ft_engine_write_efer(ft_cpu *cpu, uint64_t value);

/* ---- cpuid.c ---------------------------------------------------------------------------- */

typedef struct {
    uint32_t eax, ebx, ecx, edx;
} ft_cpuid_leaf;

ft_cpuid_leaf ft_cpuid(const ft_cpu *cpu, uint32_t leaf, uint32_t subleaf);

#endif

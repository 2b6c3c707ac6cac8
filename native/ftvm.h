/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The public interface of ftvm's native core, in order of life. cffi reads everything between
 * the two "cdef" marks, so only plain declarations stand there: no macros, no conditionals.
 *
 * Functions that can fail return NULL, a negative number or an FT_STOP_ code, never abort.
 * Nothing here is thread safe unless it says so: one ft_cpu belongs to one thread.
 */
#ifndef FTVM_H
#define FTVM_H

#include <stddef.h>
#include <stdint.h>

/* cdef begin */

/* ---- CPU (cpu.c) ------------------------------------------------------------------------ */

typedef struct ft_cpu ft_cpu;

/* A segment register with its hidden part. `flags` are bits 8..23 of the descriptor's high word,
 * where they stand in it (SDM vol. 3, 3.4.5). */
typedef struct {
    uint64_t base;
    uint32_t limit;
    uint32_t flags;
    uint32_t selector;
    uint32_t reserved;
} ft_segment;

/*
 * The whole architectural state, in canonical form: two CPUs that a guest could not tell apart have
 * equal bytes here. No padding, no host pointers; unused bits are zero.
 */
typedef struct {
    uint64_t position;   /* guest blocks entered since reset */
    uint64_t skipped_ns; /* virtual time that passed without blocks, at HLT */
    uint64_t gpr[16];    /* rax rcx rdx rbx rsp rbp rsi rdi r8..r15 */
    uint64_t rip;
    uint64_t rflags;
    ft_segment segment[6]; /* es cs ss ds fs gs */
    ft_segment ldtr;
    ft_segment tr;
    ft_segment gdtr;
    ft_segment idtr;
    uint64_t cr0;
    uint64_t cr2;
    uint64_t cr3;
    uint64_t cr4;
    uint64_t dr[8];
    uint64_t efer;
    uint64_t star;
    uint64_t lstar;
    uint64_t cstar;
    uint64_t fmask;
    uint64_t kernel_gs_base;
    uint64_t sysenter_cs;
    uint64_t sysenter_esp;
    uint64_t sysenter_eip;
    uint64_t pat;
    uint64_t tsc_offset; /* guest TSC minus virtual time, ticks */
    uint64_t tsc_adjust;
    uint64_t tsc_aux;
    uint64_t apic_base;
    uint64_t misc_enable;
    uint64_t spec_ctrl;
    uint64_t mtrr_def_type;
    uint64_t mtrr_fixed[11];
    uint64_t mtrr_base[8];
    uint64_t mtrr_mask[8];
    uint32_t interrupt_shadow; /* 1 for the instruction after STI or MOV SS */
    uint32_t halted;           /* 1 between HLT and the interrupt that ends it */
    uint32_t fpu_control;
    uint32_t fpu_status; /* with TOP in bits 11..13 */
    uint32_t fpu_tags;   /* abridged, as FXSAVE has it: bit n set = ST slot n in use */
    uint32_t mxcsr;
    uint64_t fpu_ip;
    uint64_t fpu_dp;
    uint8_t st[8][16]; /* ten bytes each, physical register order */
    uint8_t xmm[16][16];
} ft_arch;

/* Why ft_cpu_run came back. */
enum {
    FT_STOP_POSITION = 0, /* the position was reached */
    FT_STOP_REQUEST = 1,  /* ft_cpu_request_stop() was called by a device */
    FT_STOP_HALT = 2,     /* HLT, and no interrupt that could be delivered */
    FT_STOP_CRASH = 3,    /* triple fault */
    FT_STOP_ENGINE = 4    /* the engine failed; ft_cpu_error() says how */
};

/*
 * Open a CPU over `ram_bytes` of memory (a multiple of 4096) that stays the caller's. RAM lies at
 * [0, 3 GiB) and, what is more, from 4 GiB. `device` is handed to the callbacks below. The CPU
 * is in its reset state with CS:IP 0:0. NULL on failure, with a sentence in `error`.
 */
ft_cpu *ft_cpu_open(void *ram, uint64_t ram_bytes, uint32_t ns_per_block, void *device, char *error,
                    size_t error_bytes);
void ft_cpu_close(ft_cpu *cpu);

/* Run until `position` at the latest; returns FT_STOP_*. Stops at block entries only. */
int ft_cpu_run(ft_cpu *cpu, uint64_t position);
const char *ft_cpu_error(const ft_cpu *cpu);

/* For devices, also during a callback. */
uint64_t ft_cpu_position(const ft_cpu *cpu);
uint64_t ft_cpu_now_ns(const ft_cpu *cpu);
void ft_cpu_request_stop(ft_cpu *cpu);                      /* at the next block entry */
void ft_cpu_limit(ft_cpu *cpu, uint64_t position);          /* lower the limit of the running ft_cpu_run */
void ft_cpu_set_interrupt_line(ft_cpu *cpu, int level);     /* INTR; ft_on_interrupt_ack() names the vector */
void ft_cpu_raise_nmi(ft_cpu *cpu);
/* Virtual time jumps forward to `ns`; only while ft_cpu_run is not running. */
void ft_cpu_skip_to_ns(ft_cpu *cpu, uint64_t ns);

void ft_cpu_save(const ft_cpu *cpu, ft_arch *arch);
int ft_cpu_load(ft_cpu *cpu, const ft_arch *arch); /* -1: the state is not one a CPU can be in */

/*
 * The dirty log: RAM pages (offset / 4096) in order of their first write since the last rearm, each
 * once. `pages` holds one entry per RAM page. Rearming empties the list.
 */
void ft_cpu_set_dirty_log(ft_cpu *cpu, uint32_t *pages, uint32_t *count);
void ft_cpu_rearm_dirty_log(ft_cpu *cpu);

/* Write to RAM as a device does: the pages are logged and code translated from them is dropped. */
int ft_cpu_write_ram(ft_cpu *cpu, uint64_t ram_offset, const void *data, uint64_t bytes);
/* The owner changed RAM behind the engine's back: drop translated code of these bytes. */
void ft_cpu_invalidate_code(ft_cpu *cpu, uint64_t ram_offset, uint64_t bytes);
void ft_cpu_flush_tlb(ft_cpu *cpu);

/* Called on devices by the running CPU; `size` in bytes. */
extern "Python" uint32_t ft_on_port_read(void *device, uint32_t port, uint32_t size);
extern "Python" void ft_on_port_write(void *device, uint32_t port, uint32_t size, uint32_t value);
extern "Python" uint64_t ft_on_mmio_read(void *device, uint64_t gpa, uint32_t size);
extern "Python" void ft_on_mmio_write(void *device, uint64_t gpa, uint32_t size, uint64_t value);
/* MSRs that belong to a chip (the local APIC): 0 = done, -1 = #GP. */
extern "Python" int ft_on_msr_read(void *device, uint32_t index, uint64_t *value);
extern "Python" int ft_on_msr_write(void *device, uint32_t index, uint64_t value);
/* CR8: the task priority of the local APIC. */
extern "Python" uint32_t ft_on_cr8_read(void *device);
extern "Python" void ft_on_cr8_write(void *device, uint32_t value);
/* The CPU takes the interrupt that INTR announced; the vector, or negative if it went away. */
extern "Python" int ft_on_interrupt_ack(void *device);

/* cdef end */

#endif

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

#define FT_NEVER UINT64_MAX /* a time that does not come */
#define FT_LAPIC_ADDRESS 0xfee00000u
#define FT_LAPIC_EOI_REGISTER 0xb0u /* its offset */

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
    uint64_t skipped_ns; /* virtual time that passed without blocks: at HLT and in accesses to ports */
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
    uint64_t debug_ctl;
    uint64_t mtrr_def_type;
    uint64_t mtrr_fixed[11];
    uint64_t mtrr_base[8];
    uint64_t mtrr_mask[8];
    uint32_t interrupt_shadow; /* 1 for the instruction after STI or MOV SS */
    uint32_t halted;           /* 1 between HLT and the interrupt that ends it */
    uint32_t nmi_pending;
    uint32_t nmi_blocked; /* 1 from the delivery of an NMI to the next IRET */
    uint32_t
        alone; /* 1 where a block was left to begin the instruction at hand anew, as a block of its own */
    uint32_t reserved;
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
    FT_STOP_ENGINE = 4,   /* the engine failed; ft_cpu_error() says how */
    FT_STOP_DEBUG = 5,    /* ft_debug_hit() says what for */
    FT_STOP_AWAITED = 6   /* an awaited instruction is in the block that comes next */
};

/* Map shared memory, whole pages, so that the host can have huge pages there. NULL on failure. */
void *ft_ram_map(int memory_file, uint64_t bytes);
void ft_ram_unmap(void *ram, uint64_t bytes);

/*
 * Open a CPU over `ram_bytes` of memory (a multiple of 4096) that stays the caller's. RAM lies at
 * [0, 3 GiB) and, what is more, from 4 GiB. `device` is handed to the callbacks below. The CPU
 * is in its reset state. NULL on failure, with a sentence in `error`.
 */
ft_cpu *ft_cpu_open(void *ram, uint64_t ram_bytes, uint32_t ns_per_block, void *device, char *error,
                    size_t error_bytes);
void ft_cpu_close(ft_cpu *cpu);

/* The state after power-up (SDM vol. 3, table 10-1), but CS:IP 0:0, which is the owner's to say. */
void ft_cpu_reset_state(ft_arch *arch);

/* Run until `position` at the latest; returns FT_STOP_*. Stops at block entries only. */
int ft_cpu_run(ft_cpu *cpu, uint64_t position);
/*
 * Run up to `instructions`, one at a time; an exception that one meets counts as one. A block that is about to begin is
 * entered first, after the interrupt that is due before it. FT_STOP_POSITION: they are done, or the entry of a block at
 * `position`, or after it, was reached; FT_STOP_REQUEST: a block is done, and a device called ft_cpu_request_stop(). Where the
 * blocks end, and so every position, is the same as without stepping. Inside a block ft_cpu_run() runs to its end first, and
 * ft_arch has a position that counts it. `done` says how many there were.
 */
int ft_cpu_step(ft_cpu *cpu, uint32_t instructions, uint64_t position, uint32_t *done);
/* Of the block that was entered last: instructions done, and still to come. Both are 0 at a block entry. */
uint32_t ft_cpu_instruction(const ft_cpu *cpu);
/*
 * As ft_cpu_step(), but the instruction, of `bytes` bytes, is passed over. The next instruction begins a block of its own
 * after ft_cpu_begin_block(), wherever it is.
 */
int ft_cpu_skip(ft_cpu *cpu, uint32_t bytes);
void ft_cpu_begin_block(ft_cpu *cpu);
uint32_t ft_cpu_instructions_left(const ft_cpu *cpu);
const char *ft_cpu_error(const ft_cpu *cpu);

/* For devices, also during a callback. */
uint64_t ft_cpu_position(const ft_cpu *cpu);
uint64_t ft_cpu_now_ns(const ft_cpu *cpu);
uint64_t ft_cpu_tsc(const ft_cpu *cpu);
int ft_cpu_interrupts_enabled(const ft_cpu *cpu);       /* RFLAGS.IF */
void ft_cpu_request_stop(ft_cpu *cpu);                  /* at the next block entry */
void ft_cpu_limit(ft_cpu *cpu, uint64_t position);      /* lower the limit of the running run or step */
void ft_cpu_set_interrupt_line(ft_cpu *cpu, int level); /* INTR; ft_on_interrupt_ack() names the vector */
void ft_cpu_raise_nmi(ft_cpu *cpu);
/* Virtual time jumps forward to `ns`; only while ft_cpu_run is not running. */
void ft_cpu_skip_to_ns(ft_cpu *cpu, uint64_t ns);

void ft_cpu_save(const ft_cpu *cpu, ft_arch *arch);
/* Interrupt line and dirty log are not part of it: the owner sets the line and rearms the log. */
void ft_cpu_load(ft_cpu *cpu, const ft_arch *arch);

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
/* Bytes of RAM. */
typedef struct {
    uint64_t offset;
    uint64_t bytes;
} ft_extent;

/* The same for all of these. -1: not all of them are RAM. */
int ft_cpu_invalidate_places(ft_cpu *cpu, const ft_extent *places, uint32_t count);
/* The same for all bytes of these pages (RAM offset / 4096); numbers outside RAM are ignored. */
void ft_cpu_invalidate_pages(ft_cpu *cpu, const uint32_t *pages, uint32_t count);
void ft_cpu_flush_tlb(ft_cpu *cpu);

/* Put bytes into the state at `offset` in ft_arch; between runs. The TLB stays as it is unless paging changed. */
int ft_cpu_write_state(ft_cpu *cpu, uint64_t offset, const void *data, uint64_t bytes);
/*
 * Flip bits of what the TLB holds for a linear address, as a fault would: 12..39 of the physical address, 1 = may be
 * written (a right that is missing only makes the engine look again). 1 if it holds something, else 0.
 */
int ft_cpu_flip_tlb(ft_cpu *cpu, uint64_t linear, uint64_t mask);
/*
 * Stuck-at faults: from now on the byte of the architectural state at `offset` in ft_arch, or of RAM, is forced to
 * (value & and_mask) | or_mask at every block entry. A stuck memory cell is no store: it is not logged. -1: no such
 * byte, or no memory. ft_cpu_load() does not undo them.
 */
int ft_cpu_force_register(ft_cpu *cpu, uint64_t offset, uint8_t and_mask, uint8_t or_mask);
int ft_cpu_force_ram(ft_cpu *cpu, uint64_t offset, uint8_t and_mask, uint8_t or_mask);
void ft_cpu_clear_forces(ft_cpu *cpu);

/*
 * End ft_cpu_run() with FT_STOP_AWAITED before each block that has an instruction at one of these linear addresses; none
 * of those that were awaited before. The block must be stepped through then. As often as `passes` says, a block that begins
 * with the instruction is passed over, and counted. -1: no memory.
 */
int ft_cpu_await(ft_cpu *cpu, const uint64_t *addresses, const uint64_t *passes, uint32_t count);
/* How often the instruction with this index was passed over, since it was asked last. */
uint64_t ft_cpu_passed(ft_cpu *cpu, uint32_t index);

/* ---- Looking on (debug.c) ---------------------------------------------------------------- */

/*
 * Conditions that end ft_cpu_run() and ft_cpu_step() with FT_STOP_DEBUG; none of them changes what the guest does, except that
 * linear watches make TLB misses, and so accessed bits, come earlier. A run ends before a block with a breakpoint in
 * it, and after a block in which something watched has happened; it looks at what has happened also where it ends.
 */
enum {
    FT_HIT_NONE = 0,
    FT_HIT_BREAKPOINT = 1, /* an instruction at this linear address is in the block that comes next */
    FT_HIT_RAM = 2,        /* bytes of RAM are not what they were when the run began; `first` is an offset */
    FT_HIT_REGISTER = 3,   /* the same for bytes of ft_arch, except rip and position */
    FT_HIT_PORT = 4,       /* an access to a port */
    FT_HIT_MMIO = 5,       /* an access to a device at this guest physical address */
    FT_HIT_LINEAR = 6,     /* an access to this linear address */
    FT_HIT_ACCESS =
        7 /* an access of any kind to RAM at this offset, by code that is translated and page walks too */
};
enum { FT_ACCESS_READ = 1, FT_ACCESS_WRITE = 2 };

typedef struct {
    uint32_t kind;  /* FT_HIT_* */
    uint32_t index; /* of the breakpoint or the watch, in the order in which they were given */
    uint64_t where; /* the address accessed, or the first one watched */
} ft_hit;

void ft_debug_clear(ft_cpu *cpu);
/*
 * All breakpoints, ascending, instead of those before. A run that starts at `passed_position` at the instruction `passed_address`
 * does not end for a breakpoint there: it is where the last run ended. -1: out of memory.
 */
int ft_debug_break(ft_cpu *cpu, const uint64_t *addresses, uint32_t count, uint64_t passed_position,
                   uint64_t passed_address);
/* One more watch. `access` counts for ports, devices and linear addresses. -1: too many, too long, not there, no memory. */
int ft_debug_watch(ft_cpu *cpu, uint32_t kind, uint64_t first, uint64_t bytes, uint32_t access);
/* Why the last run ended with FT_STOP_DEBUG. */
void ft_debug_hit(const ft_cpu *cpu, ft_hit *hit);

/* ---- Comparing step by step (trace.c) ----------------------------------------------------- */

/* What an instruction did, or a whole block. Two CPUs with equal histories of these did the same, as far as a guest can tell. */
typedef struct {
    uint64_t effect;      /* hash over the state after it, what it stored, and what it told devices */
    uint64_t excepted;    /* hash over what ft_trace_except() named, which is not in `effect` */
    uint64_t position;    /* where it led to, as Report has it (ftvm/module/link.py) */
    uint64_t instruction; /* and the instruction there */
    uint64_t
        code[2]; /* of blocks only: where in RAM the one begins that comes next, and its second page; or -1 */
    uint32_t code_bytes; /* of it */
    uint32_t code_bits;  /* 16, 32 or 64: how it is decoded */
} ft_effect;

typedef struct ft_trace ft_trace;

/* `by_block`: of what is run, the effect of each block; else of what is stepped, that of each instruction. The effects stay
 * the caller's. NULL: out of memory. */
ft_trace *ft_trace_open(ft_effect *effects, uint32_t capacity, int by_block);
void ft_trace_close(ft_trace *trace);
/* These bits of a byte of ft_arch, or of RAM, are expected to differ. -1: too many, or no such byte. */
int ft_trace_except(ft_trace *trace, int in_ram, uint64_t offset, uint8_t mask);
/* The CPU is traced from now on, as far as there is room; the first effect is the state now. NULL ends it: in a trace by
 * block, with the effect of the last one. */
void ft_cpu_trace(ft_cpu *cpu, ft_trace *trace);
uint32_t ft_trace_count(const ft_trace *trace);

/* Called on devices by the running CPU; `size` in bytes. Whoever links the core defines ft_on_*: in the
 * extension module they are Python functions (build.py). */
uint32_t ft_on_port_read(void *device, uint32_t port, uint32_t size);
void ft_on_port_write(void *device, uint32_t port, uint32_t size, uint32_t value);
uint64_t ft_on_mmio_read(void *device, uint64_t gpa, uint32_t size);
void ft_on_mmio_write(void *device, uint64_t gpa, uint32_t size, uint64_t value);
/* MSRs that belong to a chip (the local APIC): 0 = done, -1 = #GP. */
int ft_on_msr_read(void *device, uint32_t index, uint64_t *value);
int ft_on_msr_write(void *device, uint32_t index, uint64_t value);
/* CR8: the task priority of the local APIC. */
uint32_t ft_on_cr8_read(void *device);
void ft_on_cr8_write(void *device, uint32_t value);
/* The CPU takes the interrupt that INTR announced; the vector, or negative if it went away. */
int ft_on_interrupt_ack(void *device);

/* ---- Local APIC (lapic.c) ----------------------------------------------------------------- */

/*
 * The state; what the names mean is said in ftvm/module/chips/lapic.py. Numbers have 64 bits and flags are numbers, since a
 * fault may change any bit of them.
 */
typedef struct {
    uint64_t base, id, tpr, ldr, dfr, svr;
    uint64_t isr[8], tmr[8], irr[8];
    uint64_t esr, errors, icr;
    uint64_t lvt[6];
    uint64_t divide, initial_count, tsc_deadline;
    uint64_t expires_ns; /* FT_NEVER: the timer is not armed */
    uint64_t lint0, extint, output;
} ft_lapic;

/* What something means for others: bits of the `effects` that functions return or put there. */
enum {
    FT_LAPIC_INTR = 1,     /* `output` has changed */
    FT_LAPIC_NMI = 2,      /* the CPU gets an NMI */
    FT_LAPIC_REARM = 4,    /* ft_lapic_next_event_ns() may be earlier now */
    FT_LAPIC_MOVED = 8,    /* the registers are elsewhere now */
    FT_LAPIC_EOI = 16,     /* I/O APICs hear that the vector in bits 15:8 is done */
    FT_LAPIC_ACCEPTED = 32 /* the message was for us */
};
enum { FT_LAPIC_VECTOR = 8 };

void ft_lapic_reset(ft_lapic *lapic);
/* Registers at `offset` from the base; up to 4 `bytes`. */
uint32_t ft_lapic_read(ft_lapic *lapic, uint32_t offset, uint32_t bytes, uint64_t now_ns, uint32_t *effects);
uint32_t ft_lapic_write(ft_lapic *lapic, uint32_t offset, uint32_t bytes, uint32_t value, uint64_t now_ns);
/* Whether they answer at a guest physical address. */
int ft_lapic_answers(const ft_lapic *lapic, uint64_t gpa);
/* A write of IA32_APIC_BASE: -1 = #GP. */
int ft_lapic_write_base(ft_lapic *lapic, uint64_t value, uint32_t *effects);
uint64_t ft_lapic_read_deadline(ft_lapic *lapic, uint64_t now_ns, uint32_t *effects);
uint32_t ft_lapic_write_deadline(ft_lapic *lapic, uint64_t value, uint64_t now_ns, uint64_t tsc);
uint32_t ft_lapic_write_cr8(ft_lapic *lapic, uint64_t value);
/* Interrupt messages, and the pin LINT0: INTR of the 8259s. */
uint32_t ft_lapic_message(ft_lapic *lapic, uint32_t destination, int logical, uint32_t delivery,
                          uint32_t vector, int level);
uint32_t ft_lapic_set_lint0(ft_lapic *lapic, int level);
/* LINT0 is set up to cause NMIs; what comes in there can reach the CPU. */
int ft_lapic_nmi_possible(const ft_lapic *lapic);
int ft_lapic_hears_lint0(const ft_lapic *lapic);
/*
 * The CPU takes an interrupt: its vector, or -1 when none of ours waits. Then one of the 8259s may: 1, and it is to be
 * acknowledged there; what that does to INTR is seen by ft_lapic_update().
 */
int ft_lapic_acknowledge(ft_lapic *lapic, uint32_t *effects);
int ft_lapic_take_external(ft_lapic *lapic);
uint32_t ft_lapic_update(ft_lapic *lapic);
/* An EOI now would have the effect FT_LAPIC_EOI. */
int ft_lapic_ends_level(const ft_lapic *lapic);
/* When ft_lapic_advance() must be called next, or FT_NEVER. */
uint64_t ft_lapic_next_event_ns(const ft_lapic *lapic);
uint32_t ft_lapic_advance(ft_lapic *lapic, uint64_t now_ns);
/* The state as a msgpack map, of FT_LAPIC_BYTES at most; returns how many they are. */
enum { FT_LAPIC_BYTES = 1024 };
uint32_t ft_lapic_encode(const ft_lapic *lapic, uint8_t *bytes);

/*
 * Let the CPU do by itself what it can do with its local APIC alone; the rest goes to the callbacks above. NULL: all of
 * it does. The state stays the caller's.
 */
void ft_cpu_attach_lapic(ft_cpu *cpu, ft_lapic *lapic);

/* ---- Link between the monitor and one module (link.c) ---------------------------------- */

/*
 * A mailbox is memory shared by the monitor and one module: one command, one report. Commands and
 * reports alternate; a side that waits spins a little and then sleeps on its doorbell, a nonblocking eventfd
 * that the other side writes only when told that somebody sleeps there. An ft_link is one side's private
 * view. The monitor believes nothing that it reads here: see ft_link_collect().
 */
typedef struct ft_link ft_link;

typedef struct {
    uint32_t kind;          /* the caller's; see ftvm/module/link.py */
    uint32_t payload_bytes; /* that follow the command, at ft_link_command_payload() */
    uint64_t target;        /* position */
} ft_command;

typedef struct {
    uint32_t stop; /* the caller's */
    uint32_t board_bytes;
    uint32_t output_bytes;
    uint32_t detail_bytes;
    uint32_t written_count; /* pages in the dirty log */
    uint32_t instruction;   /* instructions done in the block at `position`, 0 at its entry */
    uint64_t position;
    uint64_t wake_ns;
    ft_arch arch;
} ft_report;

/* Bytes of the mailbox of a module with `ram_bytes` of RAM. Zeroed memory is an empty mailbox. */
uint64_t ft_link_mailbox_bytes(uint64_t ram_bytes);

/* NULL: out of memory. The descriptors stay the caller's. */
ft_link *ft_link_open(void *mailbox, uint64_t ram_bytes, int command_doorbell, int report_doorbell);
void ft_link_close(ft_link *link);

/* Monitor: post a command. -1: its payload is over ft_link_command_capacity(), or the doorbell failed. */
int ft_link_post(ft_link *link, const ft_command *command, const void *payload);
uint64_t ft_link_command_capacity(void);
uint64_t
ft_link_board_capacity(void); /* for ft_report.board_bytes: a state that is reported can be loaded again */

/*
 * Monitor: 1 if the report to the newest command is there, 0 after `spins` looks without one. From a 0 on,
 * the module rings the report doorbell when it is there.
 */
int ft_link_reported(ft_link *link, uint32_t spins);

/* The process at the other end, for ft_link_spread(). */
void ft_link_set_process(ft_link *link, int process);
/*
 * Modules that were last seen on one core would run one after the other: put them on different ones, as long as there are
 * such. Linux wakes a process on its waker's core where it takes the others for taken away by a hypervisor, idle as they
 * are. After a tenth of a second the scheduler may think otherwise again.
 */
void ft_link_spread(ft_link *const *links, uint32_t count);
int ft_link_is_here(ft_link *link); /* the module was last seen on this core */
/*
 * Monitor: wait until all of `count` modules have reported: look for `spin_us`, then sleep until `sleep_us` (below a
 * second) after the beginning. 1: all have. 0: ask ft_link_reported() who has not; a signal may have come, too.
 */
int ft_link_await_reports(ft_link *const *links, uint32_t count, uint32_t spin_us, uint32_t sleep_us);

/*
 * Monitor: copy the report's head into private memory and check its lengths. -1: the module wrote lengths
 * that cannot be. Board state, outputs and detail follow each other in the payload, of
 * ft_link_report_capacity() bytes.
 */
int ft_link_collect(ft_link *link, ft_report *report);
const void *ft_link_report_payload(ft_link *link);
uint64_t ft_link_report_capacity(void);

/*
 * Module: wait for a command, `spins` looks first; 0 when there is one, 1 when `lifeline` (a socket to the
 * monitor) was closed, -1 when waiting failed.
 */
int ft_link_await_command(ft_link *link, uint32_t spins, int lifeline, ft_command *command);
const void *ft_link_command_payload(ft_link *link);

/* Module: publish a report. -1: it is longer than a mailbox takes, or the doorbell failed. */
int ft_link_publish(ft_link *link, const ft_report *report, const void *board, const void *outputs,
                    const void *detail);

/* The module's dirty log lives in the mailbox: the engine writes it, the monitor reads it. */
uint32_t *ft_link_written_pages(ft_link *link);
uint32_t *ft_link_written_count(ft_link *link);

/*
 * Both: on a busy host, be scheduled soon and for a short time rather than later and for a longer one, from Linux 6.12 on.
 * A sync point is a chain of wake-ups, and each would wait for the end of somebody else's turn, some 3 ms.
 */
void ft_link_take_short_turns(void);

/*
 * Both: do not give freed memory of a command's size back to the host each time. Its pages would have to be made again
 * for the next one, which takes several times as long as to fill them.
 */
void ft_link_keep_memory(void);

/* Module: be killed when the monitor `parent` dies. -1: it is dead already, or the host refused. */
int ft_link_die_with(int parent);

/* ---- Rounds of a module (rounds.c) --------------------------------------------------------- */

/*
 * Epochs of a module that begin with what a disk did and end when its driver asks for more. What is given of the board stays
 * as it is meanwhile: the caller must be told of any access that is not for the local APIC or `notify`, and ft_rounds_run() comes
 * back at the first one.
 */
typedef struct {
    ft_cpu *cpu; /* with its local APIC attached */
    ft_link *link;
    const void *device; /* its name, packed */
    uint32_t device_bytes;
    uint32_t command;   /* the kind that is done here; all others end the rounds */
    uint32_t stops_for; /* ft_report.stop of a round */
    uint64_t notify;    /* guest physical address of four bytes: a write there is what the driver asks by */
    uint64_t slow_ns;   /* the next event of the chips but the local APIC, or -1 */
    uint32_t destination, logical, delivery, vector,
        level;        /* the device's interrupt, an ft_lapic_message() */
    const void *kick; /* what a round's outputs are, packed */
    uint32_t kick_bytes;
    /* The board's state, packed: up to that of the local APIC; on to the device's next_avail; to next_used; the rest. */
    const void *board[4];
    uint32_t board_bytes[4];
    uint8_t *room; /* for all of it */
    uint32_t room_bytes;
    /* How far the device is in its one queue. */
    uint64_t next_avail, next_used;
    /* What has been: rounds begun, and with FT_ROUND_STOPPED what the CPU has stopped for in the last. */
    uint32_t count;
    int stop;
} ft_rounds;

enum {
    FT_ROUND_FAILED = -1, /* waiting, or publishing */
    FT_ROUND_COMMAND = 0, /* `command` is for the caller */
    FT_ROUND_CLOSED = 1,  /* `lifeline` was closed */
    FT_ROUND_STOPPED =
        2 /* `command` was begun, and its run is for the caller to go on with: see ft_cpu_take_signal() */
};
/* Wait for commands as ft_link_await_command() does, do those that can be done here, and report. */
int ft_rounds_run(ft_rounds *rounds, uint32_t spins, int lifeline, ft_command *command);
/* 1: the driver has written to `notify` since it was asked last, and nobody was told. */
int ft_cpu_take_signal(ft_cpu *cpu);

/* ---- Voter (voter.c): compares the modules' memory and keeps the verified image ----------- */

/*
 * The image is private memory of the monitor. What is compared is what is committed: the first module's
 * pages are copied once, the other modules are compared with the copy, and the copy goes to the image.
 */
typedef struct ft_voter ft_voter;

/* One module's memory at a sync point: what its RAM holds, and which pages it wrote since the last one. */
typedef struct {
    const void *ram;
    const uint32_t *written; /* page numbers; may still change under our eyes, so each is read once */
    uint32_t count;
} ft_memory;

/* A run of bytes in which at least one module differs from the first (ft_voter_compare) or from the image. */
typedef struct {
    uint64_t offset; /* in RAM */
    uint32_t bytes;
    uint32_t modules; /* bit m: module m differs in this run */
} ft_difference;

/* `image` has `ram_bytes`, all zero, and stays the caller's. `threads` counts the caller's own. NULL: out of
 * memory or threads. At most 32 modules are compared. */
ft_voter *ft_voter_open(void *image, uint64_t ram_bytes, uint32_t threads);
void ft_voter_close(ft_voter *voter);

/* Data on their way into RAM: to the first of the places that are not taken yet, and so on; as long as all of them. */
typedef struct {
    const void *data;
    uint64_t bytes;
    uint32_t places;
} ft_bulk;

/*
 * Put the same into the RAM of `count` modules, while they stand still: each bulk into its share of the `places`, in
 * their order. -1: nothing was put there, since a place is not inside RAM, the lengths do not add up, or there is no memory.
 *
 * It is a part of the epoch that they run next, though in no dirty log: the next compare takes these pages for
 * written, and what stands there is known, unless a module has written to the page too. So the commit takes it from
 * `data`, which must not change until then or until the next call. Call it before each epoch, also with nothing.
 */
int ft_voter_place(ft_voter *voter, void *const *rams, uint32_t count, const ft_bulk *bulks,
                   uint32_t bulk_count, const ft_extent *places, uint32_t place_count);

/*
 * Compare the pages that any of `count` modules wrote, by its log, byte for byte. Returns the number of pages that
 * differ, with the first `capacity` runs in `found` and their number in `found_count`; or -1 - m when module
 * m's list names a page that does not exist.
 */
int64_t ft_voter_compare(ft_voter *voter, const ft_memory *memories, uint32_t count, ft_difference *found,
                         uint32_t capacity, uint32_t *found_count);
/* After a compare that found nothing: its pages become verified. */
void ft_voter_commit(ft_voter *voter);
/* The pages that the last compare looked at, and those where something was placed; valid until the next one. */
const uint32_t *ft_voter_pages(const ft_voter *voter, uint32_t *count);

/* Put a module's RAM back to the image: the pages that the last compare looked at, or all that differ (how many?). */
void ft_voter_restore(const ft_voter *voter, void *ram);
uint32_t ft_voter_restore_all(ft_voter *voter, void *ram);

/*
 * For a new module whose RAM is all zero: `pending` has a byte per page, 1 = still to be copied from the image. Mark
 * what the image holds; mark what the last compare, once committed, changed; copy up to `limit` of them from page
 * `first`, returning where to go on (the number of RAM pages at the end).
 */
void ft_voter_mark_content(const ft_voter *voter, uint8_t *pending);
void ft_voter_mark_compared(const ft_voter *voter, uint8_t *pending);
uint32_t ft_voter_copy_pending(const ft_voter *voter, void *ram, uint8_t *pending, uint32_t first,
                               uint32_t limit);

/* Copy these pages of the image into a module's RAM. */
void ft_voter_copy_pages(const ft_voter *voter, void *ram, const uint32_t *pages, uint32_t count);

/* Compare `pages` pages from `first` of every module with the image; returns as ft_voter_compare does. */
int64_t ft_voter_scrub(ft_voter *voter, const ft_memory *memories, uint32_t count, uint32_t first,
                       uint32_t pages, ft_difference *found, uint32_t capacity, uint32_t *found_count);

/* Write verified memory from outside a module (the start image). -1: not inside RAM. */
int ft_voter_write(ft_voter *voter, uint64_t offset, const void *data, uint64_t bytes);
/*
 * Where the image holds more than zeros: the first such page at or after `page`, and in `count` how many
 * follow each other from there. The number of RAM pages, and 0, when there is none.
 */
uint32_t ft_voter_content(const ft_voter *voter, uint32_t page, uint32_t *count);
/* A byte per page, set to 1 whenever the image may have changed there. Whoever reads it may clear it. */
uint8_t *ft_voter_changed(ft_voter *voter);

/* ---- Snapshots (snapshots.c): earlier states of the verified image ------------------------ */

/* States share the pages that are equal in them. `changed` is what ft_voter_changed() gave. */
typedef struct ft_snapshots ft_snapshots;

/* NULL: out of memory. Image and `changed` stay the caller's. */
ft_snapshots *ft_snapshots_open(void *image, uint64_t ram_bytes, uint8_t *changed);
void ft_snapshots_close(ft_snapshots *snapshots);

/* Keep what the image holds now, and return a number for it; only what changed since the last call of this or of
 * ft_snapshots_restore() is looked at. -1: out of memory. */
int64_t ft_snapshots_keep(ft_snapshots *snapshots);
/* Forget a state. */
void ft_snapshots_drop(ft_snapshots *snapshots, uint32_t id);
/*
 * Put the image back to a state. Returns how many pages may have changed by that, and their numbers, ascending, in
 * `pages`, which has room for every page.
 */
uint32_t ft_snapshots_restore(ft_snapshots *snapshots, uint32_t id, uint32_t *pages);
/* Whether the image holds exactly that state now. Only what may differ is looked at. */
int ft_snapshots_holds(const ft_snapshots *snapshots, uint32_t id);
/* Memory that all states take together. */
uint64_t ft_snapshots_bytes(const ft_snapshots *snapshots);

/* ---- Split virtqueues in verified memory (virtqueue.c) ------------------------------------ */

enum { FT_QUEUE_MAX = 1 << 15 }; /* entries */

/* A chain that goes back, as it stands in the used ring. */
typedef struct {
    uint32_t head;
    uint32_t written; /* bytes */
} ft_used;

typedef struct {
    uint64_t offset;
    const void *data;
    uint32_t bytes;
} ft_ring_write;

/* One queue of a live device. `ram` is the verified image; the rings are offsets in it, and inside of it. */
typedef struct {
    const void *ram;
    uint64_t ram_bytes;
    uint64_t descriptors;
    uint64_t driver;
    uint64_t device;
    uint32_t index;
    uint32_t size;
    uint16_t next_avail; /* go on as chains are taken, and given back */
    uint16_t next_used;
    uint8_t event_index; /* negotiated features */
    uint8_t indirect;

    /* The chain that was taken last: how the driver calls it, and of how many spans it is. */
    uint32_t head;
    uint32_t readable;
    uint32_t writable;

    /* What ft_queue_complete() said last. The data of `writes` are here, and what it was given. */
    uint8_t interrupt; /* the driver is to be interrupted */
    uint8_t write_count;
    uint16_t used_index;
    uint16_t word;
    ft_ring_write writes[4]; /* to be done in this order */

    char error[120]; /* what the driver did against the rules, where a call says so */
} ft_queue;

/* Where the driver put its rings is guest physical. -1: they cannot be there, or the queue is none. */
int ft_queue_open(ft_queue *q, const void *ram, uint64_t ram_bytes, uint32_t index, uint32_t size,
                  uint64_t descriptors, uint64_t driver_area, uint64_t device_area);
/* How many chains there are to take, or -1: the ring is broken. */
int ft_queue_waiting(ft_queue *q);
/*
 * The next chain, of which there must be one: at most q->size spans, first those that the device may read, then those that
 * it may write. -1: it is broken.
 */
int ft_queue_take(ft_queue *q, ft_extent *spans);
/*
 * Chains to write `bytes` into, at most `limit` of those that wait, each with room for `least`: how many there are, with
 * what is `used` of each; `spans` are then `span_count` for just so many bytes. There must be room for q->size of them
 * beside one for each byte. 0: they are too few, and none is taken. -1: one is broken, or is to be read.
 */
int ft_queue_take_room(ft_queue *q, uint32_t bytes, uint32_t least, uint32_t limit, ft_used *used,
                       ft_extent *spans, uint32_t *span_count);
/* Give `count` chains back, at most q->size. `notify`: the driver is to say when it makes more available (2.7.7, 2.7.10). */
void ft_queue_complete(ft_queue *q, const ft_used *used, uint32_t count, int notify);

/* ---- Legs of a disk (legs.c) -------------------------------------------------------------- */

/*
 * What the thread of one leg is to do, in the order in which it is posted: writes, which are done here, and actions of
 * the owner's, for which ft_leg_queue_run() comes back.
 */
typedef struct ft_leg_queue ft_leg_queue;

ft_leg_queue *ft_leg_queue_open(void);        /* NULL: out of memory */
void ft_leg_queue_close(ft_leg_queue *queue); /* not while its thread is in it */

/* Any thread: an action is due behind all that was posted before. -1: out of memory. */
int ft_leg_queue_post(ft_leg_queue *queue);
/* Any thread: nothing more is begun, neither what was posted nor what will be. */
void ft_leg_queue_abandon(ft_leg_queue *queue);
/* The leg's thread: write until an action is due, which is 1, or until nothing more is to be begun, which is 0. */
int ft_leg_queue_run(ft_leg_queue *queue);

enum {
    FT_LEGS_MAX = 8,
    FT_LEG_RUNNING = -1, /* outcomes: it has not ended */
    FT_LEG_SHORT = -2    /* the host took some of it, and then nothing more */
};

/* Legs that get a write, and the descriptors of their images, which only their own threads close. */
typedef struct {
    ft_leg_queue *queues[FT_LEGS_MAX];
    int fds[FT_LEGS_MAX];
    uint32_t count;
    int event_fd; /* an eventfd that says that a leg has ended late; open as long as there are threads */
} ft_legs;

typedef struct {
    const void *data;
    uint64_t bytes;
} ft_piece;

typedef struct ft_leg_write ft_leg_write;

/*
 * Write the pieces, one behind the other, at `offset` of every leg, and wait until all have ended, at most for
 * `patience_us`. 1: all have written all of it. 0: some have failed or have not ended, see `write`, which is the caller's to
 * close; `event_fd` is rung for each one that ends from now on. -1: out of memory, and nothing was begun.
 * The pieces are copied first: what a late leg writes is what the others wrote, whatever becomes of them.
 */
int ft_legs_write(const ft_legs *legs, uint64_t offset, const ft_piece *pieces, uint32_t piece_count,
                  uint32_t patience_us, ft_leg_write **write);
/* Of leg number `leg` of those: 0 (done), FT_LEG_RUNNING, FT_LEG_SHORT or what errno was; and how much it has written. */
int ft_leg_write_outcome(ft_leg_write *write, uint32_t leg, uint64_t *done_bytes);
void ft_leg_write_close(ft_leg_write *write); /* legs that have not ended go on with it */

/* ---- Sync points (turns.c) ---------------------------------------------------------------- */

/* Judges what modules report, and passes sync points by itself where there is nothing to do but to serve a disk. */
typedef struct ft_turns ft_turns;

/* A disk whose driver may be served: all that there must be of it in the verified state, and in what leaves the guest. */
typedef struct {
    const void *name; /* packed */
    uint32_t name_bytes;
    const void *kick; /* the outputs of an epoch in which its driver notified its queue */
    uint32_t kick_bytes;
    const void *state[3]; /* of its chip, packed: what is around next_avail and next_used of the queue */
    uint32_t state_bytes[3];
    ft_queue queue; /* as the chip is told by the newest input; goes on with it */
    uint64_t size_bytes;
    uint64_t room_bytes;     /* of data, of all that is asked for at one sync point */
    int fd;                  /* of what is to be read */
    const ft_legs *legs;     /* NULL: nothing may be written */
    const ft_extent *marked; /* where it may: places on the disk, ascending */
    uint32_t marked_count;
} ft_turn_disk;

typedef struct {
    ft_link *const *links;
    ft_memory *memories; /* their dirty logs are looked up here */
    uint32_t count;      /* of modules, at most 8 */
    ft_voter *voter;
    uint32_t spin_us; /* see ft_link_await_reports() */
    uint32_t sleep_us;
    uint32_t kind; /* of the command, and its target */
    uint64_t target;

    /* Whether to pass sync points. */
    ft_turn_disk *disk; /* NULL: none */
    uint32_t stop;      /* passed are those to which they come with this ft_report.stop, before the target */
    uint64_t position;  /* of the last one that was */
    uint64_t blocks;    /* of each epoch */
    uint64_t until_ns;  /* on the monotonic clock */
    uint32_t scrub_in;  /* so many sync points away, and then at one of `scrub_every`, */
    uint32_t scrub_every;
    uint32_t scrub_first; /* the pages behind this one are compared with the image, */
    uint32_t scrub_pages; /* so many of them; they begin anew behind `ram_pages` */
    uint32_t ram_pages;

    /* What came of it. Times are on the monotonic clock. */
    uint32_t passed;           /* sync points */
    uint32_t refused;          /* bit m: module m could not be told */
    uint32_t in_image;         /* what was written in the newest epoch is: it must be committed */
    uint64_t first_ns;         /* the first command was posted */
    uint64_t began_ns;         /* the newest one was */
    uint64_t ended_ns;         /* and all had reported */
    uint64_t longest_pause_ns; /* between those that were passed and what followed */
    uint64_t longest_epoch_ns;
} ft_turn_plan;

enum {
    FT_TURN_SILENT = 0, /* not all have reported; it is ft_turns_judge() that looks at them when they have */
    FT_TURN_APART = 1,  /* they differ, or one of them cannot be believed */
    FT_TURN_AGREED = 2  /* they agree, in what they reported and wrote */
};

ft_turns *ft_turns_open(void); /* NULL: out of memory */
void ft_turns_close(ft_turns *turns);
/* Pass no sync point when one of these can be read, which is looked for every millisecond. -1: too many. */
int ft_turns_watch(ft_turns *turns, const int *fds, uint32_t count);
/* Tell all modules, wait, and judge: FT_TURN_*, of the newest sync point, which is not passed. */
int ft_turns_run(ft_turns *turns, ft_turn_plan *plan, const void *payload, uint32_t payload_bytes);
int ft_turns_judge(ft_turns *turns, ft_turn_plan *plan);
/* What all agreed on there; or, `verified`, at the last one that was passed. Valid until the next call. */
const ft_report *ft_turns_report(const ft_turns *turns, int verified, const void **payload);
/* What entered there, encoded. */
const void *ft_turns_inputs(ft_turns *turns, const ft_turn_disk *disk, uint32_t *bytes);
/* Places on the disk that may have been written to by the last ft_turns_run(). */
const ft_extent *ft_turns_written(const ft_turns *turns, uint32_t *count);

/* cdef end */

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Everything that reaches into Unicorn's private parts stands in this file.
 *
 * The core is linked statically with libunicorn.a of exactly one release (build.py checks its hash). Some of its
 * functions are replaced at link time: `__wrap_NAME` stands in for NAME wherever another object calls it
 * (ld --wrap), and where a caller in the same object must be caught too, a function of the same name here comes
 * first (ld -z muldefs). The offsets below are those of that release; ft_engine_open() checks
 * them by writing through the public interface and by running a few instructions, and refuses on a mismatch.
 *
 * What is replaced, and the fact about Unicorn behind it:
 *
 *  - check_exit_request: Unicorn looks for a stop after every load and store. A stop there restarts
 *    read-modify-write instructions, which then run twice. Nothing is emitted any more.
 *  - tcg_gen_callN, helper_check_exit_request: the check at the start of a block becomes a countdown in memory
 *    that calls out only when it runs below zero. It is the position counter and the only place where we stop.
 *  - x86_cpu_tlb_fill, tlb_set_page_with_attrs: Unicorn never lets a store to an executable page leave the slow path.
 *    A data access therefore fills the TLB without the right to execute; a fetch fills it again.
 *  - tlb_protect_code, tlb_unprotect_code, tlb_set_dirty, tb_invalidate_phys_page_fast: Unicorn forgets that a page
 *    has translated code and runs stale code. These four remember it, and they are the dirty log as well, since each
 *    first store to a page since the log was armed comes by.
 *  - x86_stl_phys_notdirty: sets accessed and dirty bits in page tables past the dirty log.
 *  - x86_ldl_phys, x86_ldq_phys: take a long way to read a page-table entry.
 *  - tlb_flush, tlb_flush_page, tcg_region_reset_all, helper_lookup_tb_ptr, qht_remove: Unicorn does not know of global pages, so
 *    that each MOV to CR3 costs a kernel its TLB and the places its jumps go to. See "Global pages".
 *  - uc_struct.memory_mapping, a pointer: looks up the map of the whole memory at each slow access.
 *  - tcg_optimize: a pass of the translator that does not pay.
 *  - tlb_reset_dirty_by_vaddr: a scan of the TLB for each translated block, not needed here.
 *  - gettimeofday: sizes the TLB by the host's clock.
 *  - cpu_watchpoint_address_matches, cpu_check_watchpoint: data breakpoints are cut out.
 *  - gen_intermediate_code: tells the block that is being translated, for the code at its start.
 *  - get_page_addr_code, cpu_ld*_code, helper_reset_rf: a block that is run in pieces, see "Stepping"; and code
 *    is fetched byte by byte, each through all that a slow access goes through.
 *  - update_mxcsr_status: mistakes one FPU for the other.
 *  - the helpers that load flags: the moments at which a waiting interrupt can become due.
 *  - the helpers of privileged instructions: Unicorn's know nothing of SYSCALL, unknown MSRs, I/O
 *    permissions or a fixed CPU model.
 */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unicorn/unicorn.h>

#include "cpu.h"

/* ---- Layout of Unicorn 2.1.4, x86_64 target ---------------------------------------------------------------- */

typedef struct {
    uint32_t selector;
    uint64_t base;
    uint32_t limit;
    uint32_t flags;
} engine_segment;

typedef struct {
    uint64_t addr_read, addr_write, addr_code, paddr, addend;
    uint64_t padding[3];
} tlb_entry;

typedef struct {
    uint64_t mask; /* (entries - 1) * sizeof(tlb_entry) */
    tlb_entry *table;
} tlb_fast;

enum {
    MMU_MODES = 3,
    MMU_USER = 1,
    MMU_KERNEL = 2,
    VICTIM_ENTRIES = 8,
    /* In an entry's addresses: no access; stores are told; accesses go to a device, or are told. */
    TLB_INVALID = 1 << 11,
    TLB_NOTICE = 1 << 10,
    TLB_DEVICE = 1 << 9,
    TLB_WATCHED = 1 << 8,

    UC_MEMORY_MAPPING = 0x120,
    UC_CPU = 0x1b8,
    UC_TCG = 0x300,

    CPU_CFLAGS_NEXT_TB = 0x18,
    CPU_ENV_PTR = 0x128,
    CPU_JUMP_CACHE = 0x138, /* of pointers to blocks */
    JUMP_CACHE_BLOCKS = 4096,
    CPU_EXCEPTION_INDEX = 0x81a0,
    CPU_UC = 0x81a8,
    CPU_TCG_EXIT_REQ = 0x81b8,
    CPU_ENV = 0x8a50, /* the environment lies in the CPU object */

    /* Relative to the environment, which follows the TLB. */
    ENV_TLB_DESC = -2160,
    TLB_DESC_BYTES = 696,
    TLB_DESC_LARGE_PAGE = 0x0, /* uint64_t[2]: address and mask of all of them */
    TLB_DESC_USED = 0x20,
    TLB_DESC_VICTIMS = 0x30,
    TLB_DESC_IOTLB = 0x2b0,
    ENV_TLB_FAST = -64,
    ENV_REGS = 0x0,
    ENV_EIP = 0x80,
    ENV_EFLAGS = 0x88,
    ENV_CC_SRC = 0x98,
    ENV_CC_OP = 0xa8,
    ENV_DF = 0xac,
    ENV_HFLAGS = 0xb0,
    ENV_HFLAGS2 = 0xb4,
    ENV_SEGS = 0xb8,
    ENV_LDT = 0x148,
    ENV_TR = 0x160,
    ENV_GDT = 0x178,
    ENV_IDT = 0x190,
    ENV_CR = 0x1a8,
    ENV_EFER = 0x250,
    ENV_FPSTT = 0x25c,
    ENV_FPUS = 0x260,
    ENV_FPUC = 0x262,
    ENV_FPTAGS = 0x264,
    ENV_FPREGS = 0x270,
    ENV_FPIP = 0x2f8,
    ENV_FPDP = 0x300,
    ENV_SSE_STATUS = 0x328,
    ENV_MXCSR = 0x330,
    ENV_XMM = 0x338,
    XMM_STRIDE = 64,
    ENV_SYSENTER_CS = 0x12c0,
    ENV_SYSENTER_ESP = 0x12c8,
    ENV_SYSENTER_EIP = 0x12d0,
    ENV_STAR = 0x12d8,
    ENV_LSTAR = 0x12e8,
    ENV_CSTAR = 0x12f0,
    ENV_FMASK = 0x12f8,
    ENV_KERNEL_GS_BASE = 0x1300,
    ENV_EXCEPTION_IS_INT = 0x150c,
    ENV_DR = 0x1518,
    ENV_OLD_EXCEPTION = 0x1578,
    ENV_VENDOR = 0x15f0, /* uint32_t[3]: SYSENTER in 64-bit code is Intel's alone */
    ENV_FEATURES = 0x1600,
    ENV_UC = 0x1b58,

    /*
     * Two fields that only KVM guests use. Generated code reaches the countdown as [env + constant]; the
     * replaced functions find their ft_cpu.
     */
    ENV_COUNTDOWN = 0x14d8, /* system_time_msr */
    ENV_OWNER = 0x14e8,     /* steal_time_msr */

    TB_PC = 0x0, /* linear */
    TB_CS_BASE = 0x8,
    TB_FLAGS = 0x10,
    TB_SIZE = 0x14,
    TB_ICOUNT = 0x16,
    TB_CFLAGS = 0x18,
    TB_CFLAGS_COUNT = 0x7fff, /* how many instructions the block may have, 0 for any number */
    TB_CFLAGS_PIECE =
        0x8000,      /* Unicorn's CF_LAST_IO: part of what blocks are told apart by, and used for nothing */
    TB_ENTRY = 0x20, /* its host code */
    TB_PAGE_ADDR = 0x48, /* uint64_t[2], the second -1 for a block on one page */

    TCG_BLOCKS = 0x98b8, /* the hash table of all of them */
    TCG_CPU_ENV = 0x98f0,
    TCG_UC = 0x9970,
    TCG_TYPE_I64 = 1,
    TCG_COND_LT = 2,
    LABEL_PRESENT = 1,
    LABEL_REFERENCE = 1 << 16, /* one more */
    OP_SET_LABEL = 1,
    OP_BR = 3,
    OP_LD_I64 = 73,
    OP_ST_I64 = 77,

    HF_INHIBIT_IRQ = 1 << 3,
    HF_CS32 = 1 << 4,
    HF_OF_EFLAGS = 1 << 8 | 3 << 12 | 1 << 17, /* TF, IOPL, VM */
    HF_CPL = 3,
    HF_LMA = 1 << 14,
    HF_CS64 = 1 << 15,
    HF_SMAP = 1 << 23,
    HF2_GIF = 1 << 0,
    HF2_NMI_BLOCKED = 1 << 2,

    ACCESS_FETCH = 2,
    PROT_EXECUTE = 4,
    CC_OP_EFLAGS = 1,
    EXCP_INTERRUPT = 0x10000,
    FEATURE_1_EDX = 0,
    FEATURE_1_ECX = 1,
    FEATURE_7_EBX = 2,
    FEATURE_7_EDX = 4,
    FEATURE_80000001_EDX = 6,
    FEATURE_80000001_ECX = 7,
    FEATURE_WORDS = 34,
};

#define FLAG_CF_TO_OF 0x8d5u /* the arithmetic flags, which live in cc_src */
#define FLAG_IF 0x200u
#define FLAG_DF 0x400u
#define FLAG_IOPL 0x3000u
#define FLAG_RF 0x10000u
#define FLAG_VM 0x20000u
#define FLAGS_OF_BLOCKS 0x73100u /* TF, IOPL, RF, VM, AC: blocks are told apart by them */

#define CR0_PE 1ull
#define CR0_NW (1ull << 29)
#define CR0_CD (1ull << 30)
#define CR0_PG (1ull << 31)
#define CR4_PAE (1ull << 5)
#define CR4_PGE (1ull << 7)
#define CR4_SMAP (1ull << 21)
/* VME PVI TSD DE PSE PAE MCE PGE PCE OSFXSR OSXMMEXCPT, FSGSBASE, SMEP: what CPUID offers. */
#define CR4_VALID 0x1107ffull

#define EFER_SCE (1ull << 0)
#define EFER_LME (1ull << 8)
#define EFER_LMA (1ull << 10)
#define EFER_NXE (1ull << 11)

#define PTE_GLOBAL (1ull << 8)

/* Of one page's life: when its code was dropped this often, stores to it are looked at one by one instead. */
#define DROPS_BEFORE_PRECISE 32

/* ---- Functions of Unicorn that are called or replaced ------------------------------------------------------- */

struct uc_struct;
void *tcg_temp_new_internal_x86_64(void *tcg, int type, bool local);
void tcg_temp_free_internal_x86_64(void *tcg, void *temp);
void *tcg_const_i64_x86_64(void *tcg, int64_t value);
void *gen_new_label_x86_64(void *tcg);
void tcg_gen_op1_x86_64(void *tcg, int opcode, uintptr_t a);
void tcg_gen_op3_x86_64(void *tcg, int opcode, uintptr_t a, uintptr_t b, uintptr_t c);
void tcg_gen_addi_i64_x86_64(void *tcg, void *result, void *a, int64_t b);
void tcg_gen_brcondi_i64_x86_64(void *tcg, int condition, void *a, int64_t b, void *label);
void *tcg_tb_lookup_x86_64(void *tcg, uintptr_t host_pc);
void page_collection_unlock_x86_64(void *pages);

void tlb_init_x86_64(void *cpu);
void tlb_flush_x86_64(void *cpu);
void tlb_flush_by_mmuidx_x86_64(void *cpu, uint16_t modes);
void tb_flush_jmp_cache_x86_64(void *cpu, uint64_t address);
void tlb_reset_dirty_x86_64(void *cpu, uint64_t host_start, uint64_t length);
void tb_invalidate_phys_page_range_x86_64(void *uc, uint64_t start, uint64_t end);
uint64_t qemu_ram_addr_from_host_x86_64(void *uc, void *host);

uint32_t cpu_cc_compute_all_x86_64(void *env, int op);
void x86_update_hflags_x86_64(void *env);
void cpu_x86_update_cr0_x86_64(void *env, uint32_t value);
void cpu_x86_update_cr3_x86_64(void *env, uint64_t value);
void cpu_x86_update_cr4_x86_64(void *env, uint32_t value);
void update_fp_status_x86_64(void *env);
void helper_check_iob_x86_64(void *env, uint32_t port);
void helper_check_iow_x86_64(void *env, uint32_t port);
void helper_check_iol_x86_64(void *env, uint32_t port);

bool cpu_restore_state_x86_64(void *cpu, uintptr_t host_pc, bool will_exit);
void cpu_loop_exit_restore_x86_64(void *cpu, uintptr_t host_pc) __attribute__((noreturn));
void cpu_loop_exit_noexc_x86_64(void *cpu) __attribute__((noreturn));
void raise_exception_err_ra_x86_64(void *env, int vector, int error_code, uintptr_t host_pc)
    __attribute__((noreturn));
void do_interrupt_x86_hardirq_x86_64(void *env, int vector, int is_hardware);
void x86_cpu_do_interrupt_x86_64(void *cpu);

void *find_memory_mapping_x86_64(void *uc, uint64_t address);
uint32_t cpu_ldub_code_x86_64(void *env, uint64_t address);

void __real_gen_intermediate_code_x86_64(void *cpu, void *block, int max_instructions);
uint64_t __real_get_page_addr_code_x86_64(void *env, uint64_t address);
uint32_t __real_cpu_ldub_code_x86_64(void *env, uint64_t address);
uint32_t __real_cpu_lduw_code_x86_64(void *env, uint64_t address);
uint32_t __real_cpu_ldl_code_x86_64(void *env, uint64_t address);
uint64_t __real_cpu_ldq_code_x86_64(void *env, uint64_t address);
void __real_helper_reset_rf_x86_64(void *env);
void __real_tcg_gen_callN_x86_64(void *tcg, void *function, void *result, int count, void **args);
bool __real_x86_cpu_tlb_fill_x86_64(void *cpu, uint64_t address, int size, int access, int mmu_index,
                                    bool probe, uintptr_t host_pc);
void __real_tlb_set_page_with_attrs_x86_64(void *cpu, uint64_t vaddr, uint64_t paddr, uint32_t attrs,
                                           int prot, int mmu_index, uint64_t size);
void __real_tlb_unprotect_code_x86_64(void *uc, uint64_t ram_address);
void __real_tb_invalidate_phys_page_fast_x86_64(void *uc, void *pages, uint64_t start, int length,
                                                uintptr_t host_pc);
void __real_tlb_flush_x86_64(void *cpu);
void __real_tlb_flush_page_x86_64(void *cpu, uint64_t address);
void __real_tcg_region_reset_all_x86_64(void *tcg);
void *__real_helper_lookup_tb_ptr_x86_64(void *env);
bool __real_qht_remove(void *blocks, const void *block, uint32_t hash);
uint32_t __real_x86_ldl_phys_x86_64(void *cpu, uint64_t address);
uint64_t __real_x86_ldq_phys_x86_64(void *cpu, uint64_t address);
void __real_x86_stl_phys_notdirty_x86_64(void *cpu, uint64_t address, uint32_t value);
void __real_helper_sti_x86_64(void *env);
void __real_helper_write_eflags_x86_64(void *env, uint64_t value, uint32_t mask);
void __real_helper_iret_real_x86_64(void *env, int shift);
void __real_helper_iret_protected_x86_64(void *env, int shift, int next_eip);
void __real_helper_sysret_x86_64(void *env, int operand_size);
void __real_helper_ljmp_protected_x86_64(void *env, int selector, uint64_t eip, uint64_t next_eip);
void __real_helper_lcall_protected_x86_64(void *env, int selector, uint64_t eip, int shift,
                                          uint64_t next_eip);
void __real_helper_hlt_x86_64(void *env, int next_eip_addend);
void __real_helper_raise_interrupt_x86_64(void *env, int vector, int next_eip_addend)
    __attribute__((noreturn));
void __real_helper_into_x86_64(void *env, int next_eip_addend);
void __real_raise_exception_err_x86_64(void *env, int vector, int error_code) __attribute__((noreturn));
void __real_helper_set_dr_x86_64(void *env, int index, uint64_t value);
uint64_t __real_helper_read_crN_x86_64(void *env, int index);
void __real_qemu_system_reset_request(void *uc);

/* ---- State of one engine ------------------------------------------------------------------------------------ */

/* The block that is being run in pieces. */
typedef struct {
    uint64_t pc;       /* linear */
    uint64_t pages[2]; /* where it lies in RAM; FT_NO_RAM for a page that it has not */
    uint32_t bytes;
    bool alone;          /* a restart as a block of one instruction */
    uint32_t done, left; /* instructions; none is left outside a block */
} stepped_block;

/* See "Global pages". */
enum { LOCAL_PAGES = 256, GLOBAL_CODE_PAGES = 1024, GLOBAL_BLOCK_BITS = 13 };

/* All that a jump to a block needs to know, in one line of the host's caches. */
typedef struct {
    uint64_t pc;
    void *entry; /* NULL: nothing is kept here */
} jump_target;

typedef struct {
    uint64_t entry; /* of a page table: what was read last for the TLB entry that is being set up */
    uint32_t cr3_writes;
    uint32_t local_count; /* beyond the array: not all are there */
    struct {
        uint64_t page;
        int mode;
    } local[LOCAL_PAGES];
    uint64_t code[GLOBAL_CODE_PAGES]; /* a page's address, plus 1 */
    uint64_t flags;                   /* of the blocks below, all of which have the same */
    jump_target targets[1 << GLOBAL_BLOCK_BITS];
} global_pages;

enum { UNNOTICED_PAGES = 256 };

typedef void *find_mapping(void *uc, uint64_t address);

typedef struct ft_engine {
    uc_engine *uc;
    char *cpu; /* Unicorn's CPUState */
    char *env; /* and CPUX86State */
    char *tcg;

    /* position = end - countdown, always; so the running count needs no second word in generated code. */
    uint64_t end;
    /* Position of a store that may restart its own block as a single instruction, see the block hook. */
    uint64_t restart_position;
    uint64_t forced_position; /* where stuck registers were put right last: once for each position */
    int fill_access;
    uint64_t filled_page;        /* guest physical address of what the TLB is told now */
    uint64_t soft_interrupt_eip; /* of the INT n that is being delivered */

    const char *translating;         /* the block that is being translated */
    uint32_t *stop_label, *go_label; /* of its entry: where our hook is called, and where it comes back to */

    stepped_block block;
    bool entering;   /* leave the next block between its count and its first instruction */
    bool in_piece;   /* a piece is being run: leave at whatever block comes behind it */
    bool finding;    /* and it has not begun: it is being looked up or translated */
    bool last_piece; /* it goes to the end of its block */

    uint32_t data_breakpoints_hit; /* bits 0..3 as in DR6; the trap is due at the next block entry */

    global_pages global;

    /* Pages to which stores go without notice since the log was armed. */
    uint64_t unnoticed[UNNOTICED_PAGES];
    uint32_t unnoticed_count; /* beyond the array: not all are there */

    void *ram_regions[2]; /* Unicorn's MemoryRegions, below and above the hole */
    uint64_t last_stored_page;
    uint8_t *has_code; /* per page: blocks translated from it may exist */
    uint8_t *drops;    /* per page: how often its code was dropped, up to DROPS_BEFORE_PRECISE */
} ft_engine;

#define FT_NO_RAM UINT64_MAX
#define FIELD(base, offset, type) (*(type *)((char *)(base) + (offset)))
#define COUNTDOWN(env) FIELD(env, ENV_COUNTDOWN, int64_t)
#define HOST_PC() ((uintptr_t)__builtin_return_address(0))

/*
 * gettimeofday() is the one replaced function that is not told whose TLB it is called for. This is set while an
 * engine may do so.
 */
static _Thread_local const ft_cpu *clock_owner;

static ft_cpu *owner_of_env(void *env)
{
    return FIELD(env, ENV_OWNER, ft_cpu *);
}

static ft_cpu *owner_of_cpu(void *cpu)
{
    return owner_of_env(FIELD(cpu, CPU_ENV_PTR, void *));
}

static ft_cpu *owner_of_uc(void *uc)
{
    return owner_of_cpu(FIELD(uc, UC_CPU, void *));
}

static uint32_t load_eflags(const void *env)
{
    uint32_t arithmetic = cpu_cc_compute_all_x86_64((void *)env, FIELD(env, ENV_CC_OP, int));

    return arithmetic | ((uint32_t)FIELD(env, ENV_DF, int32_t) & FLAG_DF) | FIELD(env, ENV_EFLAGS, uint32_t) |
           2;
}

static void store_eflags(void *env, uint32_t flags)
{
    FIELD(env, ENV_CC_SRC, uint64_t) = flags & FLAG_CF_TO_OF;
    FIELD(env, ENV_CC_OP, uint32_t) = CC_OP_EFLAGS;
    FIELD(env, ENV_DF, int32_t) = flags & FLAG_DF ? -1 : 1;
    FIELD(env, ENV_EFLAGS, uint64_t) = (flags & ~(FLAG_CF_TO_OF | FLAG_DF)) | 2;
}

static engine_segment *segment(void *env, int offset, int index)
{
    return &FIELD(env, offset, engine_segment) + index;
}

/* ---- Position and stopping ---------------------------------------------------------------------------------- */

uint64_t ft_engine_position(const ft_cpu *cpu)
{
    return cpu->engine->end - (uint64_t)COUNTDOWN(cpu->engine->env);
}

static void arm(ft_engine *engine, uint64_t position, uint64_t end)
{
    engine->end = end;
    COUNTDOWN(engine->env) = (int64_t)(end - position);
}

void ft_engine_set_position(ft_cpu *cpu, uint64_t position)
{
    cpu->engine->restart_position = cpu->engine->forced_position = FT_NO_POSITION;
    arm(cpu->engine, position, position);
}

void ft_engine_poll_next_block(ft_cpu *cpu)
{
    uint64_t position = ft_engine_position(cpu);

    arm(cpu->engine, position, position);
}

/* As far as flags decide; the shadow of STI and MOV SS passes with the next block. */
static bool interrupt_due(const ft_cpu *cpu)
{
    const void *env = cpu->engine->env;

    return (cpu->interrupt_line && FIELD(env, ENV_EFLAGS, uint32_t) & FLAG_IF) ||
           (cpu->nmi_pending && !(FIELD(env, ENV_HFLAGS2, uint32_t) & HF2_NMI_BLOCKED));
}

static void arm_from(ft_cpu *cpu, uint64_t position)
{
    const ft_debug *debug = &cpu->debug;
    bool looked_on = debug->breakpoint_count || debug->compares || debug->hit.kind != FT_HIT_NONE;
    bool poll = cpu->stop_requested || cpu->force_count || interrupt_due(cpu) || cpu->limit < position ||
                cpu->engine->entering || cpu->engine->in_piece || looked_on || cpu->awaited_count ||
                (cpu->trace && cpu->trace->by_block);

    arm(cpu->engine, position, poll ? position : cpu->limit);
}

void ft_engine_limit_changed(ft_cpu *cpu)
{
    arm_from(cpu, ft_engine_position(cpu));
}

bool ft_engine_interrupts_enabled(const ft_cpu *cpu)
{
    return FIELD(cpu->engine->env, ENV_EFLAGS, uint32_t) & FLAG_IF;
}

const uint8_t *ft_engine_general_registers(const ft_cpu *cpu)
{
    return (const uint8_t *)cpu->engine->env + ENV_REGS;
}

/* Leave the emulation at a block entry: nothing of the block has run, and its registers are all in place. */
static void __attribute__((noreturn)) leave(ft_cpu *cpu, int stop, uintptr_t host_pc)
{
    cpu->stop = stop;
    uc_emu_stop(cpu->engine->uc);
    FIELD(cpu->engine->cpu, CPU_TCG_EXIT_REQ, uint32_t) = 0;
    cpu_loop_exit_restore_x86_64(cpu->engine->cpu, host_pc);
}

static void __attribute__((noreturn)) deliver(ft_cpu *cpu, int vector, bool external, uintptr_t host_pc)
{
    ft_engine *engine = cpu->engine;

    cpu_restore_state_x86_64(engine->cpu, host_pc, true);
    arm_from(cpu, ft_engine_position(cpu));
    do_interrupt_x86_hardirq_x86_64(engine->env, vector, external); /* leaves by itself when it faults */
    cpu_loop_exit_noexc_x86_64(engine->cpu);
}

static int pending_vector(ft_cpu *cpu)
{
    void *env = cpu->engine->env;

    if (FIELD(env, ENV_HFLAGS, uint32_t) & HF_INHIBIT_IRQ) {
        return -1;
    }
    if (cpu->nmi_pending && !(FIELD(env, ENV_HFLAGS2, uint32_t) & HF2_NMI_BLOCKED)) {
        cpu->nmi_pending = false;
        FIELD(env, ENV_HFLAGS2, uint32_t) |= HF2_NMI_BLOCKED;
        return FT_VECTOR_NMI;
    }
    if (cpu->interrupt_line && ft_engine_interrupts_enabled(cpu)) {
        int vector = ft_cpu_acknowledge(cpu);
        return vector >= 0 ? vector : ft_on_interrupt_ack(ft_cpu_owner(cpu));
    }
    return -1;
}

static void load_registers(ft_cpu *cpu, const ft_arch *arch);

/* Stuck-at faults. Registers that had to be changed take effect by entering the block again. */
static void apply_forces(ft_cpu *cpu, uintptr_t host_pc)
{
    ft_engine *engine = cpu->engine;
    ft_arch before, forced;

    if (ft_cpu_apply_forces(cpu, true, cpu->ram)) {
        for (unsigned i = 0; i < cpu->force_count; i++) {
            if (cpu->forces[i].in_ram) {
                ft_engine_drop_code(cpu, cpu->forces[i].offset >> FT_PAGE_SHIFT, 1);
            }
        }
    }
    cpu_restore_state_x86_64(engine->cpu, host_pc, true);
    ft_cpu_save(cpu, &before);
    forced = before;
    if (engine->forced_position == before.position || !ft_cpu_apply_forces(cpu, false, (uint8_t *)&forced)) {
        return;
    }
    engine->forced_position = before.position;
    load_registers(cpu, &forced);
    if (forced.cr0 != before.cr0 || forced.cr3 != before.cr3 || forced.cr4 != before.cr4 ||
        forced.efer != before.efer) {
        tlb_flush_x86_64(engine->cpu);
    }
    cpu_loop_exit_noexc_x86_64(engine->cpu);
}

static void begin_piece(ft_cpu *cpu);
static void note_block(ft_engine *engine, const char *block);

/* An instruction at the very beginning is certain to be executed, or to fault, so that one can be counted from here. */
static bool awaited(ft_cpu *cpu, const char *block)
{
    uint64_t start = FIELD(block, TB_PC, const uint64_t);
    ft_awaited *first = NULL;

    for (uint32_t i = 0; i < cpu->awaited_count; i++) {
        ft_awaited *awaited = &cpu->awaited[i];
        if (awaited->address == start && awaited->passes) {
            first = awaited;
        } else if (awaited->address - start < FIELD(block, TB_SIZE, const uint16_t)) {
            return true;
        }
    }
    if (first) {
        first->passes--;
        first->passed++;
    }
    return false;
}

static void trace_entry(ft_cpu *cpu, const char *block)
{
    const uint64_t *pages = &FIELD(block, TB_PAGE_ADDR, const uint64_t);
    uint64_t address = FIELD(block, TB_PC, const uint64_t);
    uint32_t hflags = FIELD(cpu->engine->env, ENV_HFLAGS, uint32_t);

    ft_trace_entered(
        cpu, &(ft_entered){
                 .address = address,
                 .code = {pages[0] == FT_NO_RAM ? FT_NO_RAM : pages[0] + address % FT_PAGE_BYTES, pages[1]},
                 .bytes = FIELD(block, TB_SIZE, const uint16_t),
                 .bits = hflags & HF_CS64   ? 64
                         : hflags & HF_CS32 ? 32
                                            : 16,
             });
}

/* A place in generated code that stands for the block's first instruction: the call to our hook lies behind its last. */
static uintptr_t at_entry(const char *block)
{
    return FIELD(block, TB_ENTRY, const uintptr_t) + 4;
}

/*
 * Called at the start of a block when the countdown has run below zero; counts the block or leaves before it. Our
 * caller says which block it is, where Unicorn's says that there is no delay slot.
 */
void __wrap_helper_check_exit_request_x86_64(void *uc, const char *block)
{
    ft_cpu *cpu = owner_of_uc(uc);
    ft_engine *engine = cpu->engine;
    uint64_t position = ft_engine_position(cpu) - 1; /* before this block */
    int vector;

    if (FIELD(block, TB_CFLAGS, const uint32_t) & TB_CFLAGS_PIECE) {
        begin_piece(cpu);
        return;
    }
    /*
     * A block that modified itself, or met a data breakpoint, is restarted there as a block of one instruction. Nothing
     * comes between, and where we stop here, the next block is one of one instruction still.
     */
    if (position == engine->restart_position) {
        if (position >= cpu->limit && !engine->entering && !engine->in_piece) {
            arm(engine, position, position);
            FIELD(engine->cpu, CPU_CFLAGS_NEXT_TB, uint32_t) = 1;
            leave(cpu, FT_STOP_POSITION, at_entry(block));
        }
    } else {
        arm(engine, position, position);
        if (engine->in_piece) { /* it went straight to the next block */
            leave(cpu, FT_STOP_POSITION, at_entry(block));
        }
        if (cpu->force_count) {
            apply_forces(cpu, at_entry(block));
        }
        if (engine->data_breakpoints_hit) {
            FIELD(engine->env, ENV_DR + 6 * 8, uint64_t) |= engine->data_breakpoints_hit;
            engine->data_breakpoints_hit = 0;
            deliver(cpu, FT_VECTOR_DB, false, at_entry(block));
        }
        if (!engine->entering && ft_debug_happened(cpu)) {
            leave(cpu, FT_STOP_DEBUG, at_entry(block));
        }
        if (position >= cpu->limit && !engine->entering) {
            leave(cpu, FT_STOP_POSITION, at_entry(block));
        }
        if (cpu->stop_requested) {
            leave(cpu, FT_STOP_REQUEST, at_entry(block));
        }
        if ((vector = pending_vector(cpu)) >= 0) {
            deliver(cpu, vector, true, at_entry(block));
        }
        if (cpu->debug.breakpoint_count && !engine->entering &&
            ft_debug_breaks(cpu, position, FIELD(block, TB_PC, const uint64_t),
                            FIELD(block, TB_SIZE, const uint16_t))) {
            leave(cpu, FT_STOP_DEBUG, at_entry(block));
        }
        if (cpu->awaited_count && !engine->entering && awaited(cpu, block)) {
            leave(cpu, FT_STOP_AWAITED, at_entry(block));
        }
        if (cpu->trace && cpu->trace->by_block) {
            trace_entry(cpu, block);
        }
    }
    arm_from(cpu, position + 1);
    if (engine->entering) {
        note_block(engine, block);
        leave(cpu, FT_STOP_POSITION, at_entry(block));
    }
}

/* The call to the above, with constants of its own: the caller's do not live across a branch. */
static void emit_block_entry(void *tcg, const char *block)
{
    char *context = tcg;
    char *uc = context + (uintptr_t)tcg_const_i64_x86_64(tcg, FIELD(tcg, TCG_UC, int64_t));
    char *entered = context + (uintptr_t)tcg_const_i64_x86_64(tcg, (intptr_t)block);
    void *own[2] = {uc, entered};

    __real_tcg_gen_callN_x86_64(tcg, (void *)__wrap_helper_check_exit_request_x86_64, NULL, 2, own);
    tcg_temp_free_internal_x86_64(tcg, entered);
    tcg_temp_free_internal_x86_64(tcg, uc);
}

static void emit_label(void *tcg, uint32_t *label)
{
    *label |= LABEL_PRESENT;
    tcg_gen_op1_x86_64(tcg, OP_SET_LABEL, (uintptr_t)label);
}

/* The call stands behind the block, out of the way: it is seldom made, and the host's caches are small for a kernel. */
void __wrap_gen_intermediate_code_x86_64(void *cs, void *block, int max_instructions)
{
    ft_engine *engine = owner_of_cpu(cs)->engine;

    engine->translating = block;
    engine->stop_label = NULL;
    __real_gen_intermediate_code_x86_64(cs, block, max_instructions);
    if (engine->stop_label) {
        emit_label(engine->tcg, engine->stop_label);
        emit_block_entry(engine->tcg, block);
        *engine->go_label += LABEL_REFERENCE;
        tcg_gen_op1_x86_64(engine->tcg, OP_BR, (uintptr_t)engine->go_label);
    }
}

/* Emits the countdown instead of the call that Unicorn emits at the start of each block. */
void __wrap_tcg_gen_callN_x86_64(void *tcg, void *function, void *result, int count, void **args)
{
    if (function != (void *)__wrap_helper_check_exit_request_x86_64) {
        __real_tcg_gen_callN_x86_64(tcg, function, result, count, args);
        return;
    }
    ft_engine *engine = owner_of_uc(FIELD(tcg, TCG_UC, void *))->engine;
    if (FIELD(engine->translating, TB_CFLAGS, const uint32_t) & TB_CFLAGS_PIECE) {
        emit_block_entry(tcg, engine->translating);
        return;
    }
    /* A TCGv is the offset of its temporary from the context; operands of operations are pointers. */
    char *context = tcg;
    uintptr_t env = (uintptr_t)(context + FIELD(tcg, TCG_CPU_ENV, uintptr_t));
    char *counter = tcg_temp_new_internal_x86_64(tcg, TCG_TYPE_I64, false);
    void *counter_v = (void *)(counter - context);

    engine->stop_label = gen_new_label_x86_64(tcg);
    engine->go_label = gen_new_label_x86_64(tcg);
    tcg_gen_op3_x86_64(tcg, OP_LD_I64, (uintptr_t)counter, env, ENV_COUNTDOWN);
    tcg_gen_addi_i64_x86_64(tcg, counter_v, counter_v, -1);
    tcg_gen_op3_x86_64(tcg, OP_ST_I64, (uintptr_t)counter, env, ENV_COUNTDOWN);
    tcg_gen_brcondi_i64_x86_64(tcg, TCG_COND_LT, counter_v, 0, engine->stop_label);
    tcg_temp_free_internal_x86_64(tcg, counter);
    emit_label(tcg, engine->go_label);
}

/*
 * The instructions that can set IF or end the blocking of NMIs. Each ends its block, so that an interrupt that waited
 * for it is looked at right behind it; a guest that keeps interrupts off is not slowed down by one that waits.
 *
 * The originals are entered by tail calls: they take their return address for a place in generated code.
 */
static void before_flags_load(void *env)
{
    ft_cpu *cpu = owner_of_env(env);

    if (cpu->interrupt_line || cpu->nmi_pending) {
        ft_engine_poll_next_block(cpu);
    }
}

void __wrap_helper_sti_x86_64(void *env)
{
    before_flags_load(env);
    __real_helper_sti_x86_64(env);
}

void __wrap_helper_write_eflags_x86_64(void *env, uint64_t value, uint32_t mask)
{
    before_flags_load(env);
    __real_helper_write_eflags_x86_64(env, value, mask);
}

void __wrap_helper_iret_real_x86_64(void *env, int shift)
{
    before_flags_load(env);
    __real_helper_iret_real_x86_64(env, shift);
}

void __wrap_helper_iret_protected_x86_64(void *env, int shift, int next_eip)
{
    before_flags_load(env);
    __real_helper_iret_protected_x86_64(env, shift, next_eip);
}

void __wrap_helper_sysret_x86_64(void *env, int operand_size)
{
    before_flags_load(env);
    __real_helper_sysret_x86_64(env, operand_size);
}

/* Far jumps and calls switch tasks, and a task brings its own flags. */
void __wrap_helper_ljmp_protected_x86_64(void *env, int selector, uint64_t eip, uint64_t next_eip)
{
    before_flags_load(env);
    __real_helper_ljmp_protected_x86_64(env, selector, eip, next_eip);
}

void __wrap_helper_lcall_protected_x86_64(void *env, int selector, uint64_t eip, int shift, uint64_t next_eip)
{
    before_flags_load(env);
    __real_helper_lcall_protected_x86_64(env, selector, eip, shift, next_eip);
}

void check_exit_request_x86_64(void *tcg)
{
    (void)tcg;
}

/* What it finds to fold and to copy makes guests no faster, and takes a tenth of the time that a translation takes. */
void __wrap_tcg_optimize_x86_64(void *tcg)
{
    (void)tcg;
}

/* Unicorn's float operations ask libc for each operand; here it is a few instructions and no far call. */
int __isinff(float value)
{
    return __builtin_isinf_sign(value);
}

int __isinf(double value)
{
    return __builtin_isinf_sign(value);
}

int __wrap_gettimeofday(struct timeval *now, void *zone)
{
    uint64_t ns = clock_owner ? ft_cpu_now_ns(clock_owner) : 0;

    (void)zone;
    now->tv_sec = (time_t)(ns / 1000000000);
    now->tv_usec = (suseconds_t)(ns / 1000 % 1000000);
    return 0;
}

/*
 * ---- Global pages (SDM vol. 3, 4.10.2.4) ----------------------------------------------------------------------
 *
 * A MOV to CR3 leaves their translations alone. A kernel makes its own pages global, and may load CR3 for each word of
 * its code that it patches (Linux: 17,000 times in a boot). Of the TLBs of the kernel, only what is known not to be
 * global is dropped then. Unicorn sizes a TLB when it is flushed as a whole, so that is done now and then.
 *
 * Unicorn finds the target of an indirect jump in a cache by linear address, and forgets all of it with each flush. Targets
 * on global pages are kept beside it, in less memory: a kernel returns from functions all the time, and each look is a miss of
 * the host's caches.
 */

enum { FLUSH_ALL_EVERY = 64, GROWN_TLB_ENTRIES = 4096 };

#define NO_FLAGS UINT64_MAX

/* A guest that does not flush a TLB would keep it small for ever: flush one that is nearly full, and it grows. */
static void make_room(ft_engine *engine, int mode)
{
    uint64_t entries = (&FIELD(engine->env, ENV_TLB_FAST, tlb_fast) + mode)->mask / sizeof(tlb_entry) + 1;
    uint64_t used = FIELD(engine->env, ENV_TLB_DESC + mode * TLB_DESC_BYTES + TLB_DESC_USED, uint64_t);

    if (entries < GROWN_TLB_ENTRIES && used > entries / 4 * 3) {
        tlb_flush_by_mmuidx_x86_64(engine->cpu, (uint16_t)(1u << mode));
    }
}

static void forget_global_blocks(ft_engine *engine)
{
    memset(engine->global.targets, 0, sizeof(engine->global.targets));
    engine->global.flags = NO_FLAGS;
}

static void forget_global(ft_engine *engine)
{
    engine->global.cr3_writes = engine->global.local_count = 0;
    memset(engine->global.code, 0, sizeof(engine->global.code));
    forget_global_blocks(engine);
}

/* While Unicorn opens, there is no owner yet. */
static ft_engine *engine_of_cpu(void *cs)
{
    ft_cpu *cpu = cs ? owner_of_cpu(cs) : NULL;

    return cpu ? cpu->engine : NULL;
}

static uint64_t *code_slot(ft_engine *engine, uint64_t page)
{
    return &engine->global.code[(page >> FT_PAGE_SHIFT) % GLOBAL_CODE_PAGES];
}

static bool is_global_code(ft_engine *engine, uint64_t page)
{
    return *code_slot(engine, page) == (page | 1);
}

/* The TLB of this mode was told of a page. */
static void note_global(ft_engine *engine, uint64_t page, int mode)
{
    bool global = engine->global.entry & PTE_GLOBAL && (&FIELD(engine->env, ENV_CR, uint64_t))[4] & CR4_PGE;

    if (!global && mode != MMU_USER && engine->global.local_count <= LOCAL_PAGES) {
        if (engine->global.local_count < LOCAL_PAGES) {
            engine->global.local[engine->global.local_count].page = page;
            engine->global.local[engine->global.local_count].mode = mode;
        }
        engine->global.local_count++;
    }
    if (engine->fill_access == ACCESS_FETCH) {
        *code_slot(engine, page) = global ? page | 1 : 0;
    }
}

void __wrap_tlb_flush_x86_64(void *cs)
{
    ft_engine *engine = engine_of_cpu(cs);

    if (engine) {
        forget_global(engine);
    }
    __real_tlb_flush_x86_64(cs);
}

/* INVLPG. Unicorn drops all of a TLB that has a large page there, but not the jump targets on it. */
void __wrap_tlb_flush_page_x86_64(void *cs, uint64_t address)
{
    ft_engine *engine = owner_of_cpu(cs)->engine;
    uint64_t page = address & ~(uint64_t)(FT_PAGE_BYTES - 1);

    for (int mode = 0; mode < MMU_MODES; mode++) {
        const uint64_t *large =
            &FIELD(engine->env, ENV_TLB_DESC + mode * TLB_DESC_BYTES + TLB_DESC_LARGE_PAGE, uint64_t);
        if ((page & large[1]) == large[0]) {
            tlb_flush_x86_64(cs);
            return;
        }
    }
    if (is_global_code(engine, page)) {
        forget_global_blocks(engine);
    }
    __real_tlb_flush_page_x86_64(cs, address);
}

/* All blocks are thrown away: there is no more room for them. */
void __wrap_tcg_region_reset_all_x86_64(void *tcg)
{
    ft_engine *engine = engine_of_cpu(FIELD(FIELD(tcg, TCG_UC, void *), UC_CPU, void *));

    if (engine) {
        forget_global_blocks(engine);
    }
    __real_tcg_region_reset_all_x86_64(tcg);
}

static void drop_tlb_entry(ft_engine *engine, int mode, uint64_t page)
{
    const uint64_t tag = ~(uint64_t)(FT_PAGE_BYTES - 1) | TLB_INVALID;
    tlb_fast *fast = &FIELD(engine->env, ENV_TLB_FAST, tlb_fast) + mode;
    tlb_entry *entry = &fast->table[(page >> FT_PAGE_SHIFT) & (fast->mask / sizeof(tlb_entry))];

    if ((entry->addr_read & tag) == page || (entry->addr_write & tag) == page ||
        (entry->addr_code & tag) == page) {
        memset(entry, -1, sizeof(*entry));
        FIELD(engine->env, ENV_TLB_DESC + mode * TLB_DESC_BYTES + TLB_DESC_USED, uint64_t)--;
    }
}

/* MOV to CR3 where there are global pages. */
static void flush_all_but_global(ft_engine *engine)
{
    global_pages *global = &engine->global;

    if (++global->cr3_writes == FLUSH_ALL_EVERY || global->local_count > LOCAL_PAGES) {
        tlb_flush_x86_64(engine->cpu);
        return;
    }
    for (uint32_t i = 0; i < global->local_count; i++) {
        drop_tlb_entry(engine, global->local[i].mode, global->local[i].page);
    }
    global->local_count = 0;
    for (int mode = 0; mode < MMU_MODES; mode++) { /* entries that others took the place of */
        char *desc = engine->env + ENV_TLB_DESC + mode * TLB_DESC_BYTES;
        memset(desc + TLB_DESC_VICTIMS, -1, VICTIM_ENTRIES * sizeof(tlb_entry));
    }
    tlb_flush_by_mmuidx_x86_64(engine->cpu, 1 << MMU_USER); /* and the jump cache */
}

/* Unicorn's, of its jump cache. */
static uint32_t jump_cache_index(uint64_t pc)
{
    uint64_t mixed = pc ^ pc >> 6;

    return (mixed >> 6 & 0xfc0) | (mixed & 0x3f);
}

static jump_target *target_of(ft_engine *engine, uint64_t pc)
{
    return &engine->global.targets[pc * 0x9e3779b97f4a7c15u >> (64 - GLOBAL_BLOCK_BITS)];
}

static bool is_in_global_code(ft_engine *engine, const char *block)
{
    const uint64_t *pages = &FIELD(block, TB_PAGE_ADDR, const uint64_t);
    uint64_t page = FIELD(block, TB_PC, const uint64_t) & ~(uint64_t)(FT_PAGE_BYTES - 1);

    return pages[0] != FT_NO_RAM && is_global_code(engine, page) &&
           (pages[1] == FT_NO_RAM || is_global_code(engine, page + FT_PAGE_BYTES));
}

/* Let Unicorn look, and keep what it finds if it is within a kernel. Apart from the below, which is to be short. */
static void *__attribute__((noinline)) look_up_target(void *env, uint64_t pc, uint64_t flags)
{
    ft_engine *engine = owner_of_env(env)->engine;
    void *entry = __real_helper_lookup_tb_ptr_x86_64(env);
    const char *block = (&FIELD(engine->cpu, CPU_JUMP_CACHE, const char *))[jump_cache_index(pc)];

    if (flags & HF_CPL || segment(env, ENV_SEGS, 1)->base || !block ||
        FIELD(block, TB_ENTRY, void *const) != entry || !is_in_global_code(engine, block)) {
        return entry;
    }
    if (engine->global.flags == NO_FLAGS) {
        engine->global.flags = flags;
    }
    if (engine->global.flags == flags) {
        *target_of(engine, pc) = (jump_target){pc, entry};
    }
    return entry;
}

/* Where an indirect jump goes: host code. */
void *__wrap_helper_lookup_tb_ptr_x86_64(void *env)
{
    ft_engine *engine = owner_of_env(env)->engine;
    uint64_t flags = FIELD(env, ENV_HFLAGS, uint32_t) | (FIELD(env, ENV_EFLAGS, uint32_t) & FLAGS_OF_BLOCKS);
    uint64_t pc = FIELD(env, ENV_EIP, uint64_t);
    const jump_target *kept = target_of(engine, pc);

    return flags == engine->global.flags && kept->pc == pc && kept->entry &&
                   segment(env, ENV_SEGS, 1)->base == 0
               ? kept->entry
               : look_up_target(env, pc, flags);
}

/* A block is no longer one: it is taken out of the table of all blocks. */
bool __wrap_qht_remove(char *blocks, const char *block, uint32_t hash)
{
    ft_engine *engine = owner_of_uc(FIELD(blocks - TCG_BLOCKS, TCG_UC, void *))->engine;
    jump_target *kept = target_of(engine, FIELD(block, TB_PC, const uint64_t));

    if (kept->entry == FIELD(block, TB_ENTRY, void *const)) {
        kept->entry = NULL;
    }
    return __real_qht_remove(blocks, block, hash);
}

/* ---- Memory: the dirty log, and code that changes ------------------------------------------------------------ */

bool __wrap_x86_cpu_tlb_fill_x86_64(void *cs, uint64_t address, int size, int access, int mmu_index,
                                    bool probe, uintptr_t host_pc)
{
    owner_of_cpu(cs)->engine->fill_access = access;
    owner_of_cpu(cs)->engine->global.entry = 0;
    return __real_x86_cpu_tlb_fill_x86_64(cs, address, size, access, mmu_index, probe, host_pc);
}

void __wrap_tlb_set_page_with_attrs_x86_64(void *cs, uint64_t vaddr, uint64_t paddr, uint32_t attrs, int prot,
                                           int mmu_index, uint64_t size)
{
    ft_engine *engine = owner_of_cpu(cs)->engine;

    if (engine->fill_access != ACCESS_FETCH) {
        prot &= ~PROT_EXECUTE;
    }
    engine->filled_page = paddr & ~(uint64_t)(FT_PAGE_BYTES - 1);
    make_room(engine, mmu_index);
    __real_tlb_set_page_with_attrs_x86_64(cs, vaddr, paddr, attrs, prot, mmu_index, size);
    note_global(engine, vaddr & ~(uint64_t)(FT_PAGE_BYTES - 1), mmu_index);
}

/* The first block of a page was translated: hear of the next store to it, through whatever mapping. */
void __wrap_tlb_protect_code_x86_64(void *uc, uint64_t ram_address)
{
    ft_cpu *cpu = owner_of_uc(uc);
    uint64_t page = ram_address >> FT_PAGE_SHIFT;

    cpu->engine->has_code[page] = 1;
    tlb_reset_dirty_x86_64(cpu->engine->cpu, (uintptr_t)cpu->ram + (page << FT_PAGE_SHIFT), FT_PAGE_BYTES);
}

void __wrap_tlb_unprotect_code_x86_64(void *uc, uint64_t ram_address)
{
    owner_of_uc(uc)->engine->has_code[ram_address >> FT_PAGE_SHIFT] = 0;
    __real_tlb_unprotect_code_x86_64(uc, ram_address);
}

static bool stepped_block_on(const stepped_block *block, uint64_t page);
static bool stepped_block_at(const stepped_block *block, uint64_t ram_address, uint64_t bytes);

/*
 * Go back to the instruction that is at `host_pc`, and run it as a block of its own. Unicorn does so when a block of more
 * than one instruction stores to itself, or when an access in it must be looked at.
 */
static void __attribute__((noreturn)) restart_alone(ft_cpu *cpu, uintptr_t host_pc)
{
    ft_engine *engine = cpu->engine;

    engine->restart_position = ft_engine_position(cpu);
    FIELD(engine->cpu, CPU_CFLAGS_NEXT_TB, uint32_t) = 1;
    cpu_restore_state_x86_64(engine->cpu, host_pc, true);
    cpu_loop_exit_noexc_x86_64(engine->cpu);
}

/* Does the running block lie on the page, wholly or in part? */
static bool running_on(ft_engine *engine, uint64_t page, uintptr_t host_pc)
{
    if (engine->in_piece) {
        return stepped_block_on(&engine->block, page);
    }
    char *block = host_pc ? tcg_tb_lookup_x86_64(engine->tcg, host_pc) : NULL;

    return block && (FIELD(block, TB_PAGE_ADDR, uint64_t) >> FT_PAGE_SHIFT == page ||
                     FIELD(block, TB_PAGE_ADDR + 8, uint64_t) >> FT_PAGE_SHIFT == page);
}

/* A store to a page: the first since its TLB entry was set up or the log was armed, or any while it has code. */
void __wrap_tb_invalidate_phys_page_fast_x86_64(void *uc, void *pages, uint64_t start, int length,
                                                uintptr_t host_pc)
{
    ft_cpu *cpu = owner_of_uc(uc);
    ft_engine *engine = cpu->engine;
    uint64_t page = start >> FT_PAGE_SHIFT;

    ft_cpu_log_page(cpu, page);
    if (cpu->trace) {
        ft_trace_stored(cpu, start, (uint64_t)length);
    }
    engine->last_stored_page = page;
    if (!engine->has_code[page]) {
        return;
    }
    /* Drops the blocks that overlap the store. Does not return when the running block is one of them. */
    engine->restart_position = ft_engine_position(cpu);
    __real_tb_invalidate_phys_page_fast_x86_64(uc, pages, start, length, host_pc);
    if (engine->in_piece && !engine->block.alone &&
        stepped_block_at(&engine->block, start, (uint64_t)length)) {
        page_collection_unlock_x86_64(pages);
        restart_alone(cpu, host_pc);
    }
    engine->restart_position = FT_NO_POSITION;
    /*
     * Drop the rest of the page's blocks too, so that the page can leave the slow path: it is most likely
     * being reused for data. Not while one of its own blocks is running, which later stores may still
     * modify; nor when code and data share the page for good, as in real-mode programs.
     */
    if (engine->has_code[page] && engine->drops[page] < DROPS_BEFORE_PRECISE &&
        !running_on(engine, page, host_pc)) {
        engine->drops[page]++;
        ft_engine_drop_code(cpu, page, 1);
    }
}

/* Called after the above: stores to the page no longer need to be looked at. */
void tlb_set_dirty_x86_64(void *cs, uint64_t vaddr)
{
    ft_engine *engine = owner_of_cpu(cs)->engine;
    uint64_t noted, clean = vaddr & ~(uint64_t)(FT_PAGE_BYTES - 1);

    if (engine->has_code[engine->last_stored_page] || owner_of_cpu(cs)->trace) {
        return;
    }
    if (engine->unnoticed_count <= UNNOTICED_PAGES) {
        if (engine->unnoticed_count < UNNOTICED_PAGES) {
            engine->unnoticed[engine->unnoticed_count] = clean;
        }
        engine->unnoticed_count++;
    }
    noted = clean | TLB_NOTICE;
    for (int mode = 0; mode < MMU_MODES; mode++) {
        tlb_fast *fast = &FIELD(engine->env, ENV_TLB_FAST, tlb_fast) + mode;
        uint64_t index = (clean >> FT_PAGE_SHIFT) & (fast->mask / sizeof(tlb_entry));
        char *desc = engine->env + ENV_TLB_DESC + mode * TLB_DESC_BYTES;
        tlb_entry *victim = &FIELD(desc, TLB_DESC_VICTIMS, tlb_entry);

        if (fast->table[index].addr_write == noted) {
            fast->table[index].addr_write = clean;
        }
        for (int i = 0; i < VICTIM_ENTRIES; i++) {
            if (victim[i].addr_write == noted) {
                victim[i].addr_write = clean;
            }
        }
    }
}

/* Unicorn scans the whole TLB for each block it translates; what that is for is done by tlb_protect_code(). */
void __wrap_tlb_reset_dirty_by_vaddr_x86_64(void *cs, uint64_t start, uint64_t length)
{
    (void)cs;
    (void)start;
    (void)length;
}

/* Page-table entries: nearly always RAM, and read four times for each TLB miss. */
uint32_t __wrap_x86_ldl_phys_x86_64(void *cs, uint64_t address)
{
    ft_cpu *cpu = owner_of_cpu(cs);
    uint64_t offset = ft_ram_offset(cpu, address);
    uint32_t value;

    if (offset > cpu->ram_bytes - sizeof(value)) {
        cpu->engine->global.entry = 0;
        return __real_x86_ldl_phys_x86_64(cs, address);
    }
    ft_debug_touched(cpu, FT_HIT_ACCESS, offset, sizeof(value), FT_ACCESS_READ);
    memcpy(&value, cpu->ram + offset, sizeof(value));
    cpu->engine->global.entry = value;
    return value;
}

uint64_t __wrap_x86_ldq_phys_x86_64(void *cs, uint64_t address)
{
    ft_cpu *cpu = owner_of_cpu(cs);
    uint64_t offset = ft_ram_offset(cpu, address);
    uint64_t value;

    if (offset > cpu->ram_bytes - sizeof(value)) {
        cpu->engine->global.entry = 0;
        return __real_x86_ldq_phys_x86_64(cs, address);
    }
    ft_debug_touched(cpu, FT_HIT_ACCESS, offset, sizeof(value), FT_ACCESS_READ);
    memcpy(&value, cpu->ram + offset, sizeof(value));
    cpu->engine->global.entry = value;
    return value;
}

/* The region at a physical address: nearly always RAM. */
static void *memory_mapping(void *uc, uint64_t address)
{
    ft_cpu *cpu = owner_of_uc(uc);

    if (ft_ram_offset(cpu, address) == UINT64_MAX) {
        return find_memory_mapping_x86_64(uc, address);
    }
    return cpu->engine->ram_regions[address >= FT_HIGH_RAM];
}

/* Where the code at `address` lies in our memory, if the TLB knows; else NULL. */
static const void *code_at(void *env, uint64_t address, uint64_t bytes)
{
    uint32_t hflags = FIELD(env, ENV_HFLAGS, uint32_t);
    tlb_fast *fast = &FIELD(env, ENV_TLB_FAST, tlb_fast) + ((hflags & HF_CPL) == 3 ? MMU_USER : MMU_KERNEL);
    uint64_t in_page = address & (FT_PAGE_BYTES - 1);
    const tlb_entry *entry = &fast->table[(address >> FT_PAGE_SHIFT) & (fast->mask / sizeof(tlb_entry))];

    if (entry->addr_code != address - in_page || in_page + bytes > FT_PAGE_BYTES || hflags & HF_SMAP) {
        return NULL;
    }
    return (const void *)(uintptr_t)(address + entry->addend);
}

void __wrap_x86_stl_phys_notdirty_x86_64(void *cs, uint64_t address, uint32_t value)
{
    ft_cpu *cpu = owner_of_cpu(cs);
    uint64_t offset = ft_ram_offset(cpu, address);

    __real_x86_stl_phys_notdirty_x86_64(cs, address, value);
    if (offset != UINT64_MAX) {
        if (cpu->trace) {
            ft_trace_stored(cpu, offset, sizeof(value));
        }
        ft_cpu_log_page(cpu, offset >> FT_PAGE_SHIFT);
        ft_engine_drop_code(cpu, offset >> FT_PAGE_SHIFT,
                            1); /* page-table entries may be instructions, too */
    }
}

static void ask_for_notice(tlb_entry *entry)
{
    if (!(entry->addr_write & (TLB_INVALID | TLB_NOTICE | TLB_DEVICE))) {
        entry->addr_write |= TLB_NOTICE;
    }
}

/*
 * Entries are set up with a notice, and only tlb_set_dirty() takes it away; where an entry is moved to, its page tells. A
 * TLB is much larger than what an epoch writes to.
 */
void ft_engine_rearm_dirty_log(ft_cpu *cpu)
{
    ft_engine *engine = cpu->engine;

    if (engine->unnoticed_count > UNNOTICED_PAGES) {
        tlb_reset_dirty_x86_64(engine->cpu, (uintptr_t)cpu->ram, cpu->ram_bytes);
        engine->unnoticed_count = 0;
        return;
    }
    for (int mode = 0; mode < MMU_MODES; mode++) {
        tlb_fast *fast = &FIELD(engine->env, ENV_TLB_FAST, tlb_fast) + mode;
        char *desc = engine->env + ENV_TLB_DESC + mode * TLB_DESC_BYTES;

        for (uint32_t i = 0; i < engine->unnoticed_count; i++) {
            uint64_t page = engine->unnoticed[i] >> FT_PAGE_SHIFT;
            ask_for_notice(&fast->table[page & (fast->mask / sizeof(tlb_entry))]);
        }
        for (int i = 0; i < VICTIM_ENTRIES; i++) {
            ask_for_notice(&FIELD(desc, TLB_DESC_VICTIMS, tlb_entry) + i);
        }
    }
    engine->unnoticed_count = 0;
}

void ft_engine_drop_code(ft_cpu *cpu, uint64_t first_page, uint64_t pages)
{
    ft_engine *engine = cpu->engine;

    for (uint64_t page = first_page; page < first_page + pages; page++) {
        if (engine->has_code[page]) {
            tb_invalidate_phys_page_range_x86_64(engine->uc, page << FT_PAGE_SHIFT,
                                                 (page + 1) << FT_PAGE_SHIFT);
            engine->has_code[page] = 0;
        }
    }
}

/*
 * A cold TLB, in size too: how many entries it has decides which of them are evicted, and so when accessed
 * bits in page tables are set again.
 */
void ft_engine_flush_tlb(ft_cpu *cpu)
{
    ft_engine *engine = cpu->engine;

    clock_owner = cpu;
    tlb_flush_x86_64(engine->cpu); /* the jump cache as well */
    for (int mode = 0; mode < MMU_MODES; mode++) {
        free((&FIELD(engine->env, ENV_TLB_FAST, tlb_fast) + mode)->table);
        free(FIELD(engine->env, ENV_TLB_DESC + mode * TLB_DESC_BYTES + TLB_DESC_IOTLB, void *));
    }
    tlb_init_x86_64(engine->cpu);
    clock_owner = NULL;
}

/*
 * A fault in the TLB: set up once more what it holds for the address, with some bits wrong. Stores through it are logged
 * for the page that they really go to. The jump cache would know the old translation.
 */
bool ft_engine_flip_tlb(ft_cpu *cpu, uint64_t linear, uint64_t mask)
{
    enum { WRITABLE = 2, READ = 1, WRITE = 2 };
    const uint64_t frame = ((1ull << FT_PHYSICAL_BITS) - 1) & ~(uint64_t)(FT_PAGE_BYTES - 1);
    uint64_t page = linear & ~(uint64_t)(FT_PAGE_BYTES - 1);
    ft_engine *engine = cpu->engine;
    bool found = false;

    for (int mode = 0; mode < MMU_MODES; mode++) {
        tlb_fast *fast = &FIELD(engine->env, ENV_TLB_FAST, tlb_fast) + mode;
        tlb_entry held = fast->table[(page >> FT_PAGE_SHIFT) & (fast->mask / sizeof(tlb_entry))];
        uint64_t tags = ~(uint64_t)(FT_PAGE_BYTES - 1) | TLB_INVALID;
        int prot = ((held.addr_read & tags) == page ? READ : 0) |
                   ((held.addr_write & tags) == page ? WRITE : 0) |
                   ((held.addr_code & tags) == page ? PROT_EXECUTE : 0);

        if (prot == 0) {
            continue;
        }
        found = true;
        prot ^= mask & WRITABLE ? WRITE : 0;
        __real_tlb_set_page_with_attrs_x86_64(engine->cpu, page, (held.paddr ^ mask) & frame, 0, prot, mode,
                                              FT_PAGE_BYTES);
    }
    tb_flush_jmp_cache_x86_64(engine->cpu, linear);
    forget_global_blocks(engine);
    return found;
}

/* ---- Data breakpoints (SDM vol. 3, 18.2): Unicorn has cut them out, but still asks ---------------------------- */

/* And the watches of those who look on, for which the same question is asked; kinds of access are numbered alike. */
enum { ACCESS_READ = FT_ACCESS_READ, ACCESS_WRITE = FT_ACCESS_WRITE };

/* Bits 0..3: the armed data breakpoints that an access of this kind to these bytes meets. */
static uint32_t data_breakpoints(const void *env, uint64_t address, uint64_t bytes, int access)
{
    static const uint8_t lengths[4] = {1, 2, 8, 4};
    const uint64_t *dr = &FIELD(env, ENV_DR, const uint64_t);
    uint32_t met = 0;

    for (int i = 0; i < 4; i++) {
        uint32_t control = (uint32_t)(dr[7] >> (16 + 4 * i));
        bool armed = dr[7] >> (2 * i) & 3, on_write = (control & 3) == 1, on_both = (control & 3) == 3;
        uint64_t length = lengths[control >> 2 & 3], start = dr[i] & ~(length - 1);

        if (armed && (on_both || (on_write && access & ACCESS_WRITE)) &&
            start - address + length - 1 < bytes + length - 1) {
            met |= 1u << i;
        }
    }
    return met;
}

/* Is this page, linear and physical, of interest? */
static bool looked_at(const ft_cpu *cpu, uint64_t page, uint64_t physical, int access)
{
    return data_breakpoints(cpu->engine->env, page, FT_PAGE_BYTES, access) ||
           ft_debug_watches(cpu, FT_HIT_LINEAR, page, FT_PAGE_BYTES, (uint32_t)access) ||
           ft_debug_watches(cpu, FT_HIT_ACCESS, ft_ram_offset(cpu, physical), FT_PAGE_BYTES,
                            (uint32_t)access);
}

int __wrap_cpu_watchpoint_address_matches_x86_64(void *cs, uint64_t address, uint64_t bytes)
{
    const ft_cpu *cpu = owner_of_cpu(cs);
    uint64_t physical = cpu->engine->filled_page;

    (void)bytes; /* a page: only the TLB asks */
    return (looked_at(cpu, address, physical, ACCESS_READ) ? ACCESS_READ : 0) |
           (looked_at(cpu, address, physical, ACCESS_WRITE) ? ACCESS_WRITE : 0);
}

static void mark_watched(const ft_cpu *cpu, uint64_t *address, uint64_t physical, int access)
{
    enum { EMPTY = -1 };

    if (*address != (uint64_t)EMPTY) {
        bool watched = looked_at(cpu, *address & ~(uint64_t)(FT_PAGE_BYTES - 1), physical, access);
        *address = (*address & ~(uint64_t)TLB_WATCHED) | (watched ? TLB_WATCHED : 0);
    }
}

void ft_engine_mark_watched_pages(ft_cpu *cpu)
{
    if (!cpu->engine || !cpu->engine->env) {
        return;
    }
    for (int mode = 0; mode < MMU_MODES; mode++) {
        tlb_fast *fast = &FIELD(cpu->engine->env, ENV_TLB_FAST, tlb_fast) + mode;
        char *desc = cpu->engine->env + ENV_TLB_DESC + mode * TLB_DESC_BYTES;
        tlb_entry *victim = &FIELD(desc, TLB_DESC_VICTIMS, tlb_entry);
        size_t entries = fast->mask / sizeof(tlb_entry) + 1;

        for (size_t i = 0; i < entries + VICTIM_ENTRIES; i++) {
            tlb_entry *entry = i < entries ? &fast->table[i] : &victim[i - entries];
            mark_watched(cpu, &entry->addr_read, entry->paddr, ACCESS_READ);
            mark_watched(cpu, &entry->addr_write, entry->paddr, ACCESS_WRITE);
        }
    }
}

/* Where a page lies that the TLB holds, for data; FT_NO_RAM if nowhere in RAM. */
static uint64_t ram_of_page(const ft_cpu *cpu, uint64_t page)
{
    for (int mode = 0; mode < MMU_MODES; mode++) {
        const tlb_fast *fast = &FIELD(cpu->engine->env, ENV_TLB_FAST, tlb_fast) + mode;
        const tlb_entry *entry = &fast->table[(page >> FT_PAGE_SHIFT) & (fast->mask / sizeof(tlb_entry))];

        for (int kind = 0; kind < 2; kind++) {
            uint64_t held = kind ? entry->addr_write : entry->addr_read;
            if (held != UINT64_MAX && (held & ~(uint64_t)(FT_PAGE_BYTES - 1)) == page) {
                return ft_ram_offset(cpu, entry->paddr);
            }
        }
    }
    return FT_NO_RAM;
}

static void touched(ft_cpu *cpu, uint64_t address, uint64_t bytes, int access)
{
    uint64_t in_page = address % FT_PAGE_BYTES, ram;

    ft_debug_touched(cpu, FT_HIT_LINEAR, address, bytes, (uint32_t)access);
    if (ft_debug_watches(cpu, FT_HIT_ACCESS, 0, cpu->ram_bytes, (uint32_t)access) &&
        (ram = ram_of_page(cpu, address - in_page)) != FT_NO_RAM) {
        ft_debug_touched(cpu, FT_HIT_ACCESS, ram + in_page, bytes, (uint32_t)access);
    }
}

/* An access to a page with a data breakpoint. The trap comes behind the instruction, so that runs alone first. */
void __wrap_cpu_check_watchpoint_x86_64(void *cs, uint64_t address, uint64_t bytes, uint32_t attrs,
                                        int access, uintptr_t host_pc)
{
    ft_cpu *cpu = owner_of_cpu(cs);
    ft_engine *engine = cpu->engine;
    uint32_t met = data_breakpoints(engine->env, address, bytes, access);
    char *block = met && host_pc ? tcg_tb_lookup_x86_64(engine->tcg, host_pc) : NULL;

    (void)attrs;
    touched(cpu, address, bytes, access);
    if (!block) {
        return;
    }
    if (!(engine->in_piece ? engine->block.alone
                           : (FIELD(block, TB_CFLAGS, uint32_t) & TB_CFLAGS_COUNT) == 1)) {
        restart_alone(cpu, host_pc);
    }
    engine->data_breakpoints_hit |= met;
    ft_engine_poll_next_block(cpu);
}

/* TLB entries remember whether their page has a data breakpoint. A tail call, as above. */
void __wrap_helper_set_dr_x86_64(void *env, int index, uint64_t value)
{
    tlb_flush_x86_64(owner_of_env(env)->engine->cpu);
    __real_helper_set_dr_x86_64(env, index, value);
}

/* ---- Instructions -------------------------------------------------------------------------------------------- */

static void __attribute__((noreturn)) general_protection(void *env, uintptr_t host_pc)
{
    raise_exception_err_ra_x86_64(env, FT_VECTOR_GP, 0, host_pc);
}

void __wrap_helper_hlt_x86_64(void *env, int next_eip_addend)
{
    ft_cpu *cpu = owner_of_env(env);

    cpu->halted = true;
    cpu->stop = FT_STOP_HALT;
    __real_helper_hlt_x86_64(env, next_eip_addend);
}

/* Third fault: SDM vol. 3, 6.15, the processor shuts down. */
void __wrap_qemu_system_reset_request(void *uc)
{
    owner_of_uc(uc)->stop = FT_STOP_CRASH;
    __real_qemu_system_reset_request(uc);
}

void __wrap_helper_cpuid_x86_64(void *env)
{
    uint64_t *regs = &FIELD(env, ENV_REGS, uint64_t);
    ft_cpuid_leaf leaf = ft_cpuid(owner_of_env(env), (uint32_t)regs[0], (uint32_t)regs[1]);

    regs[0] = leaf.eax;
    regs[3] = leaf.ebx;
    regs[1] = leaf.ecx;
    regs[2] = leaf.edx;
}

static void read_tsc(void *env, uintptr_t host_pc)
{
    enum { CR4_TSD = 4 };
    uint64_t *regs = &FIELD(env, ENV_REGS, uint64_t);
    uint64_t tsc = ft_cpu_tsc(owner_of_env(env));

    if ((&FIELD(env, ENV_CR, uint64_t))[4] & CR4_TSD && FIELD(env, ENV_HFLAGS, uint32_t) & HF_CPL) {
        general_protection(env, host_pc);
    }
    regs[0] = (uint32_t)tsc;
    regs[2] = tsc >> 32;
}

void __wrap_helper_rdtsc_x86_64(void *env)
{
    read_tsc(env, HOST_PC());
}

void __wrap_helper_rdtscp_x86_64(void *env)
{
    read_tsc(env, HOST_PC());
    (&FIELD(env, ENV_REGS, uint64_t))[1] = (uint32_t)owner_of_env(env)->msr.tsc_aux;
}

void __wrap_helper_rdmsr_x86_64(void *env)
{
    uint64_t *regs = &FIELD(env, ENV_REGS, uint64_t), value;

    if (ft_msr_read(owner_of_env(env), (uint32_t)regs[1], &value) != 0) {
        general_protection(env, HOST_PC());
    }
    regs[0] = (uint32_t)value;
    regs[2] = value >> 32;
}

void __wrap_helper_wrmsr_x86_64(void *env)
{
    const uint64_t *regs = &FIELD(env, ENV_REGS, uint64_t);
    uint64_t value = (uint32_t)regs[0] | regs[2] << 32;

    if (ft_msr_write(owner_of_env(env), (uint32_t)regs[1], value) != 0) {
        general_protection(env, HOST_PC());
    }
}

uint64_t *ft_engine_msr(ft_cpu *cpu, uint32_t index)
{
    char *env = cpu->engine->env;

    switch (index) {
    case 0x174:
        return &FIELD(env, ENV_SYSENTER_CS, uint64_t); /* 32 bits, with padding behind them */
    case 0x175:
        return &FIELD(env, ENV_SYSENTER_ESP, uint64_t);
    case 0x176:
        return &FIELD(env, ENV_SYSENTER_EIP, uint64_t);
    case 0xc0000081:
        return &FIELD(env, ENV_STAR, uint64_t);
    case 0xc0000082:
        return &FIELD(env, ENV_LSTAR, uint64_t);
    case 0xc0000083:
        return &FIELD(env, ENV_CSTAR, uint64_t);
    case 0xc0000084:
        return &FIELD(env, ENV_FMASK, uint64_t);
    case 0xc0000100:
        return &segment(env, ENV_SEGS, 4)->base;
    case 0xc0000101:
        return &segment(env, ENV_SEGS, 5)->base;
    case 0xc0000102:
        return &FIELD(env, ENV_KERNEL_GS_BASE, uint64_t);
    default:
        return NULL;
    }
}

uint64_t ft_engine_efer(const ft_cpu *cpu)
{
    return FIELD(cpu->engine->env, ENV_EFER, uint64_t);
}

/* SDM vol. 3, 2.2.1; LME may not change while paging is on (10.8.5). */
int ft_engine_write_efer(ft_cpu *cpu, uint64_t value)
{
    char *env = cpu->engine->env;
    uint64_t *efer = &FIELD(env, ENV_EFER, uint64_t), changed = value ^ *efer;

    if (value & ~(EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE) ||
        (changed & EFER_LME && (&FIELD(env, ENV_CR, uint64_t))[0] & CR0_PG)) {
        return -1;
    }
    *efer = (value & ~EFER_LMA) | (*efer & EFER_LMA);
    if (changed & EFER_NXE) {
        tlb_flush_x86_64(cpu->engine->cpu);
    }
    return 0;
}

/* RDRAND and RDSEED would differ between replicas: they are not there. */
uint64_t __wrap_helper_rdrand_x86_64(void *env)
{
    raise_exception_err_ra_x86_64(env, FT_VECTOR_UD, 0, HOST_PC());
}

uint64_t __wrap_helper_read_crN_x86_64(void *env, int index)
{
    if (index == 8) {
        const ft_lapic *lapic = owner_of_env(env)->lapic;
        return lapic ? lapic->tpr >> 4 : ft_on_cr8_read(ft_cpu_owner(owner_of_env(env)));
    }
    return __real_helper_read_crN_x86_64(env, index);
}

/* SDM vol. 2B, MOV to control registers: what raises #GP. */
static bool control_register_valid(void *env, int index, uint64_t value)
{
    const uint64_t *cr = &FIELD(env, ENV_CR, uint64_t);
    uint64_t efer = FIELD(env, ENV_EFER, uint64_t);
    bool enters_long_mode = index == 0 && value & CR0_PG && !(cr[0] & CR0_PG) && efer & EFER_LME;
    uint32_t hflags = FIELD(env, ENV_HFLAGS, uint32_t);

    switch (index) {
    case 0:
        return value <= UINT32_MAX && !(value & CR0_PG && !(value & CR0_PE)) &&
               !(value & CR0_NW && !(value & CR0_CD)) && !(enters_long_mode && !(cr[4] & CR4_PAE)) &&
               !(hflags & HF_CS64 && !(value & CR0_PG));
    case 3:
        return value < 1ull << FT_PHYSICAL_BITS;
    case 4:
        return !(value & ~CR4_VALID) && !(efer & EFER_LMA && !(value & CR4_PAE));
    case 8:
        return value <= 15;
    default:
        return true;
    }
}

void __wrap_helper_write_crN_x86_64(void *env, int index, uint64_t value)
{
    ft_cpu *cpu = owner_of_env(env);

    if (!control_register_valid(env, index, value)) {
        general_protection(env, HOST_PC());
    }
    switch (index) {
    case 0:
        cpu_x86_update_cr0_x86_64(env, (uint32_t)value);
        break;
    case 3:
        if ((&FIELD(env, ENV_CR, uint64_t))[0] & CR0_PG && (&FIELD(env, ENV_CR, uint64_t))[4] & CR4_PGE) {
            (&FIELD(env, ENV_CR, uint64_t))[3] = value;
            flush_all_but_global(cpu->engine);
        } else {
            cpu_x86_update_cr3_x86_64(env, value);
        }
        break;
    case 4:
        cpu_x86_update_cr4_x86_64(env, (uint32_t)value);
        break;
    case 8:
        if (!ft_cpu_write_task_priority(cpu, value)) {
            ft_on_cr8_write(ft_cpu_owner(cpu), (uint32_t)value);
        }
        break;
    default:
        (&FIELD(env, ENV_CR, uint64_t))[index] = value;
        break;
    }
}

/*
 * Unicorn's own function copies TF, IOPL and VM from the flags. The translator takes them from the flags themselves and
 * from here, so a copy would outlive them: a single step would go on inside of the handler of its exception.
 */
static void update_hflags(void *env)
{
    x86_update_hflags_x86_64(env);
    FIELD(env, ENV_HFLAGS, uint32_t) &= ~(uint32_t)HF_OF_EFLAGS;
}

/* Descriptor bits of the flat segments that SYSCALL and SYSENTER load (SDM vol. 3, 3.4.5). */
enum {
    FLAT = 1 << 15 | 1 << 12 | 1 << 23, /* present, not a system segment, limit in pages */
    FLAT_CODE64 = FLAT | 0xb00 | 1 << 21,
    FLAT_CODE32 = FLAT | 0xb00 | 1 << 22,
    FLAT_DATA = FLAT | 0x300 | 1 << 22,
};

/* Enter ring 0 at `eip` with flat segments: code from `selector`, stack from the one behind it. */
static void enter_kernel(void *env, uint32_t selector, uint32_t code_flags, uint64_t eip)
{
    *segment(env, ENV_SEGS, 1) = (engine_segment){selector, 0, UINT32_MAX, code_flags};
    *segment(env, ENV_SEGS, 2) = (engine_segment){selector + 8, 0, UINT32_MAX, FLAT_DATA};
    FIELD(env, ENV_EIP, uint64_t) = eip;
    update_hflags(env);
}

/* SDM vol. 2B, SYSCALL. */
void __wrap_helper_syscall_x86_64(void *env, int next_eip_addend)
{
    uint64_t *regs = &FIELD(env, ENV_REGS, uint64_t);
    uint64_t star = FIELD(env, ENV_STAR, uint64_t);
    uint64_t next = FIELD(env, ENV_EIP, uint64_t) + (uint64_t)next_eip_addend;
    uint32_t hflags = FIELD(env, ENV_HFLAGS, uint32_t), selector = (star >> 32) & 0xfffc;

    if (!(FIELD(env, ENV_EFER, uint64_t) & EFER_SCE)) {
        raise_exception_err_ra_x86_64(env, FT_VECTOR_UD, 0, HOST_PC());
    }
    if (hflags & HF_LMA) {
        uint32_t flags = load_eflags(env) & ~FLAG_RF;
        regs[1] = next;
        regs[11] = flags;
        store_eflags(env, flags & ~(uint32_t)FIELD(env, ENV_FMASK, uint64_t));
        enter_kernel(env, selector, FLAT_CODE64,
                     FIELD(env, hflags & HF_CS64 ? ENV_LSTAR : ENV_CSTAR, uint64_t));
    } else {
        regs[1] = (uint32_t)next;
        FIELD(env, ENV_EFLAGS, uint64_t) &= ~(uint64_t)(FLAG_IF | FLAG_RF | FLAG_VM);
        enter_kernel(env, selector, FLAT_CODE32, (uint32_t)star);
    }
}

/* SDM vol. 2B, SYSENTER. Unicorn only has a hook there. */
void __wrap_helper_sysenter_x86_64(void *env, int next_eip_addend)
{
    uint32_t selector = FIELD(env, ENV_SYSENTER_CS, uint32_t) & 0xfffc;
    bool long_mode = FIELD(env, ENV_HFLAGS, uint32_t) & HF_LMA;
    uint64_t mask = long_mode ? UINT64_MAX : UINT32_MAX;

    (void)next_eip_addend;
    if (selector == 0) {
        general_protection(env, HOST_PC());
    }
    FIELD(env, ENV_EFLAGS, uint64_t) &= ~(uint64_t)(FLAG_IF | FLAG_RF | FLAG_VM);
    (&FIELD(env, ENV_REGS, uint64_t))[4] = FIELD(env, ENV_SYSENTER_ESP, uint64_t) & mask;
    enter_kernel(env, selector, long_mode ? FLAT_CODE64 : FLAT_CODE32,
                 FIELD(env, ENV_SYSENTER_EIP, uint64_t) & mask);
}

/* MXCSR decides how SSE rounds (SDM vol. 1, 10.2.3). Unicorn gives its flush-to-zero to the x87 FPU. */
void update_mxcsr_status_x86_64(void *env)
{
    enum { DENORMALS_ARE_ZERO = 1 << 6, FLUSH_TO_ZERO = 1 << 15 };
    struct {
        int8_t tininess, rounding;
        uint8_t exceptions;
        int8_t precision;
        uint8_t flush_to_zero, flush_inputs_to_zero;
    } *sse = (void *)((char *)env + ENV_SSE_STATUS);
    uint32_t mxcsr = FIELD(env, ENV_MXCSR, uint32_t);

    sse->rounding = mxcsr >> 13 & 3; /* nearest, down, up, to zero: numbered alike */
    sse->flush_to_zero = (mxcsr & FLUSH_TO_ZERO) != 0;
    sse->flush_inputs_to_zero = (mxcsr & DENORMALS_ARE_ZERO) != 0;
}

/* ---- Ports and memory-mapped devices ------------------------------------------------------------------------- */

/* SDM vol. 1, 19.5: IOPL, else the bitmap in the TSS. Unicorn's translator leaves this out. */
static void check_port(void *env, uint32_t port, uint32_t size, uintptr_t host_pc)
{
    uint32_t flags = FIELD(env, ENV_EFLAGS, uint32_t);
    uint32_t cpl = FIELD(env, ENV_HFLAGS, uint32_t) & HF_CPL;

    if (!((&FIELD(env, ENV_CR, uint64_t))[0] & CR0_PE) ||
        (!(flags & FLAG_VM) && cpl <= (flags & FLAG_IOPL) >> 12)) {
        return;
    }
    /* The check raises its exception with the RIP it finds: bring that up to date. */
    cpu_restore_state_x86_64(owner_of_env(env)->engine->cpu, host_pc, true);
    (size == 1   ? helper_check_iob_x86_64
     : size == 2 ? helper_check_iow_x86_64
                 : helper_check_iol_x86_64)(env, port);
}

/*
 * An access to a port takes 1 us, as on the ISA bus: a guest that waits by polling a port would else wait long, since
 * the access costs us as much. What the current run ends for, a timer, comes so much earlier.
 */
static void pass_port_time(ft_cpu *cpu)
{
    enum { PORT_NS = 1000 };
    uint64_t blocks = PORT_NS / cpu->ns_per_block, position = ft_engine_position(cpu);

    cpu->skipped_ns += PORT_NS;
    cpu->limit = cpu->limit - position > blocks && cpu->limit > position ? cpu->limit - blocks : position;
    ft_engine_limit_changed(cpu);
}

static uint64_t port_read(void *env, uint32_t port, uint32_t size, uintptr_t host_pc)
{
    check_port(env, port, size, host_pc);
    pass_port_time(owner_of_env(env));
    ft_debug_touched(owner_of_env(env), FT_HIT_PORT, port, size, FT_ACCESS_READ);
    return ft_on_port_read(ft_cpu_owner(owner_of_env(env)), port, size);
}

static void port_write(void *env, uint32_t port, uint32_t size, uint32_t value, uintptr_t host_pc)
{
    check_port(env, port, size, host_pc);
    pass_port_time(owner_of_env(env));
    ft_debug_touched(owner_of_env(env), FT_HIT_PORT, port, size, FT_ACCESS_WRITE);
    if (owner_of_env(env)->trace) {
        ft_trace_told(owner_of_env(env), port, size, value);
    }
    ft_on_port_write(ft_cpu_owner(owner_of_env(env)), port, size, value);
}

uint64_t __wrap_helper_inb_x86_64(void *env, uint32_t port)
{
    return port_read(env, port, 1, HOST_PC());
}

uint64_t __wrap_helper_inw_x86_64(void *env, uint32_t port)
{
    return port_read(env, port, 2, HOST_PC());
}

uint64_t __wrap_helper_inl_x86_64(void *env, uint32_t port)
{
    return port_read(env, port, 4, HOST_PC());
}

void __wrap_helper_outb_x86_64(void *env, uint32_t port, uint32_t value)
{
    port_write(env, port, 1, value & 0xff, HOST_PC());
}

void __wrap_helper_outw_x86_64(void *env, uint32_t port, uint32_t value)
{
    port_write(env, port, 2, value & 0xffff, HOST_PC());
}

void __wrap_helper_outl_x86_64(void *env, uint32_t port, uint32_t value)
{
    port_write(env, port, 4, value, HOST_PC());
}

/* `base` is the region's first address: Unicorn reports offsets into a region. */
static uint64_t mmio_read(uc_engine *uc, uint64_t offset, unsigned size, void *base)
{
    uint64_t value;

    ft_debug_touched(owner_of_uc(uc), FT_HIT_MMIO, (uintptr_t)base + offset, size, FT_ACCESS_READ);
    if (ft_cpu_read_lapic(owner_of_uc(uc), (uintptr_t)base + offset, size, &value)) {
        return value;
    }
    return ft_on_mmio_read(ft_cpu_owner(owner_of_uc(uc)), (uintptr_t)base + offset, size);
}

static void mmio_write(uc_engine *uc, uint64_t offset, unsigned size, uint64_t value, void *base)
{
    ft_debug_touched(owner_of_uc(uc), FT_HIT_MMIO, (uintptr_t)base + offset, size, FT_ACCESS_WRITE);
    if (owner_of_uc(uc)->trace) {
        ft_trace_told(owner_of_uc(uc), (uintptr_t)base + offset, size, value);
    }
    if (ft_cpu_write_lapic(owner_of_uc(uc), (uintptr_t)base + offset, size, value) ||
        ft_cpu_write_signal(owner_of_uc(uc), (uintptr_t)base + offset, size)) {
        return;
    }
    ft_on_mmio_write(ft_cpu_owner(owner_of_uc(uc)), (uintptr_t)base + offset, size, value);
}

/* ---- Exceptions ---------------------------------------------------------------------------------------------- */

/* Unicorn moves RIP behind INT n before it is delivered; a fault in the delivery must find it at INT n. */
static void on_exception(uc_engine *uc, uint32_t vector, void *owner)
{
    ft_engine *engine = ((ft_cpu *)owner)->engine;

    (void)uc;
    (void)vector;
    if (FIELD(engine->env, ENV_EXCEPTION_IS_INT, int32_t)) {
        FIELD(engine->env, ENV_EIP, uint64_t) = engine->soft_interrupt_eip;
    }
    engine->block.left = 0;
    engine->data_breakpoints_hit = 0; /* the instruction did not complete */
    before_flags_load(engine->env);   /* a task gate */
    x86_cpu_do_interrupt_x86_64(engine->cpu);
}

void __wrap_helper_raise_interrupt_x86_64(void *env, int vector, int next_eip_addend)
{
    owner_of_env(env)->engine->soft_interrupt_eip = FIELD(env, ENV_EIP, uint64_t);
    __real_helper_raise_interrupt_x86_64(env, vector, next_eip_addend);
}

void __wrap_helper_into_x86_64(void *env, int next_eip_addend)
{
    owner_of_env(env)->engine->soft_interrupt_eip = FIELD(env, ENV_EIP, uint64_t);
    __real_helper_into_x86_64(env, next_eip_addend);
}

/*
 * An error code that names an IDT entry is its index times 8, plus 2 (SDM vol. 3, 6.13). Unicorn multiplies by 16
 * in long mode. No other error code of #NP and #GP has this bit set.
 */
void __wrap_raise_exception_err_x86_64(void *env, int vector, int error_code)
{
    enum { NAMES_IDT = 2, EXTERNAL_OR_LDT = 5 };

    if ((vector == FT_VECTOR_NP || vector == FT_VECTOR_GP) && error_code & NAMES_IDT &&
        !(error_code & EXTERNAL_OR_LDT) && FIELD(env, ENV_HFLAGS, uint32_t) & HF_LMA) {
        error_code = (error_code >> 4) * 8 + NAMES_IDT;
    }
    __real_raise_exception_err_x86_64(env, vector, error_code);
}

/* Unicorn keeps #UD apart from the other exceptions, and does not know INT1 (SDM vol. 2A, INT1: a trap). */
static bool on_invalid_instruction(uc_engine *uc, void *owner)
{
    enum { INT1 = 0xf1 };
    ft_engine *engine = ((ft_cpu *)owner)->engine;
    uint64_t *eip = &FIELD(engine->env, ENV_EIP, uint64_t);

    if (cpu_ldub_code_x86_64(engine->env, segment(engine->env, ENV_SEGS, 1)->base + *eip) == INT1) {
        *eip += 1;
        FIELD(engine->cpu, CPU_EXCEPTION_INDEX, int32_t) = FT_VECTOR_DB;
    }
    on_exception(uc, FT_VECTOR_UD, owner);
    return true;
}

/* ---- Saving and loading -------------------------------------------------------------------------------------- */

static ft_segment save_segment(const engine_segment *from)
{
    return (ft_segment){
        .base = from->base, .limit = from->limit, .flags = from->flags, .selector = from->selector};
}

static engine_segment load_segment(const ft_segment *from)
{
    return (engine_segment){from->selector, from->base, from->limit, from->flags};
}

void ft_engine_save(const ft_cpu *cpu, ft_arch *arch)
{
    char *env = cpu->engine->env;
    const uint64_t *cr = &FIELD(env, ENV_CR, uint64_t);

    memcpy(arch->gpr, env + ENV_REGS, sizeof(arch->gpr));
    arch->rip = FIELD(env, ENV_EIP, uint64_t);
    arch->rflags = load_eflags(env);
    for (int i = 0; i < 6; i++) {
        arch->segment[i] = save_segment(segment(env, ENV_SEGS, i));
    }
    arch->ldtr = save_segment(segment(env, ENV_LDT, 0));
    arch->tr = save_segment(segment(env, ENV_TR, 0));
    arch->gdtr = save_segment(segment(env, ENV_GDT, 0));
    arch->idtr = save_segment(segment(env, ENV_IDT, 0));
    arch->cr0 = cr[0];
    arch->cr2 = cr[2];
    arch->cr3 = cr[3];
    arch->cr4 = cr[4];
    memcpy(arch->dr, env + ENV_DR, sizeof(arch->dr));
    arch->efer = FIELD(env, ENV_EFER, uint64_t);
    arch->star = FIELD(env, ENV_STAR, uint64_t);
    arch->lstar = FIELD(env, ENV_LSTAR, uint64_t);
    arch->cstar = FIELD(env, ENV_CSTAR, uint64_t);
    arch->fmask = FIELD(env, ENV_FMASK, uint64_t);
    arch->kernel_gs_base = FIELD(env, ENV_KERNEL_GS_BASE, uint64_t);
    arch->sysenter_cs = FIELD(env, ENV_SYSENTER_CS, uint32_t);
    arch->sysenter_esp = FIELD(env, ENV_SYSENTER_ESP, uint64_t);
    arch->sysenter_eip = FIELD(env, ENV_SYSENTER_EIP, uint64_t);
    arch->interrupt_shadow = FIELD(env, ENV_HFLAGS, uint32_t) & HF_INHIBIT_IRQ ? 1 : 0;
    arch->nmi_blocked = FIELD(env, ENV_HFLAGS2, uint32_t) & HF2_NMI_BLOCKED ? 1 : 0;
    arch->alone = ft_engine_restarting(cpu);
    arch->fpu_control = FIELD(env, ENV_FPUC, uint16_t);
    arch->fpu_status = (FIELD(env, ENV_FPUS, uint16_t) & ~0x3800u) | (FIELD(env, ENV_FPSTT, uint32_t) & 7)
                                                                         << 11;
    arch->mxcsr = FIELD(env, ENV_MXCSR, uint32_t);
    arch->fpu_ip = FIELD(env, ENV_FPIP, uint64_t);
    arch->fpu_dp = FIELD(env, ENV_FPDP, uint64_t);
    for (int i = 0; i < 8; i++) {
        arch->fpu_tags |= (env[ENV_FPTAGS + i] == 0 ? 1u : 0) << i;
        memcpy(arch->st[i], env + ENV_FPREGS + 16 * i, 10); /* the rest is padding with garbage */
    }
    for (int i = 0; i < 16; i++) {
        memcpy(arch->xmm[i], env + ENV_XMM + XMM_STRIDE * i, 16);
    }
}

static void load_registers(ft_cpu *cpu, const ft_arch *arch)
{
    char *env = cpu->engine->env;
    uint64_t *cr = &FIELD(env, ENV_CR, uint64_t);

    memcpy(env + ENV_REGS, arch->gpr, sizeof(arch->gpr));
    FIELD(env, ENV_EIP, uint64_t) = arch->rip;
    store_eflags(env, (uint32_t)arch->rflags);
    FIELD(env, ENV_EFLAGS, uint64_t) =
        arch->rflags; /* the loop takes all flags from here when it is entered */
    for (int i = 0; i < 6; i++) {
        *segment(env, ENV_SEGS, i) = load_segment(&arch->segment[i]);
    }
    *segment(env, ENV_LDT, 0) = load_segment(&arch->ldtr);
    *segment(env, ENV_TR, 0) = load_segment(&arch->tr);
    *segment(env, ENV_GDT, 0) = load_segment(&arch->gdtr);
    *segment(env, ENV_IDT, 0) = load_segment(&arch->idtr);
    cr[0] = arch->cr0;
    cr[2] = arch->cr2;
    cr[3] = arch->cr3;
    cr[4] = arch->cr4;
    FIELD(env, ENV_EFER, uint64_t) = arch->efer;
    FIELD(env, ENV_STAR, uint64_t) = arch->star;
    FIELD(env, ENV_LSTAR, uint64_t) = arch->lstar;
    FIELD(env, ENV_CSTAR, uint64_t) = arch->cstar;
    FIELD(env, ENV_FMASK, uint64_t) = arch->fmask;
    FIELD(env, ENV_KERNEL_GS_BASE, uint64_t) = arch->kernel_gs_base;
    FIELD(env, ENV_SYSENTER_CS, uint64_t) = arch->sysenter_cs;
    FIELD(env, ENV_SYSENTER_ESP, uint64_t) = arch->sysenter_esp;
    FIELD(env, ENV_SYSENTER_EIP, uint64_t) = arch->sysenter_eip;
    FIELD(env, ENV_OLD_EXCEPTION, int32_t) = -1;
    FIELD(env, ENV_HFLAGS2, uint32_t) = HF2_GIF | (arch->nmi_blocked ? HF2_NMI_BLOCKED : 0);
    FIELD(env, ENV_HFLAGS, uint32_t) =
        (arch->interrupt_shadow ? HF_INHIBIT_IRQ : 0) | (arch->cr4 & CR4_SMAP ? HF_SMAP : 0);
    update_hflags(env);
    FIELD(env, ENV_FPUC, uint16_t) = (uint16_t)arch->fpu_control;
    FIELD(env, ENV_FPUS, uint16_t) = (uint16_t)(arch->fpu_status & ~0x3800u);
    FIELD(env, ENV_FPSTT, uint32_t) = arch->fpu_status >> 11 & 7;
    FIELD(env, ENV_MXCSR, uint32_t) = arch->mxcsr;
    FIELD(env, ENV_FPIP, uint64_t) = arch->fpu_ip;
    FIELD(env, ENV_FPDP, uint64_t) = arch->fpu_dp;
    update_fp_status_x86_64(env);
    update_mxcsr_status_x86_64(env);
    for (int i = 0; i < 8; i++) {
        env[ENV_FPTAGS + i] = !(arch->fpu_tags >> i & 1);
        memcpy(env + ENV_FPREGS + 16 * i, arch->st[i], 10);
    }
    for (int i = 0; i < 16; i++) {
        memset(env + ENV_XMM + XMM_STRIDE * i, 0, XMM_STRIDE);
        memcpy(env + ENV_XMM + XMM_STRIDE * i, arch->xmm[i], 16);
    }
    /* Through the helper, which arms and disarms breakpoints: off first, on last. */
    if (memcmp(env + ENV_DR, arch->dr, sizeof(arch->dr)) != 0) {
        __real_helper_set_dr_x86_64(env, 7, 0x400);
        for (int i = 0; i < 4; i++) {
            __real_helper_set_dr_x86_64(env, i, arch->dr[i]);
        }
        FIELD(env, ENV_DR + 6 * 8, uint64_t) = arch->dr[6];
        __real_helper_set_dr_x86_64(env, 7, arch->dr[7]);
    }
}

void ft_engine_load(ft_cpu *cpu, const ft_arch *arch)
{
    load_registers(cpu, arch);
    /* Outside a run all flags stand here: the engine's loop takes them apart when it is entered. */
    FIELD(cpu->engine->env, ENV_EFLAGS, uint64_t) = arch->rflags;
}

/* ---- Running ------------------------------------------------------------------------------------------------- */

int ft_engine_run(ft_cpu *cpu)
{
    ft_engine *engine = cpu->engine;

    clock_owner = cpu;
    uc_err error = uc_emu_start(engine->uc, FIELD(engine->env, ENV_EIP, uint64_t), 0, 0, 0);
    clock_owner = NULL;
    if (error == UC_ERR_OK && cpu->stop != FT_STOP_NONE) {
        return 0;
    }
    snprintf(cpu->error, sizeof(cpu->error), "the engine stopped at %#llx: %s",
             (unsigned long long)FIELD(engine->env, ENV_EIP, uint64_t), uc_strerror(error));
    if (error == UC_ERR_FETCH_PROT || error == UC_ERR_FETCH_UNMAPPED) {
        cpu->stop = FT_STOP_CRASH; /* the guest jumped into a device */
        return 0;
    }
    return -1;
}

/* ---- Stepping ------------------------------------------------------------------------------------------------ */

/*
 * To stop inside a block, it is entered and counted as ever but left again before its first instruction, and then run
 * in pieces: blocks of so many instructions, of a kind of their own. A piece is not counted, and nothing is looked at
 * before it. Whatever a block of one go does as a whole must not happen, or happen once, when it is run in pieces:
 *
 *  - A piece is found and translated in the RAM in which the block was found, not through the TLB, which may have lost the
 *    block's pages since: filling it again would set accessed bits.
 *  - The resume flag lasts to the end of the block.
 *  - A store to the block, or an access that meets a data breakpoint, restarts its instruction as a block of its own,
 *    which counts; so it does when the piece that stores is of one instruction, or is not stored to.
 *
 * Where the block ends was decided when it was translated as a whole, so the last piece has as many instructions as
 * are left. Whatever else ends it, an exception or a restart, ends it in the same place.
 */

static void note_block(ft_engine *engine, const char *block)
{
    const uint64_t *pages = &FIELD(block, TB_PAGE_ADDR, const uint64_t);

    engine->block = (stepped_block){
        .pc = FIELD(block, TB_PC, const uint64_t),
        .pages = {pages[0], pages[1]},
        .bytes = FIELD(block, TB_SIZE, const uint16_t),
        .alone = (FIELD(block, TB_CFLAGS, const uint32_t) & TB_CFLAGS_COUNT) == 1,
        .left = FIELD(block, TB_ICOUNT, const uint16_t),
    };
}

/* At the start of its code: come back when it ends. */
static void begin_piece(ft_cpu *cpu)
{
    cpu->engine->finding = false;
    cpu->stop = FT_STOP_POSITION;
    uc_emu_stop(cpu->engine->uc);
    FIELD(cpu->engine->cpu, CPU_TCG_EXIT_REQ, uint32_t) = 0;
}

static uint64_t bytes_on_first_page(const stepped_block *block)
{
    uint64_t room = FT_PAGE_BYTES - block->pc % FT_PAGE_BYTES;

    return block->bytes < room ? block->bytes : room;
}

static bool stepped_block_on(const stepped_block *block, uint64_t page)
{
    return block->pages[0] >> FT_PAGE_SHIFT == page || block->pages[1] >> FT_PAGE_SHIFT == page;
}

/* Does the block have one of `bytes` bytes at `ram_address`, all on one page? */
static bool stepped_block_at(const stepped_block *block, uint64_t ram_address, uint64_t bytes)
{
    uint64_t first = bytes_on_first_page(block);
    uint64_t start = block->pages[0] + block->pc % FT_PAGE_BYTES;

    return (ram_address < start + first && start < ram_address + bytes) ||
           (block->pages[1] != FT_NO_RAM && ram_address < block->pages[1] + block->bytes - first &&
            block->pages[1] < ram_address + bytes);
}

/* Where the linear address lies in RAM, if it is on one of the block's pages. */
static uint64_t block_ram(const stepped_block *block, uint64_t address)
{
    uint64_t page = (address >> FT_PAGE_SHIFT) - (block->pc >> FT_PAGE_SHIFT);

    return page < 2 && block->pages[page] != FT_NO_RAM ? block->pages[page] + address % FT_PAGE_BYTES
                                                       : FT_NO_RAM;
}

uint64_t __wrap_get_page_addr_code_x86_64(void *env, uint64_t address)
{
    const ft_engine *engine = owner_of_env(env)->engine;
    uint64_t at = engine->finding ? block_ram(&engine->block, address) : FT_NO_RAM;

    return at != FT_NO_RAM ? at : __real_get_page_addr_code_x86_64(env, address);
}

/* Without the ways of a slow access, if that can be. */
static inline bool fetch(void *env, uint64_t address, void *value, uint32_t bytes)
{
    const ft_cpu *cpu = owner_of_env(env);

    if (!cpu->engine->finding) {
        const void *code = code_at(env, address, bytes);
        if (code) {
            memcpy(value, code, bytes);
        }
        return code;
    }
    for (uint32_t i = 0; i < bytes; i++) {
        uint64_t at = block_ram(&cpu->engine->block, address + i);
        if (at == FT_NO_RAM) {
            return false;
        }
        ((uint8_t *)value)[i] = cpu->ram[at];
    }
    return true;
}

static void code_was_read(void *env, uint64_t address, uint32_t bytes)
{
    ft_cpu *cpu = owner_of_env(env);

    if (!cpu->engine->finding && ft_debug_watches(cpu, FT_HIT_ACCESS, 0, cpu->ram_bytes, FT_ACCESS_READ)) {
        uint64_t ram = __real_get_page_addr_code_x86_64(env, address); /* the TLB has it now */
        if (ram != FT_NO_RAM) {
            ft_debug_touched(cpu, FT_HIT_ACCESS, ram, bytes, FT_ACCESS_READ);
        }
    }
}

uint32_t __wrap_cpu_ldub_code_x86_64(void *env, uint64_t address)
{
    uint8_t value;

    if (!fetch(env, address, &value, sizeof(value))) {
        value = (uint8_t)__real_cpu_ldub_code_x86_64(env, address);
    }
    code_was_read(env, address, sizeof(value));
    return value;
}

uint32_t __wrap_cpu_lduw_code_x86_64(void *env, uint64_t address)
{
    uint16_t value;

    if (!fetch(env, address, &value, sizeof(value))) {
        value = (uint16_t)__real_cpu_lduw_code_x86_64(env, address);
    }
    code_was_read(env, address, sizeof(value));
    return value;
}

uint32_t __wrap_cpu_ldl_code_x86_64(void *env, uint64_t address)
{
    uint32_t value;

    if (!fetch(env, address, &value, sizeof(value))) {
        value = __real_cpu_ldl_code_x86_64(env, address);
    }
    code_was_read(env, address, sizeof(value));
    return value;
}

uint64_t __wrap_cpu_ldq_code_x86_64(void *env, uint64_t address)
{
    uint64_t value;

    if (!fetch(env, address, &value, sizeof(value))) {
        value = __real_cpu_ldq_code_x86_64(env, address);
    }
    code_was_read(env, address, sizeof(value));
    return value;
}

void __wrap_helper_reset_rf_x86_64(void *env)
{
    const ft_engine *engine = owner_of_env(env)->engine;

    if (!engine->in_piece || engine->last_piece) {
        __real_helper_reset_rf_x86_64(env);
    }
}

uint32_t ft_engine_instructions_done(const ft_cpu *cpu)
{
    return cpu->engine->block.left ? cpu->engine->block.done : 0;
}

uint32_t ft_engine_instructions_left(const ft_cpu *cpu)
{
    return cpu->engine->block.left;
}

uint64_t ft_engine_rest_of_block(const ft_cpu *cpu, uint64_t *bytes)
{
    const stepped_block *block = &cpu->engine->block;
    uint64_t next = segment(cpu->engine->env, ENV_SEGS, 1)->base + FIELD(cpu->engine->env, ENV_EIP, uint64_t);

    *bytes = next - block->pc < block->bytes ? block->pc + block->bytes - next : 0;
    return next;
}

bool ft_engine_restarting(const ft_cpu *cpu)
{
    return cpu->engine->restart_position == ft_engine_position(cpu);
}

void ft_engine_restart(ft_cpu *cpu)
{
    cpu->engine->restart_position = ft_engine_position(cpu);
    FIELD(cpu->engine->cpu, CPU_CFLAGS_NEXT_TB, uint32_t) = 1;
}

void ft_engine_forget_block(ft_cpu *cpu)
{
    cpu->engine->block = (stepped_block){0};
    cpu->engine->data_breakpoints_hit = 0;
    cpu->engine->restart_position = FT_NO_POSITION;
    FIELD(cpu->engine->cpu, CPU_CFLAGS_NEXT_TB, uint32_t) = UINT32_MAX;
}

void ft_engine_skip(ft_cpu *cpu, uint32_t bytes)
{
    FIELD(cpu->engine->env, ENV_EIP, uint64_t) += bytes;
    cpu->engine->block.done++;
    cpu->engine->block.left--;
}

int ft_engine_enter(ft_cpu *cpu)
{
    cpu->engine->entering = true;
    ft_engine_limit_changed(cpu);
    int result = ft_engine_run(cpu);
    cpu->engine->entering = false;
    return result;
}

int ft_engine_run_piece(ft_cpu *cpu, uint32_t instructions)
{
    ft_engine *engine = cpu->engine;

    engine->in_piece = engine->finding = true;
    engine->last_piece = instructions == engine->block.left;
    FIELD(engine->cpu, CPU_CFLAGS_NEXT_TB, uint32_t) = instructions | TB_CFLAGS_PIECE;
    ft_engine_limit_changed(cpu);
    int result = ft_engine_run(cpu);
    engine->in_piece = engine->finding = false;
    if (result != 0 || ft_engine_restarting(cpu)) {
        engine->block.left = 0;
    }
    if (engine->block.left) {
        engine->block.done += instructions;
        engine->block.left -= instructions;
    }
    return result;
}

/* ---- Opening ------------------------------------------------------------------------------------------------- */

static int refuse(ft_cpu *cpu, const char *what)
{
    snprintf(cpu->error, sizeof(cpu->error),
             "this build of Unicorn is not the one ftvm was made for (2.1.4): %s is not where it should be",
             what);
    return -1;
}

/* Pointers that must point at each other if the offsets are right. */
static int check_objects(ft_cpu *cpu)
{
    ft_engine *engine = cpu->engine;
    unsigned major = 0, minor = 0;

    uc_version(&major, &minor);
    if (major != 2 || minor != 1) {
        return refuse(cpu, "its version");
    }
    engine->cpu = FIELD(engine->uc, UC_CPU, char *);
    if (!engine->cpu || FIELD(engine->cpu, CPU_UC, uc_engine *) != engine->uc) {
        return refuse(cpu, "the CPU object");
    }
    engine->env = engine->cpu + CPU_ENV;
    if (FIELD(engine->cpu, CPU_ENV_PTR, char *) != engine->env ||
        FIELD(engine->env, ENV_UC, uc_engine *) != engine->uc) {
        return refuse(cpu, "the CPU environment");
    }
    engine->tcg = FIELD(engine->uc, UC_TCG, char *);
    if (!engine->tcg || FIELD(engine->tcg, TCG_UC, uc_engine *) != engine->uc) {
        return refuse(cpu, "the translator");
    }
    if (FIELD(engine->uc, UC_MEMORY_MAPPING, find_mapping *) != find_memory_mapping_x86_64) {
        return refuse(cpu, "the memory map");
    }
    for (int mode = 0; mode < MMU_MODES; mode++) {
        tlb_fast *fast = &FIELD(engine->env, ENV_TLB_FAST, tlb_fast) + mode;
        if (fast->mask != 255 * sizeof(tlb_entry) || !fast->table) {
            return refuse(cpu, "the TLB");
        }
    }
    return 0;
}

/* Registers written through the public interface must appear where we look for them. */
static int check_registers(ft_cpu *cpu)
{
    static const struct {
        int id, offset, bytes;
        const char *name;
    } registers[] = {
        {UC_X86_REG_RAX, ENV_REGS, 8, "RAX"},
        {UC_X86_REG_R15, ENV_REGS + 15 * 8, 8, "R15"},
        {UC_X86_REG_RIP, ENV_EIP, 8, "RIP"},
        {UC_X86_REG_CR2, ENV_CR + 2 * 8, 8, "CR2"},
        {UC_X86_REG_FS_BASE, ENV_SEGS + 4 * 24 + 8, 8, "the FS base"},
        {UC_X86_REG_GS_BASE, ENV_SEGS + 5 * 24 + 8, 8, "the GS base"},
        {UC_X86_REG_FPCW, ENV_FPUC, 2, "the x87 control word"},
        {UC_X86_REG_MXCSR, ENV_MXCSR, 4, "MXCSR"},
        {UC_X86_REG_XMM15, ENV_XMM + 15 * XMM_STRIDE, 16, "XMM15"},
        {UC_X86_REG_DR0, ENV_DR, 8, "DR0"},
    };
    static const struct {
        uint32_t index;
        int offset;
        const char *name;
    } msrs[] = {{0xc0000081, ENV_STAR, "STAR"},
                {0xc0000082, ENV_LSTAR, "LSTAR"},
                {0xc0000083, ENV_CSTAR, "CSTAR"},
                {0xc0000084, ENV_FMASK, "FMASK"},
                {0xc0000102, ENV_KERNEL_GS_BASE, "the kernel GS base"},
                {0x175, ENV_SYSENTER_ESP, "SYSENTER_ESP"},
                {0x176, ENV_SYSENTER_EIP, "SYSENTER_EIP"}};
    ft_engine *engine = cpu->engine;

    for (size_t i = 0; i < sizeof(registers) / sizeof(registers[0]); i++) {
        uint8_t value[16];
        memset(value, 0x11 + (int)i, sizeof(value));
        if (uc_reg_write(engine->uc, registers[i].id, value) != UC_ERR_OK ||
            memcmp(engine->env + registers[i].offset, value, (size_t)registers[i].bytes) != 0) {
            return refuse(cpu, registers[i].name);
        }
    }
    /* MSR access of the public interface runs through the replaced helpers: this checks ours end to end. */
    for (size_t i = 0; i < sizeof(msrs) / sizeof(msrs[0]); i++) {
        uc_x86_msr msr = {msrs[i].index, 0x1122334455u + i};
        if (uc_reg_write(engine->uc, UC_X86_REG_MSR, &msr) != UC_ERR_OK ||
            FIELD(engine->env, msrs[i].offset, uint64_t) != msr.value) {
            return refuse(cpu, msrs[i].name);
        }
    }
    return 0;
}

/* RAM offsets must be Unicorn's RAM addresses: the dirty log and the code map are indexed by them. */
static int check_ram(ft_cpu *cpu)
{
    uint64_t last = cpu->ram_bytes - FT_PAGE_BYTES;

    if (qemu_ram_addr_from_host_x86_64(cpu->engine->uc, cpu->ram) != 0 ||
        qemu_ram_addr_from_host_x86_64(cpu->engine->uc, cpu->ram + last) != last) {
        return refuse(cpu, "guest RAM");
    }
    return 0;
}

/*
 * Three blocks of real-mode code that store to the second page; run them in two pieces and look at the count, the
 * stop and the dirty log. Restores the memory that it used.
 */
static int check_run(ft_cpu *cpu)
{
    static const uint8_t code[] = {
        0xc6, 0x06, 0x00, 0x18, 0x5a, /* movb $0x5a, 0x1800 */
        0xeb, 0x00,                   /* jmp 1f */
        0x40,                         /* 1: inc %ax */
        0xeb, 0x00,                   /* jmp 1f */
        0xf4,                         /* 1: hlt */
    };
    uint8_t saved_code[sizeof(code)], saved_data = cpu->ram[0x1800];
    uint32_t pages[2], count = 0;
    ft_arch arch;

    memcpy(saved_code, cpu->ram, sizeof(code));
    memcpy(cpu->ram, code, sizeof(code));
    memset(&arch, 0, sizeof(arch));
    for (int i = 0; i < 6; i++) {
        arch.segment[i] = (ft_segment){.limit = 0xffff, .flags = i == 1 ? 0x9b00 : 0x9300};
    }
    arch.cr0 = 0x60000010;
    arch.rflags = 2;
    ft_cpu_load(cpu, &arch);
    ft_cpu_set_dirty_log(cpu, pages, &count);
    int first = ft_cpu_run(cpu, 2);
    ft_engine_save(cpu, &arch);
    bool stopped =
        first == FT_STOP_POSITION && ft_cpu_position(cpu) == 2 && arch.rip == 10 && arch.gpr[0] == 1;
    int second = ft_cpu_run(cpu, 100);
    bool halted = second == FT_STOP_HALT && ft_cpu_position(cpu) == 3;
    bool logged = count == 1 && pages[0] == 1 && cpu->ram[0x1800] == 0x5a;

    memcpy(cpu->ram, saved_code, sizeof(code));
    cpu->ram[0x1800] = saved_data;
    ft_engine_drop_code(cpu, 0, 2);
    if (!stopped || !halted) {
        return refuse(cpu, "the block counter");
    }
    return logged ? 0 : refuse(cpu, "the dirty log");
}

static bool map_hole(ft_cpu *cpu, uint64_t start, uint64_t end)
{
    void *base = (void *)(uintptr_t)start;

    return start == end ||
           uc_mmio_map(cpu->engine->uc, start, end - start, mmio_read, base, mmio_write, base) == UC_ERR_OK;
}

/* RAM, and everything else as devices: no access is ever unmapped, which would stop the engine. */
static int map_memory(ft_cpu *cpu)
{
    uint64_t low = cpu->ram_bytes < FT_LOW_RAM_LIMIT ? cpu->ram_bytes : FT_LOW_RAM_LIMIT;
    uint64_t high = cpu->ram_bytes - low;
    uc_engine *uc = cpu->engine->uc;

    if (uc_mem_map_ptr(uc, 0, low, UC_PROT_ALL, cpu->ram) != UC_ERR_OK || !map_hole(cpu, low, FT_HIGH_RAM) ||
        (high && uc_mem_map_ptr(uc, FT_HIGH_RAM, high, UC_PROT_ALL, cpu->ram + low) != UC_ERR_OK) ||
        !map_hole(cpu, FT_HIGH_RAM + high, 1ull << 52)) {
        snprintf(cpu->error, sizeof(cpu->error), "the engine cannot map %llu bytes of RAM",
                 (unsigned long long)cpu->ram_bytes);
        return -1;
    }
    return 0;
}

/* The translator refuses what CPUID does not offer. */
static void set_features(ft_cpu *cpu)
{
    uint64_t *features = &FIELD(cpu->engine->env, ENV_FEATURES, uint64_t);
    uint32_t *vendor = &FIELD(cpu->engine->env, ENV_VENDOR, uint32_t);
    ft_cpuid_leaf name = ft_cpuid(cpu, 0, 0), basic = ft_cpuid(cpu, 1, 0), structured = ft_cpuid(cpu, 7, 0);
    ft_cpuid_leaf extended = ft_cpuid(cpu, 0x80000001, 0);

    vendor[0] = name.ebx;
    vendor[1] = name.edx;
    vendor[2] = name.ecx;
    memset(features, 0, FEATURE_WORDS * sizeof(features[0]));
    features[FEATURE_1_EDX] = basic.edx;
    features[FEATURE_1_ECX] = basic.ecx;
    features[FEATURE_7_EBX] = structured.ebx;
    features[FEATURE_7_EDX] = structured.edx;
    features[FEATURE_80000001_EDX] = extended.edx;
    features[FEATURE_80000001_ECX] = extended.ecx;
}

static int check(ft_cpu *cpu)
{
    if (check_registers(cpu) != 0 || check_ram(cpu) != 0) {
        return -1;
    }
    return check_run(cpu);
}

int ft_engine_open(ft_cpu *cpu)
{
    uint64_t pages = cpu->ram_bytes >> FT_PAGE_SHIFT;
    ft_engine *engine = calloc(1, sizeof(*engine));
    uc_hook hook;

    cpu->engine = engine;
    if (!engine || !(engine->has_code = calloc(pages, 1)) || !(engine->drops = calloc(pages, 1))) {
        snprintf(cpu->error, sizeof(cpu->error), "out of memory");
        return -1;
    }
    engine->restart_position = FT_NO_POSITION;
    /* The mode is that of the register interface only: one engine runs real, protected and long mode. */
    uc_err error = uc_open(UC_ARCH_X86, UC_MODE_64, &engine->uc);
    if (error != UC_ERR_OK) {
        snprintf(cpu->error, sizeof(cpu->error), "Unicorn does not open: %s", uc_strerror(error));
        return -1;
    }
    if (map_memory(cpu) != 0 || check_objects(cpu) != 0) {
        return -1;
    }
    FIELD(engine->env, ENV_OWNER, ft_cpu *) = cpu;
    engine->ram_regions[0] = find_memory_mapping_x86_64(engine->uc, 0);
    engine->ram_regions[1] = find_memory_mapping_x86_64(engine->uc, FT_HIGH_RAM);
    FIELD(engine->uc, UC_MEMORY_MAPPING, find_mapping *) = memory_mapping;
    set_features(cpu);
    /* With an exit address of its own, Unicorn walks guest page tables after each run and clobbers CR2. */
    if (uc_ctl_exits_enable(engine->uc) != UC_ERR_OK ||
        uc_hook_add(engine->uc, &hook, UC_HOOK_INTR, (void *)on_exception, cpu, 1, 0) != UC_ERR_OK ||
        uc_hook_add(engine->uc, &hook, UC_HOOK_INSN_INVALID, (void *)on_invalid_instruction, cpu, 1, 0) !=
            UC_ERR_OK) {
        snprintf(cpu->error, sizeof(cpu->error), "Unicorn refuses the exception hooks");
        return -1;
    }
    return check(cpu);
}

void ft_engine_close(ft_cpu *cpu)
{
    if (cpu->engine) {
        if (cpu->engine->uc) {
            uc_close(cpu->engine->uc);
        }
        free(cpu->engine->has_code);
        free(cpu->engine->drops);
        free(cpu->engine);
    }
}

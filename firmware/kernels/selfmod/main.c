/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Code that changes while it is used. An x86 CPU executes what was written last, whoever wrote it, through
 * whatever mapping, and without being told (SDM vol. 3, 11.6; through another linear address Intel asks for a
 * serializing instruction, and each test here passes an IRETQ, CPUID, INVLPG or MOV to CR3 where it needs
 * one). A translator has to notice all of that by itself. Every test runs thousands of rounds and counts
 * results that are not the newest.
 */
#include "check.h"
#include "code.h"
#include "cpu.h"
#include "gdt.h"
#include "idt.h"
#include "paging.h"
#include "rand.h"
#include "string.h"

enum { ROUNDS = 2000 };

/* Where tests map pages, each in a top-level entry of its own. */
#define WRITABLE 0x10000000000ul
#define EXECUTABLE 0x18000000000ul
#define LIVING_ENTRY 0x20000000000ul

enum { OPCODE_MOV_EAX = 0xb8, OPCODE_ADD_EAX = 0x05, OPCODE_PUSH_RDI = 0x57, OPCODE_POP_RAX = 0x58 };
enum { OPCODE_RET = 0xc3, OPCODE_INT3 = 0xcc, OPCODE_NOP = 0x90, OPCODE_JMP = 0xe9 };

/* Two pages of their own for code, mapped one to one, writable and executable. */
static uint8_t page[2 * PAGE_BYTES] __attribute__((aligned(PAGE_BYTES)));

static uint64_t random_state = 1;

static uint32_t random(void)
{
    return (uint32_t)(random_next(&random_state) >> 32);
}

/* `mov $value, %eax`, then the one-byte instruction `end`, as one word. */
static uint64_t function_word(uint32_t value, uint8_t end)
{
    return OPCODE_MOV_EAX | (uint64_t)value << 8 | (uint64_t)end << 40 | (uint64_t)OPCODE_NOP << 48 |
           (uint64_t)OPCODE_NOP << 56;
}

static void write_function(void *at, uint32_t value)
{
    *(volatile uint64_t *)at = function_word(value, OPCODE_RET);
}

static uint32_t call(const void *function)
{
    return ((uint32_t(*)(void))function)();
}

static void serialize(void)
{
    cpuid(0, 0);
}

static void write_relative(uint8_t *operand, const uint8_t *target)
{
    int32_t distance = (int32_t)(target - (operand + 4));
    memcpy(operand, &distance, sizeof distance);
}

/* ---- One mapping ----------------------------------------------------------------------- */

static unsigned next_instruction_changes(void)
{
    unsigned wrong = 0;
    for (uint32_t i = 0; i < ROUNDS; i++)
        wrong += next_instruction(i) != i;
    return wrong;
}

static unsigned same_block_changes(void)
{
    unsigned wrong = 0;
    for (uint32_t i = 0; i < ROUNDS; i++)
        wrong += same_block(i) != 2 * i;
    return wrong;
}

static unsigned loop_changes_itself(void)
{
    unsigned wrong = 0;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        uint32_t n = i % 16 + 1;
        wrong += growing_loop(n) != n * (n + 1) / 2;
    }
    return wrong;
}

static unsigned opcode_changes(void)
{
    unsigned wrong = 0;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        uint32_t down = random();
        wrong += changed_opcode(i, down) != (down & 1 ? i - 1 : i + 1);
    }
    return wrong;
}

static unsigned rep_movs_next_instruction(void)
{
    unsigned wrong = 0;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        uint64_t word = function_word(i, 0);
        wrong += copied_next_instruction(&word) != i;
    }
    return wrong;
}

static unsigned rewritten(void)
{
    unsigned wrong = 0;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        write_function(page, i);
        wrong += call(page) != i;
    }
    return wrong;
}

static unsigned copied_over(void)
{
    static uint64_t functions[32]; /* 256 bytes of code, of which one function is called */
    unsigned wrong = 0;

    for (uint32_t i = 0; i < ROUNDS; i++) {
        for (unsigned f = 0; f < 32; f++)
            functions[f] = function_word(i * 32 + f, OPCODE_RET);
        memcpy(page, functions, sizeof functions);
        unsigned f = random() % 32;
        wrong += call(page + f * sizeof *functions) != i * 32 + f;
    }
    return wrong;
}

/* An instruction of which four bytes stand in the second page: only that page changes. */
static unsigned across_pages(void)
{
    uint8_t *code = page + PAGE_BYTES - 1;
    unsigned wrong = 0;

    write_function(code, 0);
    for (uint32_t i = 0; i < ROUNDS; i++) {
        *(volatile uint32_t *)(code + 1) = i;
        wrong += call(code) != i;
    }
    return wrong;
}

/* A direct jump into another page, which a translator may have linked to the old code there. */
static unsigned jumped_to(void)
{
    unsigned wrong = 0;

    page[0] = OPCODE_JMP;
    write_relative(page + 1, page + PAGE_BYTES);
    for (uint32_t i = 0; i < ROUNDS; i++) {
        write_function(page + PAGE_BYTES, i);
        wrong += call(page) != i;
    }
    return wrong;
}

/* The jump itself changes, between two functions that stay. */
static unsigned redirected(void)
{
    unsigned wrong = 0;

    page[0] = OPCODE_JMP;
    write_function(page + 0x100, 0x100);
    write_function(page + PAGE_BYTES, PAGE_BYTES);
    for (uint32_t i = 0; i < ROUNDS; i++) {
        uint32_t target = random() & 1 ? PAGE_BYTES : 0x100;
        write_relative(page + 1, page + target);
        wrong += call(page) != target;
    }
    return wrong;
}

/* Much data and, now and then, new code in one page. */
static unsigned code_beside_data(void)
{
    volatile uint64_t *data = (uint64_t *)page;
    unsigned wrong = 0;
    uint32_t value = 0;

    for (uint32_t i = 0; i < ROUNDS; i++) {
        if (i % 8 == 0)
            write_function(page, value = random());
        for (unsigned word = 1; word < PAGE_BYTES / 8; word += 16)
            data[word] += i;
        wrong += call(page) != value;
    }
    return wrong;
}

/* push %rdi; pop %rax; add $value, %eax; ret - on a stack in the page it stands in. */
static unsigned code_beside_stack(void)
{
    unsigned wrong = 0;

    page[0] = OPCODE_PUSH_RDI;
    page[1] = OPCODE_POP_RAX;
    page[2] = OPCODE_ADD_EAX;
    page[7] = OPCODE_RET;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        uint32_t value = i / 8;
        memcpy(page + 3, &value, sizeof value);
        wrong += call_on_stack(page, i, page + PAGE_BYTES) != i + value;
    }
    return wrong;
}

/* ---- Other ways to write --------------------------------------------------------------- */

static unsigned stored_by(store *store, uint8_t *code)
{
    unsigned wrong = 0;
    for (unsigned i = 0; i < ROUNDS / 10; i++) {
        uint32_t value = random();
        store(code, function_word(value, OPCODE_RET));
        wrong += call(code) != value;
    }
    return wrong;
}

static unsigned every_kind_of_store(void)
{
    static store *const stores[] = {
        store_byte, store_word, store_long, store_quad,   store_xchg,   store_cmpxchg, store_xadd,
        store_add,  store_push, store_stos, store_movnti, store_movups, store_fistp,
    };
    unsigned wrong = stored_by(store_cmpxchg16b, page) + stored_by(store_movs, page);

    /* Aligned, unaligned, and across two pages. */
    for (unsigned s = 0; s < sizeof stores / sizeof *stores; s++)
        wrong += stored_by(stores[s], page + 64) + stored_by(stores[s], page + 129) +
                 stored_by(stores[s], page + PAGE_BYTES - 3);
    return wrong;
}

/*
 * The CPU itself writes code: it pushes RSP on an interrupt stack, and the bytes of that RSP are
 * `mov $value, %al; ret` (b0 value c3).
 */
static uint8_t result_of_frame;

static void call_pushed_rsp(struct frame *frame)
{
    result_of_frame = (uint8_t)call(&frame->rsp);
}

static unsigned interrupt_frame(void)
{
    unsigned wrong = 0;

    tss.ist[IST_TEST - 1] = (uint64_t)(page + sizeof page);
    idt_set_gate(VECTOR_BP, (struct gate_options){.ist = IST_TEST});
    idt_set_handler(VECTOR_BP, call_pushed_rsp);
    for (unsigned i = 0; i < ROUNDS; i++) {
        break_on_stack(0xc300b0 | (i & 0xff) << 8);
        wrong += result_of_frame != (i & 0xff);
    }
    idt_set_gate(VECTOR_BP, (struct gate_options){0});
    idt_set_handler(VECTOR_BP, 0);
    return wrong;
}

/*
 * And again: a page-table entry that is code, and whose accessed and dirty bits turn `add %ecx, %eax; ret`
 * (03 c1 c3) into `and` (23 c1 c3) and then into `movslq %ecx, %eax` (63 c1 c3). It maps the RAM at 0xc3c000.
 */
static unsigned page_table_entry(void)
{
    volatile uint8_t *mapped = (uint8_t *)LIVING_ENTRY;
    uint64_t *entry = page_entry(LIVING_ENTRY, PAGE_4K);
    uint32_t (*code)(uint32_t, uint32_t, uint32_t, uint32_t) = (void *)entry;
    unsigned wrong = 0;

    for (uint32_t i = 0; i < ROUNDS; i++) {
        uint32_t result, ecx = random();

        *(volatile uint64_t *)entry = 0xc3c000 | PAGE_GLOBAL | PAGE_WRITE | PAGE_PRESENT;
        invlpg((void *)LIVING_ENTRY);
        asm volatile("call *%3" : "=a"(result) : "a"(i), "c"(ecx), "r"(code));
        wrong += result != i + ecx && result != (i & ecx); /* it may be 'accessed' early, by speculation */
        *mapped;
        serialize();
        asm volatile("call *%3" : "=a"(result) : "a"(i), "c"(ecx), "r"(code));
        wrong += result != (i & ecx);
        *mapped = 0;
        serialize();
        asm volatile("call *%3" : "=a"(result) : "a"(i), "c"(ecx), "r"(code));
        wrong += result != ecx;
    }
    page_unmap(LIVING_ENTRY);
    return wrong;
}

/* ---- Several mappings ------------------------------------------------------------------ */

/* A just-in-time compiler with two views of its code: one to write, one to execute. */
static unsigned dual_mapped(void)
{
    unsigned wrong = 0;

    page_map(WRITABLE, (uint64_t)page, PAGE_WRITE | PAGE_NX);
    page_map(EXECUTABLE, (uint64_t)page, 0);
    for (uint32_t i = 0; i < ROUNDS; i++) {
        write_function((void *)WRITABLE, i);
        serialize();
        wrong += call((void *)EXECUTABLE) != i;
    }
    return wrong;
}

/* The same, written through the 2 MiB page of the one-to-one mapping, which is executable too. */
static unsigned dual_mapped_large(void)
{
    unsigned wrong = 0;

    page_map(EXECUTABLE, (uint64_t)page, 0);
    for (uint32_t i = 0; i < ROUNDS; i++) {
        write_function(page, i);
        serialize();
        wrong += call((void *)EXECUTABLE) != i;
        wrong += call(page) != i;
    }
    return wrong;
}

/* Never writable and executable at a time: the mapping changes instead. */
static unsigned write_xor_execute(void)
{
    unsigned wrong = 0;

    for (uint32_t i = 0; i < ROUNDS; i++) {
        page_map(EXECUTABLE, (uint64_t)page, PAGE_WRITE | PAGE_NX);
        write_function((void *)EXECUTABLE, i);
        page_map(EXECUTABLE, (uint64_t)page, 0);
        wrong += call((void *)EXECUTABLE) != i;
    }
    return wrong;
}

/* Pages of RAM take turns at one address, and are rewritten while they are not there. */
static unsigned page_reuse(void)
{
    unsigned wrong = 0;

    for (uint32_t i = 0; i < ROUNDS; i++) {
        uint8_t *frame = page + i % 2 * PAGE_BYTES;
        write_function(frame, i);
        page_map(EXECUTABLE, (uint64_t)frame, 0);
        wrong += call((void *)EXECUTABLE) != i;
    }
    return wrong;
}

/* Pages of RAM take turns at one address, with code that stays. */
static unsigned remapped(void)
{
    unsigned wrong = 0;

    write_function(page, 0);
    write_function(page + PAGE_BYTES, 1);
    for (uint32_t i = 0; i < ROUNDS; i++) {
        uint32_t which = random() & 1;
        page_map(EXECUTABLE, (uint64_t)page + which * PAGE_BYTES, 0);
        wrong += call((void *)EXECUTABLE) != which;
    }
    return wrong;
}

/* One address in two address spaces. */
static unsigned address_spaces(void)
{
    uint64_t first = read_cr3(), *second = page_alloc();
    unsigned wrong = 0;

    page_map(EXECUTABLE, (uint64_t)page, 0);
    memcpy(second, (void *)first, PAGE_BYTES);
    write_cr3((uint64_t)second);
    *page_entry(EXECUTABLE, PAGE_512G) = 0;
    page_map(EXECUTABLE, (uint64_t)page + PAGE_BYTES, 0);
    write_function(page, 0);
    write_function(page + PAGE_BYTES, 1);
    for (uint32_t i = 0; i < ROUNDS; i++) {
        uint32_t which = random() & 1;
        write_cr3(which ? (uint64_t)second : first);
        wrong += call((void *)EXECUTABLE) != which;
    }
    write_cr3(first);
    return wrong;
}

/* One piece of code in ring 0, in ring 3 and in 32-bit mode: a translator has it three times. */
static unsigned rings_and_modes(void)
{
    unsigned wrong = 0;

    idt_set_gate(VECTOR_BP, (struct gate_options){.dpl = 3});
    page_map(EXECUTABLE, (uint64_t)page, PAGE_USER);
    for (uint32_t i = 0; i < ROUNDS; i++) {
        struct frame frame = frame_calling(page);
        switch (random() % 3) {
        case 0:
            frame.cs = KERNEL_CODE32;
            break;
        case 1:
            frame =
                (struct frame){.rip = EXECUTABLE, .cs = USER_CODE, .rflags = RFLAGS_FIXED, .ss = USER_DATA};
            break;
        }
        *(volatile uint64_t *)page = function_word(i, OPCODE_INT3);
        wrong += run(&frame) != VECTOR_BP || frame.rax != i;
    }
    return wrong;
}

/* ---------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    unsigned (*count_wrong)(void);
    unsigned rounds;
} tests[] = {
    {"next instruction changes", next_instruction_changes, ROUNDS},
    {"same block changes", same_block_changes, ROUNDS},
    {"loop changes itself", loop_changes_itself, ROUNDS},
    {"opcode changes", opcode_changes, ROUNDS},
    {"rep movs over the next instruction", rep_movs_next_instruction, ROUNDS},
    {"rewritten", rewritten, ROUNDS},
    {"copied over by rep movs", copied_over, ROUNDS},
    {"across two pages", across_pages, ROUNDS},
    {"jumped to from another page", jumped_to, ROUNDS},
    {"redirected jump", redirected, ROUNDS},
    {"code beside data", code_beside_data, ROUNDS},
    {"code beside stack", code_beside_stack, ROUNDS},
    {"every kind of store", every_kind_of_store, (2 + 13 * 3) * ROUNDS / 10},
    {"interrupt frame", interrupt_frame, ROUNDS},
    {"page-table entry", page_table_entry, 3 * ROUNDS},
    {"dual-mapped", dual_mapped, ROUNDS},
    {"dual-mapped, 2 MiB page", dual_mapped_large, 2 * ROUNDS},
    {"writable or executable", write_xor_execute, ROUNDS},
    {"page reuse", page_reuse, ROUNDS},
    {"remapped", remapped, ROUNDS},
    {"two address spaces", address_spaces, ROUNDS},
    {"rings and modes", rings_and_modes, ROUNDS},
};

int main(void)
{
    for (unsigned test = 0; test < sizeof tests / sizeof *tests; test++)
        check_wrong(tests[test].name, tests[test].count_wrong(), tests[test].rounds);
    return check_result();
}

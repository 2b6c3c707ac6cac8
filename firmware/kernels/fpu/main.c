/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * x87 and SSE: bit patterns of results where the manuals define them, the state that FXSAVE keeps, and
 * switching it lazily between tasks. The expected patterns were made by running the same operations on an AMD
 * EPYC.
 *
 * Not checked, because QEMU's TCG and so no engine made from it has them: exception flags in MXCSR and in the
 * x87 status word, the last operation's address and opcode, stack overflow and underflow, the exponent of an
 * MMX register.
 */
#include "check.h"
#include "cpu.h"
#include "fpu.h"
#include "idt.h"
#include "print.h"
#include "string.h"
#include "sweep.h"
#include "x87_operations.h"

/* ---- Patterns, for the eye -------------------------------------------------------------------------------
 */

static uint64_t sse_divide(uint64_t a, uint64_t b)
{
    asm volatile("push %1; movsd (%%rsp), %%xmm0; mov %2, (%%rsp); divsd (%%rsp), %%xmm0; movsd %%xmm0, "
                 "(%%rsp); pop %0"
                 : "=r"(a)
                 : "0"(a), "r"(b)
                 : "memory");
    return a;
}

static void print_patterns(void)
{
    static const char *const names[] = {"nearest", "down", "up", "to zero"};
    const uint64_t one = 0x3ff0000000000000, three = 0x4008000000000000;

    for (unsigned rounding = ROUND_NEAREST; rounding <= ROUND_ZERO; rounding++) {
        struct extended third, root;

        set_mxcsr(MXCSR_MASKS | rounding << MXCSR_ROUNDING_SHIFT);
        x87_init(rounding, PRECISION_EXTENDED);
        asm volatile("fld1; fldl %2; fdivrp; fstpt %0; fld1; fadd %%st, %%st; fsqrt; fstpt %1"
                     : "=m"(third), "=m"(root)
                     : "m"(three));
        print("1/3 %s: sse %016lx, x87 %04x %016lx; x87 square root of 2 %04x %016lx\n", names[rounding],
              sse_divide(one, three), third.sign_and_exponent, third.significand, root.sign_and_exponent,
              root.significand);
    }
    set_mxcsr(MXCSR_MASKS);
    x87_init(ROUND_NEAREST, PRECISION_EXTENDED);

#define PRINT_CONSTANT(instruction)                                                       \
    do {                                                                                  \
        struct extended value;                                                            \
        asm volatile(#instruction "; fstpt %0" : "=m"(value));                            \
        print(#instruction " %04x %016lx\n", value.sign_and_exponent, value.significand); \
    } while (0)
    PRINT_CONSTANT(fldz);
    PRINT_CONSTANT(fld1);
    PRINT_CONSTANT(fldpi);
    PRINT_CONSTANT(fldl2e);
    PRINT_CONSTANT(fldl2t);
    PRINT_CONSTANT(fldlg2);
    PRINT_CONSTANT(fldln2);
#undef PRINT_CONSTANT
}

/* Within a few units of the 53rd bit of the true value, which is all that every engine gives. */
static void check_transcendentals(void)
{
    enum { UNITS = 8 };
    static const struct {
        const char *name;
        uint64_t a, b, result; /* doubles; f(a, b) or f(b) */
    } tests[] = {
#include "transcendentals.inc"
    };

    for (unsigned i = 0; i < sizeof tests / sizeof *tests; i++) {
        const struct x87_operation *operation = x87_transcendentals;
        struct extended a, b, result;
        uint64_t rounded;

        while (strncmp(operation->name, tests[i].name, 16))
            operation++;
        asm volatile("fldl %2; fstpt %0; fldl %3; fstpt %1"
                     : "=m"(a), "=m"(b)
                     : "m"(tests[i].a), "m"(tests[i].b));
        operation->run(&result, &a, &b);
        asm volatile("fldt %1; fstpl %0" : "=m"(rounded) : "m"(result));
        CHECK(tests[i].name, rounded - tests[i].result + UNITS <= 2 * UNITS);
    }
}

/* ---- State -----------------------------------------------------------------------------------------------
 */

static void check_state(void)
{
    static struct fxsave_area saved, restored;
    static const uint8_t pattern[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

    asm volatile("fninit; fld1; fldpi; fldz; movdqu %0, %%xmm0; movdqu %0, %%xmm15" : : "m"(pattern));
    set_mxcsr(MXCSR_MASKS | MXCSR_FTZ);
    fxsave(&saved);
    check_equal("fxsave: control word", saved.control, 0x37f);
    check_equal("fxsave: top of stack", saved.status >> 11 & 7, 5);
    check_equal("fxsave: tags", saved.tags, 0xe0);
    check_equal("fxsave: mxcsr", saved.mxcsr, MXCSR_MASKS | MXCSR_FTZ);
    check_equal("fxsave: st0 is zero", *(uint64_t *)saved.st[0], 0);
    check_equal("fxsave: st1 is pi", *(uint64_t *)saved.st[1], 0xc90fdaa22168c235);
    check_equal("fxsave: st2 is one", *(uint64_t *)saved.st[2], 0x8000000000000000);
    CHECK("fxsave: xmm0", !memcmp(saved.xmm[0], pattern, 16));
    CHECK("fxsave: xmm15", !memcmp(saved.xmm[15], pattern, 16));

    asm volatile("fninit; xorps %xmm0, %xmm0; xorps %xmm15, %xmm15");
    set_mxcsr(MXCSR_MASKS);
    fxrstor(&saved);
    fxsave(&restored);
    saved.opcode = restored.opcode = 0;
    saved.instruction = restored.instruction = 0;
    saved.operand = restored.operand = 0;
    CHECK("fxrstor", !memcmp(&saved, &restored, __builtin_offsetof(struct fxsave_area, reserved1)));

    uint16_t status, tags[14];
    asm volatile("fninit; fnstsw %0" : "=m"(status));
    check_equal("fninit: status word", status, 0);
    asm volatile("fninit; fld1; fnstenv %0" : "=m"(tags));
    check_equal("fnstenv: tags", tags[4], 0x3fff);
    asm volatile("fldenv %1; fnstsw %0" : "=m"(status) : "m"(tags));
    check_equal("fldenv: top of stack", status >> 11 & 7, 7);

    /* MMX registers are the significands of the x87 registers. */
    struct extended st0;
    uint64_t word = 0x1122334455667788, back;
    asm volatile("fninit; movq %2, %%mm0; movq %%mm0, %0; fstpt %1" : "=m"(back), "=m"(st0) : "m"(word));
    check_equal("mmx: movq", back, word);
    CHECK("mmx: aliases st0", st0.significand == word);
    asm volatile("movq %1, %%mm1; paddw %%mm1, %%mm1; movq %%mm1, %0; emms" : "=m"(back) : "m"(word));
    check_equal("mmx: paddw", back, 0x22446688aaccef10);
    fxsave(&saved);
    check_equal("mmx: emms empties the stack", saved.tags, 0);

    uint8_t decimal[10];
    int64_t number = -123456789012345678;
    asm volatile("fildll %1; fbstp %0" : "=m"(decimal) : "m"(number));
    CHECK("fbstp", !memcmp(decimal, "\x78\x56\x34\x12\x90\x78\x56\x34\x12\x80", 10));
    asm volatile("fbld %1; fistpll %0" : "=m"(number) : "m"(decimal));
    check_equal("fbld", (uint64_t)number, (uint64_t)-123456789012345678);
    number = 0;
    asm volatile("fld1; fldpi; fscale; fistpll %0; fstp %%st(0)" : "=m"(number));
    check_equal("fscale", (uint64_t)number, 6);
    uint32_t truncated;
    asm volatile("fldpi; fadd %%st, %%st; fchs; fisttpl %0" : "=m"(truncated));
    check_equal("fisttp", truncated, (uint32_t)-6);
}

/* ---- Two tasks and one FPU --------------------------------------------------------------------------------
 */

/*
 * The classic way: a switch of tasks only sets CR0.TS, and the first FPU instruction after it raises #NM,
 * where the state is exchanged if it is another task's.
 */
enum { TASKS = 3, TURNS = 300 };

static struct fxsave_area states[TASKS];
static unsigned running, owner, exchanges, traps;

static void device_not_available(struct frame *frame)
{
    (void)frame;
    traps++;
    asm volatile("clts");
    if (owner != running) {
        fxsave(&states[owner]);
        fxrstor(&states[running]);
        owner = running;
        exchanges++;
    }
}

static void switch_to(unsigned task)
{
    running = task;
    write_cr0(read_cr0() | CR0_TS);
}

static void check_lazy_switching(void)
{
    uint64_t integers[TASKS] = {0}, halves[TASKS] = {0};

    idt_set_handler(VECTOR_NM, device_not_available);
    asm volatile("fninit; fldz; xorpd %xmm7, %xmm7");
    for (unsigned task = 0; task < TASKS; task++)
        fxsave(&states[task]);
    for (unsigned turn = 0; turn < TURNS; turn++) {
        switch_to(turn * turn % TASKS); /* 0, 1, 1, 0, 1, 1: two in a row, and one that never runs */
        if (turn % 5 == 0)
            continue; /* a turn without floating point: nothing is exchanged */
        static const uint64_t one_half = 0x3fe0000000000000;
        asm volatile("fld1; faddp" : : : "memory");
        asm volatile("addsd %0, %%xmm7" : : "m"(one_half));
        integers[running]++;
    }
    for (unsigned task = 0; task < TASKS; task++) {
        uint64_t sum;
        switch_to(task);
        asm volatile("fistpll %0" : "=m"(sum));
        asm volatile("movsd %%xmm7, %0" : "=m"(halves[task]));
        check_equal("lazy switching: x87 sum", sum, integers[task]);
        asm volatile("cvtsd2si %%xmm7, %0" : "=r"(sum));
        check_equal("lazy switching: sse sum", sum, integers[task] / 2);
    }
    write_cr0(read_cr0() & ~(uint64_t)CR0_TS);
    idt_set_handler(VECTOR_NM, 0);
    print("lazy switching: %u traps, %u exchanges\n", traps, exchanges);
}

int main(void)
{
    print_patterns();
    check_transcendentals();
    check_state();
    check_lazy_switching();
    sweep_sse();
    sweep_x87();
    return check_result();
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "x87_operations.h"

#define DEFINE(name, instruction)                                                                       \
    static void run_##name(struct extended *result, const struct extended *a, const struct extended *b) \
    {                                                                                                   \
        asm volatile("fldt %1\n\t"                                                                      \
                     "fldt %2\n\t" instruction "\n\t"                                                   \
                     "fstpt %0\n\t"                                                                     \
                     "fstp %%st(0)"                                                                     \
                     : "=m"(*result)                                                                    \
                     : "m"(*a), "m"(*b)                                                                 \
                     : "rax", "cc", "memory");                                                          \
    }
#define ENTRY(name, instruction) {#name, run_##name},
#define LIST(group, OPERATIONS) \
    OPERATIONS(DEFINE)          \
    const struct x87_operation group[] = {OPERATIONS(ENTRY){0, 0}};

/* Through memory of another format, which rounds. */
#define THROUGH(store, load) "sub $16, %%rsp; " store " (%%rsp); " load " (%%rsp); add $16, %%rsp"
/* An instruction's integer result in %ax. */
#define FROM_AX "push %%rax; fstp %%st(0); filds (%%rsp); pop %%rax"
#define FLAGS "pushfq; pop %%rax; and $0x45, %%eax; " FROM_AX
#define STATUS "fnstsw %%ax; and $0x4500, %%eax; " FROM_AX

/* clang-format off */
#define ARITHMETIC(X) \
    X(fadd, "fadd %%st(1), %%st") X(fsub, "fsub %%st(1), %%st") X(fsubr, "fsubr %%st(1), %%st") \
    X(fmul, "fmul %%st(1), %%st") X(fdiv, "fdiv %%st(1), %%st") X(fdivr, "fdivr %%st(1), %%st") \
    X(fsqrt, "fsqrt")

#define OTHERS(X) \
    X(frndint, "frndint") X(fabs, "fabs") X(fchs, "fchs") X(fxch, "fxch") \
    X(fstps, THROUGH("fstps", "flds")) X(fstpl, THROUGH("fstpl", "fldl")) \
    X(fistps, THROUGH("fistps", "filds")) X(fistpl, THROUGH("fistpl", "fildl")) \
    X(fistpll, THROUGH("fistpll", "fildll")) \
    X(fcomi, "fcomi %%st(1), %%st; " FLAGS) X(fucomi, "fucomi %%st(1), %%st; " FLAGS) \
    X(fcom, "fcom %%st(1); " STATUS) X(ftst, "ftst; " STATUS) \
    X(fxam, "fxam; fnstsw %%ax; and $0x4700, %%eax; " FROM_AX) \
    X(fcmovnb, "cmp $2, %%rsp; fcmovnb %%st(1), %%st")

#define TRANSCENDENTAL(X) \
    X(fsin, "fsin") X(fcos, "fcos") X(fptan, "fptan; fstp %%st(0)") X(f2xm1, "f2xm1") \
    X(fyl2x, "fyl2x; fld %%st(0)") X(fyl2xp1, "fyl2xp1; fld %%st(0)") X(fpatan, "fpatan; fld %%st(0)")
/* clang-format on */

LIST(x87_arithmetic, ARITHMETIC)
LIST(x87_others, OTHERS)
LIST(x87_transcendentals, TRANSCENDENTAL)

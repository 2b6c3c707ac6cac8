/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "sweep.h"

#include "boot_info.h"
#include "check.h"
#include "cpu.h"
#include "crc32.h"
#include "fpu.h"
#include "print.h"
#include "rand.h"
#include "sse_operations.h"
#include "x87_operations.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

/*
 * NaNs only among the first operands: of two NaNs, SSE takes the first and x87 the greater, and QEMU's TCG
 * has only the second rule.
 */
static const uint32_t singles[] = {
    0x00000000, 0x80000000, 0x3f800000, 0xbfc00000, 0x3eaaaaab, 0x40490fdb, 0x4b800001, 0xcf000000,
    0x5f000000, 0x7f7fffff, 0x00800000, 0x80800001, 0x00000001, 0x807fffff, 0x7f800000, 0xff800000,
};
static const uint32_t single_nans[] = {0x7fc12345, 0xffa54321};

static const uint64_t doubles[] = {
    0x0000000000000000, 0x8000000000000000, 0x3ff0000000000000, 0xbff8000000000000, 0x3fd5555555555555,
    0x400921fb54442d18, 0x4340000000000001, 0xc1e0000000000000, 0x43e0000000000000, 0x7fefffffffffffff,
    0x0010000000000000, 0x8010000000000001, 0x0000000000000001, 0x800fffffffffffff, 0x7ff0000000000000,
    0xfff0000000000000, 0x47efffffe0000000, 0x36a0000000000001, 0x4066800000000000,
};
static const uint64_t double_nans[] = {0x7ff8123456789abc, 0xfff4cba987654321};

static const struct extended extendeds[] = {
    {0x0000000000000000, 0x0000}, {0x0000000000000000, 0x8000}, {0x8000000000000000, 0x3fff},
    {0xc000000000000000, 0xbfff}, {0xaaaaaaaaaaaaaaab, 0x3ffd}, {0xc90fdaa22168c235, 0x4000},
    {0x8000000000000001, 0x403e}, {0xffffffff80000000, 0x401e}, {0x8000000000000000, 0xc03e},
    {0xffffffffffffffff, 0x7ffe}, {0x8000000000000000, 0x0001}, {0x8000000000000001, 0x8001},
    {0x0000000000000001, 0x0000}, {0x7fffffffffffffff, 0x8000}, {0x8000000000000000, 0x7fff},
    {0x8000000000000000, 0xffff}, {0x8000000000000800, 0x43fe}, {0xffffffffffffffff, 0x3f80},
};
static const struct extended extended_nans[] = {{0xc123456789abcdef, 0x7fff}, {0xabcdef0123456789, 0xffff}};

static const enum rounding roundings[] = {ROUND_NEAREST, ROUND_DOWN, ROUND_UP, ROUND_ZERO};

/* ---- SSE -------------------------------------------------------------------------------------------------
 */

static unsigned single_inputs(unsigned n, union vector *a, union vector *b)
{
    unsigned all = COUNT(singles) + COUNT(single_nans);
    for (unsigned lane = 0; lane < 4; lane++) {
        unsigned first = (n / COUNT(singles) + lane) % all, second = (n + 5 * lane) % COUNT(singles);
        a->word32[lane] = first < COUNT(singles) ? singles[first] : single_nans[first - COUNT(singles)];
        b->word32[lane] = singles[second];
    }
    return all * COUNT(singles);
}

static unsigned double_inputs(unsigned n, union vector *a, union vector *b)
{
    unsigned all = COUNT(doubles) + COUNT(double_nans);
    for (unsigned lane = 0; lane < 2; lane++) {
        unsigned first = (n / COUNT(doubles) + lane) % all, second = (n + 5 * lane) % COUNT(doubles);
        a->word64[lane] = first < COUNT(doubles) ? doubles[first] : double_nans[first - COUNT(doubles)];
        b->word64[lane] = doubles[second];
    }
    return all * COUNT(doubles);
}

static unsigned random_inputs(unsigned n, union vector *a, union vector *b)
{
    uint64_t state = n + 1;
    for (unsigned lane = 0; lane < 2; lane++) {
        a->word64[lane] = random_next(&state);
        b->word64[lane] = random_next(&state);
    }
    if (n % 2) /* as indices, and as text that ends within the vector */
        for (unsigned i = 0; i < 16; i++)
            b->byte[i] &= 0x0f;
    return 64;
}

typedef unsigned make_inputs(unsigned n, union vector *a, union vector *b);

static uint32_t sweep_one(const struct sse_operation *operation, make_inputs *inputs)
{
    union vector a, b, result;
    uint32_t crc = 0;

    for (unsigned n = 0; n < inputs(n, &a, &b); n++) {
        operation->run(&result, &a, &b);
        crc = crc32(crc, &result, sizeof result);
        if (boot_option("verbose", 0))
            print("  %016lx%016lx %016lx%016lx -> %016lx%016lx\n", a.word64[1], a.word64[0], b.word64[1],
                  b.word64[0], result.word64[1], result.word64[0]);
    }
    return crc;
}

static void sweep_rounded(const struct sse_operation *operations, make_inputs *inputs)
{
    for (; operations->name; operations++) {
        print("%s", operations->name);
        for (unsigned i = 0; i < COUNT(roundings); i++) {
            set_mxcsr(MXCSR_MASKS | (uint32_t)roundings[i] << MXCSR_ROUNDING_SHIFT);
            print(" %08x", sweep_one(operations, inputs));
        }
        print("\n");
    }
    set_mxcsr(MXCSR_MASKS);
}

static void sweep_denormals(const struct sse_operation *operations, make_inputs *inputs)
{
    for (; operations->name; operations++) {
        set_mxcsr(MXCSR_MASKS | MXCSR_FTZ);
        print("%s %08x", operations->name, sweep_one(operations, inputs));
        set_mxcsr(MXCSR_MASKS | MXCSR_DAZ);
        print(" %08x\n", sweep_one(operations, inputs));
    }
    set_mxcsr(MXCSR_MASKS);
}

static void sweep_plain(const struct sse_operation *operations, make_inputs *inputs)
{
    for (; operations->name; operations++)
        print("%s %08x\n", operations->name, sweep_one(operations, inputs));
}

static void sweep_feature(const char *name, bool present, const struct sse_operation *operations)
{
    if (present)
        sweep_plain(operations, random_inputs);
    else
        check_absent(name);
}

void sweep_sse(void)
{
    uint32_t features = cpuid(1, 0).ecx;

    print("# sse: nearest, down, up, to zero\n");
    sweep_rounded(single_arithmetic, single_inputs);
    sweep_rounded(double_arithmetic, double_inputs);
    print("# sse: flush to zero, denormals are zeros\n");
    sweep_denormals(single_arithmetic, single_inputs);
    sweep_denormals(double_arithmetic, double_inputs);
    print("# sse: nothing to round\n");
    sweep_plain(single_logic, single_inputs);
    sweep_plain(double_logic, double_inputs);
    sweep_plain(integer_operations, random_inputs);
    sweep_feature("ssse3", features & 1 << 9, ssse3_operations);
    sweep_feature("sse4.1", features & 1 << 19, sse41_operations);
    sweep_feature("sse4.2", features & 1 << 20, sse42_operations);
    sweep_feature("aes", features & 1 << 25, aes_operations);
    sweep_feature("pclmulqdq", features & 1 << 1, pclmulqdq_operations);
}

/* ---- x87 -------------------------------------------------------------------------------------------------
 */

struct x87_setting {
    enum rounding rounding;
    enum precision precision;
};

static uint32_t sweep_extended(const struct x87_operation *operation)
{
    const unsigned all = COUNT(extendeds) + COUNT(extended_nans);
    struct extended result;
    uint32_t crc = 0;

    for (unsigned first = 0; first < all; first++) {
        for (unsigned second = 0; second < COUNT(extendeds); second++) {
            const struct extended *a =
                first < COUNT(extendeds) ? &extendeds[first] : &extended_nans[first - COUNT(extendeds)];
            const struct extended *b = &extendeds[second];
            operation->run(&result, a, b);
            crc = crc32(crc, &result, sizeof result);
            if (boot_option("verbose", 0))
                print("  %04x %016lx, %04x %016lx -> %04x %016lx\n", a->sign_and_exponent, a->significand,
                      b->sign_and_exponent, b->significand, result.sign_and_exponent, result.significand);
        }
    }
    return crc;
}

static void sweep_settings(const struct x87_operation *operations, const struct x87_setting *settings,
                           unsigned count)
{
    for (; operations->name; operations++) {
        print("%s", operations->name);
        for (unsigned i = 0; i < count; i++) {
            x87_init(settings[i].rounding, settings[i].precision);
            print(" %08x", sweep_extended(operations));
        }
        print("\n");
    }
}

void sweep_x87(void)
{
    static const struct x87_setting settings[] = {
        {ROUND_NEAREST, PRECISION_EXTENDED}, {ROUND_DOWN, PRECISION_EXTENDED},
        {ROUND_UP, PRECISION_EXTENDED},      {ROUND_ZERO, PRECISION_EXTENDED},
        {ROUND_NEAREST, PRECISION_DOUBLE},   {ROUND_NEAREST, PRECISION_SINGLE},
    };
    enum { ALL = COUNT(settings), EXTENDED_ONLY = 4 };

    print("# x87: nearest, down, up, to zero; nearest with 53 and with 24 bits\n");
    sweep_settings(x87_arithmetic, settings, ALL);
    sweep_settings(x87_others, settings, EXTENDED_ONLY);
    x87_init(ROUND_NEAREST, PRECISION_EXTENDED);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * CPU-bound work for benchmarks and fault campaigns: some 50 million instructions, or N times as many with
 * `rounds=N` on the command line. Each phase prints a checksum that depends on every result it computed.
 */
#include "boot_info.h"
#include "debug_exit.h"
#include "phases.h"
#include "print.h"

static const struct {
    const char *name;
    uint64_t (*run)(uint64_t seed);
} phases[] = {
    {"alu", alu},        {"copy", copy},     {"chase", chase}, {"sieve", sieve}, {"quicksort", quicksort},
    {"crc32", checksum}, {"matmul", matmul},
};

int main(void)
{
    uint64_t rounds = boot_option("rounds", 1);

    for (unsigned phase = 0; phase < sizeof phases / sizeof *phases; phase++) {
        uint64_t sum = 0;
        for (uint64_t round = 1; round <= rounds; round++)
            sum = sum * 31 + phases[phase].run(round);
        print("%s %016lx\n", phases[phase].name, sum);
    }
    return EXIT_SUCCESS;
}

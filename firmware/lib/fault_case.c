/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fault_case.h"

#include "check.h"
#include "print.h"

void check_fault(const struct fault_case *expected, uint64_t vector, uint64_t error, uint64_t rip)
{
    uint64_t at = (uint64_t)expected->at;
    bool good = vector == expected->vector && error == expected->error && rip == at;

    if (!check_verdict(expected->name, good))
        print(": vector %lu, error 0x%lx, rip %lx; expected vector %u, error 0x%x, rip %lx", vector, error,
              rip, expected->vector, expected->error, at);
    print("\n");
}

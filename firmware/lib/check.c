/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "check.h"

#include "debug_exit.h"
#include "print.h"

static unsigned passed, failed;

bool check_verdict(const char *name, bool good)
{
    print(good ? "ok %s" : "not ok %s", name);
    good ? passed++ : failed++;
    return good;
}

void check(const char *name, bool condition, const char *text)
{
    if (!check_verdict(name, condition))
        print(": %s", text);
    print("\n");
}

void check_equal(const char *name, uint64_t actual, uint64_t expected)
{
    if (!check_verdict(name, actual == expected))
        print(": 0x%lx, expected 0x%lx", actual, expected);
    print("\n");
}

void check_absent(const char *name)
{
    print("absent %s\n", name);
}

void check_wrong(const char *name, unsigned wrong, unsigned rounds)
{
    check_verdict(name, !wrong);
    print(": wrong %u of %u\n", wrong, rounds);
}

int check_result(void)
{
    print("%u passed, %u failed\n", passed, failed);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

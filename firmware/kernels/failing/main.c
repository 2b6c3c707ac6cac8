/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Reports failure in a way of its own: exit code 3. */
#include "print.h"

int main(void)
{
    print("failing: exit code 3\n");
    return 3;
}

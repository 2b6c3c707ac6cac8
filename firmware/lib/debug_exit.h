/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The end of a kernel: its exit code goes to port 0xf4, QEMU's isa-debug-exit. */
#ifndef DEBUG_EXIT_H
#define DEBUG_EXIT_H

enum { EXIT_SUCCESS = 0, EXIT_FAILURE = 1, EXIT_UNEXPECTED = 2 };

/* Halts for ever where there is no such port. (QEMU itself then ends with status 2 * code + 1.) */
_Noreturn void debug_exit(int code);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef PRINT_H
#define PRINT_H

/*
 * printf to COM1, with "\n" sent as CR LF. The subset: %s %c %d %u %x %%, with l (64 bits) and a
 * width that may start with 0. No floating point: a kernel prints bit patterns.
 */
__attribute__((format(printf, 1, 2))) void print(const char *format, ...);

#endif

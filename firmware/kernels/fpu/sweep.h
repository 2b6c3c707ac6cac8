/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Every operation on every pair of interesting operands, under every rounding mode. The results' bits are
 * folded into CRCs, one per mode; with `verbose=1` on the command line each result is printed too, to find
 * the one that differs.
 */
#ifndef SWEEP_H
#define SWEEP_H

void sweep_sse(void);
void sweep_x87(void);

#endif

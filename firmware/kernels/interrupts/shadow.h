/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Code of shadow.S, called with interrupts off; leaves them off. The first group expects an interrupt to be
 * pending, and ..._rip is where it must be taken.
 */
#ifndef SHADOW_H
#define SHADOW_H

#include <stdint.h>

void take_after_sti(void);
void no_take_sti_cli(void); /* and here it must not be taken */
void take_after_popf(void);
void take_after_iret(void);
void take_at_halt(void);
extern const char take_after_sti_rip[], take_after_popf_rip[], take_after_iret_rip[], take_at_halt_rip[];

/* Loops of `turns` turns, in which no interrupt may ever be taken at ..._shadow. */
void sti_under_fire(uint64_t turns);
void mov_ss_under_fire(uint64_t turns);
extern const char sti_under_fire_shadow[], mov_ss_under_fire_shadow[];

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Serving the driver of a disk where nobody but turns.c is between two epochs. Not for users of the core. */
#ifndef FTVM_TURN_DISK_H
#define FTVM_TURN_DISK_H

#include "ftvm.h"

/* The requests of one sync point, and what becomes of them. */
typedef struct ft_turn_service ft_turn_service;

ft_turn_service *ft_turn_service_open(void); /* NULL: out of memory */
void ft_turn_service_close(ft_turn_service *service);
/* What was written is known. */
void ft_turn_service_begin(ft_turn_service *service);

/* The driver has notified this disk, nothing else has left the guest, and the chip is as it was, but for its progress. */
int ft_turn_is_kick(const ft_turn_disk *disk, const ft_report *head, const unsigned char *payload);
/* Do all that the driver has made available: 1; or nothing, 0, and what is left of `disk` is of no use. */
int ft_turn_serve(ft_turn_service *service, ft_turn_disk *disk);
/* Put what comes of it into the modules' RAM: see ft_voter_place(). */
int ft_turn_place(const ft_turn_service *service, ft_voter *voter, void *const *rams, uint32_t count);
/*
 * And for a command: a list of one DeviceIn, as ftvm/module/events.py has it; `placed`, as ftvm/monitor/delivery.py has it.
 * NULL: there is no room. Valid until the next call.
 */
const void *ft_turn_input(ft_turn_service *service, const ft_turn_disk *disk, int placed, uint32_t *bytes);
/* Places on the disk that were written to since ft_turn_service_begin(). */
const ft_extent *ft_turn_written(const ft_turn_service *service, uint32_t *count);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* As much of MessagePack as native code reads and writes, in the bytes that ftvm/module/events.py has for the same values. */
#ifndef FTVM_PACKED_H
#define FTVM_PACKED_H

#include <stdint.h>

/* Writes go on from `at`; one for which there is no room sets `full`, and so does all that comes after it. */
typedef struct {
    unsigned char *at;
    unsigned char *end;
    int full;
} ft_packer;

void ft_pack_array(ft_packer *packer, uint32_t items);
void ft_pack_uint(ft_packer *packer, uint64_t value);
void ft_pack_bool(ft_packer *packer, int value);
/* The bytes themselves, or room for them, which is returned, if `data` is NULL. NULL: there is none. */
unsigned char *ft_pack_bytes(ft_packer *packer, const void *data, uint32_t bytes);
/* What is packed already. */
void ft_pack_raw(ft_packer *packer, const void *data, uint32_t bytes);

/*
 * The value of a key in a map, both packed; whoever wrote the map may have written anything. NULL: there is no such map, or
 * no such key.
 */
const unsigned char *ft_packed_value(const unsigned char *map, uint32_t map_bytes, const void *key,
                                     uint32_t key_bytes, uint32_t *value_bytes);

#endif

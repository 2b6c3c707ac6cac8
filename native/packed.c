/* SPDX-License-Identifier: GPL-2.0-or-later */
/* MessagePack. Source: the MessagePack specification, github.com/msgpack/msgpack/blob/master/spec.md. */
#include "packed.h"

#include <stddef.h>
#include <string.h>

/* ---- Writing ---- */

static unsigned char *take(ft_packer *packer, uint32_t bytes)
{
    unsigned char *here = packer->at;

    if (packer->full || (uint64_t)(packer->end - here) < bytes) {
        packer->full = 1;
        return NULL;
    }
    packer->at += bytes;
    return here;
}

/* A type, and the low `bytes` bytes of a number, big endian. */
static void put(ft_packer *packer, unsigned char type, uint64_t value, uint32_t bytes)
{
    unsigned char *here = take(packer, 1 + bytes);

    if (here) {
        *here = type;
        for (uint32_t i = bytes; i > 0; i--) {
            here[i] = (unsigned char)value;
            value >>= 8;
        }
    }
}

void ft_pack_array(ft_packer *packer, uint32_t items)
{
    if (items < 16) {
        put(packer, (unsigned char)(0x90 | items), 0, 0);
    } else if (items <= UINT16_MAX) {
        put(packer, 0xdc, items, 2);
    } else {
        put(packer, 0xdd, items, 4);
    }
}

void ft_pack_uint(ft_packer *packer, uint64_t value)
{
    if (value < 0x80) {
        put(packer, (unsigned char)value, 0, 0);
    } else if (value <= UINT8_MAX) {
        put(packer, 0xcc, value, 1);
    } else if (value <= UINT16_MAX) {
        put(packer, 0xcd, value, 2);
    } else if (value <= UINT32_MAX) {
        put(packer, 0xce, value, 4);
    } else {
        put(packer, 0xcf, value, 8);
    }
}

void ft_pack_bool(ft_packer *packer, int value)
{
    put(packer, value ? 0xc3 : 0xc2, 0, 0);
}

unsigned char *ft_pack_bytes(ft_packer *packer, const void *data, uint32_t bytes)
{
    unsigned char *here;

    if (bytes <= UINT8_MAX) {
        put(packer, 0xc4, bytes, 1);
    } else if (bytes <= UINT16_MAX) {
        put(packer, 0xc5, bytes, 2);
    } else {
        put(packer, 0xc6, bytes, 4);
    }
    here = take(packer, bytes);
    if (here && data) {
        memcpy(here, data, bytes);
    }
    return here;
}

void ft_pack_raw(ft_packer *packer, const void *data, uint32_t bytes)
{
    unsigned char *here = take(packer, bytes);

    if (here) {
        memcpy(here, data, bytes);
    }
}

/* ---- Reading ---- */

/* What follows a type byte: so many bytes of a number, so many of content, so many values. */
typedef struct {
    uint64_t content;
    uint64_t values;
} shape;

typedef struct {
    const unsigned char *at;
    const unsigned char *end;
} reader;

static int number(reader *r, uint32_t bytes, uint64_t *value)
{
    if ((uint64_t)(r->end - r->at) < bytes) {
        return -1;
    }
    *value = 0;
    for (uint32_t i = 0; i < bytes; i++) {
        *value = *value << 8 | *r->at++;
    }
    return 0;
}

/* Read a type byte, and the length if one follows. */
static int read_shape(reader *r, shape *s)
{
    static const uint8_t fixed[16] = {/* 0xca.. */ 4,
                                      8,
                                      1,
                                      2,
                                      4,
                                      8,
                                      1,
                                      2,
                                      4,
                                      8,
                                      2,
                                      3,
                                      5,
                                      9,
                                      17,
                                      0};
    uint64_t type, length;

    *s = (shape){0};
    if (number(r, 1, &type) != 0) {
        return -1;
    }
    if (type < 0x80 || type >= 0xe0 || type == 0xc0 || type == 0xc2 || type == 0xc3) {
        return 0; /* small integers, nil, false, true */
    }
    if (type < 0x90) {
        s->values = 2 * (type & 15);
    } else if (type < 0xa0) {
        s->values = type & 15;
    } else if (type < 0xc0) {
        s->content = type & 31;
    } else if (type >= 0xca && type <= 0xd8) {
        s->content = fixed[type - 0xca]; /* floats, integers, extensions of a fixed length with their type */
    } else if (type >= 0xc4 && type <= 0xc9) {
        if (number(r, 1u << (type - 0xc4) % 3, &length) != 0) {
            return -1;
        }
        s->content = length + (type >= 0xc7); /* an extension has a type */
    } else if (type >= 0xd9 && type <= 0xdb) {
        if (number(r, 1u << (type - 0xd9), &s->content) != 0) {
            return -1;
        }
    } else if (type >= 0xdc) {
        if (number(r, type & 1 ? 4 : 2, &length) != 0) {
            return -1;
        }
        s->values = type >= 0xde ? 2 * length : length;
    } else {
        return -1; /* 0xc1 is never used */
    }
    return 0;
}

static int skip(reader *r)
{
    uint64_t left = 1;

    while (left) {
        shape s;

        if (read_shape(r, &s) != 0 || (uint64_t)(r->end - r->at) < s.content) {
            return -1;
        }
        r->at += s.content;
        left += s.values - 1; /* at most 2^33 more for each byte that there is */
    }
    return 0;
}

const unsigned char *ft_packed_value(const unsigned char *map, uint32_t map_bytes, const void *key,
                                     uint32_t key_bytes, uint32_t *value_bytes)
{
    reader r = {map, map + map_bytes};
    shape s;

    if (map_bytes == 0 || !((map[0] & 0xf0) == 0x80 || map[0] == 0xde || map[0] == 0xdf) ||
        read_shape(&r, &s) != 0) {
        return NULL;
    }
    for (uint64_t i = 0; i < s.values / 2; i++) {
        const unsigned char *name = r.at;
        const unsigned char *value;

        if (skip(&r) != 0) {
            return NULL;
        }
        value = r.at;
        if (skip(&r) != 0) {
            return NULL;
        }
        if ((uint64_t)(value - name) == key_bytes && memcmp(name, key, key_bytes) == 0) {
            *value_bytes = (uint32_t)(r.at - value);
            return value;
        }
    }
    return NULL;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "crc32.h"

enum { POLYNOMIAL_REVERSED = 0xedb88320 };

uint32_t crc32(uint32_t crc, const void *data, size_t bytes)
{
    static uint32_t table[256];

    for (unsigned i = 0; !table[255] && i < 256; i++) {
        uint32_t entry = i;
        for (unsigned bit = 0; bit < 8; bit++)
            entry = entry >> 1 ^ (entry & 1 ? POLYNOMIAL_REVERSED : 0);
        table[i] = entry;
    }
    crc = ~crc;
    for (const uint8_t *byte = data; bytes; bytes--)
        crc = crc >> 8 ^ table[(uint8_t)crc ^ *byte++];
    return ~crc;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef CRC32_H
#define CRC32_H

#include <stddef.h>
#include <stdint.h>

/* The CRC of Ethernet and zip (ITU-T V.42). Start with 0; the result goes on from there. */
uint32_t crc32(uint32_t crc, const void *data, size_t bytes);

#endif

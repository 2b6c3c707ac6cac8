/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where RAM is in the guest's physical address space: as ftvm/memory_map.py has it. */
#ifndef FTVM_MEMORY_MAP_H
#define FTVM_MEMORY_MAP_H

#define FT_LOW_RAM_LIMIT (3ull << 30)
#define FT_HIGH_RAM (4ull << 30)

#endif

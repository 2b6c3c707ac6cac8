/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the boot loader said, in one form for multiboot 1, multiboot 2 and PVH. A copy: low memory is free. */
#ifndef BOOT_INFO_H
#define BOOT_INFO_H

#include <stdint.h>

struct memory_range {
    uint64_t start, end;
};

struct boot_info {
    const char *protocol;
    char command_line[512];
    unsigned ram_ranges;
    struct memory_range ram[32]; /* usable RAM, in the loader's order; the kernel's image is part of it */
};

extern struct boot_info boot_info;

void boot_info_init(uint32_t magic, uint32_t address);

/* The number in a word `key=N` of the command line, or `otherwise`. */
uint64_t boot_option(const char *key, uint64_t otherwise);

#endif

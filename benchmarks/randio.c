/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * In the guest, for disk.py: `randio read|write DEVICE COUNT` does COUNT blocks of 4 KiB at random places in the first
 * 64 MiB, one after the other, past the page cache. The places are the same every time.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BLOCK = 4096, BLOCKS = 16384 };

static _Alignas(BLOCK) unsigned char block[BLOCK];

int main(int argc, char **argv)
{
    uint64_t state = 0x123456789abcdef1;
    int writes, fd;

    if (argc != 4)
        return 2;
    writes = strcmp(argv[1], "write") == 0;
    fd = open(argv[2], (writes ? O_WRONLY : O_RDONLY) | O_DIRECT);
    if (fd < 0)
        return 1;
    for (long i = atol(argv[3]); i > 0; i--) {
        off_t at;

        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        at = (off_t)(state % BLOCKS * BLOCK);
        block[0]++;
        if ((writes ? pwrite(fd, block, BLOCK, at) : pread(fd, block, BLOCK, at)) != BLOCK)
            return 1;
    }
    return 0;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The voter under load, for sanitizers: comparisons, commits and scrubs that follow each other at once. */
#include "ftvm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { PAGE_BYTES = 4096, PAGES = 512, MODULES = 3, ROUNDS = 1000, FOUND = 8 };

static unsigned char *ram[MODULES];
static uint32_t *written[MODULES];

static uint32_t write_pages(int round)
{
    uint32_t count = (uint32_t)rand() % 300;

    for (uint32_t i = 0; i < count; i++) {
        uint32_t page = (uint32_t)rand() % PAGES;

        for (int m = 0; m < MODULES; m++) {
            written[m][i] = page;
            ram[m][page * PAGE_BYTES + 5] = (unsigned char)round;
        }
    }
    return count;
}

static int one_round(ft_voter *voter, int round)
{
    ft_difference found[FOUND];
    ft_memory memories[MODULES];
    uint32_t found_count, count = write_pages(round);
    int flip = count && round % 3 == 0;
    unsigned char *victim = flip ? &ram[MODULES - 1][written[0][0] * PAGE_BYTES + 9] : NULL;

    for (int m = 0; m < MODULES; m++) {
        memories[m] = (ft_memory){ram[m], written[m], count};
    }
    if (flip) {
        *victim ^= 1;
        if (ft_voter_compare(voter, memories, MODULES, found, FOUND, &found_count) != 1 || found_count != 1) {
            return -1;
        }
        *victim ^= 1;
    }
    if (ft_voter_compare(voter, memories, MODULES, found, FOUND, &found_count) != 0) {
        return -1;
    }
    ft_voter_commit(voter);
    if (round % 100 == 0) {
        return (int)ft_voter_scrub(voter, memories, MODULES, 0, PAGES, found, FOUND, &found_count);
    }
    return 0;
}

int main(void)
{
    size_t bytes = PAGES * PAGE_BYTES;
    void *image = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ft_voter *voter = ft_voter_open(image, bytes, MODULES);
    int failed = 0;

    for (int m = 0; m < MODULES; m++) {
        ram[m] = calloc(1, bytes);
        written[m] = calloc(PAGES, sizeof *written[m]);
    }
    for (int round = 1; round <= ROUNDS && !failed; round++) {
        failed = one_round(voter, round);
    }
    failed = failed || memcmp(image, ram[0], bytes) != 0;
    ft_voter_close(voter);
    for (int m = 0; m < MODULES; m++) {
        free(ram[m]);
        free(written[m]);
    }
    puts(failed ? "FAILURE" : "SUCCESS");
    return failed;
}

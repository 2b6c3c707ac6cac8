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

/* As devices do, before the modules run: data over pages and parts of pages, in the first half of RAM. */
static int place_data(ft_voter *voter, int round)
{
    static unsigned char data[PAGES / 2 * PAGE_BYTES];
    uint64_t bytes = (uint64_t)rand() % (PAGES / 4 * PAGE_BYTES),
             at = (uint64_t)rand() % (PAGES / 4 * PAGE_BYTES);
    ft_extent places[2] = {{at, bytes / 2}, {at + bytes / 2 + 8, bytes - bytes / 2}};
    ft_bulk bulk = {data, bytes, 2};
    void *rams[MODULES];

    memset(data, round, sizeof data);
    for (int m = 0; m < MODULES; m++) {
        rams[m] = ram[m];
    }
    return ft_voter_place(voter, rams, MODULES, &bulk, round % 4 != 0, places, round % 4 ? 2 : 0);
}

static int one_round(ft_voter *voter, int round)
{
    ft_difference found[FOUND];
    ft_memory memories[MODULES];
    int placed = place_data(voter, round);
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
    if (placed != 0) {
        return -1;
    }
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

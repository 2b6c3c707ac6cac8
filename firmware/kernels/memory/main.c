/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Tests RAM as the loader's memory map gives it: every page of it with a word of its own, which finds
 * addresses that lead to the same cell, and a bounded part with patterns, which finds bits that do not keep
 * their value.
 */
#include "boot_info.h"
#include "check.h"
#include "paging.h"
#include "rand.h"

enum { SAMPLE_BYTES = 1 << 20, MIB = 1 << 20 };

extern const char image_end[];

/* The part of a range that this kernel does not occupy, in whole pages. */
static struct memory_range free_part(struct memory_range range)
{
    uint64_t end = (uint64_t)image_end;

    range.start = (range.start + PAGE_BYTES - 1) & -(uint64_t)PAGE_BYTES;
    range.end &= -(uint64_t)PAGE_BYTES;
    if (range.start >= MIB && range.start < end)
        range.start = end;
    return range;
}

/* boot.S mapped 4 GiB; what lies above is mapped here, 2 MiB at a time. */
static void map_high_ram(void)
{
    for (unsigned i = 0; i < boot_info.ram_ranges; i++)
        for (uint64_t a = boot_info.ram[i].start & -(2ul * MIB); a < boot_info.ram[i].end; a += 2 * MIB)
            if (a >= 1ul << 32)
                *page_entry(a, PAGE_2M) = a | PAGE_PRESENT | PAGE_WRITE | PAGE_LARGE;
}

/* Call `visit` for one word of each page of RAM. */
static unsigned long for_each_page(bool (*visit)(volatile uint64_t *word))
{
    unsigned long bad = 0;
    for (unsigned i = 0; i < boot_info.ram_ranges; i++) {
        struct memory_range range = free_part(boot_info.ram[i]);
        for (uint64_t a = range.start; a < range.end; a += PAGE_BYTES)
            bad += !visit((volatile uint64_t *)(a + a / PAGE_BYTES % (PAGE_BYTES / 8) * 8));
    }
    return bad;
}

static bool write_own_address(volatile uint64_t *word)
{
    *word = (uint64_t)word;
    return true;
}

static bool turn_own_address(volatile uint64_t *word)
{
    bool good = *word == (uint64_t)word;
    *word = ~(uint64_t)word;
    return good;
}

static bool has_turned_address(volatile uint64_t *word)
{
    return *word == ~(uint64_t)word;
}

/* ---- Patterns, in the last whole sample of the largest range --------------------------------- */

static volatile uint64_t *sample;
enum { SAMPLE_WORDS = SAMPLE_BYTES / 8 };

static bool choose_sample(void)
{
    uint64_t most = SAMPLE_BYTES;
    for (unsigned i = 0; i < boot_info.ram_ranges; i++) {
        struct memory_range range = free_part(boot_info.ram[i]);
        if (range.start < range.end && range.end - range.start >= most) {
            most = range.end - range.start;
            sample = (volatile uint64_t *)(range.end - SAMPLE_BYTES);
        }
    }
    return sample;
}

/* A one through all bits of a word and a zero through all bits of the next, at every 64th word. */
static unsigned long walking_bits(void)
{
    unsigned long bad = 0;
    for (unsigned i = 0; i < SAMPLE_WORDS; i += 64) {
        for (unsigned bit = 0; bit < 64; bit++) {
            sample[i] = 1ul << bit;
            sample[i + 1] = ~(1ul << bit);
            bad += sample[i] != 1ul << bit || sample[i + 1] != ~(1ul << bit);
        }
    }
    return bad;
}

/* Upwards: find the pattern and leave its complement; downwards: the reverse. */
static unsigned long moving_inversions(uint64_t pattern)
{
    unsigned long bad = 0;
    for (unsigned i = 0; i < SAMPLE_WORDS; i++)
        sample[i] = pattern;
    for (unsigned i = 0; i < SAMPLE_WORDS; i++) {
        bad += sample[i] != pattern;
        sample[i] = ~pattern;
    }
    for (unsigned i = SAMPLE_WORDS; i-- > 0;) {
        bad += sample[i] != ~pattern;
        sample[i] = pattern;
    }
    return bad;
}

static unsigned long random_words(void)
{
    unsigned long bad = 0;
    uint64_t state = 1;
    for (unsigned i = 0; i < SAMPLE_WORDS; i++)
        sample[i] = random_next(&state);
    state = 1;
    for (unsigned i = 0; i < SAMPLE_WORDS; i++)
        bad += sample[i] != random_next(&state);
    return bad;
}

/* Every size and every alignment of a store, across cache lines and across pages, against bytes written one
 * by one. */
static unsigned long sizes_and_alignments(void)
{
    volatile uint8_t *bytes = (volatile uint8_t *)sample;
    unsigned long bad = 0;

    for (unsigned at = PAGE_BYTES - 72; at < PAGE_BYTES + 72; at++) {
        for (unsigned size = 1; size <= 8; size *= 2) {
            uint64_t value = 0x8877665544332211 + at, read = 0;
            for (unsigned i = 0; i < 10; i++)
                bytes[at - 1 + i] = 0xee;
            switch (size) {
            case 1:
                bytes[at] = (uint8_t)value;
                read = bytes[at];
                break;
            case 2:
                *(volatile uint16_t *)&bytes[at] = (uint16_t)value;
                read = *(volatile uint16_t *)&bytes[at];
                break;
            case 4:
                *(volatile uint32_t *)&bytes[at] = (uint32_t)value;
                read = *(volatile uint32_t *)&bytes[at];
                break;
            case 8:
                *(volatile uint64_t *)&bytes[at] = value;
                read = *(volatile uint64_t *)&bytes[at];
                break;
            }
            bad += read != (size == 8 ? value : value & ((1ul << 8 * size) - 1));
            for (unsigned i = 0; i < 10; i++) {
                bool inside = i >= 1 && i <= size;
                bad += bytes[at - 1 + i] != (inside ? (uint8_t)(value >> 8 * (i - 1)) : 0xee);
            }
        }
    }
    return bad;
}

int main(void)
{
    map_high_ram();
    for_each_page(write_own_address);
    check_equal("every page has its own cell", for_each_page(turn_own_address), 0);
    check_equal("every page keeps the complement", for_each_page(has_turned_address), 0);

    CHECK("1 MiB in one piece", choose_sample());
    if (sample) {
        check_equal("walking bits", walking_bits(), 0);
        check_equal("moving inversions, zeros", moving_inversions(0), 0);
        check_equal("moving inversions, bytes of 01", moving_inversions(0x0101010101010101), 0);
        check_equal("moving inversions, checkerboard", moving_inversions(0xaaaaaaaaaaaaaaaa), 0);
        check_equal("random words", random_words(), 0);
        check_equal("sizes and alignments", sizes_and_alignments(), 0);
    }
    return check_result();
}

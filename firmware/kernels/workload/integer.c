/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The phases that work on integers. */
#include "crc32.h"
#include "phases.h"
#include "rand.h"

enum {
    ALU_STEPS = 650000,
    COPY_WORDS = 32 * 1024, /* 256 KiB */
    COPIES = 37,
    CHASE_NODES = 64 * 1024, /* 512 KiB */
    CHASE_STEPS = 800000,
    SIEVE_LIMIT = 350000,
    SORT_WORDS = 40000,
    CRC_BYTES = 640 * 1024,
};

/* One buffer for all phases: what a fault leaves in it is overwritten by the next. */
static union {
    struct {
        uint64_t from[COPY_WORDS], to[COPY_WORDS];
    } copy;
    uint64_t next[CHASE_NODES];
    uint8_t composite[SIEVE_LIMIT];
    uint64_t sort[SORT_WORDS];
    uint64_t crc[CRC_BYTES / 8];
} buffer;

static void fill(uint64_t *words, unsigned count, uint64_t seed)
{
    for (unsigned i = 0; i < count; i++)
        words[i] = random_next(&seed);
}

static uint64_t fold(const uint64_t *words, unsigned count)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < count; i++)
        sum = sum * 31 + words[i];
    return sum;
}

uint64_t alu(uint64_t seed)
{
    uint64_t a = seed, b = ~seed;

    for (unsigned i = 0; i < ALU_STEPS; i++) {
        a = a * 6364136223846793005 + b;
        b = (b << 13 | b >> 51) ^ a;
        a -= b % (i + 3);
    }
    return a ^ b;
}

uint64_t copy(uint64_t seed)
{
    fill(buffer.copy.from, COPY_WORDS, seed);
    for (unsigned n = 0; n < COPIES; n++) {
        uint64_t *from = n % 2 ? buffer.copy.to : buffer.copy.from;
        uint64_t *to = n % 2 ? buffer.copy.from : buffer.copy.to;
        for (unsigned i = 0; i < COPY_WORDS; i++) {
            uint64_t word = from[i];
            asm("" : "+r"(word)); /* keep the loop: the compiler would call memcpy, a single REP MOVS */
            to[i] = word;
        }
    }
    return fold(buffer.copy.from, COPY_WORDS) + fold(buffer.copy.to, COPY_WORDS);
}

/* Sattolo's shuffle makes the nodes one single cycle. */
uint64_t chase(uint64_t seed)
{
    uint64_t node = 0, sum = 0;

    for (unsigned i = 0; i < CHASE_NODES; i++)
        buffer.next[i] = i;
    for (unsigned i = CHASE_NODES - 1; i > 0; i--) {
        uint64_t j = random_next(&seed) % i, other = buffer.next[j];
        buffer.next[j] = buffer.next[i];
        buffer.next[i] = other;
    }
    for (unsigned i = 0; i < CHASE_STEPS; i++) {
        node = buffer.next[node];
        sum += node ^ i;
    }
    return sum;
}

/* Sum of the primes below the limit, each multiplied by its rank. */
uint64_t sieve(uint64_t seed)
{
    uint64_t sum = seed, rank = 0;

    for (unsigned i = 0; i < SIEVE_LIMIT; i++)
        buffer.composite[i] = 0;
    for (unsigned i = 2; i < SIEVE_LIMIT; i++) {
        if (buffer.composite[i])
            continue;
        sum += ++rank * i;
        for (unsigned j = 2 * i; j < SIEVE_LIMIT; j += i)
            buffer.composite[j] = 1;
    }
    return sum;
}

static void sort(uint64_t *words, long low, long high)
{
    while (low < high) {
        uint64_t pivot = words[low + (high - low) / 2];
        long i = low, j = high;
        while (i <= j) {
            while (words[i] < pivot)
                i++;
            while (words[j] > pivot)
                j--;
            if (i <= j) {
                uint64_t word = words[i];
                words[i++] = words[j];
                words[j--] = word;
            }
        }
        sort(words, low, j);
        low = i;
    }
}

uint64_t quicksort(uint64_t seed)
{
    fill(buffer.sort, SORT_WORDS, seed);
    sort(buffer.sort, 0, SORT_WORDS - 1);
    return fold(buffer.sort, SORT_WORDS);
}

uint64_t checksum(uint64_t seed)
{
    fill(buffer.crc, CRC_BYTES / 8, seed);
    return crc32(0, buffer.crc, CRC_BYTES);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Rings of a guest and states of chips that may be anything: run under the compiler's sanitizers. "SUCCESS" at the end. */
#include "ftvm.h"
#include "packed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ROUNDS = 200000,
    RAM_BYTES = 16384,
    ENTRIES = 16,
    DESCRIPTORS = 0x400,
    DRIVER = 0x800,
    DEVICE = 0xc00
};

static uint64_t random_state = 88172645463325252ull;

static uint64_t pick(uint64_t below)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state % below;
}

#define CHECK(what)                                   \
    do {                                              \
        if (!(what)) {                                \
            printf("line %d: %s\n", __LINE__, #what); \
            exit(1);                                  \
        }                                             \
    } while (0)

static void put(unsigned char *ram, uint64_t at, uint64_t value, uint32_t bytes)
{
    memcpy(ram + at, &value, bytes);
}

static void scatter(unsigned char *ram)
{
    for (uint32_t i = 0; i < ENTRIES; i++) {
        uint64_t at = DESCRIPTORS + 16 * i;

        put(ram, at, pick(8) ? pick(RAM_BYTES) : pick(UINT64_MAX), 8);
        put(ram, at + 8, pick(4) ? 16 * pick(40) : pick(UINT32_MAX), 4);
        put(ram, at + 12, pick(8), 2);
        put(ram, at + 14, pick(ENTRIES + 2), 2);
        put(ram, DRIVER + 4 + 2 * i, pick(ENTRIES + 1), 2);
    }
    put(ram, DRIVER + 2, pick(ENTRIES + 4), 2);
}

static void walk_rings(void)
{
    unsigned char *ram = calloc(1, RAM_BYTES); /* the sanitizer sees a byte behind it */
    ft_extent *spans = malloc(ENTRIES * sizeof *spans);
    ft_used used[ENTRIES];
    ft_queue queue;

    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint64_t moved = pick(16) ? 0 : pick(UINT64_MAX);
        int waiting, count = 0;

        scatter(ram);
        if (ft_queue_open(&queue, ram, RAM_BYTES, 0, ENTRIES, DESCRIPTORS + moved, DRIVER + moved,
                          DEVICE + moved) != 0) {
            CHECK(moved && strlen(queue.error) > 0);
            continue;
        }
        queue.indirect = (uint8_t)pick(2);
        queue.event_index = (uint8_t)pick(2);
        waiting = ft_queue_waiting(&queue);
        while (count < waiting && ft_queue_take(&queue, spans) == 0) {
            CHECK(queue.readable + queue.writable <= ENTRIES);
            for (uint32_t i = 0; i < queue.readable + queue.writable; i++) {
                CHECK(spans[i].bytes && spans[i].bytes <= RAM_BYTES &&
                      spans[i].offset <= RAM_BYTES - spans[i].bytes);
            }
            used[count++] = (ft_used){queue.head, 1};
        }
        ft_queue_complete(&queue, used, (uint32_t)count, (int)pick(2));
        for (uint32_t i = 0; i < queue.write_count; i++) {
            CHECK(queue.writes[i].offset + queue.writes[i].bytes <= RAM_BYTES);
            memcpy(ram + queue.writes[i].offset, queue.writes[i].data, queue.writes[i].bytes);
        }
    }
    free(spans);
    free(ram);
}

/* Something that is a map as long as nobody looks closely. */
static void find_values(void)
{
    static const unsigned char types[] = {0xc4, 0xc5, 0xc6, 0xc7, 0xc9, 0xca, 0xcb, 0xcf, 0xd4, 0xd8,
                                          0xd9, 0xda, 0xdb, 0xdc, 0xdd, 0xde, 0xdf, 0x82, 0x92, 0xa1};

    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint32_t bytes = (uint32_t)pick(40), value_bytes = 0;
        unsigned char *map = malloc(bytes ? bytes : 1);
        const unsigned char *value;

        for (uint32_t i = 0; i < bytes; i++) {
            map[i] = (unsigned char)(pick(3) ? pick(3) : pick(2) ? types[pick(sizeof types)] : pick(256));
        }
        if (bytes && pick(4)) {
            map[0] = (unsigned char)(0x80 + pick(16));
        }
        value = ft_packed_value(map, bytes, "\1", 1, &value_bytes);
        CHECK(!value || (value > map && value_bytes > 0 && value_bytes <= (uint32_t)(map + bytes - value)));
        free(map);
    }
}

static void find_what_is_there(void)
{
    unsigned char map[256] = {0xde, 0, 3};
    ft_packer packer = {map + 3, map + sizeof map, 0};
    const unsigned char *value;
    uint32_t bytes;

    ft_pack_uint(&packer, 300);
    ft_pack_array(&packer, 17);
    for (int i = 0; i < 17; i++) {
        ft_pack_bool(&packer, i & 1);
    }
    ft_pack_uint(&packer, 1);
    ft_pack_bytes(&packer, "\2\3", 2);
    ft_pack_uint(&packer, 2);
    ft_pack_uint(&packer, 1ull << 40);
    CHECK(!packer.full);
    value = ft_packed_value(map, (uint32_t)(packer.at - map), "\2", 1, &bytes);
    CHECK(value && bytes == 9 && value[0] == 0xcf && value + 9 == packer.at);
    CHECK(!ft_packed_value(map, (uint32_t)(packer.at - map) - 1, "\2", 1, &bytes));
    packer.end = packer.at + 3;
    ft_pack_bytes(&packer, "abc", 3);
    CHECK(packer.full);
}

int main(void)
{
    walk_rings();
    find_values();
    find_what_is_there();
    puts("SUCCESS");
    return 0;
}

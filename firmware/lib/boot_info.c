/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "boot_info.h"

#include <stdbool.h>

#include "debug_exit.h"
#include "print.h"
#include "string.h"

/* What boot.S found in EAX, or put there for PVH. */
enum { MULTIBOOT1_MAGIC = 0x2badb002, MULTIBOOT2_MAGIC = 0x36d76289, PVH_MAGIC = 0x336ec578 };

enum { RAM = 1 }; /* the same type number in all three memory maps */

/* Multiboot specification 0.6.96, 3.3. */
struct multiboot1 {
    uint32_t flags, mem_lower, mem_upper, boot_device, command_line, modules, modules_address;
    uint32_t symbols[4], map_bytes, map_address;
};
enum { MULTIBOOT1_COMMAND_LINE = 1 << 2, MULTIBOOT1_MAP = 1 << 6 };

struct multiboot1_range {
    uint32_t bytes; /* of the entry, not counting this field */
    uint64_t start, length;
    uint32_t type;
} __attribute__((packed));

/* Multiboot 2 specification 2.0, 3.6. */
struct multiboot2_tag {
    uint32_t type, bytes;
};
enum { TAG_END = 0, TAG_COMMAND_LINE = 1, TAG_MEMORY_MAP = 6 };

struct multiboot2_map {
    struct multiboot2_tag tag;
    uint32_t entry_bytes, version;
};

struct multiboot2_range {
    uint64_t start, length;
    uint32_t type, reserved;
};

/* Xen's public/arch-x86/hvm/start_info.h. */
struct pvh_start_info {
    uint32_t magic, version, flags, modules;
    uint64_t module_list, command_line, rsdp, map; /* the map: from version 1 on */
    uint32_t map_entries, reserved;
};

struct boot_info boot_info;

static const void *at(uint64_t address)
{
    return (const void *)address;
}

static void set_command_line(const char *text)
{
    size_t bytes = strlen(text);
    if (bytes >= sizeof boot_info.command_line)
        bytes = sizeof boot_info.command_line - 1;
    memcpy(boot_info.command_line, text, bytes);
}

static void add_range(uint64_t start, uint64_t length, uint32_t type)
{
    if (type == RAM && boot_info.ram_ranges < sizeof boot_info.ram / sizeof *boot_info.ram)
        boot_info.ram[boot_info.ram_ranges++] = (struct memory_range){start, start + length};
}

static void read_multiboot1(const struct multiboot1 *info)
{
    if (info->flags & MULTIBOOT1_COMMAND_LINE)
        set_command_line(at(info->command_line));
    if (!(info->flags & MULTIBOOT1_MAP))
        return;
    for (uint32_t a = info->map_address; a < info->map_address + info->map_bytes;) {
        const struct multiboot1_range *range = at(a);
        add_range(range->start, range->length, range->type);
        a += range->bytes + sizeof range->bytes;
    }
}

static void read_multiboot2(uint64_t address)
{
    const struct multiboot2_tag *tag;

    for (address += 8; (tag = at(address))->type != TAG_END; address += (tag->bytes + 7) & ~7u) {
        if (tag->type == TAG_COMMAND_LINE)
            set_command_line((const char *)(tag + 1));
        if (tag->type != TAG_MEMORY_MAP)
            continue;
        const struct multiboot2_map *map = at(address);
        for (uint64_t a = (uint64_t)(map + 1); a < address + tag->bytes; a += map->entry_bytes) {
            const struct multiboot2_range *range = at(a);
            add_range(range->start, range->length, range->type);
        }
    }
}

static void read_pvh(const struct pvh_start_info *info)
{
    if (info->command_line)
        set_command_line(at(info->command_line));
    const struct multiboot2_range *range = at(info->map); /* the same layout */
    for (uint32_t i = 0; info->version >= 1 && i < info->map_entries; i++, range++)
        add_range(range->start, range->length, range->type);
}

void boot_info_init(uint32_t magic, uint32_t address)
{
    switch (magic) {
    case MULTIBOOT1_MAGIC:
        boot_info.protocol = "multiboot 1";
        read_multiboot1(at(address));
        break;
    case MULTIBOOT2_MAGIC:
        boot_info.protocol = "multiboot 2";
        read_multiboot2(address);
        break;
    case PVH_MAGIC:
        boot_info.protocol = "PVH";
        read_pvh(at(address));
        break;
    default:
        print("no boot protocol has the magic number 0x%x\n", magic);
        debug_exit(EXIT_UNEXPECTED);
    }
}

uint64_t boot_option(const char *key, uint64_t otherwise)
{
    size_t key_length = strlen(key);

    for (const char *word = boot_info.command_line; *word; word++) {
        bool starts = word == boot_info.command_line || word[-1] == ' ';
        if (!starts || strncmp(word, key, key_length) || word[key_length] != '=')
            continue;
        uint64_t value = 0;
        for (const char *digit = word + key_length + 1; *digit >= '0' && *digit <= '9'; digit++)
            value = value * 10 + (uint64_t)(*digit - '0');
        return value;
    }
    return otherwise;
}

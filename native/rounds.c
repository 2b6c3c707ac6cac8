/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A module's side of what turns.c is on the monitor's: epochs that begin with what a disk did and end when its driver asks for
 * more. As long as nothing else happens, command after command without the caller.
 */
#include "cpu.h"
#include "packed.h"

#include <string.h>

enum { MAX_WRITES = 256, MAX_PLACES = 1024 };

/* ---- What a command brings: a list as ftvm/module/events.py has it, [DeviceIn] or [Placed, DeviceIn] --------------- */

typedef struct {
    const unsigned char *at, *end;
} reader;

typedef struct {
    uint64_t offset;
    const unsigned char *data;
    uint32_t bytes;
} device_write;

typedef struct {
    ft_extent places[MAX_PLACES];
    uint32_t place_count;
    device_write writes[MAX_WRITES];
    uint32_t write_count;
    uint64_t next_avail, next_used;
    bool interrupt;
} device_input;

static bool eat(reader *r, const void *bytes, uint32_t count)
{
    if ((uint64_t)(r->end - r->at) < count || memcmp(r->at, bytes, count) != 0) {
        return false;
    }
    r->at += count;
    return true;
}

static bool eat_byte(reader *r, unsigned char byte)
{
    return eat(r, &byte, 1);
}

/* So many bytes of a number, big endian. */
static bool read_big_endian(reader *r, uint32_t bytes, uint64_t *value)
{
    if ((uint64_t)(r->end - r->at) < bytes) {
        return false;
    }
    *value = 0;
    for (uint32_t i = 0; i < bytes; i++) {
        *value = *value << 8 | *r->at++;
    }
    return true;
}

static bool read_number(reader *r, uint64_t *value)
{
    if (!read_big_endian(r, 1, value)) {
        return false;
    }
    return *value < 0x80 ||
           (*value >= 0xcc && *value <= 0xcf && read_big_endian(r, 1u << (*value - 0xcc), value));
}

static bool read_bytes(reader *r, const unsigned char **data, uint32_t *bytes)
{
    uint64_t type, length;

    if (!read_big_endian(r, 1, &type) || type < 0xc4 || type > 0xc6 ||
        !read_big_endian(r, 1u << (type - 0xc4), &length) || (uint64_t)(r->end - r->at) < length) {
        return false;
    }
    *data = r->at;
    *bytes = (uint32_t)length;
    r->at += length;
    return true;
}

static bool read_array(reader *r, uint64_t *items)
{
    if (!read_big_endian(r, 1, items)) {
        return false;
    }
    if ((*items & 0xf0) == 0x90) {
        *items &= 0xf;
        return true;
    }
    return *items == 0xdc && read_big_endian(r, 2, items);
}

static bool is_in_ram(const ft_cpu *cpu, uint64_t offset, uint64_t bytes)
{
    return offset <= cpu->ram_bytes && bytes <= cpu->ram_bytes - offset;
}

static bool read_placed(const ft_rounds *rounds, reader *r, device_input *input)
{
    static const unsigned char placed[] = {0x92, 0xa6, 'p', 'l', 'a', 'c', 'e', 'd'};
    const unsigned char *data;
    uint32_t bytes;

    if (!eat(r, placed, sizeof placed) || !read_bytes(r, &data, &bytes) || bytes % sizeof(ft_extent) ||
        bytes > sizeof input->places) {
        return false;
    }
    memcpy(input->places, data, bytes);
    input->place_count = bytes / (uint32_t)sizeof(ft_extent);
    for (uint32_t i = 0; i < input->place_count; i++) {
        if (!is_in_ram(rounds->cpu, input->places[i].offset, input->places[i].bytes)) {
            return false;
        }
    }
    return true;
}

static bool read_device_in(const ft_rounds *rounds, reader *r, device_input *input)
{
    static const unsigned char tag[] = {0x95, 0xa6, 'd', 'e', 'v', 'i', 'c', 'e'};
    static const unsigned char one_queue[] = {0x91, 0x94};
    uint64_t count, queue;

    if (!eat(r, tag, sizeof tag) || !eat(r, rounds->device, rounds->device_bytes) || !read_array(r, &count) ||
        count > MAX_WRITES) {
        return false;
    }
    input->write_count = (uint32_t)count;
    for (uint32_t i = 0; i < input->write_count; i++) {
        device_write *w = &input->writes[i];
        if (!eat_byte(r, 0x92) || !read_number(r, &w->offset) || !read_bytes(r, &w->data, &w->bytes) ||
            !is_in_ram(rounds->cpu, w->offset, w->bytes)) {
            return false;
        }
    }
    if (!eat(r, one_queue, sizeof one_queue) || !read_number(r, &queue) || queue != 0 ||
        !read_number(r, &input->next_avail) || !read_number(r, &input->next_used)) {
        return false;
    }
    input->interrupt = eat_byte(r, 0xc3);
    return (input->interrupt || eat_byte(r, 0xc2)) && eat_byte(r, 0x90); /* and no bulk */
}

static bool read_input(const ft_rounds *rounds, const ft_command *command, device_input *input)
{
    reader r = {.at = ft_link_command_payload(rounds->link)};

    r.end = r.at + command->payload_bytes;
    input->place_count = 0;
    if (eat_byte(&r, 0x92)) {
        return read_placed(rounds, &r, input) && read_device_in(rounds, &r, input) && r.at == r.end;
    }
    return eat_byte(&r, 0x91) && read_device_in(rounds, &r, input) && r.at == r.end;
}

/* ---- A round ---------------------------------------------------------------------------------------------------- */

static bool is_ours(const ft_rounds *rounds, const ft_command *command, device_input *input)
{
    return command->kind == rounds->command && command->target > ft_cpu_position(rounds->cpu) &&
           ft_cpu_instruction(rounds->cpu) == 0 && read_input(rounds, command, input);
}

/* As Board.put() of ftvm/module/board.py. All of it is in RAM: that has been looked at. */
static void put(ft_rounds *rounds, const device_input *input)
{
    ft_cpu *cpu = rounds->cpu;

    ft_cpu_rearm_dirty_log(cpu);
    (void)ft_cpu_invalidate_places(cpu, input->places, input->place_count);
    for (uint32_t i = 0; i < input->write_count; i++) {
        (void)ft_cpu_write_ram(cpu, input->writes[i].offset, input->writes[i].data, input->writes[i].bytes);
    }
    rounds->next_avail = input->next_avail;
    rounds->next_used = input->next_used;
    if (input->interrupt) {
        ft_cpu_take_effect(cpu, ft_lapic_message(cpu->lapic, rounds->destination, rounds->logical,
                                                 rounds->delivery, rounds->vector, rounds->level));
    }
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* As Board.run(). True: the driver has asked for more, and nothing else has happened. */
static bool run(ft_rounds *rounds, uint64_t target)
{
    ft_cpu *cpu = rounds->cpu;

    for (;;) {
        uint64_t limit = earlier(target, ft_cpu_position_of(cpu, rounds->slow_ns));
        limit = earlier(limit, ft_cpu_position_of(cpu, ft_lapic_next_event_ns(cpu->lapic)));
        rounds->stop = ft_cpu_run(cpu, limit);
        if (cpu->asked || ft_cpu_instruction(cpu) || rounds->slow_ns <= ft_cpu_now_ns(cpu) ||
            (rounds->stop != FT_STOP_POSITION && rounds->stop != FT_STOP_REQUEST)) {
            return false;
        }
        if (ft_lapic_next_event_ns(cpu->lapic) <= ft_cpu_now_ns(cpu)) {
            ft_cpu_take_effect(cpu, ft_lapic_advance(cpu->lapic, ft_cpu_now_ns(cpu)));
        }
        if (cpu->signalled || ft_cpu_position(cpu) >= target) {
            return cpu->signalled;
        }
    }
}

static int publish(ft_rounds *rounds)
{
    ft_packer board = {rounds->room, rounds->room + rounds->room_bytes, 0};
    unsigned char lapic[FT_LAPIC_BYTES];
    ft_report report = {.stop = rounds->stops_for, .output_bytes = rounds->kick_bytes};

    ft_pack_raw(&board, rounds->board[0], rounds->board_bytes[0]);
    ft_pack_raw(&board, lapic, ft_lapic_encode(rounds->cpu->lapic, lapic));
    ft_pack_raw(&board, rounds->board[1], rounds->board_bytes[1]);
    ft_pack_uint(&board, rounds->next_avail);
    ft_pack_raw(&board, rounds->board[2], rounds->board_bytes[2]);
    ft_pack_uint(&board, rounds->next_used);
    ft_pack_raw(&board, rounds->board[3], rounds->board_bytes[3]);
    if (board.full) {
        return -1;
    }
    report.board_bytes = (uint32_t)(board.at - rounds->room);
    report.position = ft_cpu_position(rounds->cpu);
    ft_cpu_save(rounds->cpu, &report.arch);
    return ft_link_publish(rounds->link, &report, rounds->room, rounds->kick, "");
}

int ft_rounds_run(ft_rounds *rounds, uint32_t spins, int lifeline, ft_command *command)
{
    device_input input;
    int outcome;

    rounds->count = 0;
    rounds->cpu->signal = rounds->notify;
    for (;;) {
        rounds->cpu->signalled = rounds->cpu->asked = false;
        outcome = ft_link_await_command(rounds->link, spins, lifeline, command);
        if (outcome != 0) {
            outcome = outcome > 0 ? FT_ROUND_CLOSED : FT_ROUND_FAILED;
            break;
        }
        if (!is_ours(rounds, command, &input)) {
            outcome = FT_ROUND_COMMAND;
            break;
        }
        put(rounds, &input);
        rounds->count++;
        if (!run(rounds, command->target)) {
            outcome = FT_ROUND_STOPPED;
            break;
        }
        if (publish(rounds) != 0) {
            outcome = FT_ROUND_FAILED;
            break;
        }
    }
    rounds->cpu->signal = FT_NO_SIGNAL;
    return outcome;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * virtio-blk without an operating system: what it says of itself, every kind of request, completions by polling, by
 * INTx and by message, several requests at once, and what becomes of a driver that breaks the rules (VIRTIO 1.2, 2.7,
 * 4.1 and 5.2). The disk is empty and has 1 MiB; its serial number is disk0. `rounds=N`, `blocks=N`: so much more work.
 */
#include "apic.h"
#include "boot_info.h"
#include "check.h"
#include "cpu.h"
#include "idt.h"
#include "pci.h"
#include "pic.h"
#include "string.h"
#include "virtio.h"

#define BLK_SIZE_MAX (1ull << 1)
#define BLK_SEG_MAX (1ull << 2)
#define BLK_BLOCK_SIZE (1ull << 6)
#define BLK_FLUSH (1ull << 9)
#define BLK_DISCARD (1ull << 13)
#define BLK_WRITE_ZEROES (1ull << 14)

#define FEATURES (BLK_SEG_MAX | BLK_FLUSH | BLK_DISCARD | BLK_WRITE_ZEROES)

enum { CONFIG_CAPACITY = 0, CONFIG_SEG_MAX = 12, CONFIG_BLOCK_SIZE = 20 };

enum request { IN = 0, OUT = 1, FLUSH = 4, GET_ID = 8, DISCARD = 11, WRITE_ZEROES = 13, UNKNOWN = 99 };

enum { OK = 0, IO_ERROR = 1, UNSUPPORTED = 2, NOT_WRITTEN = 0xee };

enum { SECTOR = 512, SECTORS = 2048, ID_BYTES = 20, UNMAP = 1, VECTOR_MESSAGE = 0x50, AT_ONCE = 16 };

static struct virtio device;
static struct virtqueue queue;

static struct slot {
    struct {
        uint32_t type, reserved;
        uint64_t sector;
    } header;
    uint8_t status;
} slots[AT_ONCE];

static uint8_t data[64 * 1024], other[64 * 1024];

static struct clear {
    uint64_t sector;
    uint32_t sectors, flags;
} range;

static bool start(uint64_t features)
{
    virtio_reset(&device);
    if (!virtio_negotiate(&device, VIRTIO_VERSION_1 | features) || !virtio_queue(&device, &queue, 0))
        return false;
    virtio_start(&device);
    return true;
}

/* Make a request with `count` buffers available. The device is not told. */
static void put(struct slot *slot, enum request type, uint64_t sector, const struct virtq_buffer *buffers,
                unsigned count)
{
    struct virtq_buffer chain[VIRTQ_ENTRIES];

    slot->header.type = type;
    slot->header.sector = sector;
    slot->status = NOT_WRITTEN;
    chain[0] = (struct virtq_buffer){&slot->header, sizeof slot->header, false};
    for (unsigned i = 0; i < count; i++)
        chain[i + 1] = buffers[i];
    chain[count + 1] = (struct virtq_buffer){&slot->status, 1, true};
    virtq_put(&queue, chain, count + 2);
}

static uint32_t take(void)
{
    unsigned head;
    uint32_t length;

    while (!virtq_take(&queue, &head, &length))
        pause();
    return length;
}

/* One request with one buffer, or none when `size` is 0; its status. */
static uint8_t ask(enum request type, uint64_t sector, void *buffer, uint32_t size)
{
    struct virtq_buffer one = {buffer, size, type == IN || type == GET_ID || type == UNKNOWN};

    put(&slots[0], type, sector, &one, size ? 1 : 0);
    virtq_kick(&queue);
    take();
    return *(volatile uint8_t *)&slots[0].status;
}

static void fill(uint8_t *bytes, uint32_t size, uint32_t seed)
{
    for (uint32_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(seed + i * 13 + (i >> 9));
}

static bool is_zero(const uint8_t *bytes, uint32_t size)
{
    while (size--)
        if (*bytes++)
            return false;
    return true;
}

/* ---- what it says of itself ------------------------------------------------------------------- */

static uint32_t config(unsigned offset)
{
    return *(volatile uint32_t *)(device.device + offset);
}

static void test_introduction(void)
{
    uint64_t offered = virtio_features(&device);
    uint64_t expected = BLK_SEG_MAX | BLK_BLOCK_SIZE | BLK_FLUSH | BLK_DISCARD | BLK_WRITE_ZEROES |
                        VIRTIO_VERSION_1 | VIRTIO_INDIRECT | VIRTIO_EVENT_INDEX;

    CHECK("features", (offered & expected) == expected);
    CHECK("capacity", config(CONFIG_CAPACITY) == SECTORS && config(CONFIG_CAPACITY + 4) == 0);
    CHECK("sizes", config(CONFIG_BLOCK_SIZE) == SECTOR && config(CONFIG_SEG_MAX) >= 126);
    CHECK("one queue", virtio_get(&device, VIRTIO_QUEUES, 2) == 1);

    virtio_reset(&device);
    CHECK("features without VERSION_1 are refused", !virtio_negotiate(&device, FEATURES));
    virtio_reset(&device);
    CHECK("features that were not offered are refused",
          !virtio_negotiate(&device, VIRTIO_VERSION_1 | 1ull << 50));
    CHECK("started", start(FEATURES) && virtio_status(&device) == (VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER |
                                                                   VIRTIO_FEATURES_OK | VIRTIO_DRIVER_OK));
}

/* ---- requests --------------------------------------------------------------------------------- */

static void test_requests(void)
{
    char id[ID_BYTES + 1] = "";

    CHECK("get id", ask(GET_ID, 0, id, ID_BYTES) == OK && strlen(id) == 5 && memcmp(id, "disk0", 5) == 0);
    CHECK("an empty disk", ask(IN, 0, data, sizeof data) == OK && is_zero(data, sizeof data));

    fill(data, sizeof data, 1);
    CHECK("write", ask(OUT, 8, data, sizeof data) == OK);
    CHECK("flush", ask(FLUSH, 0, NULL, 0) == OK);
    CHECK("read", ask(IN, 8, other, sizeof other) == OK && memcmp(data, other, sizeof data) == 0);
    CHECK("the last sector", ask(OUT, SECTORS - 1, data, SECTOR) == OK &&
                                 ask(IN, SECTORS - 1, other, SECTOR) == OK &&
                                 memcmp(data, other, SECTOR) == 0);

    struct virtq_buffer parts[] = {{other, 100, true}, {other + 4096, 1, true}, {other + 8192, 923, true}};
    put(&slots[0], IN, 8, parts, 3);
    virtq_kick(&queue);
    CHECK("length that was written", take() == 1024 + 1);
    CHECK("read into pieces", memcmp(data, other, 100) == 0 && data[100] == other[4096] &&
                                  memcmp(data + 101, other + 8192, 923) == 0);

    range = (struct clear){8, 8, 0};
    CHECK("write zeroes", ask(WRITE_ZEROES, 0, &range, sizeof range) == OK);
    range = (struct clear){24, 8, UNMAP};
    CHECK("write zeroes, and give space back", ask(WRITE_ZEROES, 0, &range, sizeof range) == OK);
    range = (struct clear){40, 8, 0};
    CHECK("discard", ask(DISCARD, 0, &range, sizeof range) == OK);
    ask(IN, 8, other, sizeof other);
    CHECK("zeroes", is_zero(other, 4096) && is_zero(other + 8192, 4096) && is_zero(other + 16384, 4096) &&
                        memcmp(data + 4096, other + 4096, 4096) == 0);
}

static void test_errors(void)
{
    fill(other, sizeof other, 77);
    CHECK("read beyond the end", ask(IN, SECTORS - 1, other, 2 * SECTOR) == IO_ERROR);
    CHECK("write beyond the end", ask(OUT, SECTORS, other, SECTOR) == IO_ERROR);
    CHECK("a sector that overflows", ask(IN, ~0ull / SECTOR, other, SECTOR) == IO_ERROR);
    CHECK("a part of a sector", ask(OUT, 0, other, SECTOR / 2) == IO_ERROR);
    CHECK("an unknown request", ask(UNKNOWN, 0, other, SECTOR) == UNSUPPORTED);
    range = (struct clear){SECTORS, 1, 0};
    CHECK("discard beyond the end", ask(DISCARD, 0, &range, sizeof range) == IO_ERROR);
    range = (struct clear){0, 1, 8};
    CHECK("discard with flags", ask(DISCARD, 0, &range, sizeof range) == UNSUPPORTED);
    CHECK("it still works", ask(IN, SECTORS - 1, other, SECTOR) == OK);
}

/* ---- several at once, indirect tables, notifications ------------------------------------------- */

static void put_pages(enum request type, uint8_t *bytes)
{
    for (unsigned i = 0; i < AT_ONCE; i++) {
        struct virtq_buffer page = {bytes + 4096 * i, 4096, type == IN};
        put(&slots[i], type, 256 + 8 * i, &page, 1);
    }
    virtq_kick(&queue);
    for (unsigned i = 0; i < AT_ONCE; i++)
        take();
}

static bool all_ok(void)
{
    for (unsigned i = 0; i < AT_ONCE; i++)
        if (slots[i].status != OK)
            return false;
    return true;
}

static void test_several(void)
{
    fill(data, sizeof data, 3);
    put_pages(OUT, data);
    CHECK("several writes at once", all_ok());
    memset(other, 0, sizeof other);
    put_pages(IN, other);
    CHECK("several reads at once", all_ok() && memcmp(data, other, sizeof data) == 0);
}

/* For whoever wants to disturb it: writes, flushes and reads over and over. */
static void test_rounds(unsigned rounds)
{
    unsigned wrong = 0;

    for (unsigned i = 0; i < rounds; i++) {
        fill(data, sizeof data, 100 + i);
        put_pages(OUT, data);
        ask(FLUSH, 0, NULL, 0);
        memset(other, 0, sizeof other);
        put_pages(IN, other);
        wrong += memcmp(data, other, sizeof data) != 0;
    }
    check_wrong("rounds", wrong, rounds);
}

/* The same: it reads and writes one block after the other, and nothing else. */
static void test_blocks(unsigned blocks)
{
    unsigned wrong = 0;

    fill(data, sizeof data, 9);
    put_pages(OUT, data);
    for (unsigned i = 0; i < blocks; i++) {
        uint8_t *block = data + 4096 * (i * 7 % AT_ONCE);
        uint64_t sector = 256 + 8 * (i * 7 % AT_ONCE);

        if (i % 3 == 2) {
            block[i % 4096]++;
            wrong += ask(OUT, sector, block, 4096) != OK;
        } else {
            other[0] = (uint8_t)~block[0];
            wrong += ask(IN, sector, other, 4096) != OK || memcmp(block, other, 4096) != 0;
        }
    }
    check_wrong("blocks", wrong, blocks);
}

static void test_indirect(void)
{
    static _Alignas(16) struct virtq_descriptor table[3];

    start(FEATURES | VIRTIO_INDIRECT);
    slots[0].header.type = IN;
    slots[0].header.sector = 256;
    slots[0].status = NOT_WRITTEN;
    table[0] = (struct virtq_descriptor){(uintptr_t)&slots[0].header, sizeof slots[0].header, VIRTQ_NEXT, 1};
    table[1] = (struct virtq_descriptor){(uintptr_t)other, 4096, VIRTQ_NEXT | VIRTQ_WRITE, 2};
    table[2] = (struct virtq_descriptor){(uintptr_t)&slots[0].status, 1, VIRTQ_WRITE, 0};
    struct virtq_buffer one = {table, sizeof table, false};
    int head = virtq_put(&queue, &one, 1);
    queue.table[head].flags = VIRTQ_INDIRECT;
    memset(other, 0, 4096);
    virtq_kick(&queue);
    take();
    CHECK("indirect descriptors", slots[0].status == OK && memcmp(data, other, 4096) == 0);

    start(FEATURES | VIRTIO_EVENT_INDEX);
    ask(FLUSH, 0, NULL, 0);
    ask(FLUSH, 0, NULL, 0);
    CHECK("it asks for the next notification", queue.used.available_event == 2);
}

/* ---- interrupts ------------------------------------------------------------------------------- */

static unsigned interrupts;
static uint8_t isr;

static void on_line(struct frame *frame)
{
    interrupts++;
    isr = *device.isr;
    pic_end_of_interrupt((unsigned)frame->vector - PIC_VECTORS);
}

static void on_message(struct frame *frame)
{
    (void)frame;
    interrupts++;
    apic_end_of_interrupt();
}

static bool interrupted(unsigned times)
{
    interrupts_on();
    for (unsigned i = 0; i < 1000 && interrupts < times; i++)
        pause();
    interrupts_off();
    return interrupts == times;
}

static void test_interrupts(void)
{
    unsigned irq = pci_read(device.slot, PCI_INTERRUPT_LINE, 1);

    start(FEATURES);
    virtio_use_messages(&device, false);
    idt_set_handler(PIC_VECTORS + irq, on_line);
    pic_unmask(irq);
    *device.isr;
    interrupts = 0;
    ask(FLUSH, 0, NULL, 0);
    CHECK("INTx", interrupted(1) && isr == VIRTIO_ISR_QUEUE);
    queue.available.flags = VIRTQ_NO_INTERRUPT;
    ask(FLUSH, 0, NULL, 0);
    CHECK("no interrupt when none is wanted", interrupted(1));
    queue.available.flags = 0;
    pic_mask(irq);

    virtio_message(&device, 1, VECTOR_MESSAGE);
    virtio_use_messages(&device, true);
    idt_set_handler(VECTOR_MESSAGE, on_message);
    start(FEATURES);
    virtio_set(&device, VIRTIO_QUEUE_VECTOR, 2, 1);
    CHECK("a message for the queue", virtio_get(&device, VIRTIO_QUEUE_VECTOR, 2) == 1);
    interrupts = 0;
    ask(FLUSH, 0, NULL, 0);
    CHECK("MSI-X", interrupted(1));
    for (unsigned i = 0; i < AT_ONCE; i++)
        put(&slots[i], FLUSH, 0, NULL, 0);
    virtq_kick(&queue);
    for (unsigned i = 0; i < AT_ONCE; i++)
        take();
    CHECK("one interrupt for what comes together", interrupted(2));
    virtio_use_messages(&device, false);
}

/* ---- drivers that break the rules ------------------------------------------------------------- */

/* Let the device see the chain at `head`; whether it then says that it must be reset. */
static bool breaks(unsigned head)
{
    queue.available.ring[queue.available.index % VIRTQ_ENTRIES] = (uint16_t)head;
    queue.available.index++;
    virtq_kick(&queue);
    for (unsigned i = 0; i < 20000 && !(virtio_status(&device) & VIRTIO_NEEDS_RESET); i++)
        pause();
    return virtio_status(&device) & VIRTIO_NEEDS_RESET;
}

static bool fresh(void)
{
    return start(FEATURES) && ask(FLUSH, 0, NULL, 0) == OK;
}

static void test_broken_drivers(void)
{
    static const struct {
        const char *name;
        struct virtq_descriptor descriptor;
    } cases[] = {
        {"a loop of descriptors", {0x100000, 16, VIRTQ_NEXT, 0}},
        {"a buffer beyond memory", {1ull << 40, 16, VIRTQ_NEXT, 1}},
        {"an address that overflows", {~0ull - 7, 16, VIRTQ_NEXT, 1}},
        {"a buffer of no bytes", {0x100000, 0, VIRTQ_NEXT, 1}},
        {"a descriptor that is not there", {0x100000, 16, VIRTQ_NEXT, VIRTQ_ENTRIES}},
        {"a table without the feature", {0x100000, 16, VIRTQ_INDIRECT, 0}},
        {"no header", {0x100000, 16, VIRTQ_WRITE, 0}},
    };

    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        bool good = fresh();
        queue.table[0] = cases[i].descriptor;
        CHECK(cases[i].name, good && breaks(0));
    }
    CHECK("a head that is not there", fresh() && breaks(VIRTQ_ENTRIES));

    bool good = fresh();
    queue.available.index += VIRTQ_ENTRIES;
    CHECK("an index that jumps", good && breaks(0));

    good = fresh();
    virtio_set(&device, VIRTIO_QUEUE_SELECT, 2, 0);
    virtio_set(&device, VIRTIO_QUEUE_DRIVER, 4, 0x200000);
    CHECK("a queue that moves while in use", good && virtio_status(&device) & VIRTIO_NEEDS_RESET);

    CHECK("a reset mends it", fresh() && ask(IN, 256, other, 4096) == OK && memcmp(data, other, 4096) == 0);
}

int main(void)
{
    bool found = virtio_open(&device, VIRTIO_BLK, 0);

    CHECK("a disk", found);
    if (found) {
        test_introduction();
        test_requests();
        test_errors();
        test_several();
        if (boot_option("rounds", 0))
            test_rounds((unsigned)boot_option("rounds", 0));
        if (boot_option("blocks", 0))
            test_blocks((unsigned)boot_option("blocks", 0));
        test_indirect();
        test_interrupts();
        test_broken_drivers();
    }
    return check_result();
}

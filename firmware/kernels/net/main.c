/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * virtio-net without an operating system. The first NIC sends everything back to itself (loopback); the second and
 * the third are the ends of one wire. What the machine does for a driver that leaves work to its NIC is checked on
 * what comes back: checksums, segments, frames in several buffers.
 */
#include "apic.h"
#include "boot_info.h"
#include "check.h"
#include "cpu.h"
#include "idt.h"
#include "pci.h"
#include "pic.h"
#include "rand.h"
#include "string.h"
#include "virtio.h"

#define NET_CSUM (1ull << 0)
#define NET_GUEST_CSUM (1ull << 1)
#define NET_MTU (1ull << 3)
#define NET_MAC (1ull << 5)
#define NET_HOST_TSO4 (1ull << 11)
#define NET_MERGEABLE (1ull << 15)
#define NET_STATUS (1ull << 16)

enum { RECEIVE = 0, TRANSMIT = 1 };

enum { NEEDS_CHECKSUM = 1, GSO_TCPV4 = 1, VECTOR_MESSAGE = 0x50 };

struct net_header {
    uint8_t flags, gso;
    uint16_t header_bytes, segment_bytes, checksum_start, checksum_offset, buffers;
};

enum { ETHERNET = 14, IPV4 = 20, TCP = 20, BUFFERS = 32, BUFFER_BYTES = 2048 };

static struct nic {
    struct virtio device;
    struct virtqueue receive, transmit;
    uint8_t buffers[BUFFERS][BUFFER_BYTES];
    unsigned buffer_of[VIRTQ_ENTRIES]; /* by head of its chain */
    unsigned in_queue;
} nics[3];

static uint8_t frame[8192];
static struct net_header header;

static void offer(struct nic *nic, unsigned buffer, uint32_t size)
{
    struct virtq_buffer part = {nic->buffers[buffer], size, true};
    int head = virtq_put(&nic->receive, &part, 1);

    if (head >= 0) {
        nic->buffer_of[head] = buffer;
        nic->in_queue++;
    }
}

/* Reset the NIC and start it with these features and `count` receive buffers of `size` bytes. */
static bool start(struct nic *nic, uint64_t features, unsigned count, uint32_t size)
{
    virtio_reset(&nic->device);
    nic->in_queue = 0;
    if (!virtio_negotiate(&nic->device, VIRTIO_VERSION_1 | features) ||
        !virtio_queue(&nic->device, &nic->receive, RECEIVE) ||
        !virtio_queue(&nic->device, &nic->transmit, TRANSMIT))
        return false;
    for (unsigned i = 0; i < count; i++)
        offer(nic, i, size);
    virtio_start(&nic->device);
    return virtio_status(&nic->device) ==
           (VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK | VIRTIO_DRIVER_OK);
}

static int put(struct nic *nic, uint32_t size)
{
    struct virtq_buffer parts[] = {{&header, sizeof header, false}, {frame, size, false}};

    return virtq_put(&nic->transmit, parts, 2);
}

/* Send `frame`, and wait until the NIC has it. */
static void send(struct nic *nic, uint32_t size)
{
    unsigned head;
    uint32_t length;

    put(nic, size);
    virtq_kick(&nic->transmit);
    while (!virtq_take(&nic->transmit, &head, &length))
        pause();
}

/* The next frame that was received, behind its header, if there is one; its buffer is the caller's. */
static const uint8_t *receive(struct nic *nic, uint32_t *size, unsigned *buffer)
{
    unsigned head;

    if (!virtq_take(&nic->receive, &head, size))
        return NULL;
    nic->in_queue--;
    *buffer = nic->buffer_of[head];
    *size -= sizeof header;
    return nic->buffers[*buffer] + sizeof header;
}

static void fill(uint32_t size, uint8_t seed)
{
    for (uint32_t i = 0; i < size; i++)
        frame[i] = (uint8_t)(seed + i * 7);
}

/* Sends a frame that needs nothing done, and looks whether it came to `to` as it was. */
static bool passes(struct nic *from, struct nic *to, uint32_t size)
{
    const uint8_t *got;
    uint32_t length;
    unsigned buffer;
    bool same;

    memset(&header, 0, sizeof header);
    fill(size, (uint8_t)size);
    send(from, size);
    got = receive(to, &length, &buffer);
    if (!got)
        return false;
    same = length == size && memcmp(got, frame, size) == 0;
    offer(to, buffer, BUFFER_BYTES);
    return same;
}

/* ---- what there is ------------------------------------------------------------------------------ */

static void test_configuration(struct nic *nic)
{
    static const uint8_t mac[6] = {0x02, 0x66, 0x74, 0x76, 0x6d, 0x00};
    uint64_t offered = virtio_features(&nic->device);
    bool same = true;

    for (unsigned i = 0; i < sizeof mac; i++)
        same &= nic->device.device[i] == mac[i];
    CHECK("its address", same && offered & NET_MAC);
    CHECK("its link is up", *(volatile uint16_t *)(nic->device.device + 6) == 1 && offered & NET_STATUS);
    CHECK("its longest packet", *(volatile uint16_t *)(nic->device.device + 10) == 1500 && offered & NET_MTU);
    check_equal("two queues", virtio_get(&nic->device, VIRTIO_QUEUES, 2), 2);
    CHECK("features that it did not offer are refused",
          !virtio_negotiate(&nic->device, VIRTIO_VERSION_1 | 1ull << 40));
    virtio_reset(&nic->device);
    CHECK("a driver without version 1 is refused", !virtio_negotiate(&nic->device, NET_MAC));
}

/* ---- frames ------------------------------------------------------------------------------------- */

static void test_sizes(struct nic *nic)
{
    unsigned wrong = 0, rounds = 0;

    for (uint32_t size = ETHERNET; size <= 1514; size += 100, rounds++)
        wrong += !passes(nic, nic, size);
    check_wrong("frames of all sizes come back", wrong, rounds);
}

static void test_many(struct nic *nic)
{
    enum { MANY = 30 };
    uint32_t length;
    unsigned buffer, head, wrong = 0;

    memset(&header, 0, sizeof header);
    for (unsigned i = 0; i < MANY; i++) {
        frame[i * 64] = (uint8_t)i;
        struct virtq_buffer parts[] = {{&header, sizeof header, false}, {frame + i * 64, 64, false}};
        virtq_put(&nic->transmit, parts, 2);
    }
    virtq_kick(&nic->transmit);
    for (unsigned i = 0; i < MANY; i++) {
        const uint8_t *got = receive(nic, &length, &buffer);

        wrong += !got || length != 64 || got[0] != i;
        if (got)
            offer(nic, buffer, BUFFER_BYTES);
        wrong += !virtq_take(&nic->transmit, &head, &length);
    }
    check_wrong("many frames with one notification, in order", wrong, MANY);
}

static void test_indirect(struct nic *nic)
{
    static struct virtq_descriptor table[3];
    const uint8_t *got;
    uint32_t length;
    unsigned buffer, head;
    struct virtq_buffer whole = {table, sizeof table, false};

    fill(300, 1);
    table[0] = (struct virtq_descriptor){(uintptr_t)&header, sizeof header, VIRTQ_NEXT, 2};
    table[2] = (struct virtq_descriptor){(uintptr_t)frame, 100, VIRTQ_NEXT, 1};
    table[1] = (struct virtq_descriptor){(uintptr_t)(frame + 100), 200, 0, 0};
    head = (unsigned)virtq_put(&nic->transmit, &whole, 1);
    nic->transmit.table[head].flags = VIRTQ_INDIRECT;
    virtq_kick(&nic->transmit);
    got = receive(nic, &length, &buffer);
    CHECK("a frame in an indirect table", got && length == 300 && memcmp(got, frame, 300) == 0);
    if (got)
        offer(nic, buffer, BUFFER_BYTES);
    virtq_take(&nic->transmit, &head, &length);
}

static void test_no_buffers(struct nic *nic)
{
    uint32_t length;
    unsigned buffer, came = 0;

    start(nic, 0, 2, BUFFER_BYTES);
    for (unsigned i = 0; i < 5; i++)
        send(nic, 60);
    while (receive(nic, &length, &buffer))
        came++;
    check_equal("frames that find no buffer are lost", came, 2);
    for (unsigned i = 0; i < 4; i++)
        offer(nic, i, BUFFER_BYTES);
    CHECK("and those that find one are not", passes(nic, nic, 60));
    start(nic, 0, 4, sizeof header + 100);
    send(nic, 500);
    CHECK("a frame that is too long for a buffer is lost",
          !receive(nic, &length, &buffer) && nic->in_queue == 4);
}

/* ---- work that is left to the NIC ----------------------------------------------------------------- */

static uint16_t sum(const uint8_t *data, uint32_t size, uint32_t start_value)
{
    uint32_t total = start_value;

    for (uint32_t i = 0; i < size; i++)
        total += i & 1 ? data[i] : (uint32_t)data[i] << 8;
    while (total >> 16)
        total = (total & 0xffff) + (total >> 16);
    return (uint16_t)total;
}

static void put16(uint8_t *at, unsigned value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static uint32_t get32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/* A TCP segment of `payload` bytes from 10.0.0.1 to 10.0.0.2, its checksums still to be made. */
static uint32_t tcp_frame(uint32_t payload)
{
    uint8_t *ip = frame + ETHERNET, *tcp = ip + IPV4;

    memset(frame, 0, ETHERNET + IPV4 + TCP);
    put16(frame + 12, 0x0800);
    ip[0] = 0x45;
    put16(ip + 2, IPV4 + TCP + payload);
    ip[8] = 64;
    ip[9] = 6;
    memcpy(ip + 12, "\x0a\0\0\1\x0a\0\0\2", 8);
    tcp[12] = TCP / 4 << 4;
    tcp[13] = 0x18; /* PSH, ACK */
    put16(tcp + 16, sum(ip + 12, 8, 6 + TCP + payload));
    for (uint32_t i = 0; i < payload; i++)
        tcp[TCP + i] = (uint8_t)(i * 3);
    memset(&header, 0, sizeof header);
    header.flags = NEEDS_CHECKSUM;
    header.checksum_start = ETHERNET + IPV4;
    header.checksum_offset = 16;
    return ETHERNET + IPV4 + TCP + payload;
}

/* Is this a TCP segment that a receiver would take? */
static bool good_tcp(const uint8_t *got, uint32_t length)
{
    const uint8_t *ip = got + ETHERNET;
    uint32_t segment = length - ETHERNET - IPV4;

    return length > ETHERNET + IPV4 + TCP && sum(ip + IPV4, segment, sum(ip + 12, 8, 6 + segment)) == 0xffff;
}

static void test_checksum(struct nic *nic)
{
    const uint8_t *got;
    uint32_t length, size;
    unsigned buffer;

    start(nic, NET_CSUM, BUFFERS, BUFFER_BYTES);
    size = tcp_frame(101);
    send(nic, size);
    got = receive(nic, &length, &buffer);
    CHECK("a checksum is made", got && length == size && good_tcp(got, length));
    CHECK("and the frame says that nothing is to be done", got && got[-(int)sizeof header] == 0);

    start(nic, NET_CSUM | NET_GUEST_CSUM, BUFFERS, BUFFER_BYTES);
    size = tcp_frame(101);
    send(nic, size);
    got = receive(nic, &length, &buffer);
    CHECK("or left to a driver that wants it so",
          got && memcmp(got, frame, size) == 0 && got[-(int)sizeof header] == NEEDS_CHECKSUM);
}

static void test_segments(struct nic *nic)
{
    enum { PAYLOAD = 3500, SEGMENT = 1000 };
    uint32_t length, size, at = 0;
    unsigned buffer, wrong = 0;

    start(nic, NET_CSUM | NET_HOST_TSO4, BUFFERS, BUFFER_BYTES);
    size = tcp_frame(PAYLOAD);
    header.gso = GSO_TCPV4;
    header.segment_bytes = SEGMENT;
    send(nic, size);
    for (unsigned i = 0; i < 4; i++) {
        const uint8_t *got = receive(nic, &length, &buffer);
        uint32_t part = length - ETHERNET - IPV4 - TCP;

        if (!got || !good_tcp(got, length) || sum(got + ETHERNET, IPV4, 0) != 0xffff) {
            wrong++;
            continue;
        }
        wrong += get32(got + ETHERNET + IPV4 + 4) != at || part != (i < 3 ? SEGMENT : PAYLOAD - 3 * SEGMENT);
        wrong += memcmp(got + ETHERNET + IPV4 + TCP, frame + ETHERNET + IPV4 + TCP + at, part) != 0;
        wrong += (got[ETHERNET + IPV4 + 13] & 8) != (i < 3 ? 0 : 8);
        at += part;
    }
    check_wrong("a long segment is cut", wrong, 4);
    CHECK("into as many as it takes", !receive(nic, &length, &buffer) && at == PAYLOAD);
}

static void test_mergeable(struct nic *nic)
{
    const uint8_t *got;
    uint32_t length, size = 1000, at = 0;
    unsigned buffer, buffers = 0;
    bool same = true;

    start(nic, NET_MERGEABLE, 8, 300);
    memset(&header, 0, sizeof header);
    fill(size, 9);
    send(nic, size);
    while ((got = receive(nic, &length, &buffer))) {
        if (buffers++ == 0) {
            same = ((const struct net_header *)nic->buffers[buffer])->buffers == 4;
        } else {
            got -= sizeof header; /* only the first one has a header */
            length += sizeof header;
        }
        same &= at + length <= size && memcmp(got, frame + at, length) == 0;
        at += length;
    }
    CHECK("a long frame in several buffers", same && buffers == 4 && at == size);
}

/* ---- interrupts ---------------------------------------------------------------------------------- */

static volatile unsigned interrupts;
static struct nic *interrupting;
static volatile uint8_t isr;

static void on_line(struct frame *unused)
{
    (void)unused;
    interrupts++;
    isr = *interrupting->device.isr; /* reading it takes the interrupt back */
    pic_end_of_interrupt(pci_read(interrupting->device.slot, PCI_INTERRUPT_LINE, 1));
}

static void on_message(struct frame *unused)
{
    (void)unused;
    interrupts++;
    apic_end_of_interrupt();
}

static void test_interrupts(struct nic *nic)
{
    unsigned line = pci_read(nic->device.slot, PCI_INTERRUPT_LINE, 1);

    interrupting = nic;
    start(nic, 0, BUFFERS, BUFFER_BYTES);
    idt_set_handler(PIC_VECTORS + line, on_line);
    pic_unmask(IRQ_CASCADE);
    pic_unmask(line);
    send(nic, 60);
    while (!interrupts)
        wait_for_interrupt();
    pic_mask(line);
    CHECK("an interrupt by its line", isr == VIRTIO_ISR_QUEUE);

    start(nic, 0, BUFFERS, BUFFER_BYTES);
    nic->receive.available.flags = nic->transmit.available.flags = VIRTQ_NO_INTERRUPT;
    send(nic, 60);
    check_equal("none when the driver wants none", *nic->device.isr, 0);

    apic_init();
    virtio_reset(&nic->device);
    idt_set_handler(VECTOR_MESSAGE, on_message);
    virtio_message(&nic->device, 1, VECTOR_MESSAGE);
    virtio_use_messages(&nic->device, true);
    start(nic, 0, BUFFERS, BUFFER_BYTES);
    virtio_set(&nic->device, VIRTIO_QUEUE_SELECT, 2, RECEIVE);
    virtio_set(&nic->device, VIRTIO_QUEUE_VECTOR, 2, 1);
    interrupts = 0;
    send(nic, 60);
    while (!interrupts)
        wait_for_interrupt();
    check_equal("an interrupt by message", interrupts, 1);
    virtio_use_messages(&nic->device, false);
}

/* ---- what no driver may do ------------------------------------------------------------------------- */

static void test_broken(struct nic *nic)
{
    struct virtq_buffer nowhere = {(void *)0x7ffffff000, 100, false};

    start(nic, 0, BUFFERS, BUFFER_BYTES);
    virtq_put(&nic->transmit, &nowhere, 1);
    virtq_kick(&nic->transmit);
    CHECK("a frame from nowhere: the device needs a reset", virtio_status(&nic->device) & VIRTIO_NEEDS_RESET);
    CHECK("after which it works again", start(nic, 0, BUFFERS, BUFFER_BYTES) && passes(nic, nic, 60));

    virtio_reset(&nic->device);
    start(nic, 0, 0, 0);
    struct virtq_buffer readable = {frame, 2000, false};
    virtq_put(&nic->receive, &readable, 1);
    put(nic, 60);
    virtq_kick(&nic->transmit);
    CHECK("a buffer that cannot be written: it needs one too",
          virtio_status(&nic->device) & VIRTIO_NEEDS_RESET);
    start(nic, 0, BUFFERS, BUFFER_BYTES);
}

/* ---- for those who want more of it ------------------------------------------------------------------ */

/* Frames of all sizes round the loopback and over the wire, as many as `rounds=N` on the command line says. */
static void test_rounds(void)
{
    unsigned rounds = (unsigned)boot_option("rounds", 3), wrong = 0;
    uint64_t state = 1;

    for (unsigned i = 0; i < rounds; i++) {
        struct nic *from = &nics[i % 3], *to = i % 3 == 0 ? from : &nics[3 - i % 3];

        wrong += !passes(from, to, ETHERNET + (uint32_t)(random_next(&state) % 1500));
    }
    check_wrong("rounds", wrong, rounds);
}

int main(void)
{
    pic_init();
    for (unsigned i = 0; i < 3; i++)
        if (!virtio_open(&nics[i].device, VIRTIO_NET, i)) {
            CHECK("three NICs", false);
            return check_result();
        }
    test_configuration(&nics[0]);
    CHECK("it starts", start(&nics[0], 0, BUFFERS, BUFFER_BYTES));
    test_sizes(&nics[0]);
    test_many(&nics[0]);
    start(&nics[0], VIRTIO_INDIRECT, BUFFERS, BUFFER_BYTES);
    test_indirect(&nics[0]);
    start(&nics[0], VIRTIO_EVENT_INDEX, BUFFERS, BUFFER_BYTES);
    CHECK("with event indices", passes(&nics[0], &nics[0], 200) && passes(&nics[0], &nics[0], 201));
    test_no_buffers(&nics[0]);
    test_checksum(&nics[0]);
    test_segments(&nics[0]);
    test_mergeable(&nics[0]);
    test_interrupts(&nics[0]);
    test_broken(&nics[0]);

    start(&nics[1], 0, BUFFERS, BUFFER_BYTES);
    start(&nics[2], 0, BUFFERS, BUFFER_BYTES);
    CHECK("from one NIC to another", passes(&nics[1], &nics[2], 700) && passes(&nics[2], &nics[1], 800));
    test_rounds();
    return check_result();
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The driver's side of a modern virtio device behind PCI, with split queues (VIRTIO 1.2, 2.7 and 4.1). Nothing is
 * hidden from a test: it may write whatever it likes to registers and rings.
 */
#ifndef VIRTIO_H
#define VIRTIO_H

#include <stdbool.h>
#include <stdint.h>

enum { VIRTIO_NET = 1, VIRTIO_BLK = 2 }; /* device types */

#define VIRTIO_INDIRECT (1ull << 28)
#define VIRTIO_EVENT_INDEX (1ull << 29)
#define VIRTIO_VERSION_1 (1ull << 32)

enum virtio_status {
    VIRTIO_ACKNOWLEDGE = 0x01,
    VIRTIO_DRIVER = 0x02,
    VIRTIO_DRIVER_OK = 0x04,
    VIRTIO_FEATURES_OK = 0x08,
    VIRTIO_NEEDS_RESET = 0x40,
};

enum virtio_common { /* offsets in the common configuration */
                     VIRTIO_DEVICE_FEATURE_SELECT = 0x00,
                     VIRTIO_DEVICE_FEATURE = 0x04,
                     VIRTIO_DRIVER_FEATURE_SELECT = 0x08,
                     VIRTIO_DRIVER_FEATURE = 0x0c,
                     VIRTIO_CONFIG_VECTOR = 0x10,
                     VIRTIO_QUEUES = 0x12,
                     VIRTIO_STATUS = 0x14,
                     VIRTIO_GENERATION = 0x15,
                     VIRTIO_QUEUE_SELECT = 0x16,
                     VIRTIO_QUEUE_SIZE = 0x18,
                     VIRTIO_QUEUE_VECTOR = 0x1a,
                     VIRTIO_QUEUE_ENABLE = 0x1c,
                     VIRTIO_QUEUE_NOTIFY_OFFSET = 0x1e,
                     VIRTIO_QUEUE_DESCRIPTORS = 0x20,
                     VIRTIO_QUEUE_DRIVER = 0x28,
                     VIRTIO_QUEUE_DEVICE = 0x30,
};

enum { VIRTIO_ISR_QUEUE = 1, VIRTIO_ISR_CONFIG = 2, VIRTIO_NO_VECTOR = 0xffff };

enum { VIRTQ_NEXT = 1, VIRTQ_WRITE = 2, VIRTQ_INDIRECT = 4 }; /* flags of a descriptor */

enum { VIRTQ_NO_INTERRUPT = 1 }; /* flag of the available ring */

enum { VIRTQ_ENTRIES = 64 };

struct virtq_descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags, next;
};

struct virtq_used {
    uint32_t head, length;
};

struct virtqueue {
    unsigned index;
    volatile uint16_t *notify;
    unsigned free_count, first_free;
    uint16_t taken; /* of the used ring */
    _Alignas(16) struct virtq_descriptor table[VIRTQ_ENTRIES];
    _Alignas(2) struct {
        volatile uint16_t flags, index, ring[VIRTQ_ENTRIES], used_event;
    } available;
    _Alignas(4) struct {
        volatile uint16_t flags, index;
        volatile struct virtq_used ring[VIRTQ_ENTRIES];
        volatile uint16_t available_event;
    } used;
};

struct virtio {
    unsigned slot;
    volatile uint8_t *common, *notify, *isr, *device;
    uint32_t notify_multiplier;
    unsigned msix; /* offset of the capability, 0: none */
};

struct virtq_buffer {
    const volatile void *data;
    uint32_t length;
    bool writable; /* by the device */
};

/* The `nth` device of this type: finds its registers, resets it and says that there is a driver. False: not there. */
bool virtio_open(struct virtio *v, unsigned type, unsigned nth);

uint32_t virtio_get(struct virtio *v, enum virtio_common offset, unsigned size);
void virtio_set(struct virtio *v, enum virtio_common offset, unsigned size, uint32_t value);
void virtio_reset(struct virtio *v);
unsigned virtio_status(struct virtio *v);

/* What the device offers; and take `wanted` of it: false when it refuses. */
uint64_t virtio_features(struct virtio *v);
bool virtio_negotiate(struct virtio *v, uint64_t wanted);

/* Queue `index` of VIRTQ_ENTRIES in `q`, empty. False: the device has no such queue. */
bool virtio_queue(struct virtio *v, struct virtqueue *q, unsigned index);
void virtio_start(struct virtio *v);

/* Interrupts by message: entry `entry` of the table raises `vector` on this CPU. */
void virtio_message(struct virtio *v, unsigned entry, unsigned vector);
void virtio_use_messages(struct virtio *v, bool on);

/* Make a chain of `count` buffers available; its head, or -1 without room. The device is not told. */
int virtq_put(struct virtqueue *q, const struct virtq_buffer *buffers, unsigned count);
void virtq_kick(struct virtqueue *q);

/* The next chain that the device has used, with the bytes that it says it wrote; false: none yet. */
bool virtq_take(struct virtqueue *q, unsigned *head, uint32_t *length);

#endif

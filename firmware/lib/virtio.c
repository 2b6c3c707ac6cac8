/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "virtio.h"

#include "pci.h"
#include "string.h"

enum { VENDOR = 0x1af4, FIRST_DEVICE = 0x1040 };

enum { CAPABILITY_VENDOR = 0x09, CAPABILITY_MSIX = 0x11 };

enum { CFG_COMMON = 1, CFG_NOTIFY = 2, CFG_ISR = 3, CFG_DEVICE = 4 };

enum { MSIX_CONTROL = 2, MSIX_TABLE = 4, MSIX_ENABLE = 0x8000, MSIX_ENTRY_BYTES = 16 };

#define MESSAGE_ADDRESS 0xfee00000u

static void find_registers(struct virtio *v)
{
    for (unsigned at = 0; (at = pci_capability(v->slot, CAPABILITY_VENDOR, at));) {
        volatile uint8_t *place =
            pci_bar(v->slot, pci_read(v->slot, at + 4, 1)) + pci_read(v->slot, at + 8, 4);

        switch (pci_read(v->slot, at + 3, 1)) {
        case CFG_COMMON:
            v->common = place;
            break;
        case CFG_NOTIFY:
            v->notify = place;
            v->notify_multiplier = pci_read(v->slot, at + 16, 4);
            break;
        case CFG_ISR:
            v->isr = place;
            break;
        case CFG_DEVICE:
            v->device = place;
            break;
        }
    }
}

bool virtio_open(struct virtio *v, unsigned type, unsigned nth)
{
    int slot = pci_find(VENDOR, (uint16_t)(FIRST_DEVICE + type), nth);

    if (slot < 0)
        return false;
    *v = (struct virtio){.slot = (unsigned)slot};
    pci_write(v->slot, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    find_registers(v);
    if (!v->common || !v->notify || !v->isr || !v->device)
        return false;
    v->msix = pci_capability(v->slot, CAPABILITY_MSIX, 0);
    virtio_reset(v);
    return true;
}

uint32_t virtio_get(struct virtio *v, enum virtio_common offset, unsigned size)
{
    volatile uint8_t *at = v->common + offset;

    return size == 1 ? *at : size == 2 ? *(volatile uint16_t *)at : *(volatile uint32_t *)at;
}

void virtio_set(struct virtio *v, enum virtio_common offset, unsigned size, uint32_t value)
{
    volatile uint8_t *at = v->common + offset;

    if (size == 1)
        *at = (uint8_t)value;
    else if (size == 2)
        *(volatile uint16_t *)at = (uint16_t)value;
    else
        *(volatile uint32_t *)at = value;
}

unsigned virtio_status(struct virtio *v)
{
    return virtio_get(v, VIRTIO_STATUS, 1);
}

void virtio_reset(struct virtio *v)
{
    virtio_set(v, VIRTIO_STATUS, 1, 0);
    while (virtio_status(v))
        ;
    virtio_set(v, VIRTIO_STATUS, 1, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
}

uint64_t virtio_features(struct virtio *v)
{
    uint64_t low, high;

    virtio_set(v, VIRTIO_DEVICE_FEATURE_SELECT, 4, 0);
    low = virtio_get(v, VIRTIO_DEVICE_FEATURE, 4);
    virtio_set(v, VIRTIO_DEVICE_FEATURE_SELECT, 4, 1);
    high = virtio_get(v, VIRTIO_DEVICE_FEATURE, 4);
    return high << 32 | low;
}

bool virtio_negotiate(struct virtio *v, uint64_t wanted)
{
    virtio_set(v, VIRTIO_DRIVER_FEATURE_SELECT, 4, 0);
    virtio_set(v, VIRTIO_DRIVER_FEATURE, 4, (uint32_t)wanted);
    virtio_set(v, VIRTIO_DRIVER_FEATURE_SELECT, 4, 1);
    virtio_set(v, VIRTIO_DRIVER_FEATURE, 4, (uint32_t)(wanted >> 32));
    virtio_set(v, VIRTIO_STATUS, 1, virtio_status(v) | VIRTIO_FEATURES_OK);
    return virtio_status(v) & VIRTIO_FEATURES_OK;
}

static void set_address(struct virtio *v, enum virtio_common offset, const volatile void *place)
{
    virtio_set(v, offset, 4, (uint32_t)(uintptr_t)place);
    virtio_set(v, offset + 4, 4, (uint32_t)((uintptr_t)place >> 32));
}

bool virtio_queue(struct virtio *v, struct virtqueue *q, unsigned index)
{
    virtio_set(v, VIRTIO_QUEUE_SELECT, 2, index);
    if (virtio_get(v, VIRTIO_QUEUE_SIZE, 2) < VIRTQ_ENTRIES)
        return false;
    memset(q, 0, sizeof *q);
    q->index = index;
    q->free_count = VIRTQ_ENTRIES;
    for (unsigned i = 0; i < VIRTQ_ENTRIES; i++)
        q->table[i].next = (uint16_t)(i + 1);
    virtio_set(v, VIRTIO_QUEUE_SIZE, 2, VIRTQ_ENTRIES);
    set_address(v, VIRTIO_QUEUE_DESCRIPTORS, q->table);
    set_address(v, VIRTIO_QUEUE_DRIVER, &q->available);
    set_address(v, VIRTIO_QUEUE_DEVICE, &q->used);
    q->notify = (volatile uint16_t *)(v->notify +
                                      virtio_get(v, VIRTIO_QUEUE_NOTIFY_OFFSET, 2) * v->notify_multiplier);
    virtio_set(v, VIRTIO_QUEUE_ENABLE, 2, 1);
    return true;
}

void virtio_start(struct virtio *v)
{
    virtio_set(v, VIRTIO_STATUS, 1, virtio_status(v) | VIRTIO_DRIVER_OK);
}

void virtio_message(struct virtio *v, unsigned entry, unsigned vector)
{
    uint32_t table = pci_read(v->slot, v->msix + MSIX_TABLE, 4);
    volatile uint32_t *words =
        (volatile uint32_t *)(pci_bar(v->slot, table & 7) + (table & ~7u) + MSIX_ENTRY_BYTES * entry);

    words[0] = MESSAGE_ADDRESS;
    words[1] = 0;
    words[2] = vector;
    words[3] = 0;
}

void virtio_use_messages(struct virtio *v, bool on)
{
    pci_write(v->slot, v->msix + MSIX_CONTROL, 2, on ? MSIX_ENABLE : 0);
}

int virtq_put(struct virtqueue *q, const struct virtq_buffer *buffers, unsigned count)
{
    unsigned head = q->first_free, at = head;

    if (count == 0 || count > q->free_count)
        return -1;
    for (unsigned i = 0; i < count; i++) {
        struct virtq_descriptor *d = &q->table[at];

        d->address = (uintptr_t)buffers[i].data;
        d->length = buffers[i].length;
        d->flags = (uint16_t)((i + 1 < count ? VIRTQ_NEXT : 0) | (buffers[i].writable ? VIRTQ_WRITE : 0));
        at = d->next;
    }
    q->first_free = at;
    q->free_count -= count;
    q->available.ring[q->available.index % VIRTQ_ENTRIES] = (uint16_t)head;
    asm volatile("" : : : "memory"); /* x86 keeps stores in order; the compiler must too */
    q->available.index++;
    return (int)head;
}

void virtq_kick(struct virtqueue *q)
{
    *q->notify = (uint16_t)q->index;
}

bool virtq_take(struct virtqueue *q, unsigned *head, uint32_t *length)
{
    unsigned last;

    if (q->taken == q->used.index)
        return false;
    *head = q->used.ring[q->taken % VIRTQ_ENTRIES].head;
    *length = q->used.ring[q->taken % VIRTQ_ENTRIES].length;
    q->taken++;
    last = *head;
    q->free_count++;
    while (q->table[last].flags & VIRTQ_NEXT) {
        last = q->table[last].next;
        q->free_count++;
    }
    q->table[last].next = (uint16_t)q->first_free;
    q->first_free = *head;
    return true;
}

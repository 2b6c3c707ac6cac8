/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "pci.h"

#include "io.h"

enum { ADDRESS = 0xcf8, DATA = 0xcfc };

#define ADDRESS_ENABLE 0x80000000u

static void select(unsigned slot, unsigned offset)
{
    out32(ADDRESS, ADDRESS_ENABLE | slot << 11 | (offset & 0xfc));
}

uint32_t pci_read(unsigned slot, unsigned offset, unsigned size)
{
    uint16_t port = (uint16_t)(DATA + (offset & 3));

    select(slot, offset);
    return size == 1 ? in8(port) : size == 2 ? in16(port) : in32(port);
}

void pci_write(unsigned slot, unsigned offset, unsigned size, uint32_t value)
{
    uint16_t port = (uint16_t)(DATA + (offset & 3));

    select(slot, offset);
    if (size == 1)
        out8(port, (uint8_t)value);
    else if (size == 2)
        out16(port, (uint16_t)value);
    else
        out32(port, value);
}

int pci_find(uint16_t vendor, uint16_t device, unsigned nth)
{
    for (unsigned slot = 0; slot < PCI_SLOTS; slot++)
        if (pci_read(slot, PCI_VENDOR, 2) == vendor && pci_read(slot, PCI_DEVICE, 2) == device && nth-- == 0)
            return (int)slot;
    return -1;
}

unsigned pci_capability(unsigned slot, unsigned id, unsigned after)
{
    unsigned offset;

    if (!(pci_read(slot, PCI_STATUS, 2) & PCI_STATUS_CAPABILITIES))
        return 0;
    offset = pci_read(slot, after ? after + 1 : PCI_CAPABILITIES, 1);
    while (offset && pci_read(slot, offset, 1) != id)
        offset = pci_read(slot, offset + 1, 1);
    return offset;
}

volatile uint8_t *pci_bar(unsigned slot, unsigned index)
{
    return (volatile uint8_t *)(uintptr_t)(pci_read(slot, PCI_BAR0 + 4 * index, 4) & ~0xfu);
}

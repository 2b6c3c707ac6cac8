/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Bus 0 of PCI through configuration mechanism #1 (PCI Local Bus Specification 3.0, 3.2.2.3). */
#ifndef PCI_H
#define PCI_H

#include <stdint.h>

enum { PCI_SLOTS = 32 };

enum {
    PCI_VENDOR = 0x00,
    PCI_DEVICE = 0x02,
    PCI_COMMAND = 0x04,
    PCI_STATUS = 0x06,
    PCI_BAR0 = 0x10,
    PCI_CAPABILITIES = 0x34,
    PCI_INTERRUPT_LINE = 0x3c,
};

enum { PCI_COMMAND_MEMORY = 0x2, PCI_COMMAND_MASTER = 0x4, PCI_COMMAND_INTX_OFF = 0x400 };

enum { PCI_STATUS_CAPABILITIES = 0x10 };

/* `size` is 1, 2 or 4, and `offset` a multiple of it; function 0 of the slot. */
uint32_t pci_read(unsigned slot, unsigned offset, unsigned size);
void pci_write(unsigned slot, unsigned offset, unsigned size, uint32_t value);

/* The slot of the `nth` device of this kind, counted from 0; -1: there are not so many. */
int pci_find(uint16_t vendor, uint16_t device, unsigned nth);

/* The next capability with this id behind the one at `after` (0: from the start); 0: there is none. */
unsigned pci_capability(unsigned slot, unsigned id, unsigned after);

/* What a memory BAR decodes, as the firmware has placed it. */
volatile uint8_t *pci_bar(unsigned slot, unsigned index);

#endif

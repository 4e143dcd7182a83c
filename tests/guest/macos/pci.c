/*
 * PCI configuration space, through ports 0xcf8 and 0xcfc
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "guest.h"

#define CONFIG_ADDRESS      0xcf8
#define CONFIG_DATA         0xcfc

#define PCI_ID              0x00
#define PCI_COMMAND         0x04
#define   COMMAND_MEMORY        (1 << 1)
#define   COMMAND_MASTER        (1 << 2)
#define   COMMAND_INTX_OFF      (1 << 10)
#define PCI_CLASS           0x08
#define   CLASS_XHCI            0x0c0330
#define PCI_BAR0            0x10
#define   BAR_FLAGS             0xf
#define   BAR_64BIT             (2 << 1)
#define PCI_CAPABILITIES    0x34
#define PCI_INTERRUPT       0x3c

/* In the upper half of a capability's first register */
#define CAP_MSI             0x05
#define   MSI_ENABLE            (1 << 16)
#define   MSI_VECTORS           (7 << 20)
#define   MSI_64BIT             (1 << 23)
#define CAP_MSIX            0x11
#define   MSIX_MASK_ALL         (1 << 30)
#define   MSIX_ENABLE           (1u << 31)

/* Where PC machines have PCI devices, if the BIOS gave the BAR no address */
#define FREE_ADDRESS        0xd0000000

static void pci_select(unsigned int bdf, unsigned int reg)
{
    outl(CONFIG_ADDRESS, 1u << 31 | bdf << 8 | reg);
}

uint32_t pci_read(unsigned int bdf, unsigned int reg)
{
    pci_select(bdf, reg);
    return inl(CONFIG_DATA);
}

static void pci_write(unsigned int bdf, unsigned int reg, uint32_t val)
{
    pci_select(bdf, reg);
    outl(CONFIG_DATA, val);
}

/* 0 if there is none. */
static unsigned int pci_capability(unsigned int bdf, uint8_t id)
{
    unsigned int reg = pci_read(bdf, PCI_CAPABILITIES) & 0xfc;

    while (reg) {
        uint32_t header = pci_read(bdf, reg);

        if ((header & 0xff) == id) {
            return reg;
        }
        reg = header >> 8 & 0xfc;
    }
    return 0;
}

static uintptr_t pci_map_bar0(unsigned int bdf)
{
    uint32_t low = pci_read(bdf, PCI_BAR0);
    uint32_t high = low & BAR_64BIT ? pci_read(bdf, PCI_BAR0 + 4) : 0;

    if (!(low & ~BAR_FLAGS) || high) {
        pci_write(bdf, PCI_BAR0, FREE_ADDRESS);
        if (low & BAR_64BIT) {
            pci_write(bdf, PCI_BAR0 + 4, 0);
        }
    }
    return pci_read(bdf, PCI_BAR0) & ~BAR_FLAGS;
}

PCIDevice *pci_find_xhci(void)
{
    static PCIDevice dev;

    for (dev.bdf = 0; dev.bdf < 0x100; dev.bdf++) {
        uint32_t command;

        if (pci_read(dev.bdf, PCI_CLASS) >> 8 != CLASS_XHCI) {
            continue;
        }
        dev.bar = pci_map_bar0(dev.bdf);
        dev.line = pci_read(dev.bdf, PCI_INTERRUPT) & 0xff;
        command = pci_read(dev.bdf, PCI_COMMAND) & 0xffff & ~COMMAND_INTX_OFF;
        pci_write(dev.bdf, PCI_COMMAND,
                  command | COMMAND_MEMORY | COMMAND_MASTER);
        return &dev;
    }
    fail("no xHCI controller on PCI bus 0");
}

bool pci_enable_msix(PCIDevice *dev, unsigned int messages,
                     uint32_t address, uint32_t vector)
{
    unsigned int cap = pci_capability(dev->bdf, CAP_MSIX);
    uint32_t header, table;

    if (!cap) {
        return false;
    }
    table = pci_read(dev->bdf, cap + 4);
    if (table & 7) {
        fail("the MSI-X table is not in BAR 0");
    }
    for (unsigned int n = 0; n < messages; n++) {
        uintptr_t entry = dev->bar + table + 16 * n;

        write64(entry, address);
        write32(entry + 8, vector + n);
        write32(entry + 12, 0);         /* not masked */
    }
    header = pci_read(dev->bdf, cap) & ~MSIX_MASK_ALL;
    pci_write(dev->bdf, cap, header | MSIX_ENABLE);
    return true;
}

bool pci_enable_msi(PCIDevice *dev, uint32_t address, uint32_t vector)
{
    unsigned int cap = pci_capability(dev->bdf, CAP_MSI);
    uint32_t header;

    if (!cap) {
        return false;
    }
    header = pci_read(dev->bdf, cap);
    pci_write(dev->bdf, cap + 4, address);
    if (header & MSI_64BIT) {
        pci_write(dev->bdf, cap + 8, 0);
        pci_write(dev->bdf, cap + 12, vector);
    } else {
        pci_write(dev->bdf, cap + 8, vector);
    }
    /* MSI_VECTORS = 0 is one, whatever the device offers. */
    pci_write(dev->bdf, cap, (header & ~MSI_VECTORS) | MSI_ENABLE);
    return true;
}

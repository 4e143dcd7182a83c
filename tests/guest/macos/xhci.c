/*
 * The host controller: start and commands
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "xhci.h"

/* Capability registers, 5.3 */
#define HCSPARAMS1          0x04
#define HCCPARAMS1          0x10
#define   HCC_CSZ               (1 << 2)
#define DBOFF               0x14
#define RTSOFF              0x18

XHCI xhci;

static void reset(void)
{
    write32(xhci.oper + USBCMD, 0);
    while (!(read32(xhci.oper + USBSTS) & STS_HCH)) {
        pause_us(100);
    }
    write32(xhci.oper + USBCMD, CMD_HCRST);
    while (read32(xhci.oper + USBCMD) & CMD_HCRST ||
           read32(xhci.oper + USBSTS) & STS_CNR) {
        pause_us(100);
    }
}

void xhci_start(PCIDevice *pci)
{
    uint32_t params = read32(pci->bar + HCSPARAMS1);
    unsigned int max_intrs = params >> 8 & 0x7ff;
    uint32_t *segment_tables = alloc_page();

    if (max_intrs < MACOS_MIN_INTRS) {
        fail("MaxIntrs is %u, and macOS drives no controller with less than %u",
             max_intrs, MACOS_MIN_INTRS);
    }
    xhci.max_ports = params >> 24;
    xhci.context_size = read32(pci->bar + HCCPARAMS1) & HCC_CSZ ? 64 : 32;
    xhci.oper = pci->bar + (read32(pci->bar) & 0xff);
    xhci.doorbell = pci->bar + read32(pci->bar + DBOFF);
    xhci.runtime = pci->bar + read32(pci->bar + RTSOFF);

    reset();
    choose_interrupts(pci);

    xhci.contexts = alloc_page();
    ring_init(&xhci.command);
    write32(xhci.oper + CONFIG, MAX_SLOTS);
    write64(xhci.oper + DCBAAP, (uintptr_t)xhci.contexts);
    write64(xhci.oper + CRCR, (uintptr_t)xhci.command.trbs | CRCR_RCS);
    for (unsigned int n = 0; n < NUM_RINGS; n++) {
        /* Tables start at multiples of 64 bytes, 6.5. */
        event_ring_start(n, segment_tables + 16 * n);
    }
    write32(xhci.oper + USBCMD, CMD_RS | CMD_INTE);
}

/* Commands, 4.6 */

unsigned int command(unsigned int type, void *parameter,
                            unsigned int slot)
{
    unsigned int code;

    ring_put(&xhci.command, (Trb) {
        .parameter = (uintptr_t)parameter,
        .control = TRB_TYPE(type) | slot << 24,
    });
    xhci.command_busy = true;
    write32(xhci.doorbell, 0);
    while (xhci.command_busy) {
        idle();
    }
    code = xhci.command_event.status >> 24;
    if (code != CODE_SUCCESS) {
        fail("command %u ends with code %u", type, code);
    }
    return xhci.command_event.control >> 24;
}

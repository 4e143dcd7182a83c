/*
 * Devices of the host controller: ports, contexts and transfers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "xhci.h"

/* What one TRB can transfer, if the buffer starts at a multiple of it */
#define TRB_MAX_LENGTH      0x10000

/* The Interrupter Target for the events of an endpoint */
static unsigned int interrupter_of(const Endpoint *ep)
{
    switch (ep->type & ~EP_IN) {
    case EP_ISOCH:
        return MACOS_ISOCHRONOUS;   /* No such device is driven here. */
    default:                        /* control, bulk and interrupt */
        return MACOS_TRANSFERS;
    }
}

unsigned int xhci_max_ports(void)
{
    return xhci.max_ports;
}

bool xhci_reset_port(unsigned int port, unsigned int *speed)
{
    uintptr_t reg = xhci.oper + PORTSC(port);

    if (!(read32(reg) & PORTSC_CCS)) {
        return false;
    }
    write32(reg, PORTSC_PP | PORTSC_PR);
    while (!(read32(reg) & PORTSC_PED)) {
        idle();
    }
    *speed = read32(reg) >> 10 & 15;
    return true;
}

/* A context of the input context, 6.2.5: 1 is the slot's, 2 endpoint 0's */
static uint32_t *input_context(Device *dev, unsigned int index)
{
    return (uint32_t *)(dev->input_context + index * xhci.context_size);
}

/* What the command is to add: of the device context, these */
static void input_context_add(Device *dev, uint32_t contexts)
{
    input_context(dev, 0)[1] = contexts;
}

/* Endpoint context, 6.2.3 */
static void endpoint_init(Endpoint *ep, Device *dev)
{
    uint32_t *context = input_context(dev, ep->id + 1);

    ep->dev = dev;
    ring_init(&ep->ring);
    xhci.endpoints[dev->slot][ep->id] = ep;

    context[0] = ep->interval << 16;
    context[1] = ep->max_packet << 16 | ep->type << 3 | 3 << 1;
    context[2] = (uintptr_t)ep->ring.trbs | 1;      /* cycle state */
    context[3] = 0;
    context[4] = ep->max_packet;                    /* average length */
}

void xhci_address_device(Device *dev)
{
    uint32_t *slot_context;

    dev->slot = command(TRB_ENABLE_SLOT, NULL, 0);
    dev->input_context = alloc_page();
    xhci.contexts[dev->slot] = (uintptr_t)alloc_page();

    slot_context = input_context(dev, 1);
    slot_context[0] = 1 << 27 | dev->speed << 20;   /* one endpoint */
    slot_context[1] = dev->port << 16;
    dev->control.id = 1;
    dev->control.type = EP_CONTROL;
    endpoint_init(&dev->control, dev);
    input_context_add(dev, 1 << 0 | 1 << 1);
    command(TRB_ADDRESS_DEVICE, dev->input_context, dev->slot);
}

void xhci_configure_endpoints(Device *dev, Endpoint **eps, unsigned int count)
{
    uint32_t *slot_context = input_context(dev, 1);
    uint32_t add = 1 << 0;
    unsigned int last = 1;

    for (unsigned int i = 0; i < count; i++) {
        endpoint_init(eps[i], dev);
        add |= 1 << eps[i]->id;
        if (eps[i]->id > last) {
            last = eps[i]->id;
        }
    }
    slot_context[0] = last << 27 | dev->speed << 20;
    input_context_add(dev, add);
    command(TRB_CONFIGURE, dev->input_context, dev->slot);
}

/* Transfers */

static void put_transfer(Endpoint *ep, uint64_t parameter, uint32_t length,
                         uint32_t control)
{
    ring_put(&ep->ring, (Trb) {
        .parameter = parameter,
        .status = TRB_TARGET(interrupter_of(ep)) | length,
        .control = control,
    });
}

static void start_transfers(Endpoint *ep)
{
    ep->busy = true;
    write32(xhci.doorbell + 4 * ep->dev->slot, ep->id);
}

/* @setup is the Setup Packet of USB 2.0, 9.3; the data stage is IN. */
void xhci_control(Device *dev, uint64_t setup, void *data)
{
    Endpoint *ep = &dev->control;
    uint32_t length = setup >> 48;

    put_transfer(ep, setup, 8, TRB_TYPE(TRB_SETUP) | TRB_IDT |
                 (length ? TRB_IN_DATA_STAGE : 0));
    if (length) {
        put_transfer(ep, (uintptr_t)data, length,
                     TRB_TYPE(TRB_DATA) | TRB_DIR_IN);
    }
    put_transfer(ep, 0, 0, TRB_TYPE(TRB_STATUS) | TRB_IOC |
                 (length ? 0 : TRB_DIR_IN));
    start_transfers(ep);
}

void xhci_transfer(Endpoint *ep, void *data, unsigned int length)
{
    uintptr_t addr = (uintptr_t)data;

    while (length > TRB_MAX_LENGTH) {
        put_transfer(ep, addr, TRB_MAX_LENGTH,
                     TRB_TYPE(TRB_NORMAL) | TRB_CHAIN);
        addr += TRB_MAX_LENGTH;
        length -= TRB_MAX_LENGTH;
    }
    put_transfer(ep, addr, length, TRB_TYPE(TRB_NORMAL) | TRB_IOC | TRB_ISP);
    start_transfers(ep);
}

bool xhci_wait(Endpoint *ep)
{
    while (ep->busy) {
        idle();
    }
    return ep->code == CODE_SUCCESS || ep->code == CODE_SHORT_PACKET;
}

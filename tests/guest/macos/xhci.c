/*
 * The host controller: three event rings, commands, transfers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "guest.h"

/* Capability registers, 5.3 */
#define HCSPARAMS1          0x04
#define HCCPARAMS1          0x10
#define   HCC_CSZ               (1 << 2)
#define DBOFF               0x14
#define RTSOFF              0x18

/* Operational registers, 5.4 */
#define USBCMD              0x00
#define   CMD_RS                (1 << 0)
#define   CMD_HCRST             (1 << 1)
#define   CMD_INTE              (1 << 2)
#define USBSTS              0x04
#define   STS_HCH               (1 << 0)
#define   STS_CNR               (1 << 11)
#define CRCR                0x18
#define   CRCR_RCS              (1 << 0)
#define DCBAAP              0x30
#define CONFIG              0x38
#define PORTSC(port)        (0x400 + 0x10 * ((port) - 1))
#define   PORTSC_CCS            (1 << 0)
#define   PORTSC_PED            (1 << 1)
#define   PORTSC_PR             (1 << 4)
#define   PORTSC_PP             (1 << 9)
#define   PORTSC_CHANGES        (0x7f << 17)

/* Runtime registers, 5.5, of one interrupter */
#define INTERRUPTER(n)      (0x20 + 0x20 * (n))
#define IMAN                0x00
#define   IMAN_IP               (1 << 0)
#define   IMAN_IE               (1 << 1)
#define IMOD                0x04
#define ERSTSZ              0x08
#define ERSTBA              0x10
#define ERDP                0x18
#define   ERDP_EHB              (1 << 3)

/* TRBs, 6.4 */
#define RING_TRBS           (PAGE_SIZE / sizeof(Trb))
#define TRB_TYPE(type)      ((type) << 10)
#define TRB_NORMAL          1
#define TRB_SETUP           2
#define TRB_DATA            3
#define TRB_STATUS          4
#define TRB_LINK            6
#define TRB_ENABLE_SLOT     9
#define TRB_ADDRESS_DEVICE  11
#define TRB_CONFIGURE       12
#define EVENT_TRANSFER      32
#define EVENT_COMMAND       33
#define EVENT_PORT          34
#define TRB_CYCLE           (1 << 0)
#define TRB_TOGGLE          (1 << 1)
#define TRB_ISP             (1 << 2)
#define TRB_CHAIN           (1 << 4)
#define TRB_IOC             (1 << 5)
#define TRB_IDT             (1 << 6)
#define TRB_DIR_IN          (1 << 16)
#define TRB_IN_DATA_STAGE   (3 << 16)
#define TRB_TARGET(n)       ((n) << 22)

#define CODE_SUCCESS        1
#define CODE_SHORT_PACKET   13

/* What one TRB can transfer, if the buffer starts at a multiple of it */
#define TRB_MAX_LENGTH      0x10000

/* Which interrupter is for what, in macOS; see docs/macos-guest.md */
#define MACOS_MIN_INTRS     4
#define MACOS_PRIMARY       0       /* commands and ports: not by choice */
#define MACOS_TRANSFERS     1
#define MACOS_ISOCHRONOUS   2

static struct {
    uintptr_t oper, runtime, doorbell;
    unsigned int context_size;
    unsigned int max_ports;
    enum { MODE_PIN, MODE_MSI, MODE_MSIX } mode;
    uint64_t *contexts;             /* DCBAA, 6.1 */
    Ring command;
    Ring event[NUM_RINGS];
    bool command_busy;
    Trb command_event;
    Endpoint *endpoints[MAX_SLOTS + 1][32];
} xhci;

Statistics statistics;

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

/* Rings, 4.9 */

static void ring_init(Ring *ring)
{
    ring->trbs = alloc_page();
    ring->index = 0;
    ring->cycle = true;
}

/* The cycle bit gives the TRB to the controller, so it is written last. */
static void trb_write(volatile Trb *to, Trb trb, bool cycle)
{
    to->parameter = trb.parameter;
    to->status = trb.status;
    to->control = trb.control | (cycle ? TRB_CYCLE : 0);
}

static void ring_put(Ring *ring, Trb trb)
{
    trb_write(&ring->trbs[ring->index++], trb, ring->cycle);

    if (ring->index == RING_TRBS - 1) {
        Trb link = {
            .parameter = (uintptr_t)ring->trbs,
            .control = TRB_TYPE(TRB_LINK) | TRB_TOGGLE |
                       (trb.control & TRB_CHAIN),
        };

        trb_write(&ring->trbs[ring->index], link, ring->cycle);
        ring->index = 0;
        ring->cycle = !ring->cycle;
    }
}

static bool event_ring_is_empty(const Ring *ring)
{
    uint32_t control = ring->trbs[ring->index].control;

    return (control & TRB_CYCLE) != (ring->cycle ? TRB_CYCLE : 0);
}

static Trb event_ring_take(Ring *ring)
{
    Trb trb = ring->trbs[ring->index];

    if (++ring->index == RING_TRBS) {
        ring->index = 0;
        ring->cycle = !ring->cycle;
    }
    return trb;
}

/* Interrupters and their event rings */

static uintptr_t interrupter(unsigned int n, unsigned int reg)
{
    return xhci.runtime + INTERRUPTER(n) + reg;
}

/* In the order in which macOS writes these */
static void event_ring_start(unsigned int n, uint32_t *segment_table)
{
    Ring *ring = &xhci.event[n];

    ring_init(ring);
    segment_table[0] = (uintptr_t)ring->trbs;
    segment_table[2] = RING_TRBS;

    write64(interrupter(n, ERDP), (uintptr_t)ring->trbs);
    write32(interrupter(n, ERSTSZ), 1);
    write64(interrupter(n, ERSTBA), (uintptr_t)segment_table);
    write32(interrupter(n, IMOD), 0);
    write32(interrupter(n, IMAN), IMAN_IE);
}

/*
 * Whether the interrupter signalled that it has something.  With messages IP
 * is clear again by the time that anybody looks, 4.17.5; EHB is not.
 */
static bool event_ring_is_signalled(unsigned int n)
{
    if (xhci.mode == MODE_PIN) {
        return read32(interrupter(n, IMAN)) & IMAN_IP;
    }
    return read32(interrupter(n, ERDP)) & ERDP_EHB;
}

static void transfer_event(const Event *event)
{
    unsigned int slot = event->trb.control >> 24;
    unsigned int id = event->trb.control >> 16 & 31;
    Endpoint *ep = slot <= MAX_SLOTS ? xhci.endpoints[slot][id] : NULL;

    if (!ep) {
        fail("transfer event for slot %u, endpoint %u", slot, id);
    }
    ep->code = event->trb.status >> 24;
    ep->residual = event->trb.status & 0xffffff;
    ep->busy = false;
    if (ep->on_event) {
        ep->on_event(ep, event);
    }
}

static void port_event(unsigned int port)
{
    uint32_t portsc = read32(xhci.oper + PORTSC(port));

    write32(xhci.oper + PORTSC(port), portsc & (PORTSC_PP | PORTSC_CHANGES));
}

static void handle_event(const Event *event)
{
    unsigned int type = event->trb.control >> 10 & 63;

    statistics.events[event->ring]++;
    statistics.watchdog_events += event->watchdog;

    switch (type) {
    case EVENT_TRANSFER:
        transfer_event(event);
        break;
    case EVENT_COMMAND:
        xhci.command_event = event->trb;
        xhci.command_busy = false;
        break;
    case EVENT_PORT:
        port_event(event->trb.parameter >> 24 & 0xff);
        break;
    default:
        fail("event of type %u", type);
    }
}

/* IP is left alone with messages: the controller has cleared it. */
static void event_ring_serve(unsigned int n, bool watchdog)
{
    Ring *ring = &xhci.event[n];

    while (!event_ring_is_empty(ring)) {
        Event event = {
            .trb = event_ring_take(ring),
            .ring = n,
            .watchdog = watchdog,
        };

        handle_event(&event);
    }
    if (xhci.mode == MODE_PIN) {
        write32(interrupter(n, IMAN), IMAN_IE | IMAN_IP);
    }
    write64(interrupter(n, ERDP),
            (uintptr_t)&ring->trbs[ring->index] | ERDP_EHB);
}

/* Interrupts */

static void serve_signalled(unsigned int first, unsigned int last)
{
    bool found = false;

    statistics.interrupts++;
    for (unsigned int n = first; n <= last; n++) {
        if (event_ring_is_signalled(n)) {
            found = true;
            event_ring_serve(n, false);
        }
    }
    statistics.idle_interrupts += !found;
}

void xhci_line_interrupt(void)
{
    serve_signalled(0, NUM_RINGS - 1);
}

/* With MSI there is one message for all, with MSI-X one for each ring. */
void xhci_message_interrupt(unsigned int n)
{
    if (xhci.mode == MODE_MSI) {
        serve_signalled(0, NUM_RINGS - 1);
    } else {
        serve_signalled(n, n);
    }
}

/*
 * Once a second: what nobody signalled.  An event can be on its ring a little
 * before its interrupt gets here, which goes first.
 */
void xhci_watchdog(void)
{
    for (unsigned int n = 0; n < NUM_RINGS; n++) {
        if (!event_ring_is_empty(&xhci.event[n])) {
            pause_us(1000);
        }
        if (!event_ring_is_empty(&xhci.event[n])) {
            event_ring_serve(n, true);
        }
    }
}

static void choose_interrupts(PCIDevice *pci)
{
    if (pci_enable_msix(pci, NUM_RINGS, MESSAGE_ADDRESS, MESSAGE_VECTOR)) {
        xhci.mode = MODE_MSIX;
    } else if (pci_enable_msi(pci, MESSAGE_ADDRESS, MESSAGE_VECTOR)) {
        xhci.mode = MODE_MSI;
    } else {
        xhci.mode = MODE_PIN;
        interrupts_enable_line(pci->line);
    }
}

const char *xhci_mode(void)
{
    static const char *const names[] = {
        [MODE_PIN] = "pin",
        [MODE_MSI] = "msi",
        [MODE_MSIX] = "msix",
    };

    return names[xhci.mode];
}

/* Start */

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

static unsigned int command(unsigned int type, void *parameter,
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

/* Ports and devices */

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

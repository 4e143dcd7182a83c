/*
 * Interrupters and their event rings
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "xhci.h"

Statistics statistics;

static uintptr_t interrupter(unsigned int n, unsigned int reg)
{
    return xhci.runtime + INTERRUPTER(n) + reg;
}

/* In the order in which macOS writes these */
void event_ring_start(unsigned int n, uint32_t *segment_table)
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

void choose_interrupts(PCIDevice *pci)
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

/*
 * The rings of the host controller, 4.9
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "xhci.h"

void ring_init(Ring *ring)
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

void ring_put(Ring *ring, Trb trb)
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

bool event_ring_is_empty(const Ring *ring)
{
    uint32_t control = ring->trbs[ring->index].control;

    return (control & TRB_CYCLE) != (ring->cycle ? TRB_CYCLE : 0);
}

Trb event_ring_take(Ring *ring)
{
    Trb trb = ring->trbs[ring->index];

    if (++ring->index == RING_TRBS) {
        ring->index = 0;
        ring->cycle = !ring->cycle;
    }
    return trb;
}

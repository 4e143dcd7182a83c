/*
 * usb-storage behind an xHCI controller, for its qtests
 *
 * Section numbers are those of USB Mass Storage Class, Bulk-Only Transport
 * (BOT), revision 1.0.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "libqtest.h"
#include "usb-xhci-storage.h"

/* Command Block Wrapper, BOT 5.1 */
#define CBW_SIZE            31
#define CBW_FLAGS_IN        0x80

/* Command Status Wrapper, BOT 5.2 */
#define CSW_SIZE            13

const XHCIStorageCommand xhci_test_unit_ready = { { 0x00 } };

static void fill_ctx(QXHCI *x, XHCIStorage *s, unsigned int epid,
                     unsigned int ep_type)
{
    QTestState *qts = x->pdev.bus->qts;
    uint64_t ctx = s->dev.in_ctx + (epid + 1) * x->ctx_size;
    QXHCIRing *ring = &s->ring[epid];

    ring->addr = xhci_alloc(x, QXHCI_RING_TRBS * QXHCI_TRB_SIZE);
    ring->cycle = true;
    qtest_writel(qts, ctx + 4, 512 << 16 | ep_type << 3 | 3 << 1);
    qtest_writeq(qts, ctx + 8, ring->addr | 1 /* DCS */);
}

void xhci_storage_start_at(QXHCI *x, XHCIStorage *s, uint32_t route,
                           unsigned int size)
{
    QTestState *qts = x->pdev.bus->qts;

    memset(s, 0, sizeof(*s));
    xhci_start(x, &s->dev, &xhci_pin_mode);
    if (route) {
        /* From the hub, which needs no driver in QEMU, to the disk */
        qtest_writel(qts, s->dev.in_ctx + x->ctx_size, 1 << 27 | route);
        qxhci_command(x, QXHCI_TRB_ADDRESS_DEV, s->dev.in_ctx, s->dev.slot);
    }
    qxhci_set_configuration(x, &s->dev);
    fill_ctx(x, s, XHCI_STORAGE_IN, QXHCI_EP_TYPE_BULK_IN);
    fill_ctx(x, s, XHCI_STORAGE_OUT, QXHCI_EP_TYPE_BULK_OUT);
    /* The controller goes by the Endpoint Type, not by the endpoint ID */
    fill_ctx(x, s, XHCI_STORAGE_OTHER, QXHCI_EP_TYPE_BULK_IN);
    qtest_writel(qts, s->dev.in_ctx + 4, BIT(0) | BIT(XHCI_STORAGE_IN) |
                 BIT(XHCI_STORAGE_OUT) | BIT(XHCI_STORAGE_OTHER));
    qtest_writel(qts, s->dev.in_ctx + x->ctx_size, XHCI_STORAGE_OUT << 27);
    qxhci_command(x, QXHCI_TRB_CONFIG_EP, s->dev.in_ctx, s->dev.slot);
    s->buf = xhci_alloc(x, size);
    /* This one only tells that the unit was reset */
    xhci_storage_command(x, s, &xhci_test_unit_ready);
    xhci_storage_status(x, s);
}

void xhci_storage_start(QXHCI *x, XHCIStorage *s, unsigned int size)
{
    xhci_storage_start_at(x, s, 0, size);
}

uint64_t xhci_storage_submit(QXHCI *x, XHCIStorage *s, unsigned int epid,
                             unsigned int len)
{
    return xhci_submit_bulk(x, &s->dev, &s->ring[epid], epid, s->buf, len);
}

void xhci_storage_transfer(QXHCI *x, XHCIStorage *s, unsigned int epid,
                           unsigned int len)
{
    xhci_assert_completion(x, xhci_storage_submit(x, s, epid, len),
                           QXHCI_CC_SUCCESS);
}

uint64_t xhci_storage_submit_command(QXHCI *x, XHCIStorage *s,
                                     const XHCIStorageCommand *c)
{
    uint8_t cbw[CBW_SIZE] = { 'U', 'S', 'B', 'C', };

    stl_le_p(cbw + 8, c->len);
    cbw[12] = c->out ? 0 : CBW_FLAGS_IN;
    cbw[14] = sizeof(c->cdb);
    memcpy(cbw + 15, c->cdb, sizeof(c->cdb));
    qtest_memwrite(x->pdev.bus->qts, s->buf, cbw, sizeof(cbw));
    return xhci_storage_submit(x, s, XHCI_STORAGE_OUT, sizeof(cbw));
}

void xhci_storage_command(QXHCI *x, XHCIStorage *s,
                          const XHCIStorageCommand *c)
{
    xhci_assert_completion(x, xhci_storage_submit_command(x, s, c),
                           QXHCI_CC_SUCCESS);
}

void xhci_storage_status(QXHCI *x, XHCIStorage *s)
{
    xhci_storage_transfer(x, s, XHCI_STORAGE_IN, CSW_SIZE);
}

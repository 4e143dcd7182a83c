/*
 * QTest testcase for xHCI USB host controllers: transfers gone wrong
 *
 * Endpoint contexts and TRBs that no driver would write, which must not stop
 * QEMU.  Section numbers are those of the xHCI specification, revision 1.2.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/pci/pci_ids.h"
#include "hw/pci/pci_regs.h"
#include "libqtest.h"
#include "libqos/qgraph.h"
#include "libqos/qos_external.h"
#include "usb-xhci-utils.h"

/* Endpoint Types, 6.2.3 */
#define EP_TYPE_INVALID     0

/* The first endpoint ID after endpoint 0, and the last one */
#define EPID_FIRST          2
#define EPID_LAST           31

/* EP State, 6.2.3 */
#define EP_STATE_MASK       7
#define EP_STATE_DISABLED   0

/* NEC's command and event, and the completion code of others, 6.4.5 */
#define TRB_NEC_CHALLENGE   50
#define TRB_EV_NEC          48
#define CC_TRB_ERROR        5

/* Where nothing is that QEMU could map */
#define NO_MEMORY           (1ULL << 50)

static void submit(QXHCI *x, QXHCIDevice *dev, uint32_t flags)
{
    qxhci_submit_intr_in(x, dev, XHCI_KBD_EP, XHCI_KBD_REPORT_SIZE, 0, flags);
    qxhci_step(x, 20);
}

/* An interrupt endpoint NAKs, which an isochronous one would never do */
static void test_isoch_nak(QXHCI *x, const void *arg)
{
    QXHCIDevice dev;

    xhci_start_kbd(x, &dev, &xhci_pin_mode);
    g_assert_cmpuint(xhci_configure_kbd_as(x, &dev, QXHCI_EP_TYPE_ISOCH_IN), ==,
                     QXHCI_CC_SUCCESS);
    for (int i = 0; i < 3; i++) {
        submit(x, &dev, QXHCI_TRB_SIA);
    }
    qxhci_drain(x);
    xhci_assert_delivery(x, &dev, &xhci_pin_mode, 0);
}

/* 6.2.3: there is no endpoint of type 0 */
static void test_invalid_type(QXHCI *x, const void *arg)
{
    QXHCIDevice dev;
    QXHCITrb ev;

    xhci_start_kbd(x, &dev, &xhci_pin_mode);
    g_assert_cmpuint(xhci_configure_kbd_as(x, &dev, EP_TYPE_INVALID), ==,
                     QXHCI_CC_PARAMETER);
    submit(x, &dev, 0);

    /* The context of this one is all zero */
    qtest_writel(x->pdev.bus->qts, dev.in_ctx + 4, BIT(0) | BIT(EPID_FIRST));
    ev = qxhci_try_command(x, QXHCI_TRB_CONFIG_EP, dev.in_ctx, dev.slot);
    g_assert_cmpuint(QXHCI_TRB_CC(&ev), ==, QXHCI_CC_PARAMETER);
    xhci_assert_delivery(x, &dev, &xhci_pin_mode, 0);
}

/* An interval of 125 us * 2 ** 255; legal are exponents up to 15, 6.2.3 */
static void test_interval(QXHCI *x, const void *arg)
{
    QXHCIDevice dev;
    uint64_t trb;

    xhci_start_kbd(x, &dev, &xhci_pin_mode);
    qtest_writel(x->pdev.bus->qts,
                 dev.in_ctx + (XHCI_KBD_EP + 1) * x->ctx_size, 255 << 16);
    qxhci_command(x, QXHCI_TRB_CONFIG_EP, dev.in_ctx, dev.slot);
    trb = qxhci_submit_intr_in(x, &dev, XHCI_KBD_EP, XHCI_KBD_REPORT_SIZE, 0,
                               0);
    xhci_send_key(x, true);
    qxhci_step(x, 70 * 1000);
    xhci_take_event(x, &dev, 0, trb);
}

/* A control transfer that reads 18 bytes, with a Data Stage of its own kind */
static void submit_read(QXHCI *x, QXHCIDevice *dev, uint32_t len,
                        uint32_t flags)
{
    qxhci_ring_put(x, &dev->ep0, (QXHCITrb) {
        .parameter = 0x0012000001000680ULL,
        .status = 8,
        .control = QXHCI_TRB_SETUP << 10 | QXHCI_TRB_IDT | QXHCI_TRB_TRT_IN,
    });
    qxhci_ring_put(x, &dev->ep0, (QXHCITrb) {
        .parameter = dev->buf,
        .status = len,
        .control = QXHCI_TRB_DATA << 10 | flags,
    });
    qxhci_ring_put(x, &dev->ep0, (QXHCITrb) {
        .control = QXHCI_TRB_STATUS << 10 | QXHCI_TRB_IOC,
    });
    qxhci_doorbell(x, dev->slot, QXHCI_EP0);
}

/* The buffer is smaller than wLength */
static void test_short_buffer(QXHCI *x, const void *arg)
{
    QXHCIDevice dev;
    QXHCITrb ev;

    xhci_start(x, &dev, &xhci_pin_mode);
    submit_read(x, &dev, 4, QXHCI_TRB_DIR_IN);
    qxhci_event_wait(x, 0, &ev);
    g_assert_cmpuint(QXHCI_TRB_CC(&ev), ==, QXHCI_CC_STALL);
    qxhci_ack(x, 0);
    qxhci_command(x, QXHCI_TRB_NOOP_CMD, 0, 0);
}

/* The Data Stage goes the other way: QEMU gives up the controller (HCE) */
static void test_direction(QXHCI *x, const void *arg)
{
    QXHCIDevice dev;

    xhci_start(x, &dev, &xhci_pin_mode);
    submit_read(x, &dev, 18, 0);
    g_assert_cmphex(qxhci_oper_read(x, QXHCI_USBSTS) & QXHCI_USBSTS_HCE, ==,
                    QXHCI_USBSTS_HCE);
}

/* TDs that cannot be started do not stay in QEMU, nor in the way of others */
static void test_malformed(QXHCI *x, const void *arg)
{
    QXHCIDevice dev;

    xhci_start(x, &dev, &xhci_pin_mode);
    for (int i = 0; i < 40; i++) {
        /* A control transfer without a Setup Stage */
        qxhci_ring_put(x, &dev.ep0, (QXHCITrb) {
            .control = QXHCI_TRB_STATUS << 10,
        });
        qxhci_doorbell(x, dev.slot, QXHCI_EP0);
    }
    qxhci_step(x, 20);
    xhci_assert_delivery(x, &dev, &xhci_pin_mode, 0);
}

/*
 * A buffer that is not in memory.  QEMU has one page to bounce such data, which
 * a transfer that was NAKed must not keep.
 */
static void test_bounce(QXHCI *x, const void *arg)
{
    QXHCIDevice dev;
    QXHCITrb ev;
    uint64_t trb;

    xhci_start_kbd(x, &dev, &xhci_pin_mode);
    trb = qxhci_ring_put(x, &dev.intr_in, (QXHCITrb) {
        .parameter = NO_MEMORY,
        .status = 4096,
        .control = QXHCI_TRB_NORMAL << 10 | QXHCI_TRB_IOC,
    });
    for (int i = 0; i < 2; i++) {
        qxhci_doorbell(x, dev.slot, XHCI_KBD_EP);
        qxhci_step(x, 20);
    }
    xhci_send_key(x, true);
    qxhci_event_wait(x, 0, &ev);
    g_assert_cmphex(ev.parameter, ==, trb);
    g_assert_cmpuint(QXHCI_TRB_CC(&ev), ==, QXHCI_CC_SHORT_PACKET);
    qxhci_ack(x, 0);
}

/* Address Device again, for @port */
static void address_again(QXHCI *x, QXHCIDevice *dev, uint32_t port)
{
    QTestState *qts = x->pdev.bus->qts;

    qtest_writel(qts, dev->in_ctx + 4, BIT(0) | BIT(QXHCI_EP0));
    qtest_writel(qts, dev->in_ctx + x->ctx_size + 4, port << 16);
    qxhci_command(x, QXHCI_TRB_ADDRESS_DEV, dev->in_ctx, dev->slot);
}

/* A slot that keeps its port keeps what is pending, too */
static void test_same_port(QXHCI *x, const void *arg)
{
    QXHCIDevice dev;
    uint64_t trb;

    xhci_start_kbd(x, &dev, &xhci_pin_mode);
    trb = qxhci_submit_intr_in(x, &dev, XHCI_KBD_EP, XHCI_KBD_REPORT_SIZE, 0,
                               0);
    qxhci_step(x, 20);
    /* The type of endpoint 0 does not matter */
    qtest_writel(x->pdev.bus->qts,
                 dev.in_ctx + (QXHCI_EP0 + 1) * x->ctx_size + 4,
                 64 << 16 | EP_TYPE_INVALID << 3);
    address_again(x, &dev, dev.port);
    xhci_send_key(x, true);
    xhci_take_event(x, &dev, 0, trb);
}

/*
 * A slot that goes to another port while a transfer of its device is pending.
 * That device is unplugged then, and must not be used any more.
 */
static void test_other_port(void *obj, void *data, QGuestAllocator *alloc)
{
    static const unsigned int epids[] = { EPID_LAST, XHCI_KBD_EP };
    QXHCI *x = obj;
    QTestState *qts = x->pdev.bus->qts;
    QXHCIDevice dev;
    uint32_t port;

    if (qpci_check_buggy_msi(&x->pdev)) {
        return;
    }
    qtest_qmp_device_add(qts, "usb-kbd", "second", "{}");
    xhci_start(x, &dev, &xhci_pin_mode);
    for (int i = 0; i < ARRAY_SIZE(epids); i++) {
        qxhci_configure_intr_in(x, &dev, epids[i], XHCI_KBD_REPORT_SIZE);
    }
    submit(x, &dev, 0);

    port = dev.port + 1;
    qxhci_oper_write(x, QXHCI_PORTSC(port), QXHCI_PORTSC_PP | QXHCI_PORTSC_PR);
    qxhci_step(x, 20);
    qxhci_drain(x);
    address_again(x, &dev, port);

    qtest_qmp_device_del(qts, "first");
    qxhci_doorbell(x, dev.slot, XHCI_KBD_EP);
    qxhci_step(x, 20);
    xhci_send_key(x, true);
    qxhci_step(x, 20);
    qxhci_drain(x);
    xhci_assert_quiet(x);
    for (int i = 0; i < ARRAY_SIZE(epids); i++) {
        uint64_t ctx = dev.out_ctx + epids[i] * x->ctx_size;

        g_assert_cmphex(qtest_readl(qts, ctx) & EP_STATE_MASK, ==,
                        EP_STATE_DISABLED);
    }
    qos_invalidate_command_line();
}

/* The answer of NEC's controller, whichever bits it rotates by how much */
static void test_nec_challenge(QXHCI *x, const void *arg)
{
    static const struct {
        uint32_t hi, lo, answer;
    } challenges[] = {
        { 0x00000000, 0x00000000, 0x49434877 },
        { 0x12345678, 0x9abcdef0, 0xb6799073 },
        { 0xfedcff01, 0x0001ffff, 0x6f376ef5 },
    };
    bool nec = qpci_config_readw(&x->pdev, PCI_VENDOR_ID) == PCI_VENDOR_ID_NEC;
    QXHCIDevice dev;
    QXHCITrb ev;

    xhci_start(x, &dev, &xhci_pin_mode);
    for (int i = 0; i < ARRAY_SIZE(challenges); i++) {
        qxhci_ring_put(x, &x->cmd, (QXHCITrb) {
            .parameter = (uint64_t)challenges[i].hi << 32 | challenges[i].lo,
            .control = TRB_NEC_CHALLENGE << 10,
        });
        qxhci_doorbell(x, 0, 0);
        qxhci_event_wait(x, 0, &ev);
        qxhci_ack(x, 0);
        if (nec) {
            g_assert_cmpuint(QXHCI_TRB_TYPE(&ev), ==, TRB_EV_NEC);
            g_assert_cmphex((ev.control & 0xffff0000) | (ev.status & 0xffff),
                            ==, challenges[i].answer);
        } else {
            g_assert_cmpuint(QXHCI_TRB_CC(&ev), ==, CC_TRB_ERROR);
        }
    }
}

static void register_transfer_tests(void)
{
    qos_add_test("transfer/other-port", "xhci", test_other_port,
                 &(QOSGraphTestOptions) {
        .edge.extra_device_opts = xhci_pin_mode.device_opts,
        .edge.after_cmd_line = "-device usb-kbd,id=first",
    });
    xhci_add_test("transfer/invalid-type", &xhci_pin_mode, test_invalid_type,
                  NULL);
    xhci_add_test("transfer/interval", &xhci_pin_mode, test_interval, NULL);
    xhci_add_test("transfer/short-buffer", &xhci_pin_mode, test_short_buffer,
                  NULL);
    xhci_add_test("transfer/direction", &xhci_pin_mode, test_direction, NULL);
    xhci_add_test("transfer/malformed", &xhci_pin_mode, test_malformed, NULL);
    xhci_add_test("transfer/bounce", &xhci_pin_mode, test_bounce, NULL);
    xhci_add_test("transfer/same-port", &xhci_pin_mode, test_same_port, NULL);
    xhci_add_test("transfer/nec-challenge", &xhci_pin_mode, test_nec_challenge,
                  NULL);
    xhci_add_test("transfer/isoch-nak", &xhci_pin_mode, test_isoch_nak, NULL);
}

libqos_init(register_transfer_tests);

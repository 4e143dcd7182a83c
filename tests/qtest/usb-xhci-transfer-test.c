/*
 * QTest testcase for xHCI USB host controllers: transfers gone wrong
 *
 * Endpoint contexts and TRBs that no driver would write, which must not stop
 * QEMU.  Section numbers are those of the xHCI specification, revision 1.2.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "libqtest.h"
#include "libqos/qgraph.h"
#include "libqos/qos_external.h"
#include "usb-xhci-utils.h"

/* Endpoint Types, 6.2.3 */
#define EP_TYPE_INVALID     0

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

    xhci_start_kbd(x, &dev, &xhci_pin_mode);
    g_assert_cmpuint(xhci_configure_kbd_as(x, &dev, EP_TYPE_INVALID), ==,
                     QXHCI_CC_PARAMETER);
    submit(x, &dev, 0);
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
 * A slot that goes to another port while a transfer of its device is pending.
 * That device is unplugged then, and must not be used any more.
 */
static void test_other_port(void *obj, void *data, QGuestAllocator *alloc)
{
    QXHCI *x = obj;
    QTestState *qts = x->pdev.bus->qts;
    QXHCIDevice dev;
    uint64_t slot_ctx;
    uint32_t port;

    if (qpci_check_buggy_msi(&x->pdev)) {
        return;
    }
    qtest_qmp_device_add(qts, "usb-kbd", "second", "{}");
    xhci_start_kbd(x, &dev, &xhci_pin_mode);
    submit(x, &dev, 0);

    /* Address Device again, for the next port */
    slot_ctx = dev.in_ctx + x->ctx_size;
    port = dev.port + 1;
    qxhci_oper_write(x, QXHCI_PORTSC(port), QXHCI_PORTSC_PP | QXHCI_PORTSC_PR);
    qxhci_step(x, 20);
    qxhci_drain(x);
    qtest_writel(qts, dev.in_ctx + 4, BIT(0) | BIT(QXHCI_EP0));
    qtest_writel(qts, slot_ctx + 4, port << 16);
    qxhci_command(x, QXHCI_TRB_ADDRESS_DEV, dev.in_ctx, dev.slot);

    qtest_qmp_device_del(qts, "first");
    qxhci_doorbell(x, dev.slot, XHCI_KBD_EP);
    qxhci_step(x, 20);
    xhci_send_key(x, true);
    qxhci_step(x, 20);
    qxhci_drain(x);
    xhci_assert_quiet(x);
    qos_invalidate_command_line();
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
    xhci_add_test("transfer/isoch-nak", &xhci_pin_mode, test_isoch_nak, NULL);
}

libqos_init(register_transfer_tests);

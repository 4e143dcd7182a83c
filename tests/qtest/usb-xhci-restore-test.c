/*
 * QTest testcase for xHCI USB host controllers: contexts after a state load
 *
 * What the controller keeps in guest memory is looked at again when a state is
 * loaded.  The guest may have changed it, which must not stop QEMU.
 *
 * Section numbers are those of the xHCI specification, revision 1.2.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "libqtest.h"
#include "libqos/qgraph.h"
#include "usb-xhci-utils.h"

/* 6.4.5 and 6.4.6 */
#define CC_SLOT_NOT_ENABLED 11
#define CC_RING_OVERRUN     15
#define TRB_DISABLE_SLOT    10
#define TRB_EVALUATE        13

/* Two slots have the same port when they are loaded; its device goes then */
static void test_port_twice(void *obj, void *data, QGuestAllocator *alloc)
{
    QXHCI *x = obj;
    QXHCIDevice dev[2];
    QTestState *from;

    if (qpci_check_buggy_msi(&x->pdev)) {
        return;
    }
    xhci_start(x, &dev[0], &xhci_pin_mode);
    qxhci_device_init_port(x, &dev[1], dev[0].port + 1);
    qxhci_configure_intr_in(x, &dev[1], XHCI_KBD_EP, XHCI_KBD_REPORT_SIZE);
    qxhci_drain(x);
    qtest_writel(x->pdev.bus->qts, dev[1].out_ctx + 4, dev[0].port << 16);

    from = xhci_migrate(x, &xhci_pin_mode);
    xhci_assert_delivery(x, &dev[0], &xhci_pin_mode, 0);
    for (int i = 0; i < 3; i++) {
        /* Does not complete, whichever device it is for */
        qxhci_submit_intr_in(x, &dev[1], XHCI_KBD_EP, XHCI_KBD_REPORT_SIZE, 0,
                             0);
        qxhci_step(x, 20);
        if (i == 0) {
            qtest_qmp_device_del(x->pdev.bus->qts, "first");
            qtest_qmp_device_add(x->pdev.bus->qts, "usb-kbd", "third",
                                 "{ 'port': '1' }");
        }
    }
    qxhci_drain(x);
    xhci_assert_quiet(x);
    xhci_end_migrate(x, from);
}

/*
 * The port of one slot has no device when the state is loaded: it is disabled.
 * Another slot is not addressed yet: it stays enabled.
 */
static void test_no_device(QXHCI *x, const void *arg)
{
    unsigned int slot;
    QXHCIDevice dev;
    QTestState *from;
    QXHCITrb ev;

    xhci_start_kbd(x, &dev, &xhci_pin_mode);
    slot = qxhci_command(x, QXHCI_TRB_ENABLE_SLOT, 0, 0);
    qtest_writel(x->pdev.bus->qts, dev.out_ctx + 4, (dev.port + 1) << 16);

    from = xhci_migrate(x, &xhci_pin_mode);
    ev = qxhci_try_command(x, TRB_DISABLE_SLOT, 0, dev.slot);
    g_assert_cmpuint(QXHCI_TRB_CC(&ev), ==, CC_SLOT_NOT_ENABLED);
    qxhci_command(x, TRB_DISABLE_SLOT, 0, slot);
    xhci_end_migrate(x, from);
}

/*
 * The slot has the port of a device that was never reset when it is loaded,
 * and a transfer that QEMU then tries again
 */
static void test_other_device(void *obj, void *data, QGuestAllocator *alloc)
{
    QXHCI *x = obj;
    QXHCIDevice dev;
    QTestState *from;

    if (qpci_check_buggy_msi(&x->pdev)) {
        return;
    }
    xhci_start_kbd(x, &dev, &xhci_pin_mode);
    qxhci_submit_intr_in(x, &dev, XHCI_KBD_EP, XHCI_KBD_REPORT_SIZE, 0, 0);
    qxhci_step(x, 20);
    qxhci_drain(x);
    qtest_writel(x->pdev.bus->qts, dev.out_ctx + 4, (dev.port + 1) << 16);

    from = xhci_migrate(x, &xhci_pin_mode);
    qxhci_step(x, 20);
    xhci_assert_quiet(x);
    qxhci_command(x, QXHCI_TRB_NOOP_CMD, 0, 0);
    xhci_end_migrate(x, from);
}

/*
 * The events that belong to a slot, and not to a TRB, go to the interrupter
 * that the Slot Context names, 6.2.2.  Here it is Ring Overrun, 4.10.3.1.
 */
static void test_slot_target(QXHCI *x, const void *arg)
{
    QXHCIDevice dev;
    QTestState *from;
    QXHCITrb ev;

    xhci_start_kbd(x, &dev, &xhci_msix_mode);
    g_assert_cmpuint(xhci_configure_kbd_as(x, &dev, QXHCI_EP_TYPE_ISOCH_IN), ==,
                     QXHCI_CC_SUCCESS);
    qtest_writel(x->pdev.bus->qts, dev.in_ctx + x->ctx_size + 8, 1 << 22);
    qtest_writel(x->pdev.bus->qts, dev.in_ctx + 4, BIT(0));
    qxhci_command(x, TRB_EVALUATE, dev.in_ctx, dev.slot);
    qxhci_doorbell(x, dev.slot, XHCI_KBD_EP);
    qxhci_event_wait(x, 1, &ev);
    g_assert_cmpuint(QXHCI_TRB_CC(&ev), ==, CC_RING_OVERRUN);
    qxhci_drain(x);

    from = xhci_migrate(x, &xhci_msix_mode);
    qxhci_doorbell(x, dev.slot, XHCI_KBD_EP);
    qxhci_event_wait(x, 1, &ev);
    g_assert_cmpuint(QXHCI_TRB_CC(&ev), ==, CC_RING_OVERRUN);
    qxhci_drain(x);
    xhci_assert_quiet(x);
    xhci_end_migrate(x, from);
}

static void register_restore_tests(void)
{
    xhci_add_setup_test("restore/slot-target", &xhci_msix_mode,
                        test_slot_target);
    xhci_add_setup_test("restore/no-device", &xhci_pin_mode, test_no_device);
    qos_add_test("restore/other-device", "xhci", test_other_device,
                 &(QOSGraphTestOptions) {
        .edge.extra_device_opts = xhci_pin_mode.device_opts,
        .edge.after_cmd_line = "-device usb-kbd -device usb-mouse",
    });
    qos_add_test("restore/port-twice", "xhci", test_port_twice,
                 &(QOSGraphTestOptions) {
        .edge.extra_device_opts = xhci_pin_mode.device_opts,
        .edge.after_cmd_line = "-device usb-kbd,id=first "
                               "-device usb-mouse,id=second",
    });
}

libqos_init(register_restore_tests);

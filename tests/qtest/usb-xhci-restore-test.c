/*
 * QTest testcase for xHCI USB host controllers: a guest that changes contexts
 *
 * What the controller keeps in guest memory may have been changed by the guest
 * when a state is loaded.  That must not stop QEMU.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "libqtest.h"
#include "libqos/qgraph.h"
#include "usb-xhci-utils.h"

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

static void register_restore_tests(void)
{
    qos_add_test("restore/port-twice", "xhci", test_port_twice,
                 &(QOSGraphTestOptions) {
        .edge.extra_device_opts = xhci_pin_mode.device_opts,
        .edge.after_cmd_line = "-device usb-kbd,id=first "
                               "-device usb-mouse,id=second",
    });
}

libqos_init(register_restore_tests);

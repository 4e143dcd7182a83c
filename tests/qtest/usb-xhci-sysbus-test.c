/*
 * QTest testcase for xHCI USB host controllers: controllers on sysbus
 *
 * Interrupter N has line N to itself: microvm's controller has one, that of
 * xlnx-zcu102 four.  Section numbers are those of the xHCI specification,
 * revision 1.2.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "libqtest.h"
#include "libqos/qgraph.h"
#include "libqos/qos_external.h"
#include "libqos/xhci-sysbus.h"
#include "usb-xhci-utils.h"

static void start_sysbus(QSysbusXHCI *s, QXHCIDevice *dev)
{
    qxhci_start(&s->xhci, s->xhci.max_intrs);
    qxhci_device_init(&s->xhci, dev);
    qxhci_drain(&s->xhci);
}

/* Asserts that line @high is high, or none for -1, and the others are low */
static void assert_lines(QSysbusXHCI *s, int high)
{
    qxhci_step(&s->xhci, 20);
    for (int line = 0; line < s->xhci.max_intrs; line++) {
        g_assert_cmpint(qtest_get_irq(s->bus.qts, s->irq + line), ==,
                        line == high);
    }
}

static void test_lines(void *obj, void *data, QGuestAllocator *alloc)
{
    QSysbusXHCI *s = obj;
    QXHCI *x = &s->xhci;
    QXHCIDevice dev;
    uint64_t trb;

    qtest_irq_intercept_in(s->bus.qts, s->intc);
    start_sysbus(s, &dev);
    assert_lines(s, -1);

    for (unsigned int target = 0; target < 4; target++) {
        /* 4.17.1: with a single interrupter, the target is ignored */
        unsigned int ring = x->max_intrs > 1 ? target : 0;

        trb = qxhci_submit_get_descriptor(x, &dev, target);
        xhci_take_event(x, &dev, ring, trb);
        assert_lines(s, ring);
        qxhci_ack(x, ring);
        assert_lines(s, -1);

        /* The line follows IE, INTE and IP */
        trb = qxhci_submit_get_descriptor(x, &dev, target);
        xhci_take_event(x, &dev, ring, trb);
        assert_lines(s, ring);
        xhci_set_ie(x, ring, false);
        assert_lines(s, -1);
        xhci_set_ie(x, ring, true);
        assert_lines(s, ring);
        xhci_set_inte(x, false);
        assert_lines(s, -1);
        xhci_set_inte(x, true);
        assert_lines(s, ring);
        qxhci_ack(x, ring);
        assert_lines(s, -1);

        /* An event that comes while IE is clear */
        xhci_set_ie(x, ring, false);
        trb = qxhci_submit_get_descriptor(x, &dev, target);
        assert_lines(s, -1);
        xhci_set_ie(x, ring, true);
        assert_lines(s, ring);
        xhci_take_event(x, &dev, ring, trb);
        qxhci_ack(x, ring);
        assert_lines(s, -1);
    }

    /* Registers of interrupters that the controller does not have */
    for (unsigned int intr = x->max_intrs; intr < QXHCI_MAX_INTRS; intr++) {
        qxhci_intr_write(x, intr, QXHCI_IMAN, QXHCI_IMAN_IP | QXHCI_IMAN_IE);
        assert_lines(s, -1);
    }
}

/* The lines are low after either kind of reset */
static void test_lines_reset(void *obj, void *data, QGuestAllocator *alloc)
{
    QSysbusXHCI *s = obj;
    QXHCI *x = &s->xhci;
    unsigned int ring = x->max_intrs - 1;
    QXHCIDevice dev;

    qtest_irq_intercept_in(s->bus.qts, s->intc);
    for (int system = 0; system <= 1; system++) {
        start_sysbus(s, &dev);
        qxhci_submit_get_descriptor(x, &dev, ring);
        assert_lines(s, ring);
        if (system) {
            qtest_qmp_assert_success(s->bus.qts,
                                     "{ 'execute': 'system_reset' }");
            qtest_qmp_eventwait(s->bus.qts, "RESET");
        } else {
            qxhci_oper_write(x, QXHCI_USBCMD, QXHCI_USBCMD_HCRST);
        }
        assert_lines(s, -1);
    }
    qos_invalidate_command_line();
}

static void register_sysbus_tests(void)
{
    /* xlnx-zcu102 has another controller, with usb-bus.1 */
    QOSGraphTestOptions opts = {
        .edge.after_cmd_line = "-device usb-kbd,bus=usb-bus.0",
    };

    qos_add_test("lines", "xhci-sysbus", test_lines, &opts);
    qos_add_test("lines-reset", "xhci-sysbus", test_lines_reset, &opts);
}

libqos_init(register_sysbus_tests);

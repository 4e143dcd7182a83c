/*
 * QTest testcase for xHCI USB host controllers: changes of the mode
 *
 * An interrupt that is pending when the interrupt mode changes is not lost: it
 * comes in the new mode.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "libqtest.h"
#include "libqos/qgraph.h"
#include "usb-xhci-utils.h"

typedef struct ModeTest {
    const XHCISetup *from;
    const XHCISetup *to;
} ModeTest;

static void test_pending(QXHCI *x, const void *arg)
{
    const ModeTest *t = arg;
    bool mapping = t->from->mapping;
    QXHCIDevice dev;
    uint64_t trb[2];

    /* Leaves addresses and data of all messages in place */
    qxhci_set_mode(x, QXHCI_MSIX, 0);
    qxhci_set_mode(x, QXHCI_MSI, xhci_msi_mode.msi_vectors);
    xhci_start(x, &dev, t->from);

    /* Signalled already: only on the pin is it still pending */
    trb[0] = qxhci_submit_get_descriptor(x, &dev, 0);
    qxhci_step(x, 20);
    xhci_assert_signalled(x, t->from, 0);
    xhci_switch_mode(x, t->to);
    if (t->from->mode == QXHCI_PIN) {
        xhci_assert_signalled(x, t->to, 0);
    } else {
        xhci_assert_not_signalled(x);
    }
    xhci_take_event(x, &dev, 0, trb[0]);
    qxhci_ack(x, 0);
    xhci_assert_quiet(x);

    /* Held back by INTE until after the change */
    xhci_switch_mode(x, t->from);
    xhci_set_inte(x, false);
    trb[0] = qxhci_submit_get_descriptor(x, &dev, 0);
    trb[1] = qxhci_submit_get_descriptor(x, &dev, 2);
    xhci_assert_not_signalled(x);
    xhci_switch_mode(x, t->to);
    xhci_assert_not_signalled(x);
    xhci_set_inte(x, true);
    if (t->to->mode == QXHCI_MSIX) {
        g_assert_cmphex(qxhci_take_messages(x), ==,
                        mapping ? BIT(0) | BIT(2) : BIT(0));
    } else if (t->to->mode == QXHCI_MSI) {
        /* All MSI messages go to the same address, the last one is there */
        g_assert_cmphex(qxhci_take_messages(x), ==,
                        mapping ? BIT(2) : BIT(0));
    }
    g_assert_cmpint(qxhci_intx(x), ==, t->to->mode == QXHCI_PIN);
    xhci_take_event(x, &dev, 0, trb[0]);
    xhci_take_event(x, &dev, mapping ? 2 : 0, trb[1]);
    qxhci_drain(x);
    xhci_assert_quiet(x);
    xhci_assert_delivery(x, &dev, t->to, 1);
}

static void add_pending_test(const XHCISetup *from, const XHCISetup *to)
{
    ModeTest *t = xhci_test_arg(sizeof(*t));
    g_autofree char *name = g_strdup_printf("switch/pending-%s-to-%s",
                                            from->name, to->name);

    t->from = from;
    t->to = to;
    xhci_add_test(name, &xhci_pin_mode, test_pending, t);
}

static void register_pending_tests(void)
{
    for (int i = 0; i < ARRAY_SIZE(xhci_modes); i++) {
        for (int j = 0; j < ARRAY_SIZE(xhci_modes); j++) {
            if (i != j) {
                add_pending_test(xhci_modes[i], xhci_modes[j]);
            }
        }
    }
}

libqos_init(register_pending_tests);

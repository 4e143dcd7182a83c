/*
 * QTest testcase for xHCI USB host controllers: MSI-X vectors
 *
 * A vector is in use from when MSI-X is enabled, whatever the order in which
 * the guest enables MSI-X and the interrupters.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "libqtest.h"
#include "libqos/qgraph.h"
#include "usb-xhci-utils.h"

/* MSI-X enabled after IE was set, which is not written again */
static void test_msix_after_ie(QXHCI *x, const void *arg)
{
    QXHCIDevice dev;

    /* No vector is left in use by an earlier test in the same QEMU */
    qxhci_set_mode(x, QXHCI_MSIX, 0);
    for (unsigned int intr = 0; intr < x->max_intrs; intr++) {
        xhci_set_ie(x, intr, false);
    }

    xhci_start(x, &dev, &xhci_pin_mode);
    qxhci_write_bit(x, QXHCI_MSIX_ENABLE, true, 2);
    xhci_assert_delivery(x, &dev, &xhci_msix_mode, 0);
    xhci_assert_delivery(x, &dev, &xhci_msix_mode, 2);
}

/* IE set while an event is pending: its message comes with the same write */
static void test_ie_after_msix(QXHCI *x, const void *arg)
{
    QXHCIDevice dev;
    uint64_t trb;

    xhci_start(x, &dev, &xhci_msix_mode);
    xhci_set_ie(x, 0, false);
    trb = qxhci_submit_get_descriptor(x, &dev, 0);
    xhci_assert_not_signalled(x);

    xhci_set_ie(x, 0, true);
    xhci_assert_signalled(x, &xhci_msix_mode, 0);
    xhci_take_event(x, &dev, 0, trb);
    qxhci_ack(x, 0);
    xhci_assert_quiet(x);
}

static void register_msix_tests(void)
{
    xhci_add_test("switch/msix-after-ie", &xhci_pin_mode, test_msix_after_ie,
                  NULL);
    xhci_add_test("switch/ie-after-msix", &xhci_pin_mode, test_ie_after_msix,
                  NULL);
}

libqos_init(register_msix_tests);

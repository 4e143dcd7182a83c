/*
 * QTest testcase for xHCI USB host controllers: IE and INTE
 *
 * An interrupter follows IMAN.IE and USBCMD.INTE, also while an event is
 * pending, and so does every one.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "libqtest.h"
#include "libqos/qgraph.h"
#include "usb-xhci-utils.h"

/* After an event came while IE or INTE was clear, and the bit was set */
static void assert_event_signalled(QXHCI *x, QXHCIDevice *dev,
                                   const XHCIIntrTest *t, uint64_t trb)
{
    unsigned int ring = xhci_ring_of(t->setup, t->intr);

    xhci_assert_signalled(x, t->setup, ring);
    xhci_take_event(x, dev, ring, trb);
    qxhci_ack(x, ring);
    xhci_assert_quiet(x);
    xhci_assert_delivery(x, dev, t->setup, t->intr);
}

static void test_set_ie(QXHCI *x, const void *arg)
{
    const XHCIIntrTest *t = arg;
    unsigned int ring = xhci_ring_of(t->setup, t->intr);
    QXHCIDevice dev;
    uint64_t trb;

    xhci_start(x, &dev, t->setup);
    xhci_set_ie(x, ring, false);
    trb = qxhci_submit_get_descriptor(x, &dev, t->intr);
    xhci_assert_not_signalled(x);

    xhci_set_ie(x, ring, true);
    assert_event_signalled(x, &dev, t, trb);
}

static void test_set_inte(QXHCI *x, const void *arg)
{
    const XHCIIntrTest *t = arg;
    QXHCIDevice dev;
    uint64_t trb;

    xhci_start(x, &dev, t->setup);
    xhci_set_inte(x, false);
    trb = qxhci_submit_get_descriptor(x, &dev, t->intr);
    xhci_assert_not_signalled(x);

    xhci_set_inte(x, true);
    assert_event_signalled(x, &dev, t, trb);
}

/*
 * Linux clears and sets IE when it resumes the bus.  An interrupt that is
 * pending meanwhile ends on the pin, and comes again.
 */
static void test_toggle_ie(QXHCI *x, const void *arg)
{
    const XHCIIntrTest *t = arg;
    unsigned int ring = xhci_ring_of(t->setup, t->intr);
    QXHCIDevice dev;
    uint64_t trb;

    xhci_start(x, &dev, t->setup);

    trb = qxhci_submit_get_descriptor(x, &dev, t->intr);
    qxhci_step(x, 20);
    xhci_assert_signalled(x, t->setup, ring);
    xhci_set_ie(x, ring, false);
    xhci_assert_not_signalled(x);
    xhci_set_ie(x, ring, true);
    if (t->setup->mode == QXHCI_PIN) {
        xhci_assert_signalled(x, t->setup, ring);
    } else {
        /* IP was cleared by the first message, 4.17.5 */
        xhci_assert_not_signalled(x);
    }
    xhci_take_event(x, &dev, ring, trb);
    qxhci_ack(x, ring);
    xhci_assert_quiet(x);
}

static void register_enable_tests(void)
{
    xhci_add_intr_tests("set-ie", test_set_ie);
    xhci_add_intr_tests("set-inte", test_set_inte);
    xhci_add_intr_tests("toggle-ie", test_toggle_ie);
}

libqos_init(register_enable_tests);

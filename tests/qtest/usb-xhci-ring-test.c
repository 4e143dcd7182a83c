/*
 * QTest testcase for xHCI USB host controllers: event rings without room
 *
 * An event for an event ring that is full, or that the guest did not set up, is
 * dropped, without an error of the controller.  Section numbers are those of
 * the xHCI specification, revision 1.2.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "libqtest.h"
#include "libqos/qgraph.h"
#include "usb-xhci-utils.h"

/* 6.4.5 and 6.4.6 */
#define CC_EVENT_RING_FULL      21
#define TRB_EV_HOST_CONTROLLER  37

/* 5.5.2.3.1: a ring is disabled while ERSTSZ is 0 */
static void test_disabled_ring(QXHCI *x, const void *arg)
{
    const XHCISetup *s = arg;
    char *file = xhci_log_start(x, "log guest_errors");
    g_autofree char *log = NULL;
    QXHCIDevice dev;
    uint64_t trb;

    qxhci_set_mode(x, s->mode, s->msi_vectors);
    /* Rings from before HCRST are forgotten */
    qxhci_start(x, x->max_intrs);
    qxhci_start(x, 3);
    qxhci_device_init(x, &dev);
    qxhci_drain(x);

    for (int i = 0; i < 2; i++) {
        /* The second time with a size, but without an address */
        qxhci_intr_write(x, 5, QXHCI_ERSTSZ, i);
        trb = qxhci_submit_get_descriptor(x, &dev, 5);
        if (s->mapping) {
            xhci_assert_quiet(x);
        } else {
            xhci_take_event(x, &dev, 0, trb);
            xhci_assert_signalled(x, s, 0);
            qxhci_ack(x, 0);
        }
    }
    xhci_assert_delivery(x, &dev, s, 2);

    /* A ring in use, of which the guest takes the memory back */
    qxhci_intr_write(x, 2, QXHCI_ERSTSZ, 0);
    for (int i = 0; i < 2; i++) {
        trb = qxhci_submit_get_descriptor(x, &dev, 2);
        if (s->mapping) {
            xhci_assert_quiet(x);
        } else {
            xhci_take_event(x, &dev, 0, trb);
            qxhci_ack(x, 0);
        }
        qxhci_intr_write(x, 2, QXHCI_ERDP, 0);
        qxhci_intr_write(x, 2, QXHCI_ERDP + 4, 0);
    }
    xhci_assert_delivery(x, &dev, s, 1);

    /* The first that can be disabled */
    qxhci_intr_write(x, 1, QXHCI_ERSTSZ, 0);
    trb = qxhci_submit_get_descriptor(x, &dev, 1);
    if (s->mapping) {
        xhci_assert_quiet(x);
    } else {
        xhci_take_event(x, &dev, 0, trb);
        qxhci_ack(x, 0);
    }

    log = xhci_log_stop(file);
    g_assert_cmpint(strstr(log, "interrupter 5") != NULL, ==, s->mapping);
}

/*
 * 4.9.4: the last event that fits says that the ring is full, and what comes
 * later is dropped.  On the pin, the events of all interrupters share ring 0.
 */
static void test_full_ring(QXHCI *x, const void *arg)
{
    const XHCISetup *s = arg;
    unsigned int ring = s->mapping ? 1 : 0;
    uint64_t trb[QXHCI_RING_TRBS + 10];
    QXHCIDevice dev;
    QXHCITrb ev;

    xhci_start(x, &dev, s);
    for (int i = 0; i < ARRAY_SIZE(trb); i++) {
        trb[i] = qxhci_submit_get_descriptor(x, &dev, s->mapping ? 1 : i % 3);
        qxhci_step(x, 1);
    }
    xhci_assert_signalled(x, s, ring);

    /* One TRB tells a full ring from an empty one, one is for the error */
    for (int i = 0; i < QXHCI_RING_TRBS - 2; i++) {
        xhci_take_event(x, &dev, ring, trb[i]);
    }
    qxhci_event_wait(x, ring, &ev);
    g_assert_cmpuint(QXHCI_TRB_TYPE(&ev), ==, TRB_EV_HOST_CONTROLLER);
    g_assert_cmpuint(QXHCI_TRB_CC(&ev), ==, CC_EVENT_RING_FULL);
    qxhci_ack(x, ring);
    xhci_assert_quiet(x);

    for (unsigned int target = 0; target < 3; target++) {
        xhci_assert_delivery(x, &dev, s, target);
    }
}

/* Without the primary ring, as after HCRST, an event is a controller error */
static void test_no_ring(QXHCI *x, const void *arg)
{
    char *file = xhci_log_start(x, "log guest_errors");
    g_autofree char *log = NULL;
    QXHCIDevice dev;

    xhci_start(x, &dev, &xhci_pin_mode);
    qxhci_oper_write(x, QXHCI_USBCMD, QXHCI_USBCMD_HCRST);
    qxhci_oper_write(x, QXHCI_USBCMD, QXHCI_USBCMD_RS | QXHCI_USBCMD_EWE);
    /* MFINDEX wraps after 2048 ms at the latest */
    qxhci_step(x, 2100);
    g_assert_cmphex(qxhci_oper_read(x, QXHCI_USBSTS) & QXHCI_USBSTS_HCE, ==,
                    QXHCI_USBSTS_HCE);
    log = xhci_log_stop(file);
    g_assert_nonnull(strstr(log, "event for interrupter 0, but ERDP"));
}

static void register_ring_tests(void)
{
    for (int i = 0; i < ARRAY_SIZE(xhci_modes); i++) {
        xhci_add_setup_test("full-ring", xhci_modes[i], test_full_ring);
        xhci_add_setup_test("disabled-ring", xhci_modes[i],
                            test_disabled_ring);
    }
    xhci_add_test("no-ring", &xhci_pin_mode, test_no_ring, NULL);
}

libqos_init(register_ring_tests);

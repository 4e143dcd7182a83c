/*
 * QTest testcase for xHCI USB host controllers: Block Event Interrupt
 *
 * The BEI flag of a Transfer TRB, with which an event comes without an
 * interrupt.  Section numbers are those of the xHCI specification,
 * revision 1.2.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "libqtest.h"
#include "libqos/qgraph.h"
#include "usb-xhci-utils.h"

/* 6.4.1: the event comes without an interrupt, and waits for the next one */
static void test_bei(QXHCI *x, const void *arg)
{
    const XHCIIntrTest *t = arg;
    unsigned int ring = xhci_ring_of(t->setup, t->intr);
    QXHCIDevice dev;
    QXHCITrb ev;
    uint64_t trb[2];

    xhci_start_kbd(x, &dev, t->setup);

    trb[0] = qxhci_submit_intr_in(x, &dev, XHCI_KBD_EP, XHCI_KBD_REPORT_SIZE,
                                  t->intr, QXHCI_TRB_BEI);
    xhci_send_key(x, true);
    xhci_assert_not_signalled(x);
    g_assert_true(qxhci_event_peek(x, ring, 0, &ev));

    trb[1] = qxhci_submit_intr_in(x, &dev, XHCI_KBD_EP, XHCI_KBD_REPORT_SIZE,
                                  t->intr, 0);
    xhci_send_key(x, false);
    xhci_take_event(x, &dev, ring, trb[0]);
    xhci_take_event(x, &dev, ring, trb[1]);
    xhci_assert_signalled(x, t->setup, ring);
    qxhci_ack(x, ring);
    xhci_assert_quiet(x);
}

/* Takes the event of a TRB with BEI that ended with @code: it interrupts */
static void assert_interrupts(QXHCI *x, const XHCIIntrTest *t, uint64_t trb,
                              unsigned int code)
{
    unsigned int ring = xhci_ring_of(t->setup, t->intr);
    QXHCITrb ev;

    qxhci_event_wait(x, ring, &ev);
    g_assert_cmphex(ev.parameter, ==, trb);
    g_assert_cmpuint(QXHCI_TRB_CC(&ev), ==, code);
    xhci_assert_signalled(x, t->setup, ring);
    qxhci_ack(x, ring);
    xhci_assert_quiet(x);
}

/* BEI is about success: a short packet and an error interrupt all the same */
static void test_bei_failed(QXHCI *x, const void *arg)
{
    const XHCIIntrTest *t = arg;
    QXHCIDevice dev;
    uint64_t trb;

    xhci_start_kbd(x, &dev, t->setup);
    trb = qxhci_submit_intr_in(x, &dev, XHCI_KBD_EP,
                               2 * XHCI_KBD_REPORT_SIZE, t->intr,
                               QXHCI_TRB_BEI);
    xhci_send_key(x, true);
    assert_interrupts(x, t, trb, QXHCI_CC_SHORT_PACKET);

    /* The keyboard has no such endpoint */
    qxhci_configure_intr_in(x, &dev, QXHCI_EP_IN(2), XHCI_KBD_REPORT_SIZE);
    qxhci_drain(x);
    trb = qxhci_submit_intr_in(x, &dev, QXHCI_EP_IN(2), XHCI_KBD_REPORT_SIZE,
                               t->intr, QXHCI_TRB_BEI);
    assert_interrupts(x, t, trb, QXHCI_CC_STALL);
}

/* A TD in two TRBs, only the first with BEI: it ends with an interrupt */
static void test_bei_first(QXHCI *x, const void *arg)
{
    const XHCIIntrTest *t = arg;
    unsigned int ring = xhci_ring_of(t->setup, t->intr);
    QXHCIDevice dev;
    uint64_t trb;

    xhci_start_kbd(x, &dev, t->setup);
    trb = qxhci_submit_intr_in(x, &dev, XHCI_KBD_EP, XHCI_KBD_REPORT_SIZE / 2,
                               t->intr, QXHCI_TRB_CH | QXHCI_TRB_BEI);
    qxhci_submit_intr_in(x, &dev, XHCI_KBD_EP, XHCI_KBD_REPORT_SIZE / 2,
                         t->intr, 0);
    xhci_send_key(x, true);
    xhci_take_event(x, &dev, ring, trb);
    xhci_assert_signalled(x, t->setup, ring);
    qxhci_drain(x);
    xhci_assert_quiet(x);

    /* The same for a second one that is short, and asks for that to be told */
    trb = qxhci_ring_put(x, &dev.intr_in, (QXHCITrb) {
        .parameter = dev.buf,
        .status = t->intr << 22 | XHCI_KBD_REPORT_SIZE / 2,
        .control = QXHCI_TRB_NORMAL << 10 | QXHCI_TRB_CH | QXHCI_TRB_IOC |
                   QXHCI_TRB_BEI,
    });
    qxhci_ring_put(x, &dev.intr_in, (QXHCITrb) {
        .parameter = dev.buf,
        .status = t->intr << 22 | XHCI_KBD_REPORT_SIZE,
        .control = QXHCI_TRB_NORMAL << 10 | QXHCI_TRB_ISP,
    });
    qxhci_doorbell(x, dev.slot, XHCI_KBD_EP);
    xhci_send_key(x, false);
    xhci_take_event(x, &dev, ring, trb);
    xhci_assert_signalled(x, t->setup, ring);
    qxhci_drain(x);
    xhci_assert_quiet(x);
}

static void register_bei_tests(void)
{
    xhci_add_intr_tests("bei", test_bei);
    xhci_add_intr_tests("bei-failed", test_bei_failed);
    xhci_add_intr_tests("bei-first", test_bei_first);
}

libqos_init(register_bei_tests);

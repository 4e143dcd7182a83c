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

/* TRB Types, 6.4.6 */
#define TRB_ISOCH           5
#define TRB_EVENT_DATA      7

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

    /* The keyboard has no such endpoint.  Without ISP it is no short packet */
    qxhci_configure_intr_in(x, &dev, QXHCI_EP_IN(2), XHCI_KBD_REPORT_SIZE);
    qxhci_drain(x);
    trb = qxhci_ring_put(x, &dev.intr_in, (QXHCITrb) {
        .parameter = dev.buf,
        .status = t->intr << 22 | XHCI_KBD_REPORT_SIZE,
        .control = QXHCI_TRB_NORMAL << 10 | QXHCI_TRB_IOC | QXHCI_TRB_BEI,
    });
    qxhci_doorbell(x, dev.slot, QXHCI_EP_IN(2));
    assert_interrupts(x, t, trb, QXHCI_CC_STALL);
}

/* Has the keyboard complete the TD of @trb, whose event interrupts */
static void assert_key_interrupts(QXHCI *x, QXHCIDevice *dev,
                                  const XHCIIntrTest *t, uint64_t trb,
                                  bool down)
{
    unsigned int ring = xhci_ring_of(t->setup, t->intr);

    xhci_send_key(x, down);
    xhci_take_event(x, dev, ring, trb);
    xhci_assert_signalled(x, t->setup, ring);
    qxhci_drain(x);
    xhci_assert_quiet(x);
}

/* The same for a TD in two TRBs with IOC, and @first and @second besides */
static void assert_halves_interrupt(QXHCI *x, QXHCIDevice *dev,
                                    const XHCIIntrTest *t, uint32_t first,
                                    uint32_t second)
{
    uint64_t trb = qxhci_submit_intr_in(x, dev, XHCI_KBD_EP,
                                        XHCI_KBD_REPORT_SIZE / 2, t->intr,
                                        QXHCI_TRB_CH | first);

    qxhci_submit_intr_in(x, dev, XHCI_KBD_EP, XHCI_KBD_REPORT_SIZE / 2,
                         t->intr, second);
    assert_key_interrupts(x, dev, t, trb, true);
}

/* A TD in two TRBs, only the first with BEI: it ends with an interrupt */
static void test_bei_first(QXHCI *x, const void *arg)
{
    const XHCIIntrTest *t = arg;
    QXHCIDevice dev;
    uint64_t trb;

    xhci_start_kbd(x, &dev, t->setup);
    assert_halves_interrupt(x, &dev, t, QXHCI_TRB_BEI, 0);

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
    assert_key_interrupts(x, &dev, t, trb, false);
}

/* A TD in two TRBs, only the last with BEI: the first one interrupts */
static void test_bei_last(QXHCI *x, const void *arg)
{
    const XHCIIntrTest *t = arg;
    QXHCIDevice dev;

    xhci_start_kbd(x, &dev, t->setup);
    assert_halves_interrupt(x, &dev, t, 0, QXHCI_TRB_BEI);
}

/*
 * Each stage of a control transfer can have an event, and interrupts: where
 * other TRBs have BEI, these have a reserved bit
 */
static void test_bei_stages(QXHCI *x, const void *arg)
{
    const XHCIIntrTest *t = arg;
    unsigned int ring = xhci_ring_of(t->setup, t->intr);
    uint64_t stage[2];
    QXHCIDevice dev;

    xhci_start(x, &dev, t->setup);
    /* GET_DESCRIPTOR of the device */
    qxhci_ring_put(x, &dev.ep0, (QXHCITrb) {
        .parameter = 0x0012000001000680ULL,
        .status = 8,
        .control = QXHCI_TRB_SETUP << 10 | QXHCI_TRB_IDT | QXHCI_TRB_TRT_IN,
    });
    stage[0] = qxhci_ring_put(x, &dev.ep0, (QXHCITrb) {
        .parameter = dev.buf,
        .status = 2 << 22 | 18,
        .control = QXHCI_TRB_DATA << 10 | QXHCI_TRB_DIR_IN | QXHCI_TRB_IOC |
                   QXHCI_TRB_BEI,
    });
    stage[1] = qxhci_ring_put(x, &dev.ep0, (QXHCITrb) {
        .status = t->intr << 22,
        .control = QXHCI_TRB_STATUS << 10 | QXHCI_TRB_IOC | QXHCI_TRB_BEI,
    });
    /* The Data Stage is of an interrupter that says nothing */
    if (t->setup->mapping) {
        xhci_set_ie(x, 2, false);
    }
    qxhci_doorbell(x, dev.slot, QXHCI_EP0);
    xhci_take_event(x, &dev, xhci_ring_of(t->setup, 2), stage[0]);
    xhci_take_event(x, &dev, ring, stage[1]);
    xhci_assert_signalled(x, t->setup, ring);
    qxhci_drain(x);
    xhci_assert_quiet(x);
}

/*
 * A control transfer that reads up to 64 bytes, and gets 18.  @flags are of the
 * Data Stage TRB, of an Event Data TRB after it, without which they are 0, and
 * of the Status Stage TRB.  Returns the Data Stage TRB.
 */
static uint64_t submit_short_read(QXHCI *x, QXHCIDevice *dev,
                                  const XHCIIntrTest *t,
                                  const uint32_t flags[3], uint64_t event_data)
{
    uint64_t data;

    qxhci_ring_put(x, &dev->ep0, (QXHCITrb) {
        .parameter = 0x0040000001000680ULL,
        .status = 8,
        .control = QXHCI_TRB_SETUP << 10 | QXHCI_TRB_IDT | QXHCI_TRB_TRT_IN,
    });
    data = qxhci_ring_put(x, &dev->ep0, (QXHCITrb) {
        .parameter = dev->buf,
        .status = t->intr << 22 | 64,
        .control = QXHCI_TRB_DATA << 10 | QXHCI_TRB_DIR_IN | flags[0],
    });
    if (flags[1]) {
        qxhci_ring_put(x, &dev->ep0, (QXHCITrb) {
            .parameter = event_data,
            .status = t->intr << 22,
            .control = TRB_EVENT_DATA << 10 | flags[1],
        });
    }
    qxhci_ring_put(x, &dev->ep0, (QXHCITrb) {
        .status = t->intr << 22,
        .control = QXHCI_TRB_STATUS << 10 | flags[2],
    });
    qxhci_doorbell(x, dev->slot, QXHCI_EP0);
    return data;
}

/* A short Data Stage, which only ISP makes a reason for an interrupt */
static void test_bei_short_stage(QXHCI *x, const void *arg)
{
    static const uint32_t wanted[] = { QXHCI_TRB_ISP, 0, 0 };
    static const uint32_t blocked[] = {
        QXHCI_TRB_CH, QXHCI_TRB_IOC | QXHCI_TRB_BEI, QXHCI_TRB_ISP
    };
    const XHCIIntrTest *t = arg;
    const uint64_t event_data = 0x123456789abcdef0ULL;
    unsigned int ring = xhci_ring_of(t->setup, t->intr);
    QXHCIDevice dev;
    QXHCITrb ev;

    xhci_start(x, &dev, t->setup);
    assert_interrupts(x, t, submit_short_read(x, &dev, t, wanted, 0),
                      QXHCI_CC_SHORT_PACKET);

    /* ISP of the Status Stage is not about it */
    submit_short_read(x, &dev, t, blocked, event_data);
    xhci_assert_not_signalled(x);
    qxhci_event_wait(x, ring, &ev);
    g_assert_cmphex(ev.parameter, ==, event_data);
    qxhci_ack(x, ring);
    xhci_assert_quiet(x);
    xhci_assert_delivery(x, &dev, t->setup, t->intr);
}

/* Takes an event that came without an interrupt; the next event has one */
static void assert_blocked(QXHCI *x, QXHCIDevice *dev, const XHCIIntrTest *t,
                           uint64_t parameter)
{
    unsigned int ring = xhci_ring_of(t->setup, t->intr);
    uint64_t trb;

    xhci_assert_not_signalled(x);
    xhci_take_event(x, dev, ring, parameter);
    qxhci_ack(x, ring);
    trb = qxhci_submit_get_descriptor(x, dev, t->intr);
    xhci_take_event(x, dev, ring, trb);
    xhci_assert_signalled(x, t->setup, ring);
    qxhci_ack(x, ring);
    xhci_assert_quiet(x);
}

/* 6.4.4.2: an Event Data TRB */
static void test_bei_event_data(QXHCI *x, const void *arg)
{
    const XHCIIntrTest *t = arg;
    const uint64_t event_data = 0x123456789abcdef0ULL;
    QXHCIDevice dev;

    xhci_start_kbd(x, &dev, t->setup);
    qxhci_ring_put(x, &dev.intr_in, (QXHCITrb) {
        .parameter = dev.buf,
        .status = t->intr << 22 | XHCI_KBD_REPORT_SIZE,
        .control = QXHCI_TRB_NORMAL << 10 | QXHCI_TRB_CH,
    });
    qxhci_ring_put(x, &dev.intr_in, (QXHCITrb) {
        .parameter = event_data,
        .status = t->intr << 22,
        .control = TRB_EVENT_DATA << 10 | QXHCI_TRB_IOC | QXHCI_TRB_BEI,
    });
    qxhci_doorbell(x, dev.slot, XHCI_KBD_EP);
    xhci_send_key(x, true);
    assert_blocked(x, &dev, t, event_data);
}

/* 6.4.1.3: an Isoch TRB, on the endpoint of the keyboard */
static void test_bei_isoch(QXHCI *x, const void *arg)
{
    QXHCIDevice dev;
    QXHCITrb ev;
    uint64_t trb;

    xhci_start_kbd(x, &dev, &xhci_msix_mode);
    g_assert_cmpuint(xhci_configure_kbd_as(x, &dev, QXHCI_EP_TYPE_ISOCH_IN), ==,
                     QXHCI_CC_SUCCESS);
    qxhci_drain(x);

    /* That the ring is empty then is an event, of interrupter 0 */
    xhci_set_ie(x, 0, false);
    xhci_send_key(x, true);
    trb = qxhci_ring_put(x, &dev.intr_in, (QXHCITrb) {
        .parameter = dev.buf,
        .status = 1 << 22 | XHCI_KBD_REPORT_SIZE,
        .control = TRB_ISOCH << 10 | QXHCI_TRB_SIA | QXHCI_TRB_IOC | QXHCI_TRB_BEI,
    });
    qxhci_doorbell(x, dev.slot, XHCI_KBD_EP);
    xhci_assert_not_signalled(x);
    xhci_take_event(x, &dev, 1, trb);
    qxhci_ack(x, 1);
    trb = qxhci_submit_get_descriptor(x, &dev, 1);
    xhci_take_event(x, &dev, 1, trb);
    xhci_assert_signalled(x, &xhci_msix_mode, 1);
    qxhci_ack(x, 1);

    /* A short packet interrupts if it has ISP */
    xhci_send_key(x, false);
    trb = qxhci_ring_put(x, &dev.intr_in, (QXHCITrb) {
        .parameter = dev.buf,
        .status = 1 << 22 | 2 * XHCI_KBD_REPORT_SIZE,
        .control = TRB_ISOCH << 10 | QXHCI_TRB_SIA | QXHCI_TRB_IOC | QXHCI_TRB_ISP |
                   QXHCI_TRB_BEI,
    });
    qxhci_doorbell(x, dev.slot, XHCI_KBD_EP);
    qxhci_event_wait(x, 1, &ev);
    g_assert_cmphex(ev.parameter, ==, trb);
    xhci_assert_signalled(x, &xhci_msix_mode, 1);
}

static void register_bei_tests(void)
{
    xhci_add_intr_tests("bei", test_bei);
    xhci_add_intr_tests("bei-failed", test_bei_failed);
    xhci_add_intr_tests("bei-first", test_bei_first);
    xhci_add_intr_tests("bei-last", test_bei_last);
    xhci_add_intr_tests("bei-stages", test_bei_stages);
    xhci_add_intr_tests("bei-short-stage", test_bei_short_stage);
    xhci_add_intr_tests("bei-event-data", test_bei_event_data);
    xhci_add_test("bei-isoch", &xhci_msix_mode, test_bei_isoch, NULL);
}

libqos_init(register_bei_tests);

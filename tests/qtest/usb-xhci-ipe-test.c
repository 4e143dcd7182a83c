/*
 * QTest testcase for xHCI USB host controllers: IP and EHB
 *
 * An interrupt is due, and IP and EHB are set, only when there is an event that
 * the guest does not know of.  Section numbers are those of the xHCI
 * specification, revision 1.2.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "libqtest.h"
#include "libqos/qgraph.h"
#include "hw/pci/pci_regs.h"
#include "usb-xhci-utils.h"

/*
 * A second event while the first is served is no reason for an interrupt by
 * itself, 4.17.2: the guest sees it, or hears of it once it clears EHB.
 */
static void test_busy(QXHCI *x, const void *arg)
{
    const XHCIIntrTest *t = arg;
    unsigned int ring = xhci_ring_of(t->setup, t->intr);
    QXHCIDevice dev;
    uint64_t trb[2];

    xhci_start(x, &dev, t->setup);

    /* The order of Linux's handler */
    for (int taken = 1; taken <= 2; taken++) {
        trb[0] = qxhci_submit_get_descriptor(x, &dev, t->intr);
        qxhci_step(x, 20);
        xhci_assert_signalled(x, t->setup, ring);
        g_assert_cmphex(qxhci_oper_read(x, QXHCI_USBSTS) & QXHCI_USBSTS_EINT,
                        ==, QXHCI_USBSTS_EINT);

        if (taken == 2) {
            /* Before the handler has done anything */
            trb[1] = qxhci_submit_get_descriptor(x, &dev, t->intr);
            qxhci_step(x, 20);
        }
        qxhci_oper_write(x, QXHCI_USBSTS, QXHCI_USBSTS_EINT);
        qxhci_intr_write(x, ring, QXHCI_IMAN, QXHCI_IMAN_IE | QXHCI_IMAN_IP);
        if (taken == 1) {
            trb[1] = qxhci_submit_get_descriptor(x, &dev, t->intr);
        }
        xhci_assert_not_signalled(x);

        xhci_take_event(x, &dev, ring, trb[0]);
        if (taken == 2) {
            xhci_take_event(x, &dev, ring, trb[1]);
        }
        qxhci_write_erdp(x, ring, true);
        if (taken == 1) {
            xhci_assert_signalled(x, t->setup, ring);
            g_assert_cmphex(qxhci_oper_read(x, QXHCI_USBSTS) &
                            QXHCI_USBSTS_EINT, ==, QXHCI_USBSTS_EINT);
            xhci_take_event(x, &dev, ring, trb[1]);
            qxhci_ack(x, ring);
        }
        xhci_assert_quiet(x);
        qxhci_oper_write(x, QXHCI_USBSTS, QXHCI_USBSTS_EINT);
        xhci_assert_quiet(x);
    }
}

/* What a write of ERDP says: that no event is left, or some are, 4.9.4 */
static void test_erdp(QXHCI *x, const void *arg)
{
    const XHCISetup *s = &xhci_msix_mode;
    const int outside[] = { -QXHCI_TRB_SIZE, QXHCI_RING_TRBS * QXHCI_TRB_SIZE };
    QXHCIDevice dev;
    uint64_t trb, start;

    xhci_start(x, &dev, s);
    start = qxhci_intr_read(x, 1, QXHCI_ERDP) & ~0xfu;
    trb = qxhci_submit_get_descriptor(x, &dev, 1);
    qxhci_step(x, 20);
    xhci_assert_signalled(x, s, 1);

    for (int i = 0; i < ARRAY_SIZE(outside); i++) {
        /* It is not taken: the first one on the ring is left */
        qxhci_intr_write(x, 1, QXHCI_ERDP, start | QXHCI_ERDP_EHB);
        xhci_assert_signalled(x, s, 1);
        /* Nothing is known while ERDP is not on the ring */
        qxhci_intr_write(x, 1, QXHCI_ERDP,
                         (start + outside[i]) | QXHCI_ERDP_EHB);
        xhci_assert_not_signalled(x);
        qxhci_intr_write(x, 1, QXHCI_ERDP, start);
        xhci_assert_signalled(x, s, 1);
    }
    xhci_take_event(x, &dev, 1, trb);
    qxhci_ack(x, 1);
    xhci_assert_quiet(x);
    xhci_assert_delivery(x, &dev, s, 1);
}

/* An event that came while IE was clear goes with the ring that it is on */
static void test_new_ring(QXHCI *x, const void *arg)
{
    QXHCIDevice dev;
    uint32_t erstba[2];

    for (int erstsz = 0; erstsz <= 1; erstsz++) {
        xhci_start(x, &dev, &xhci_msix_mode);
        xhci_set_ie(x, 1, false);
        qxhci_submit_get_descriptor(x, &dev, 1);
        qxhci_step(x, 20);

        /* Disabled, or set up anew, which a write of ERSTBA does */
        erstba[0] = qxhci_intr_read(x, 1, QXHCI_ERSTBA);
        erstba[1] = qxhci_intr_read(x, 1, QXHCI_ERSTBA + 4);
        qxhci_intr_write(x, 1, QXHCI_ERSTSZ, erstsz);
        qxhci_intr_write(x, 1, QXHCI_ERSTBA, erstba[0]);
        qxhci_intr_write(x, 1, QXHCI_ERSTBA + 4, erstba[1]);
        xhci_set_ie(x, 1, true);
        xhci_assert_not_signalled(x);
    }
}

/* A guest that polled, and goes over to interrupts */
static void test_polled(QXHCI *x, const void *arg)
{
    const XHCIIntrTest *t = arg;
    unsigned int ring = xhci_ring_of(t->setup, t->intr);
    QXHCIDevice dev;
    uint64_t trb;

    xhci_start(x, &dev, t->setup);

    xhci_set_ie(x, ring, false);
    trb = qxhci_submit_get_descriptor(x, &dev, t->intr);
    xhci_take_event(x, &dev, ring, trb);
    /* There was no interrupt, so there is no EHB to clear */
    qxhci_write_erdp(x, ring, false);
    xhci_set_ie(x, ring, true);
    xhci_assert_quiet(x);
    xhci_assert_delivery(x, &dev, t->setup, t->intr);
}

/* An event came while IE was clear; IE is set at the destination */
static void test_migrate_ie(QXHCI *x, const void *arg)
{
    const XHCISetup *s = arg;
    QTestState *from;
    QXHCIDevice dev;
    uint64_t trb;

    xhci_start(x, &dev, s);
    xhci_set_ie(x, 0, false);
    trb = qxhci_submit_get_descriptor(x, &dev, 0);
    qxhci_step(x, 20);

    from = xhci_migrate(x, s);
    /* Interrupter 1 has no event, so its IE must not signal anything */
    xhci_set_ie(x, 1, false);
    xhci_set_ie(x, 1, true);
    g_assert_false(qxhci_intx(x));
    g_assert_cmphex(qxhci_take_messages(x), ==, 0);
    xhci_set_ie(x, 0, true);
    xhci_assert_signalled(x, s, 0);
    xhci_take_event(x, &dev, 0, trb);
    qxhci_ack(x, 0);
    xhci_assert_quiet(x);
    xhci_end_migrate(x, from);
}

/*
 * IP waits for INTE, another event for IE and EHB: one message for both.  A
 * second one would not be seen in memory, so count them by their trace.
 */
static void test_once(QXHCI *x, const void *arg)
{
#ifdef CONFIG_TRACE_LOG
    const XHCISetup *s = arg;
    g_autofree char *log = NULL;
    g_auto(GStrv) messages = NULL;
    char *file;
    QXHCIDevice dev;
    uint64_t trb[2];

    xhci_start(x, &dev, s);
    file = xhci_log_start(x, "trace-event usb_xhci_irq_msi* on");

    xhci_set_inte(x, false);
    trb[0] = qxhci_submit_get_descriptor(x, &dev, 0);
    xhci_take_event(x, &dev, 0, trb[0]);
    xhci_set_ie(x, 0, false);
    trb[1] = qxhci_submit_get_descriptor(x, &dev, 0);
    qxhci_step(x, 20);
    qxhci_write_erdp(x, 0, true);
    xhci_set_inte(x, true);
    xhci_assert_not_signalled(x);

    xhci_set_ie(x, 0, true);
    xhci_assert_signalled(x, s, 0);
    xhci_take_event(x, &dev, 0, trb[1]);
    qxhci_ack(x, 0);
    xhci_assert_quiet(x);

    log = xhci_log_stop(file);
    messages = g_strsplit(log, "usb_xhci_irq_msi", -1);
    g_assert_cmpuint(g_strv_length(messages), ==, 2);
#else
    g_test_skip("Built without the log trace backend");
#endif
}

/*
 * An event is left on a ring that crosses a 4 GiB boundary when ERDP goes back
 * below it.  ERDP is written as two dwords, the low one first (5.1), so until
 * the second write it is nowhere in the ring.
 */
static void test_erdp_halves(QXHCI *x, const void *arg)
{
    const XHCISetup *s = arg;
    const uint64_t ring = 4 * GiB - 8 * QXHCI_TRB_SIZE;
    QTestState *qts = x->pdev.bus->qts;
    g_autofree QPCIDevice *shmem = NULL;
    QXHCIDevice dev;
    uint64_t erst, trb[2];

    /* Memory for the half of the ring that events are written to */
    shmem = qpci_device_find(x->pdev.bus, QPCI_DEVFN(0x1e, 0));
    qpci_config_writel(shmem, PCI_BASE_ADDRESS_2, 4 * GiB - 1 * MiB);
    qpci_config_writel(shmem, PCI_BASE_ADDRESS_3, 0);
    qpci_device_enable(shmem);

    xhci_start(x, &dev, s);
    erst = guest_alloc(x->alloc, 64);
    qtest_writeq(qts, erst, ring);
    qtest_writeq(qts, erst + 8, 16);
    qxhci_intr_write(x, 0, QXHCI_ERDP, 0);
    qxhci_intr_write(x, 0, QXHCI_ERDP + 4, 1);
    qxhci_intr_write(x, 0, QXHCI_ERSTBA, erst);
    qxhci_intr_write(x, 0, QXHCI_ERSTBA + 4, 0);
    x->event[0] = (QXHCIRing) { .addr = ring, .cycle = true };

    trb[0] = qxhci_submit_get_descriptor(x, &dev, 0);
    trb[1] = qxhci_submit_get_descriptor(x, &dev, 0);
    xhci_take_event(x, &dev, 0, trb[0]);
    xhci_assert_signalled(x, s, 0);
    qxhci_intr_write(x, 0, QXHCI_IMAN, QXHCI_IMAN_IE | QXHCI_IMAN_IP);

    qxhci_intr_write(x, 0, QXHCI_ERDP,
                     (ring + QXHCI_TRB_SIZE) | QXHCI_ERDP_EHB);
    xhci_assert_not_signalled(x);
    qxhci_intr_write(x, 0, QXHCI_ERDP + 4, 0);
    xhci_assert_signalled(x, s, 0);
    xhci_take_event(x, &dev, 0, trb[1]);
    guest_free(x->alloc, erst);
}

static void register_ipe_tests(void)
{
    const char *arch = qtest_get_arch();
    bool x86 = !strcmp(arch, "i386") || !strcmp(arch, "x86_64");

    for (int i = 0; i < ARRAY_SIZE(xhci_modes); i++) {
        const XHCISetup *s = xhci_modes[i];
        g_autofree char *name = g_strdup_printf("erdp-halves/%s", s->name);

        if (x86 && qtest_has_device("ivshmem-plain")) {
            xhci_add_device_test(name, s->device_opts, "usb-kbd "
                                 "-object memory-backend-ram,id=mem,size=1M "
                                 "-device ivshmem-plain,memdev=mem,addr=1e",
                                 test_erdp_halves, s);
        }
    }
    xhci_add_setup_test("once", &xhci_msi_mode, test_once);
    xhci_add_setup_test("once", &xhci_msix_mode, test_once);
    xhci_add_intr_tests("busy", test_busy);
    xhci_add_intr_tests("polled", test_polled);
    xhci_add_test("erdp", &xhci_msix_mode, test_erdp, NULL);
    xhci_add_test("new-ring", &xhci_msix_mode, test_new_ring, NULL);
    for (int i = 0; i < ARRAY_SIZE(xhci_modes); i++) {
        xhci_add_setup_test("migrate-ie", xhci_modes[i], test_migrate_ie);
    }
}

libqos_init(register_ipe_tests);

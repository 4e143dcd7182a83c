/*
 * QTest testcase for xHCI USB host controllers: masked MSI-X messages
 *
 * What becomes of a message that a mask holds back: it comes when the mask
 * goes, unless its cause is gone, or MSI-X is.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "libqtest.h"
#include "libqos/qgraph.h"
#include "usb-xhci-utils.h"

/* A message that the mask holds back when MSI-X is disabled */
static void test_masked_switch(QXHCI *x, const void *arg)
{
    QXHCIDevice dev;
    uint64_t trb;

    xhci_start(x, &dev, &xhci_msix_mode);
    qxhci_write_bit(x, QXHCI_MSIX_MASKALL, true, 2);
    trb = qxhci_submit_get_descriptor(x, &dev, 0);
    xhci_assert_not_signalled(x);
    qxhci_oper_write(x, QXHCI_USBSTS, QXHCI_USBSTS_EINT);

    qxhci_write_bit(x, QXHCI_MSIX_ENABLE, false, 2);
    xhci_assert_signalled(x, &xhci_pin_mode, 0);
    g_assert_cmphex(qxhci_oper_read(x, QXHCI_USBSTS) & QXHCI_USBSTS_EINT, ==,
                    QXHCI_USBSTS_EINT);
    xhci_take_event(x, &dev, 0, trb);
    qxhci_ack(x, 0);
    xhci_assert_quiet(x);

    /* It was taken back, so it does not come any more */
    qxhci_write_bit(x, QXHCI_MSIX_ENABLE, true, 2);
    qxhci_write_bit(x, QXHCI_MSIX_MASKALL, false, 2);
    xhci_assert_quiet(x);
    xhci_assert_delivery(x, &dev, &xhci_msix_mode, 0);

    /* Nor does one whose event the guest has polled */
    qxhci_write_bit(x, QXHCI_MSIX_MASKALL, true, 2);
    trb = qxhci_submit_get_descriptor(x, &dev, 0);
    xhci_take_event(x, &dev, 0, trb);
    qxhci_ack(x, 0);
    qxhci_write_bit(x, QXHCI_MSIX_ENABLE, false, 2);
    xhci_assert_quiet(x);

    /* Nor one from before HCRST */
    qxhci_write_bit(x, QXHCI_MSIX_ENABLE, true, 2);
    trb = qxhci_submit_get_descriptor(x, &dev, 0);
    xhci_assert_not_signalled(x);
    qxhci_oper_write(x, QXHCI_USBCMD, QXHCI_USBCMD_HCRST);
    qxhci_write_bit(x, QXHCI_MSIX_ENABLE, false, 2);
    g_assert_cmphex(qxhci_intr_read(x, 0, QXHCI_IMAN), ==, 0);
    g_assert_cmphex(qxhci_oper_read(x, QXHCI_USBSTS) & QXHCI_USBSTS_EINT, ==,
                    0);
}

/* The same for each interrupter, which MSI can all signal */
static void test_masked_to_msi(QXHCI *x, const void *arg)
{
    QXHCIDevice dev;
    uint64_t trb;

    /* Leaves addresses and data of the messages in place */
    qxhci_set_mode(x, QXHCI_MSI, xhci_msi_mode.msi_vectors);
    xhci_start(x, &dev, &xhci_msix_mode);
    for (unsigned int ring = 0; ring < x->max_intrs; ring++) {
        g_test_message("Interrupter %u", ring);
        xhci_switch_mode(x, &xhci_msix_mode);
        qxhci_write_bit(x, QXHCI_MSIX_MASKALL, true, 2);
        trb = qxhci_submit_get_descriptor(x, &dev, ring);
        xhci_assert_not_signalled(x);

        xhci_switch_mode(x, &xhci_msi_mode);
        xhci_assert_signalled(x, &xhci_msi_mode, ring);
        xhci_take_event(x, &dev, ring, trb);
        qxhci_ack(x, ring);
        xhci_assert_quiet(x);
    }
}

/* Unmasks @ring: its message comes, for the event at @trb, which is served */
static void assert_message_left(QXHCI *x, QXHCIDevice *dev, unsigned int ring,
                                uint64_t trb)
{
    xhci_assert_not_signalled(x);
    qxhci_msix_mask(x, ring, false);
    xhci_assert_signalled(x, &xhci_msix_mode, ring);
    xhci_take_event(x, dev, ring, trb);
    qxhci_ack(x, ring);
    xhci_assert_quiet(x);
}

/*
 * A guest that masks a vector and polls gets no message for what it has
 * served, but one for what it left (PCI 3.0, 6.8.3.5)
 */
static void test_masked_polled(QXHCI *x, const void *arg)
{
    unsigned int ring = *(const unsigned int *)arg;
    QXHCIDevice dev;
    uint64_t trb[2];

    xhci_start(x, &dev, &xhci_msix_mode);

    /* All served */
    qxhci_msix_mask(x, ring, true);
    trb[0] = qxhci_submit_get_descriptor(x, &dev, ring);
    xhci_take_event(x, &dev, ring, trb[0]);
    qxhci_ack(x, ring);
    qxhci_msix_mask(x, ring, false);
    xhci_assert_quiet(x);
    xhci_assert_delivery(x, &dev, &xhci_msix_mode, ring);

    /* One is left */
    qxhci_msix_mask(x, ring, true);
    trb[0] = qxhci_submit_get_descriptor(x, &dev, ring);
    trb[1] = qxhci_submit_get_descriptor(x, &dev, ring);
    xhci_take_event(x, &dev, ring, trb[0]);
    qxhci_write_erdp(x, ring, true);
    assert_message_left(x, &dev, ring, trb[1]);

    /* All served, but EHB not cleared: the guest waits for the interrupt */
    qxhci_msix_mask(x, ring, true);
    trb[0] = qxhci_submit_get_descriptor(x, &dev, ring);
    xhci_take_event(x, &dev, ring, trb[0]);
    qxhci_write_erdp(x, ring, false);
    trb[1] = qxhci_submit_get_descriptor(x, &dev, ring);
    assert_message_left(x, &dev, ring, trb[1]);

    /* From before HCRST */
    qxhci_msix_mask(x, ring, true);
    qxhci_submit_get_descriptor(x, &dev, ring);
    xhci_assert_not_signalled(x);
    qxhci_oper_write(x, QXHCI_USBCMD, QXHCI_USBCMD_HCRST);
    qxhci_msix_mask(x, ring, false);
    xhci_assert_not_signalled(x);
}

static void register_mask_tests(void)
{
    static const unsigned int rings[] = { 0, 1 };

    xhci_add_test("switch/msix-masked-to-pin", &xhci_pin_mode,
                  test_masked_switch, NULL);
    xhci_add_test("switch/msix-masked-to-msi", &xhci_pin_mode,
                  test_masked_to_msi, NULL);
    xhci_add_test("mask/polled-0", &xhci_pin_mode, test_masked_polled,
                  &rings[0]);
    xhci_add_test("mask/polled-1", &xhci_pin_mode, test_masked_polled,
                  &rings[1]);
}

libqos_init(register_mask_tests);

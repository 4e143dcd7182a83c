/*
 * QTest testcase for xHCI USB host controllers: access to its own registers
 *
 * A guest may aim event rings and messages at the registers of the controller
 * itself.  Whatever the reason for which the controller runs, such an access
 * must be blocked.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/pci/pci_regs.h"
#include "libqtest.h"
#include "libqos/qgraph.h"
#include "libqos/qos_external.h"
#include "usb-xhci-utils.h"

typedef struct GuardTest {
    const char *name;
    /* Makes the controller send an event, not by a register of its own */
    void (*act)(QXHCI *x);
    uint32_t usbcmd;
} GuardTest;

static void press_key(QXHCI *x)
{
    xhci_send_key(x, true);
}

static void wrap_mfindex(QXHCI *x)
{
    qxhci_step(x, 2100);
}

static void plug_device(QXHCI *x)
{
    qtest_qmp_device_add(x->pdev.bus->qts, "usb-mouse", "mouse", "{}");
}

static const GuardTest guard_tests[] = {
    { "key", press_key },
    { "wrap", wrap_mfindex, QXHCI_USBCMD_EWE },
    { "plug", plug_device },
};

/* Has the message of interrupter 0 write @data to @addr */
static void aim_message(QXHCI *x, uint64_t addr, uint32_t data)
{
    uint8_t cap = qpci_find_capability(&x->pdev, PCI_CAP_ID_MSIX, 0);
    uint32_t entry = qpci_config_readl(&x->pdev, cap + PCI_MSIX_TABLE) &
                     ~PCI_MSIX_FLAGS_BIRMASK;

    qpci_io_writel(&x->pdev, x->bar, entry + PCI_MSIX_ENTRY_LOWER_ADDR, addr);
    qpci_io_writel(&x->pdev, x->bar, entry + PCI_MSIX_ENTRY_UPPER_ADDR,
                   addr >> 32);
    qpci_io_writel(&x->pdev, x->bar, entry + PCI_MSIX_ENTRY_DATA, data);
}

/* The controller runs, and its registers are what the guest has written */
static void assert_running(QXHCI *x, uint32_t usbcmd)
{
    g_assert_cmphex(qxhci_oper_read(x, QXHCI_USBCMD), ==, usbcmd);
    g_assert_cmphex(qxhci_oper_read(x, QXHCI_USBSTS) & QXHCI_USBSTS_HCH, ==,
                    0);
}

static uint32_t start(QXHCI *x, const GuardTest *t)
{
    uint32_t usbcmd = QXHCI_USBCMD_RS | QXHCI_USBCMD_INTE | t->usbcmd;
    QXHCIDevice dev;

    xhci_start_kbd(x, &dev, &xhci_msix_mode);
    qxhci_submit_intr_in(x, &dev, XHCI_KBD_EP, XHCI_KBD_REPORT_SIZE, 0, 0);
    xhci_assert_quiet(x);
    qxhci_oper_write(x, QXHCI_USBCMD, usbcmd);
    return usbcmd;
}

/* A message that would reset the controller */
static void test_message(QXHCI *x, const void *arg)
{
    const GuardTest *t = arg;
    uint32_t usbcmd = start(x, t);

    aim_message(x, x->bar.addr + x->oper + QXHCI_USBCMD, QXHCI_USBCMD_HCRST);
    t->act(x);
    assert_running(x, usbcmd);
    qos_invalidate_command_line();
}

/* An event ring at the operational registers */
static void test_ring(QXHCI *x, const void *arg)
{
    const GuardTest *t = arg;
    uint32_t usbcmd = start(x, t);

    xhci_move_ring(x, 0, x->bar.addr + x->oper);
    t->act(x);
    assert_running(x, usbcmd);
    /* The event was sent, and the write of it was blocked */
    g_assert_cmphex(qxhci_oper_read(x, QXHCI_USBSTS) & QXHCI_USBSTS_HCE, ==,
                    QXHCI_USBSTS_HCE);
    qos_invalidate_command_line();
}

static void register_guard_tests(void)
{
    for (int i = 0; i < ARRAY_SIZE(guard_tests); i++) {
        const GuardTest *t = &guard_tests[i];
        g_autofree char *message = g_strdup_printf("guard/message-%s",
                                                   t->name);
        g_autofree char *ring = g_strdup_printf("guard/ring-%s", t->name);

        xhci_add_test(message, &xhci_msix_mode, test_message, t);
        xhci_add_test(ring, &xhci_msix_mode, test_ring, t);
    }
}

libqos_init(register_guard_tests);

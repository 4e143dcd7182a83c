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

/* PORTSC, 5.4.8: suspend the port */
#define PORTSC_LWS          BIT(16)
#define PORTSC_PLS_U3       (3 << 5)

/* SET_FEATURE, DEVICE_REMOTE_WAKEUP; USB 2.0, 9.4.9 */
#define SET_REMOTE_WAKEUP   0x0000000000010300ULL

typedef struct GuardTest {
    const char *name;
    /* Makes the controller send an event, not by a register of its own */
    void (*act)(QXHCI *x, QXHCIDevice *dev);
    uint32_t usbcmd;
} GuardTest;

/* The transfer has been NAKed when its data comes */
static void press_key(QXHCI *x, QXHCIDevice *dev)
{
    qxhci_step(x, 20);
    xhci_send_key(x, true);
}

/* The transfer is still waiting for its interval when its data comes */
static void press_key_early(QXHCI *x, QXHCIDevice *dev)
{
    xhci_send_key(x, true);
    qxhci_step(x, 20);
}

static void wrap_mfindex(QXHCI *x, QXHCIDevice *dev)
{
    qxhci_step(x, 2100);
}

static void plug_device(QXHCI *x, QXHCIDevice *dev)
{
    qtest_qmp_device_add(x->pdev.bus->qts, "usb-mouse", "mouse", "{}");
}

static void unplug_device(QXHCI *x, QXHCIDevice *dev)
{
    qtest_qmp_device_del(x->pdev.bus->qts, "kbd");
}

/* Remote wakeup, 4.15.2.3 */
static void wake_port(QXHCI *x, QXHCIDevice *dev)
{
    qxhci_ring_put(x, &dev->ep0, (QXHCITrb) {
        .parameter = SET_REMOTE_WAKEUP,
        .status = 8,
        .control = QXHCI_TRB_SETUP << 10 | QXHCI_TRB_IDT,
    });
    qxhci_ring_put(x, &dev->ep0, (QXHCITrb) {
        .control = QXHCI_TRB_STATUS << 10 | QXHCI_TRB_DIR_IN,
    });
    qxhci_doorbell(x, dev->slot, QXHCI_EP0);
    qxhci_oper_write(x, QXHCI_PORTSC(dev->port),
                     QXHCI_PORTSC_PP | PORTSC_LWS | PORTSC_PLS_U3);
    xhci_send_key(x, true);
}

/* The interrupt is pending on the pin when MSI-X is enabled */
static void switch_mode(QXHCI *x, QXHCIDevice *dev)
{
    xhci_switch_mode(x, &xhci_pin_mode);
    press_key(x, dev);
    xhci_switch_mode(x, &xhci_msix_mode);
}

static const GuardTest guard_tests[] = {
    { "key", press_key },
    { "timer", press_key_early },
    { "wrap", wrap_mfindex, QXHCI_USBCMD_EWE },
    { "plug", plug_device },
    { "unplug", unplug_device },
    { "wakeup", wake_port },
    { "switch", switch_mode },
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

static uint32_t start(QXHCI *x, QXHCIDevice *dev, const GuardTest *t)
{
    uint32_t usbcmd = QXHCI_USBCMD_RS | QXHCI_USBCMD_INTE | t->usbcmd;

    xhci_start_kbd(x, dev, &xhci_msix_mode);
    /* Half an interval of the endpoint, so that the transfer starts later */
    qtest_clock_step(x->pdev.bus->qts, 500 * 1000);
    qxhci_submit_intr_in(x, dev, XHCI_KBD_EP, XHCI_KBD_REPORT_SIZE, 0, 0);
    qxhci_oper_write(x, QXHCI_USBCMD, usbcmd);
    return usbcmd;
}

/* A message that would reset the controller */
static void test_message(QXHCI *x, const void *arg)
{
    const GuardTest *t = arg;
    QXHCIDevice dev;
    uint32_t usbcmd = start(x, &dev, t);

    aim_message(x, x->bar.addr + x->oper + QXHCI_USBCMD, QXHCI_USBCMD_HCRST);
    t->act(x, &dev);
    assert_running(x, usbcmd);
    qos_invalidate_command_line();
}

/* An event ring at the operational registers */
static void test_ring(QXHCI *x, const void *arg)
{
    const GuardTest *t = arg;
    QXHCIDevice dev;
    uint32_t usbcmd = start(x, &dev, t);

    xhci_move_ring(x, 0, x->bar.addr + x->oper);
    t->act(x, &dev);
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

        xhci_add_device_test(message, xhci_msix_mode.device_opts,
                             "usb-kbd,id=kbd", test_message, t);
        xhci_add_device_test(ring, xhci_msix_mode.device_opts,
                             "usb-kbd,id=kbd", test_ring, t);
    }
}

libqos_init(register_guard_tests);

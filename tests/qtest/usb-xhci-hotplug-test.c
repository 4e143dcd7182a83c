/*
 * QTest testcase for xHCI USB host controllers: hotplug
 *
 * A controller that is unplugged with an interrupt pending leaves nothing
 * behind, and can be plugged in again.  On the pc machine.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/pci/pci_regs.h"
#include "libqtest.h"
#include "libqos/pci-pc.h"
#include "libqos/qgraph.h"
#include "libqos/qos_external.h"
#include "usb-xhci-utils.h"

#define HOTPLUG_SLOT        6
#define PIIX_DEVFN          QPCI_DEVFN(1, 0)
#define PIIX_PIRQ_ROUTE     0x60
#define PIIX_IRQ            10
#define ACPI_PCIHP_EJECT    0xae08

typedef struct HotplugTest {
    const char *type;
    const XHCISetup *setup;
} HotplugTest;

static void hotplug(QXHCI *x, QXHCIDevice *dev, const HotplugTest *t,
                    QPCIBus *bus, QGuestAllocator *alloc)
{
    qtest_qmp_assert_success(bus->qts,
        "{ 'execute': 'device_add', 'arguments': {"
        "  'driver': %s, 'id': 'xhci', 'addr': %s, 'msi': %s, 'msix': %s } }",
        t->type, stringify(HOTPLUG_SLOT),
        t->setup->mode == QXHCI_MSI ? "on" : "off",
        t->setup->mode == QXHCI_MSIX ? "on" : "off");
    qtest_qmp_assert_success(bus->qts,
        "{ 'execute': 'device_add', 'arguments': {"
        "  'driver': 'usb-kbd', 'id': 'kbd', 'bus': 'xhci.0' } }");
    qxhci_init(x, bus, QPCI_DEVFN(HOTPLUG_SLOT, 0), alloc);
    g_assert_false(qtest_get_irq(bus->qts, PIIX_IRQ));
    xhci_start(x, dev, t->setup);
}

/* The line itself: a function that is gone has no status bit */
static void hotplug_watch_line(QPCIBus *bus)
{
    QPCIDevice piix;

    qtest_irq_intercept_in(bus->qts, "ioapic");
    qpci_device_init(&piix, bus, &(QPCIAddress) { .devfn = PIIX_DEVFN });
    for (int pirq = 0; pirq < 4; pirq++) {
        qpci_config_writeb(&piix, PIIX_PIRQ_ROUTE + pirq, PIIX_IRQ);
    }
}

static void hotplug_eject(QXHCI *x, QPCIBus *bus)
{
    qtest_qmp_device_del_send(bus->qts, "xhci");
    qtest_outl(bus->qts, ACPI_PCIHP_EJECT, 1 << HOTPLUG_SLOT);
    g_assert_cmphex(qpci_config_readw(&x->pdev, PCI_VENDOR_ID), ==, 0xffff);
    g_assert_false(qtest_get_irq(bus->qts, PIIX_IRQ));
}

/* Unplug and replug, with an event pending */
static void test_hotplug(void *obj, void *data, QGuestAllocator *alloc)
{
    QPCIBus *bus = &((QPCIBusPC *)obj)->bus;
    const HotplugTest *t = data;
    bool pin = t->setup->mode == QXHCI_PIN;
    QXHCI x;
    QXHCIDevice dev;

    hotplug_watch_line(bus);
    for (int i = 0; i < 2; i++) {
        hotplug(&x, &dev, t, bus, alloc);
        xhci_assert_delivery(&x, &dev, t->setup, 1);
        xhci_leave_pending(&x, &dev, t->setup);
        g_assert_cmpint(qtest_get_irq(bus->qts, PIIX_IRQ), ==, pin);

        hotplug_eject(&x, bus);
        qxhci_free(&x);
    }
    qos_invalidate_command_line();
}

/* A running controller, whose MFINDEX wraps after 2048 ms at the latest */
static void test_unplug_running(void *obj, void *data, QGuestAllocator *alloc)
{
    QPCIBus *bus = &((QPCIBusPC *)obj)->bus;
    const HotplugTest *t = data;
    QXHCI x;
    QXHCIDevice dev;

    hotplug_watch_line(bus);
    hotplug(&x, &dev, t, bus, alloc);
    qtest_qmp_device_del(bus->qts, "kbd");
    qxhci_drain(&x);
    qxhci_oper_write(&x, QXHCI_USBCMD, QXHCI_USBCMD_RS | QXHCI_USBCMD_INTE |
                     QXHCI_USBCMD_EWE);

    hotplug_eject(&x, bus);
    qtest_clock_step(bus->qts, 2100 * 1000 * 1000LL);
    g_assert_cmphex(qxhci_take_messages(&x), ==, 0);
    g_assert_false(qtest_get_irq(bus->qts, PIIX_IRQ));
    qxhci_free(&x);
    qos_invalidate_command_line();
}

static void add_hotplug_test(const char *type, const XHCISetup *s,
                             const char *test, QOSTestFunc func)
{
    HotplugTest *t = xhci_test_arg(sizeof(*t));
    g_autofree char *name = g_strdup_printf("%s/%s/%s", type, test, s->name);

    t->type = type;
    t->setup = s;
    qos_add_test(name, "pci-bus-pc", func,
                 &(QOSGraphTestOptions) { .arg = t });
}

static void register_hotplug_tests(void)
{
    static const char *const types[] = { "nec-usb-xhci", "qemu-xhci" };

    for (int j = 0; j < ARRAY_SIZE(types); j++) {
        if (!qtest_has_device(types[j])) {
            continue;
        }
        for (int i = 0; i < ARRAY_SIZE(xhci_modes); i++) {
            add_hotplug_test(types[j], xhci_modes[i], "hotplug",
                             test_hotplug);
            add_hotplug_test(types[j], xhci_modes[i], "unplug-running",
                             test_unplug_running);
        }
    }
}

libqos_init(register_hotplug_tests);

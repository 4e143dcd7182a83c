/*
 * libqos driver for xHCI USB host controllers on sysbus
 *
 * The driver for PCI does all the work.  What is different is that registers
 * are at a fixed address, and that there is no configuration space.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "../libqtest.h"
#include "qemu/module.h"
#include "qgraph.h"
#include "xhci-sysbus.h"

static void sysbus_xhci_memread(QPCIBus *bus, uint32_t addr, void *buf,
                                size_t len)
{
    qtest_memread(bus->qts, addr, buf, len);
}

static void sysbus_xhci_memwrite(QPCIBus *bus, uint32_t addr, const void *buf,
                                 size_t len)
{
    qtest_memwrite(bus->qts, addr, buf, len);
}

static void *sysbus_xhci_get_driver(void *obj, const char *interface)
{
    QSysbusXHCI *s = obj;

    if (!g_strcmp0(interface, "xhci-sysbus")) {
        return s;
    }
    fprintf(stderr, "%s not present in sysbus-xhci\n", interface);
    g_assert_not_reached();
}

static void sysbus_xhci_start_hw(QOSGraphObject *obj)
{
    QSysbusXHCI *s = (QSysbusXHCI *)obj;

    qxhci_attach(&s->xhci, s->alloc);
    qxhci_read_caps(&s->xhci);
}

void qos_init_sysbus_xhci(QSysbusXHCI *s, QTestState *qts, uint32_t addr,
                          const char *intc, unsigned int irq,
                          QGuestAllocator *alloc)
{
    s->obj.get_driver = sysbus_xhci_get_driver;
    s->obj.start_hw = sysbus_xhci_start_hw;
    s->alloc = alloc;
    s->intc = intc;
    s->irq = irq;
    s->bus = (QPCIBus) {
        .qts = qts,
        .memread = sysbus_xhci_memread,
        .memwrite = sysbus_xhci_memwrite,
    };
    s->xhci = (QXHCI) {
        .pdev.bus = &s->bus,
        .bar.addr = addr,
    };
}

void qos_free_sysbus_xhci(QSysbusXHCI *s)
{
    if (s->xhci.allocated) {
        qxhci_free(&s->xhci);
    }
}

static void sysbus_xhci_register_nodes(void)
{
    qos_node_create_driver("sysbus-xhci", NULL);
    qos_node_produces("sysbus-xhci", "xhci-sysbus");
}

libqos_init(sysbus_xhci_register_nodes);

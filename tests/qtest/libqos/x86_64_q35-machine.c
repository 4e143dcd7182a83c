/*
 * libqos driver framework: the q35 machine
 *
 * Its root bus is reached the same way as that of the pc machine, but is
 * offered as "pcie-bus" rather than "pci-bus": only devices that are ready
 * for it are tested there.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "../libqtest.h"
#include "qgraph.h"
#include "pci-pc.h"
#include "qemu/module.h"
#include "malloc-pc.h"
#include "xhci.h"

typedef struct QQ35Pcihost {
    QOSGraphObject obj;
    QPCIBusPC pci;
} QQ35Pcihost;

typedef struct QX86Q35Machine {
    QOSGraphObject obj;
    QGuestAllocator alloc;
    QQ35Pcihost host;
} QX86Q35Machine;

static void *q35_pcihost_get_driver(void *obj, const char *interface)
{
    QQ35Pcihost *host = obj;

    if (!g_strcmp0(interface, "pcie-bus")) {
        return &host->pci.bus;
    }
    fprintf(stderr, "%s not present in q35-pcihost\n", interface);
    g_assert_not_reached();
}

static void q35_destructor(QOSGraphObject *obj)
{
    QX86Q35Machine *machine = (QX86Q35Machine *)obj;

    alloc_destroy(&machine->alloc);
}

static void *q35_get_driver(void *obj, const char *interface)
{
    QX86Q35Machine *machine = obj;

    if (!g_strcmp0(interface, "memory")) {
        return &machine->alloc;
    }
    fprintf(stderr, "%s not present in x86_64/q35\n", interface);
    g_assert_not_reached();
}

static QOSGraphObject *q35_get_device(void *obj, const char *device)
{
    QX86Q35Machine *machine = obj;

    if (!g_strcmp0(device, "q35-pcihost")) {
        return &machine->host.obj;
    }
    fprintf(stderr, "%s not present in x86_64/q35\n", device);
    g_assert_not_reached();
}

static void *qos_create_machine_q35(QTestState *qts)
{
    QX86Q35Machine *machine = g_new0(QX86Q35Machine, 1);

    machine->obj.get_device = q35_get_device;
    machine->obj.get_driver = q35_get_driver;
    machine->obj.destructor = q35_destructor;
    pc_alloc_init(&machine->alloc, qts, ALLOC_NO_FLAGS);

    machine->host.obj.get_driver = q35_pcihost_get_driver;
    qpci_init_pc(&machine->host.pci, qts, &machine->alloc);
    /* Devices on the root complex cannot be hotplugged */
    machine->host.pci.bus.not_hotpluggable = true;

    return &machine->obj;
}

static void q35_machine_register_nodes(void)
{
    qos_node_create_machine("i386/q35", qos_create_machine_q35);
    qos_node_contains("i386/q35", "q35-pcihost", NULL);

    qos_node_create_machine("x86_64/q35", qos_create_machine_q35);
    qos_node_contains("x86_64/q35", "q35-pcihost", NULL);

    qos_node_create_driver("q35-pcihost", NULL);
    qos_node_produces("q35-pcihost", "pcie-bus");
}

libqos_init(q35_machine_register_nodes);

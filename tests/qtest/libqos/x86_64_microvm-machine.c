/*
 * libqos driver framework: the microvm machine
 *
 * What is tested on it is its xHCI controller, which is not on PCI.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "../libqtest.h"
#include "qgraph.h"
#include "qemu/module.h"
#include "malloc-pc.h"
#include "xhci.h"

#define MICROVM_XHCI_BASE   0xfe900000

typedef struct QSysbusXHCI {
    QOSGraphObject obj;
    QXHCI xhci;
} QSysbusXHCI;

typedef struct QMicrovmMachine {
    QOSGraphObject obj;
    QGuestAllocator alloc;
    QSysbusXHCI xhci;
} QMicrovmMachine;

static void *sysbus_xhci_get_driver(void *obj, const char *interface)
{
    QSysbusXHCI *s = obj;

    if (!g_strcmp0(interface, "xhci-sysbus")) {
        return &s->xhci;
    }
    fprintf(stderr, "%s not present in sysbus-xhci\n", interface);
    g_assert_not_reached();
}

static void microvm_destructor(QOSGraphObject *obj)
{
    QMicrovmMachine *machine = (QMicrovmMachine *)obj;

    qxhci_free(&machine->xhci.xhci);
    alloc_destroy(&machine->alloc);
}

static void *microvm_get_driver(void *obj, const char *interface)
{
    QMicrovmMachine *machine = obj;

    if (!g_strcmp0(interface, "memory")) {
        return &machine->alloc;
    }
    fprintf(stderr, "%s not present in x86_64/microvm\n", interface);
    g_assert_not_reached();
}

static QOSGraphObject *microvm_get_device(void *obj, const char *device)
{
    QMicrovmMachine *machine = obj;

    if (!g_strcmp0(device, "sysbus-xhci")) {
        return &machine->xhci.obj;
    }
    fprintf(stderr, "%s not present in x86_64/microvm\n", device);
    g_assert_not_reached();
}

static void *qos_create_machine_microvm(QTestState *qts)
{
    QMicrovmMachine *machine = g_new0(QMicrovmMachine, 1);

    machine->obj.get_device = microvm_get_device;
    machine->obj.get_driver = microvm_get_driver;
    machine->obj.destructor = microvm_destructor;
    pc_alloc_init(&machine->alloc, qts, ALLOC_NO_FLAGS);

    machine->xhci.obj.get_driver = sysbus_xhci_get_driver;
    qxhci_init_sysbus(&machine->xhci.xhci, qts, MICROVM_XHCI_BASE,
                      &machine->alloc);

    return &machine->obj;
}

static void microvm_machine_register_nodes(void)
{
    qos_node_create_machine_args("i386/microvm", qos_create_machine_microvm,
                                 " -machine usb=on");
    qos_node_contains("i386/microvm", "sysbus-xhci", NULL);

    qos_node_create_machine_args("x86_64/microvm", qos_create_machine_microvm,
                                 " -machine usb=on");
    qos_node_contains("x86_64/microvm", "sysbus-xhci", NULL);

    qos_node_create_driver("sysbus-xhci", NULL);
    qos_node_produces("sysbus-xhci", "xhci-sysbus");
}

libqos_init(microvm_machine_register_nodes);

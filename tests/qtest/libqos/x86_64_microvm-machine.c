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
#include "xhci-sysbus.h"

#define MICROVM_XHCI_BASE   0xfe900000
#define MICROVM_XHCI_IRQ    10

typedef struct QMicrovmMachine {
    QOSGraphObject obj;
    QGuestAllocator alloc;
    QSysbusXHCI xhci;
} QMicrovmMachine;

static void microvm_destructor(QOSGraphObject *obj)
{
    QMicrovmMachine *machine = (QMicrovmMachine *)obj;

    qos_free_sysbus_xhci(&machine->xhci);
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

    qos_init_sysbus_xhci(&machine->xhci, qts, MICROVM_XHCI_BASE, "ioapic",
                         MICROVM_XHCI_IRQ, &machine->alloc);

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
}

libqos_init(microvm_machine_register_nodes);

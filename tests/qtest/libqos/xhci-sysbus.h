/*
 * libqos driver for xHCI USB host controllers on sysbus
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_LIBQOS_XHCI_SYSBUS_H
#define TESTS_LIBQOS_XHCI_SYSBUS_H

#include "xhci.h"

/* A controller that a machine has on sysbus, the node "sysbus-xhci" */
typedef struct QSysbusXHCI {
    QOSGraphObject obj;
    QXHCI xhci;
    /* No PCI bus, but what the driver reaches the registers with */
    QPCIBus bus;
    QGuestAllocator *alloc;
    /* QOM path of the interrupt controller, and its input for line 0 */
    const char *intc;
    unsigned int irq;
} QSysbusXHCI;

/**
 * qos_init_sysbus_xhci(): the node "sysbus-xhci", for the machine to contain
 * @addr: of the capability registers
 * @intc: QOM path of the interrupt controller
 * @irq: input of it that line 0 is connected to; the others follow
 *
 * The controller itself is looked at only if the node is used.
 */
void qos_init_sysbus_xhci(QSysbusXHCI *s, QTestState *qts, uint32_t addr,
                          const char *intc, unsigned int irq,
                          QGuestAllocator *alloc);

/** qos_free_sysbus_xhci(): to be called before @alloc goes */
void qos_free_sysbus_xhci(QSysbusXHCI *s);

#endif

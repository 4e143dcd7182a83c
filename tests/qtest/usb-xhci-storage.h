/*
 * usb-storage behind an xHCI controller, for its qtests
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_USB_XHCI_STORAGE_H
#define TESTS_USB_XHCI_STORAGE_H

#include "usb-xhci-utils.h"

/* Endpoint IDs of the endpoints, and of the other direction of the first */
#define XHCI_STORAGE_IN     QXHCI_EP_IN(1)
#define XHCI_STORAGE_OUT    4
#define XHCI_STORAGE_OTHER  2

typedef struct XHCIStorage {
    QXHCIDevice dev;
    /* By endpoint ID */
    QXHCIRing ring[XHCI_STORAGE_OUT + 1];
    /* What is transferred, in guest memory */
    uint64_t buf;
} XHCIStorage;

/* A SCSI command, and the data that it moves, in bytes */
typedef struct XHCIStorageCommand {
    uint8_t cdb[10];
    uint32_t len;
    bool out;
} XHCIStorageCommand;

extern const XHCIStorageCommand xhci_test_unit_ready;

/**
 * xhci_storage_start(): start the controller on the pin, with a usb-storage
 * that is ready for commands, and a buffer of @size bytes
 */
void xhci_storage_start(QXHCI *x, XHCIStorage *s, unsigned int size);

/**
 * xhci_storage_start_at(): the same, with the disk at a hub
 * @route: its Route String, xHCI 6.2.2; or 0, if there is no hub
 */
void xhci_storage_start_at(QXHCI *x, XHCIStorage *s, uint32_t route,
                           unsigned int size);

/**
 * xhci_storage_submit(): queue a transfer of @len bytes of the buffer
 *
 * Does not wait.  Returns the TRB pointer that the event will have.
 */
uint64_t xhci_storage_submit(QXHCI *x, XHCIStorage *s, unsigned int epid,
                             unsigned int len);

/**
 * xhci_storage_transfer(): the same, and wait until it has succeeded
 */
void xhci_storage_transfer(QXHCI *x, XHCIStorage *s, unsigned int epid,
                           unsigned int len);

/**
 * xhci_storage_submit_command(): queue a command
 *
 * Does not wait.  Returns the TRB pointer that the event will have.
 */
uint64_t xhci_storage_submit_command(QXHCI *x, XHCIStorage *s,
                                     const XHCIStorageCommand *c);

/**
 * xhci_storage_command(): the same, and wait until the device has it
 */
void xhci_storage_command(QXHCI *x, XHCIStorage *s,
                          const XHCIStorageCommand *c);

/**
 * xhci_storage_status(): wait for the status of a command
 */
void xhci_storage_status(QXHCI *x, XHCIStorage *s);

#endif

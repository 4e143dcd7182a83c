/*
 * What the tests of xHCI USB host controllers have in common
 *
 * Section numbers are those of the xHCI specification, revision 1.2.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_USB_XHCI_UTILS_H
#define TESTS_USB_XHCI_UTILS_H

#include "libqos/pci.h"
#include "libqos/xhci.h"

/* Endpoint of usb-kbd, what it sends, and a usage ID in it */
#define XHCI_KBD_EP             QXHCI_EP_IN(1)
#define XHCI_KBD_REPORT_SIZE    8
#define XHCI_KBD_USAGE_A        0x04

/* A device, and the interrupt mode that a test has it in */
typedef struct XHCISetup {
    const char *name;
    const char *device_opts;
    QXHCIMode mode;
    unsigned int msi_vectors;
    /* Whether an event goes to the ring of its Interrupter Target */
    bool mapping;
    /* Whether to migrate in this setup */
    bool migrate;
} XHCISetup;

/* A setup, and the interrupter that a test is about */
typedef struct XHCIIntrTest {
    const XHCISetup *setup;
    unsigned int intr;
} XHCIIntrTest;

extern const XHCISetup xhci_setups[8];

/* What a device with both capabilities can be switched between */
extern const XHCISetup xhci_pin_mode;
extern const XHCISetup xhci_msi_mode;
extern const XHCISetup xhci_msix_mode;
extern const XHCISetup *const xhci_modes[3];

/* Adding tests */

typedef void (*XHCITestFunc)(QXHCI *x, const void *arg);
typedef void (*XHCIBusTestFunc)(QPCIBus *bus, QGuestAllocator *alloc,
                                const void *arg);

/**
 * xhci_test_arg(): memory for the argument of a test, @size bytes of zeros
 *
 * Nobody owns the arguments of tests, so it is there until the program ends.
 */
void *xhci_test_arg(size_t size);

/**
 * xhci_add_test(): add a test for all controllers on PCI
 * @s: gives the options of the controller; it has a keyboard
 *
 * Like the tests that the functions below add, it is skipped on a machine
 * that has no working MSI in qtest.  That is pseries, where DMA needs an IOMMU
 * to be set up, too.
 */
void xhci_add_test(const char *name, const XHCISetup *s, XHCITestFunc func,
                   const void *arg);

/** xhci_add_device_test(): the same, with another USB device */
void xhci_add_device_test(const char *name, const char *device_opts,
                          const char *usb_device, XHCITestFunc func,
                          const void *arg);

/** xhci_add_setup_test(): add test @prefix/setup, with the setup as @arg */
void xhci_add_setup_test(const char *prefix, const XHCISetup *s,
                         XHCITestFunc func);

/**
 * xhci_add_intr_tests(): add tests @prefix/setup-interrupter for all setups
 *
 * Their @arg is an XHCIIntrTest.  Interrupter 1 is left out on the pin, which
 * cannot signal it.
 */
void xhci_add_intr_tests(const char *prefix, XHCITestFunc func);

/**
 * xhci_add_bus_test(): add a test for PCI buses that finds the controller by
 * itself; @cmd_line has the devices
 */
void xhci_add_bus_test(const char *name, const char *cmd_line,
                       XHCIBusTestFunc func, const void *arg);

/* Guest memory */

/** xhci_alloc(): allocate guest memory, and clear it */
uint64_t xhci_alloc(QXHCI *x, size_t size);

/* Bringing up the controller */

/** xhci_start(): bring up @x in the mode of @s, with its USB device */
void xhci_start(QXHCI *x, QXHCIDevice *dev, const XHCISetup *s);

/** xhci_start_kbd(): the same, with the endpoint of the keyboard */
void xhci_start_kbd(QXHCI *x, QXHCIDevice *dev, const XHCISetup *s);

/**
 * xhci_configure_kbd_as(): configure the endpoint of the keyboard as one of
 * type @ep_type, 6.2.3; returns the completion code of the command
 */
unsigned int xhci_configure_kbd_as(QXHCI *x, QXHCIDevice *dev,
                                   unsigned int ep_type);

/**
 * xhci_switch_mode(): MSI and MSI-X on or off as in @to, by config writes
 *
 * Leaves addresses and data of the messages as they are.
 */
void xhci_switch_mode(QXHCI *x, const XHCISetup *to);

/** xhci_move_ring(): have event ring @intr begin anew at @addr, 4.9.4 */
void xhci_move_ring(QXHCI *x, unsigned int intr, uint64_t addr);

/** xhci_set_ie(): set or clear IE of interrupter @intr; leaves IP alone */
void xhci_set_ie(QXHCI *x, unsigned int intr, bool on);

/** xhci_set_inte(): set or clear INTE of the running controller */
void xhci_set_inte(QXHCI *x, bool on);

/* Events */

/** xhci_ring_of(): ring of an event with Interrupter Target @target */
unsigned int xhci_ring_of(const XHCISetup *s, unsigned int target);

/** xhci_take_event(): take the Transfer Event for the TRB at @trb off @ring */
void xhci_take_event(QXHCI *x, QXHCIDevice *dev, unsigned int ring,
                     uint64_t trb);

/**
 * xhci_leave_pending(): leave an event for interrupter 1 on its ring,
 * signalled but not served; returns its TRB
 */
uint64_t xhci_leave_pending(QXHCI *x, QXHCIDevice *dev, const XHCISetup *s);

/**
 * xhci_submit_bulk(): queue a transfer of @len bytes at @buf
 * @target: what the doorbell of the endpoint gets, 5.6
 *
 * Does not wait.  Returns the TRB pointer that the event will have.
 */
uint64_t xhci_submit_bulk(QXHCI *x, QXHCIDevice *dev, QXHCIRing *ring,
                          uint32_t target, uint64_t buf, unsigned int len);

/**
 * xhci_assert_completion(): the next event on ring 0 is the Transfer Event for
 * the TRB at @trb, with completion code @cc; tell that it was served
 */
void xhci_assert_completion(QXHCI *x, uint64_t trb, unsigned int cc);

/**
 * xhci_stop_transfer(): stop the endpoint @epid, which has a transfer under way
 *
 * Takes the event of the transfer, which may have been completed, too.
 */
void xhci_stop_transfer(QXHCI *x, QXHCIDevice *dev, unsigned int epid);

/** xhci_send_key(): press or release a key of the keyboard */
void xhci_send_key(QXHCI *x, bool down);

/* Interrupts */

/**
 * xhci_assert_signalled(): the interrupts that came since the last look are
 * those for one event on @ring
 */
void xhci_assert_signalled(QXHCI *x, const XHCISetup *s, unsigned int ring);

/** xhci_assert_not_signalled(): no interrupt is there, nor comes */
void xhci_assert_not_signalled(QXHCI *x);

/** xhci_assert_quiet(): no event and no interrupt is there, nor comes */
void xhci_assert_quiet(QXHCI *x);

/**
 * xhci_assert_delivery(): do a transfer for @target
 *
 * Its event is on the right ring and signalled, nothing else comes, and
 * serving the ring ends the interrupt.
 */
void xhci_assert_delivery(QXHCI *x, QXHCIDevice *dev, const XHCISetup *s,
                          unsigned int target);

/* QEMU */

/**
 * xhci_migrate(): migrate to a new QEMU
 * @destination: mode that the controller there is in before the state comes
 *
 * @x is the new one's from then on.  Returns the source, which is stopped.
 */
QTestState *xhci_migrate(QXHCI *x, const XHCISetup *destination);

/** xhci_end_migrate(): leave the destination; @from is the source */
void xhci_end_migrate(QXHCI *x, QTestState *from);

/**
 * xhci_log_start(): run HMP command @command, with the log in a file
 * Returns its name, for xhci_log_stop().
 */
char *xhci_log_start(QXHCI *x, const char *command);

/** xhci_log_stop(): end the log; frees @file and returns what was in it */
char *xhci_log_stop(char *file);

#endif

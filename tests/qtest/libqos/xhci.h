/*
 * libqos driver for xHCI USB host controllers
 *
 * Section numbers are those of the xHCI specification, revision 1.2.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_LIBQOS_XHCI_H
#define TESTS_LIBQOS_XHCI_H

#include "qemu/bitops.h"
#include "libqos-malloc.h"
#include "pci.h"
#include "qgraph.h"

/* Host Controller Operational Registers, 5.4 */
#define QXHCI_USBCMD            0x00
#define QXHCI_USBCMD_RS         BIT(0)
#define QXHCI_USBCMD_HCRST      BIT(1)
#define QXHCI_USBCMD_INTE       BIT(2)
#define QXHCI_USBCMD_EWE        BIT(10)
#define QXHCI_USBSTS            0x04
#define QXHCI_USBSTS_HCH        BIT(0)
#define QXHCI_USBSTS_EINT       BIT(3)
#define QXHCI_USBSTS_CNR        BIT(11)
#define QXHCI_USBSTS_HCE        BIT(12)
#define QXHCI_CRCR              0x18
#define QXHCI_DCBAAP            0x30
#define QXHCI_CONFIG            0x38
#define QXHCI_PORTSC(port)      (0x400 + 0x10 * ((port) - 1))
#define QXHCI_PORTSC_CCS        BIT(0)
#define QXHCI_PORTSC_PED        BIT(1)
#define QXHCI_PORTSC_PR         BIT(4)
#define QXHCI_PORTSC_PP         BIT(9)
#define QXHCI_PORTSC_SPEED(v)   extract32(v, 10, 4)

/* Interrupter Register Set, 5.5.2 */
#define QXHCI_IMAN              0x00
#define QXHCI_IMAN_IP           BIT(0)
#define QXHCI_IMAN_IE           BIT(1)
#define QXHCI_IMOD              0x04
#define QXHCI_ERSTSZ            0x08
#define QXHCI_ERSTBA            0x10
#define QXHCI_ERDP              0x18
#define QXHCI_ERDP_EHB          BIT(3)

/* TRB Types, 6.4.6 */
#define QXHCI_TRB_NORMAL        1
#define QXHCI_TRB_SETUP         2
#define QXHCI_TRB_DATA          3
#define QXHCI_TRB_STATUS        4
#define QXHCI_TRB_LINK          6
#define QXHCI_TRB_ENABLE_SLOT   9
#define QXHCI_TRB_ADDRESS_DEV   11
#define QXHCI_TRB_CONFIG_EP     12
#define QXHCI_TRB_STOP_EP       15
#define QXHCI_TRB_SET_DEQUEUE   16
#define QXHCI_TRB_NOOP_CMD      23
#define QXHCI_TRB_EV_TRANSFER   32
#define QXHCI_TRB_EV_COMMAND    33
#define QXHCI_TRB_EV_PORT       34

/* The type of a command that has an Endpoint ID, for qxhci_command() */
#define QXHCI_TRB_FOR_EP(type, epid)    ((type) | (epid) << 6)

/* Completion Codes, 6.4.5 */
#define QXHCI_CC_SUCCESS        1
#define QXHCI_CC_STALL          6
#define QXHCI_CC_RESOURCE       7
#define QXHCI_CC_SHORT_PACKET   13
#define QXHCI_CC_PARAMETER      17
#define QXHCI_CC_INVALID_STREAM 34

/* Normal TRB, 6.4.1.1 */
#define QXHCI_TRB_ISP           BIT(2)
#define QXHCI_TRB_CH            BIT(4)
#define QXHCI_TRB_IOC           BIT(5)
#define QXHCI_TRB_BEI           BIT(9)

/* Setup and Data Stage TRBs, 6.4.1.2; Isoch TRB, 6.4.1.3 */
#define QXHCI_TRB_IDT           BIT(6)
#define QXHCI_TRB_TRT_IN        (3 << 16)
#define QXHCI_TRB_DIR_IN        BIT(16)
#define QXHCI_TRB_SIA           BIT(31)

/* Endpoint Type, 6.2.3 */
#define QXHCI_EP_TYPE_BULK_OUT  2
#define QXHCI_EP_TYPE_ISOCH_IN  5
#define QXHCI_EP_TYPE_BULK_IN   6

#define QXHCI_TRB_TYPE(trb)     extract32((trb)->control, 10, 6)
#define QXHCI_TRB_SLOT(trb)     extract32((trb)->control, 24, 8)
#define QXHCI_TRB_CC(trb)       extract32((trb)->status, 24, 8)

#define QXHCI_MAX_INTRS         16

/* Size of all rings, with the Link TRB where there is one */
#define QXHCI_RING_TRBS         64
#define QXHCI_TRB_SIZE          16

/* Endpoint IDs (Device Context Index), 4.5.1 */
#define QXHCI_EP0               1
#define QXHCI_EP_IN(n)          (2 * (n) + 1)

/* How the controller signals interrupts */
typedef enum QXHCIMode {
    QXHCI_PIN,
    QXHCI_MSI,
    QXHCI_MSIX,
} QXHCIMode;

/* Bits of the configuration space that a message mode is switched with */
typedef enum QXHCIModeBit {
    QXHCI_MSI_ENABLE,
    QXHCI_MSIX_ENABLE,
    QXHCI_MSIX_MASKALL,
} QXHCIModeBit;

/* In host byte order */
typedef struct QXHCITrb {
    uint64_t parameter;
    uint32_t status;
    uint32_t control;
} QXHCITrb;

typedef struct QXHCIRing {
    uint64_t addr;
    unsigned int idx;
    bool cycle;
} QXHCIRing;

typedef struct QXHCI {
    QPCIDevice pdev;
    QPCIBar bar;

    QGuestAllocator *alloc;
    /* What was allocated since qxhci_start() */
    GArray *allocated;

    /* Offsets of the register spaces */
    uint32_t oper, runtime, doorbell;
    unsigned int max_slots, max_intrs, max_ports;
    unsigned int ctx_size;

    uint64_t dcbaa;
    QXHCIRing cmd;
    unsigned int num_rings;
    QXHCIRing event[QXHCI_MAX_INTRS];

    /* Where MSI and MSI-X messages go, one dword for each MSI-X vector */
    uint64_t msg;
} QXHCI;

/* A USB device, and the endpoints of it that the driver uses */
typedef struct QXHCIDevice {
    unsigned int port;
    unsigned int slot;
    uint64_t in_ctx, out_ctx;
    uint64_t buf;
    QXHCIRing ep0;
    QXHCIRing intr_in;
} QXHCIDevice;

/**
 * qxhci_init(): find the controller at @devfn of @bus
 *
 * Maps and enables the function and reads the capability registers.  To be
 * called again after the PCI function was reset.  Bits 8 and up of @devfn are
 * the bus number.
 */
void qxhci_init(QXHCI *x, QPCIBus *bus, int devfn, QGuestAllocator *alloc);

/**
 * qxhci_attach(): set the allocator for the guest memory that @x will use
 *
 * Part of qxhci_init(), like qxhci_read_caps(); for users that reach the
 * registers in another way.
 */
void qxhci_attach(QXHCI *x, QGuestAllocator *alloc);

/** qxhci_read_caps(): read the capability registers */
void qxhci_read_caps(QXHCI *x);

/** qxhci_free(): free all guest memory that @x uses */
void qxhci_free(QXHCI *x);

uint32_t qxhci_oper_read(QXHCI *x, uint32_t reg);
void qxhci_oper_write(QXHCI *x, uint32_t reg, uint32_t val);
uint32_t qxhci_intr_read(QXHCI *x, unsigned int intr, uint32_t reg);
void qxhci_intr_write(QXHCI *x, unsigned int intr, uint32_t reg, uint32_t val);

/**
 * qxhci_start(): reset the host controller (HCRST) and start it
 * @num_rings: set up event rings 0 .. @num_rings - 1 and enable their
 *             interrupters
 */
void qxhci_start(QXHCI *x, unsigned int num_rings);

/**
 * qxhci_set_mode(): switch to @mode, as a driver does before qxhci_start()
 * @vectors: number of MSI vectors to enable, a power of 2; ignored for pin
 *           mode, and for MSI-X, which gets one for each interrupter
 */
void qxhci_set_mode(QXHCI *x, QXHCIMode mode, unsigned int vectors);

/** qxhci_setup_msi(): set address, data and number of the MSI vectors */
void qxhci_setup_msi(QXHCI *x, unsigned int vectors);

/** qxhci_setup_msix(): set addresses and data of all MSI-X vectors; unmask */
void qxhci_setup_msix(QXHCI *x);

/** qxhci_msix_mask(): mask or unmask MSI-X vector @vector */
void qxhci_msix_mask(QXHCI *x, unsigned int vector, bool on);

/** qxhci_write_bit(): set or clear @bit with one write of @len bytes */
void qxhci_write_bit(QXHCI *x, QXHCIModeBit bit, bool on, unsigned int len);

/** qxhci_intx(): whether the function asserts INTx# */
bool qxhci_intx(QXHCI *x);

/**
 * qxhci_take_messages(): messages that came since the last call
 *
 * Returns a mask of vectors.  All MSI vectors share an address, so that of
 * several MSI messages since the last call only the last one is seen.
 */
uint32_t qxhci_take_messages(QXHCI *x);

/** qxhci_step(): let the controller run for @ms ms of virtual time */
void qxhci_step(QXHCI *x, unsigned int ms);

/**
 * qxhci_event_peek(): look at the event @n places after the next one of ring
 * @ring; returns whether there is one
 */
bool qxhci_event_peek(QXHCI *x, unsigned int ring, unsigned int n,
                      QXHCITrb *ev);

/** qxhci_event_pop(): take the next event off ring @ring, if there is one */
bool qxhci_event_pop(QXHCI *x, unsigned int ring, QXHCITrb *ev);

/**
 * qxhci_event_wait(): wait for an event on ring @ring and take it
 *
 * Steps the clock, for 1 s of virtual time at the most, and fails the test if
 * nothing comes.
 */
void qxhci_event_wait(QXHCI *x, unsigned int ring, QXHCITrb *ev);

/**
 * qxhci_write_erdp(): move ERDP of ring @ring to the first event that was not
 * taken, and clear EHB if @ehb
 */
void qxhci_write_erdp(QXHCI *x, unsigned int ring, bool ehb);

/**
 * qxhci_ack(): tell the controller that ring @ring was served
 *
 * Clears IP, then moves ERDP to the first event that was not taken and clears
 * EHB, 4.17.2.
 */
void qxhci_ack(QXHCI *x, unsigned int ring);

/** qxhci_drain(): take all events off all rings, with all interrupts */
void qxhci_drain(QXHCI *x);

/**
 * qxhci_command(): execute a command and wait for its success
 * Returns the slot ID of the Command Completion Event.
 */
unsigned int qxhci_command(QXHCI *x, unsigned int type, uint64_t parameter,
                           unsigned int slot);

/**
 * qxhci_try_command(): execute a command, which may fail
 * Returns the Command Completion Event.
 */
QXHCITrb qxhci_try_command(QXHCI *x, unsigned int type, uint64_t parameter,
                           unsigned int slot);

/**
 * qxhci_ring_put(): write @trb, except for its Cycle bit, to a transfer ring
 * Returns its address.
 */
uint64_t qxhci_ring_put(QXHCI *x, QXHCIRing *ring, QXHCITrb trb);

/** qxhci_doorbell(): write @val to the doorbell of @slot, 4.7 */
void qxhci_doorbell(QXHCI *x, unsigned int slot, uint32_t val);

/** qxhci_device_init(): reset and address the first USB device found */
void qxhci_device_init(QXHCI *x, QXHCIDevice *dev);

/** qxhci_device_init_port(): the same for the device on @port */
void qxhci_device_init_port(QXHCI *x, QXHCIDevice *dev, unsigned int port);

/**
 * qxhci_submit_get_descriptor(): read the device descriptor into dev->buf
 * @target: Interrupter Target of the Transfer Event
 *
 * Does not wait.  Returns the TRB pointer that the event will have.
 */
uint64_t qxhci_submit_get_descriptor(QXHCI *x, QXHCIDevice *dev,
                                     unsigned int target);

/** qxhci_set_configuration(): have the device in its first configuration */
void qxhci_set_configuration(QXHCI *x, QXHCIDevice *dev);

/**
 * qxhci_configure_intr_in(): set configuration 1, with an interrupt endpoint
 * @epid: endpoint ID
 * @max_packet: wMaxPacketSize
 */
void qxhci_configure_intr_in(QXHCI *x, QXHCIDevice *dev, unsigned int epid,
                             unsigned int max_packet);

/**
 * qxhci_submit_intr_in(): queue a transfer of @len bytes to dev->buf
 * @target: Interrupter Target of the Transfer Event
 * @flags: QXHCI_TRB_CH if the TD goes on with the next one, QXHCI_TRB_BEI to
 *     block the interrupt for its event
 *
 * Does not wait.  Returns the TRB pointer that the event will have.
 */
uint64_t qxhci_submit_intr_in(QXHCI *x, QXHCIDevice *dev, unsigned int epid,
                              unsigned int len, unsigned int target,
                              uint32_t flags);

#endif

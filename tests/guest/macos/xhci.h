/*
 * The host controller: what the parts of its driver share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef XHCI_H
#define XHCI_H

#include "guest.h"

/* Operational registers, 5.4 */
#define USBCMD              0x00
#define   CMD_RS                (1 << 0)
#define   CMD_HCRST             (1 << 1)
#define   CMD_INTE              (1 << 2)
#define USBSTS              0x04
#define   STS_HCH               (1 << 0)
#define   STS_CNR               (1 << 11)
#define CRCR                0x18
#define   CRCR_RCS              (1 << 0)
#define DCBAAP              0x30
#define CONFIG              0x38
#define PORTSC(port)        (0x400 + 0x10 * ((port) - 1))
#define   PORTSC_CCS            (1 << 0)
#define   PORTSC_PED            (1 << 1)
#define   PORTSC_PR             (1 << 4)
#define   PORTSC_PP             (1 << 9)
#define   PORTSC_CHANGES        (0x7f << 17)

/* Runtime registers, 5.5, of one interrupter */
#define INTERRUPTER(n)      (0x20 + 0x20 * (n))
#define IMAN                0x00
#define   IMAN_IP               (1 << 0)
#define   IMAN_IE               (1 << 1)
#define IMOD                0x04
#define ERSTSZ              0x08
#define ERSTBA              0x10
#define ERDP                0x18
#define   ERDP_EHB              (1 << 3)

/* TRBs, 6.4 */
#define RING_TRBS           (PAGE_SIZE / sizeof(Trb))
#define TRB_TYPE(type)      ((type) << 10)
#define TRB_NORMAL          1
#define TRB_SETUP           2
#define TRB_DATA            3
#define TRB_STATUS          4
#define TRB_LINK            6
#define TRB_ENABLE_SLOT     9
#define TRB_ADDRESS_DEVICE  11
#define TRB_CONFIGURE       12
#define EVENT_TRANSFER      32
#define EVENT_COMMAND       33
#define EVENT_PORT          34
#define TRB_CYCLE           (1 << 0)
#define TRB_TOGGLE          (1 << 1)
#define TRB_ISP             (1 << 2)
#define TRB_CHAIN           (1 << 4)
#define TRB_IOC             (1 << 5)
#define TRB_IDT             (1 << 6)
#define TRB_DIR_IN          (1 << 16)
#define TRB_IN_DATA_STAGE   (3 << 16)
#define TRB_TARGET(n)       ((n) << 22)

#define CODE_SUCCESS        1
#define CODE_SHORT_PACKET   13

/* Which interrupter is for what, in macOS; see docs/macos-guest.md */
#define MACOS_MIN_INTRS     4
#define MACOS_PRIMARY       0       /* commands and ports: not by choice */
#define MACOS_TRANSFERS     1
#define MACOS_ISOCHRONOUS   2

typedef struct XHCI {
    uintptr_t oper, runtime, doorbell;
    unsigned int context_size;
    unsigned int max_ports;
    enum { MODE_PIN, MODE_MSI, MODE_MSIX } mode;
    uint64_t *contexts;             /* DCBAA, 6.1 */
    Ring command;
    Ring event[NUM_RINGS];
    bool command_busy;
    Trb command_event;
    Endpoint *endpoints[MAX_SLOTS + 1][32];
} XHCI;

extern XHCI xhci;

/* xhci-ring.c */

void ring_init(Ring *ring);
void ring_put(Ring *ring, Trb trb);
bool event_ring_is_empty(const Ring *ring);
Trb event_ring_take(Ring *ring);

/* xhci-event.c */

/* @segment_table is one of the controller's, 6.5, to be filled here. */
void event_ring_start(unsigned int n, uint32_t *segment_table);
/* MSI-X, else MSI, else the pin */
void choose_interrupts(PCIDevice *pci);

/* xhci.c */

/* Waits for the end of a command, which must not fail; the slot it names. */
unsigned int command(unsigned int type, void *parameter, unsigned int slot);

#endif

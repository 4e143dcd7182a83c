/*
 * A guest that drives xHCI as macOS is known to: what its parts share
 *
 * What is assumed of macOS, and from where: docs/macos-guest.md.  Section
 * numbers without more are those of the xHCI specification, revision 1.2.
 *
 * Interrupts are off, but for idle() and the handlers themselves.  No two
 * pieces of code ever work on the same data at a time.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef GUEST_H
#define GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARRAY_SIZE(a)   (sizeof(a) / sizeof((a)[0]))
#define PAGE_SIZE       4096

/* Ports and registers */

static inline void outb(uint16_t port, uint8_t val)
{
    asm volatile("outb %0, %1" : : "a"(val), "Nd"(port));
}

static inline void outl(uint16_t port, uint32_t val)
{
    asm volatile("outl %0, %1" : : "a"(val), "Nd"(port));
}

static inline uint32_t inl(uint16_t port)
{
    uint32_t val;

    asm volatile("inl %1, %0" : "=a"(val) : "Nd"(port));
    return val;
}

static inline uint32_t read32(uintptr_t addr)
{
    return *(volatile uint32_t *)addr;  /* volatile: a register */
}

static inline void write32(uintptr_t addr, uint32_t val)
{
    *(volatile uint32_t *)addr = val;   /* volatile: a register */
}

/* All addresses of this guest are below 4 GiB. */
static inline void write64(uintptr_t addr, uint32_t val)
{
    write32(addr, val);
    write32(addr + 4, 0);
}

/* lib.c */

/* Knows %s, %u and %x. */
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Prints an error and stops the guest. */
void fail(const char *format, ...)
    __attribute__((format(printf, 1, 2), noreturn));

/* A page of zeroes, which is never given back. */
void *alloc_page(void);

void *memset(void *to, int byte, size_t size);
void *memcpy(void *to, const void *from, size_t size);
uint32_t crc32(uint32_t crc, const uint8_t *data, size_t size);

/* pci.c */

typedef struct PCIDevice {
    unsigned int bdf;
    uintptr_t bar;          /* BAR 0 */
    unsigned int line;      /* the PIC's input that the pin is routed to */
} PCIDevice;

uint32_t pci_read(unsigned int bdf, unsigned int reg);

/* The first xHCI controller, ready to use but for its interrupts. */
PCIDevice *pci_find_xhci(void);

/*
 * Message n goes to vector @vector + n; MSI has message 0 only.  False if the
 * device lacks the capability.
 */
bool pci_enable_msix(PCIDevice *dev, unsigned int messages,
                     uint32_t address, uint32_t vector);
bool pci_enable_msi(PCIDevice *dev, uint32_t address, uint32_t vector);

/* interrupts.c */

#define MESSAGE_VECTOR      0x40
#define MESSAGE_ADDRESS     0xfee00000      /* local APIC 0 */

void interrupts_init(void);
void interrupts_enable_line(unsigned int line);

/* Waits for an interrupt, and looks after the watchdog. */
void idle(void);

/* Lets interrupts in for some time. */
void pause_us(uint32_t us);

/* Units of clock() since @start, in microseconds; less than 20 minutes. */
uint32_t clock(void);
uint32_t elapsed_us(uint32_t start);

/* xhci.c, xhci-event.c, xhci-device.c */

#define MAX_SLOTS       8
#define NUM_RINGS       3       /* event rings, each with its interrupter */

typedef struct Trb {
    uint64_t parameter;
    uint32_t status;
    uint32_t control;
} Trb;

/* A command or transfer ring, or an event ring: one page, 4.9 */
typedef struct Ring {
    volatile Trb *trbs;     /* volatile: the controller reads or writes it */
    unsigned int index;
    bool cycle;
} Ring;

/* The field EP Type, 6.2.3: one of these, with EP_IN for an IN endpoint */
enum {
    EP_CONTROL = 4,
    EP_ISOCH = 1,
    EP_BULK = 2,
    EP_INTERRUPT = 3,
    EP_IN = 4,
};

typedef struct Device Device;
typedef struct Endpoint Endpoint;

/* A Transfer Event, and how it came to be seen */
typedef struct Event {
    Trb trb;
    unsigned int ring;
    bool watchdog;          /* found by it, nobody had signalled the ring */
} Event;

struct Endpoint {
    Device *dev;
    unsigned int id;        /* Device Context Index, 4.5.1 */
    unsigned int type;
    unsigned int max_packet;
    unsigned int interval;  /* 125 us * 2 ** interval */
    Ring ring;

    /* Called for each event; without it, xhci_wait() is to be. */
    void (*on_event)(Endpoint *ep, const Event *event);
    bool busy;
    unsigned int code;      /* Completion Code, 6.4.5 */
    unsigned int residual;  /* bytes that were not transferred */
};

struct Device {
    unsigned int slot;
    unsigned int port;
    unsigned int speed;     /* Port Speed, 7.2.2.1.1 */
    uint8_t *input_context;
    Endpoint control;
    Endpoint in;
    Endpoint out;
};

typedef struct Statistics {
    unsigned int interrupts;
    unsigned int idle_interrupts;       /* no ring had been signalled */
    unsigned int events[NUM_RINGS];
    unsigned int watchdog_events;
} Statistics;

extern Statistics statistics;

void xhci_start(PCIDevice *pci);

/* The pin, or message @n. */
void xhci_line_interrupt(void);
void xhci_message_interrupt(unsigned int n);
void xhci_watchdog(void);

const char *xhci_mode(void);
unsigned int xhci_max_ports(void);

/* False if there is nothing on the port. */
bool xhci_reset_port(unsigned int port, unsigned int *speed);
void xhci_address_device(Device *dev);
void xhci_configure_endpoints(Device *dev, Endpoint **eps, unsigned int count);

/* Queues one Transfer Descriptor. */
void xhci_control(Device *dev, uint64_t setup, void *data);
void xhci_transfer(Endpoint *ep, void *data, unsigned int length);

/* Until the one that is queued is done; false if it failed. */
bool xhci_wait(Endpoint *ep);

/* main.c */

void main(void);

/* usb.c, hid.c, storage.c */

void usb_find_devices(void);

void hid_start(Device *dev, const char *name);
void hid_print_summary(void);
/* Whether a key asked for it since the last time. */
bool hid_disk_wanted(void);
bool hid_summary_wanted(void);

void storage_start(Device *dev);
void storage_read_all(void);

#endif

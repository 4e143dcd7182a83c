/*
 * Keyboard and tablet: a line for each report
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "guest.h"

/*
 * Reads that wait for reports, for each device.  With a single one, a guest
 * that has to be told by its watchdog would get one report a second.
 */
#define READS               16
#define MAX_REPORT          64

/* Usages of page 7 */
#define KEY_F11             0x44
#define KEY_F12             0x45

typedef struct Hid {
    const char *name;
    uint8_t *buffers;       /* READS of them, which are used in turn */
    unsigned int next;
} Hid;

static Hid hids[MAX_SLOTS + 1];     /* by slot */
static unsigned int inputs, watchdog_inputs;
static bool disk_wanted, summary_wanted;

static void read_report(Endpoint *ep, void *buffer)
{
    xhci_transfer(ep, buffer, ep->max_packet);
}

static void print_report(const Hid *hid, const Event *event,
                         const uint8_t *report, unsigned int length)
{
    static const char digits[] = "0123456789abcdef";
    char hex[2 * MAX_REPORT + 1];
    unsigned int i;

    for (i = 0; i < length; i++) {
        hex[2 * i] = digits[report[i] >> 4];
        hex[2 * i + 1] = digits[report[i] & 15];
    }
    hex[2 * i] = 0;
    print("input %u %s %s ring %u %s %u\n", inputs, hid->name, hex,
          event->ring, event->watchdog ? "watchdog" : "interrupt",
          statistics.interrupts);
}

static void look_for_keys(const uint8_t *report, unsigned int length)
{
    for (unsigned int i = 2; i < length; i++) {
        disk_wanted |= report[i] == KEY_F11;
        summary_wanted |= report[i] == KEY_F12;
    }
}

static void on_report(Endpoint *ep, const Event *event)
{
    Hid *hid = &hids[ep->dev->slot];
    uint8_t *report = hid->buffers + hid->next * MAX_REPORT;
    unsigned int length = ep->max_packet - ep->residual;

    hid->next = (hid->next + 1) % READS;
    inputs++;
    watchdog_inputs += event->watchdog;
    print_report(hid, event, report, length);
    if (length == 8) {              /* that of a keyboard */
        look_for_keys(report, length);
    }
    read_report(ep, report);
}

void hid_start(Device *dev, const char *name)
{
    Hid *hid = &hids[dev->slot];

    if (dev->in.max_packet > MAX_REPORT) {
        fail("reports of the %s are too long", name);
    }
    hid->name = name;
    hid->buffers = alloc_page();
    dev->in.on_event = on_report;
    for (unsigned int i = 0; i < READS; i++) {
        read_report(&dev->in, hid->buffers + i * MAX_REPORT);
    }
    print("device %s port %u\n", name, dev->port);
}

void hid_print_summary(void)
{
    print("summary inputs %u by-watchdog %u interrupts %u for-nothing %u "
          "events %u %u %u\n", inputs, watchdog_inputs, statistics.interrupts,
          statistics.idle_interrupts, statistics.events[0],
          statistics.events[1], statistics.events[2]);
}

bool hid_disk_wanted(void)
{
    bool wanted = disk_wanted;

    disk_wanted = false;
    return wanted;
}

bool hid_summary_wanted(void)
{
    bool wanted = summary_wanted;

    summary_wanted = false;
    return wanted;
}

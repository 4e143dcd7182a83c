/*
 * Finds the USB devices and sets them up
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "guest.h"

/* Port Speed, 7.2.2.1.1 */
#define SPEED_FULL          1
#define SPEED_HIGH          3
#define SPEED_SUPER         4

/* Setup Packets, USB 2.0, 9.4, as little-endian numbers */
#define GET_CONFIGURATION_DESCRIPTOR(length) \
    (0x0000000002000680ULL | (uint64_t)(length) << 48)
#define SET_CONFIGURATION(n) \
    (0x0000000000000900ULL | (uint64_t)(n) << 16)

/* Descriptors, USB 2.0, 9.6 */
#define DESCRIPTOR_INTERFACE    4
#define DESCRIPTOR_ENDPOINT     5

#define CLASS_HID           3
#define   HID_KEYBOARD          1
#define CLASS_STORAGE       8
#define   STORAGE_BULK_ONLY     0x50

/* Of the configurations of QEMU's devices, which have one interface each */
#define CONFIGURATION_LENGTH    255

/* log2 of the interval in units of 125 us, 6.2.3.6 */
static unsigned int interval_of(const Device *dev, uint8_t b_interval)
{
    unsigned int frames = b_interval, log2 = 3;

    if (dev->speed >= SPEED_HIGH) {
        return b_interval ? b_interval - 1 : 0;
    }
    while (frames >>= 1) {
        log2++;
    }
    return log2;
}

static void parse_endpoint(Device *dev, const uint8_t *d)
{
    bool in = d[2] & 0x80;
    Endpoint *ep = in ? &dev->in : &dev->out;

    ep->id = 2 * (d[2] & 15) + in;
    ep->type = (d[3] & 3) | (in ? EP_IN : 0);
    ep->max_packet = d[4] | (d[5] & 7) << 8;
    ep->interval = (d[3] & 3) == EP_BULK ? 0 : interval_of(dev, d[6]);
}

/* Returns the interface descriptor. */
static const uint8_t *parse_configuration(Device *dev, const uint8_t *d)
{
    const uint8_t *end = d + (d[2] | d[3] << 8);
    const uint8_t *interface = NULL;

    for (; d < end && d[0]; d += d[0]) {
        if (d[1] == DESCRIPTOR_INTERFACE) {
            interface = d;
        } else if (d[1] == DESCRIPTOR_ENDPOINT) {
            parse_endpoint(dev, d);
        }
    }
    if (!interface) {
        fail("the device on port %u has no interface", dev->port);
    }
    return interface;
}

static void configure(Device *dev, uint8_t configuration)
{
    Endpoint *eps[2];
    unsigned int count = 0;

    if (dev->in.id) {
        eps[count++] = &dev->in;
    }
    if (dev->out.id) {
        eps[count++] = &dev->out;
    }
    xhci_configure_endpoints(dev, eps, count);
    xhci_control(dev, SET_CONFIGURATION(configuration), NULL);
    if (!xhci_wait(&dev->control)) {
        fail("SET_CONFIGURATION fails on port %u", dev->port);
    }
}

static void device_start(Device *dev)
{
    uint8_t *configuration = alloc_page();
    const uint8_t *interface;

    dev->control.max_packet = dev->speed >= SPEED_SUPER ? 512 :
                              dev->speed == SPEED_HIGH ? 64 : 8;
    xhci_address_device(dev);
    xhci_control(dev, GET_CONFIGURATION_DESCRIPTOR(CONFIGURATION_LENGTH),
                 configuration);
    if (!xhci_wait(&dev->control)) {
        fail("GET_DESCRIPTOR fails on port %u", dev->port);
    }
    interface = parse_configuration(dev, configuration);
    configure(dev, configuration[5]);

    if (interface[5] == CLASS_HID) {
        hid_start(dev, interface[7] == HID_KEYBOARD ? "kbd" : "tablet");
    } else if (interface[5] == CLASS_STORAGE &&
               interface[7] == STORAGE_BULK_ONLY) {
        storage_start(dev);
    } else {
        print("port %u: unknown class %u\n", dev->port, interface[5]);
    }
}

void usb_find_devices(void)
{
    static Device devices[MAX_SLOTS];
    unsigned int count = 0, speed;

    for (unsigned int port = 1; port <= xhci_max_ports(); port++) {
        if (count < MAX_SLOTS && xhci_reset_port(port, &speed)) {
            devices[count].port = port;
            devices[count].speed = speed;
            device_start(&devices[count++]);
        }
    }
}

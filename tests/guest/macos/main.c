/*
 * A guest that drives xHCI as macOS is known to
 *
 * It reports on the debug console what it gets, in lines:
 *
 *   error: TEXT                        the guest stops here
 *   device NAME port N                 kbd, tablet and disk
 *   ready MODE                         input can come: pin, msi or msix
 *   input N NAME HEX ring N HOW N      a report; HOW it was found (interrupt,
 *                                      watchdog), interrupts so far
 *   disk bytes N crc32 HEX us N        after F11: contents, time to read them
 *   summary ...                        after F12
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "guest.h"

void main(void)
{
    PCIDevice *pci;

    interrupts_init();
    pci = pci_find_xhci();
    xhci_start(pci);
    usb_find_devices();
    print("ready %s\n", xhci_mode());

    for (;;) {
        idle();
        if (hid_disk_wanted()) {
            storage_read_all();
        }
        if (hid_summary_wanted()) {
            hid_print_summary();
        }
    }
}

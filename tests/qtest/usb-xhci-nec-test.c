/*
 * QTest testcase for xHCI USB host controllers: intrs and slots
 *
 * The properties of nec-usb-xhci that set the number of interrupters and of
 * device slots, and how events are mapped to fewer interrupters.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "libqtest.h"
#include "libqos/qgraph.h"
#include "libqos/qos_external.h"
#include "usb-xhci-utils.h"

/* Of the first controller; those of further ones follow */
#define NEC_SLOT            6

typedef struct IntrsTest {
    const XHCISetup *setup;
    unsigned int intrs;
} IntrsTest;

static void test_intrs(QPCIBus *bus, QGuestAllocator *alloc, const void *arg)
{
    const IntrsTest *t = arg;
    XHCISetup s = *t->setup;
    QXHCI x;
    QXHCIDevice dev;

    qxhci_init(&x, bus, QPCI_DEVFN(NEC_SLOT, 0), alloc);
    g_assert_cmpuint(x.max_intrs, ==, t->intrs);
    g_assert_cmpuint(x.max_slots, ==, 7);

    /* 4.17.1: with a single interrupter, the target is ignored */
    s.mapping &= t->intrs > 1;
    s.msi_vectors = MIN(s.msi_vectors, t->intrs);
    xhci_start(&x, &dev, &s);
    xhci_assert_delivery(&x, &dev, &s, 0);
    xhci_assert_delivery(&x, &dev, &s, 1);
    xhci_assert_delivery(&x, &dev, &s, t->intrs - 1);
    xhci_assert_delivery(&x, &dev, &s, t->intrs);
    qxhci_free(&x);
}

/* For what the controller cannot have there is a warning, and the nearest */
static void test_out_of_range(QPCIBus *bus, QGuestAllocator *alloc,
                              const void *arg)
{
    static const struct {
        const char *name;
        unsigned int val;
        unsigned int intrs, slots;
    } bad[] = {
        { "intrs", 0, 1, 64 },
        { "intrs", 3, 4, 64 },
        { "intrs", 17, 16, 64 },
        { "slots", 0, 16, 1 },
        { "slots", 65, 16, 64 },
    };

    if (bus->not_hotpluggable) {
        g_test_skip("No PCI hotplug");
        return;
    }
    for (int i = 0; i < ARRAY_SIZE(bad); i++) {
        g_autofree char *out = qtest_hmp(bus->qts,
            "device_add nec-usb-xhci,addr=0x%x,%s=%u", NEC_SLOT + i,
            bad[i].name, bad[i].val);
        g_autofree char *warning = g_strdup_printf("%s=%u is no", bad[i].name,
                                                   bad[i].val);
        QXHCI x;

        g_test_message("%s=%u: %s", bad[i].name, bad[i].val, out);
        g_assert_nonnull(strstr(out, warning));
        qxhci_init(&x, bus, QPCI_DEVFN(NEC_SLOT + i, 0), alloc);
        g_assert_cmpuint(x.max_intrs, ==, bad[i].intrs);
        g_assert_cmpuint(x.max_slots, ==, bad[i].slots);
        qxhci_free(&x);
    }
    qos_invalidate_command_line();
}

static void add_intrs_test(unsigned int intrs, const XHCISetup *s)
{
    IntrsTest *t = xhci_test_arg(sizeof(*t));
    g_autofree char *name = g_strdup_printf("nec-usb-xhci/intrs/%u-%s", intrs,
                                            s->name);
    g_autofree char *cmd_line = g_strdup_printf(
        "-device nec-usb-xhci,addr=%u,%s,intrs=%u,slots=7 -device usb-kbd ",
        NEC_SLOT, s->device_opts, intrs);

    t->setup = s;
    t->intrs = intrs;
    xhci_add_bus_test(name, cmd_line, test_intrs, t);
}

static void register_nec_tests(void)
{
    if (!qtest_has_device("nec-usb-xhci")) {
        return;
    }
    for (int i = 0; i < ARRAY_SIZE(xhci_modes); i++) {
        add_intrs_test(1, xhci_modes[i]);
        add_intrs_test(2, xhci_modes[i]);
        add_intrs_test(8, xhci_modes[i]);
    }
    xhci_add_bus_test("nec-usb-xhci/intrs/out-of-range", NULL,
                      test_out_of_range, NULL);
}

libqos_init(register_nec_tests);

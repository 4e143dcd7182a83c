/*
 * QTest testcase for the interrupters of xHCI USB host controllers
 *
 * Which event ring an event goes to and how it is signalled, in pin, MSI and
 * MSI-X mode; that this follows the mode when config writes, resets and a
 * state load change it; and that a state loads in each mode.  Section numbers
 * are those of the xHCI specification, revision 1.2.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/pci/pci_regs.h"
#include "libqtest.h"
#include "libqos/qgraph.h"
#include "usb-xhci-utils.h"

/* Delivery in each mode */

/* Two events for different interrupters before either is served */
static void assert_two_targets(QXHCI *x, QXHCIDevice *dev, const XHCISetup *s)
{
    unsigned int ring[2] = { xhci_ring_of(s, 2), xhci_ring_of(s, 1) };
    uint64_t trb[2];

    trb[0] = qxhci_submit_get_descriptor(x, dev, 2);
    qxhci_step(x, 20);
    xhci_assert_signalled(x, s, ring[0]);
    trb[1] = qxhci_submit_get_descriptor(x, dev, 1);
    qxhci_step(x, 20);
    if (s->mapping) {
        xhci_assert_signalled(x, s, ring[1]);
    } else {
        /* The guest is busy with ring 0 (EHB): nothing more until it is done */
        g_assert_true(qxhci_intx(x));
    }

    for (int i = 0; i < 2; i++) {
        xhci_take_event(x, dev, ring[i], trb[i]);
    }
    for (int i = 0; i < 2; i++) {
        qxhci_ack(x, ring[i]);
    }
    xhci_assert_quiet(x);
}

static void test_targets(QXHCI *x, const void *arg)
{
    static const unsigned int targets[] = {
        0, 1, 2,
        /* The last interrupter, one too many, all bits of the field */
        QXHCI_MAX_INTRS - 1, QXHCI_MAX_INTRS, 1023,
    };
    const XHCISetup *s = arg;
    QXHCIDevice dev;

    xhci_start(x, &dev, s);
    g_assert_cmpuint(x->max_intrs, ==, QXHCI_MAX_INTRS);

    for (int i = 0; i < ARRAY_SIZE(targets); i++) {
        g_test_message("Interrupter Target %u", targets[i]);
        /* More than once, as each event has to be signalled anew */
        for (int n = 0; n < 3; n++) {
            xhci_assert_delivery(x, &dev, s, targets[i]);
        }
    }
    assert_two_targets(x, &dev, s);
    /* Command Completion Events go to interrupter 0, 4.9.4 */
    qxhci_command(x, QXHCI_TRB_NOOP_CMD, 0, 0);
}

/* A key press, with the interrupt endpoint aimed at interrupter 1 */
static void test_key(QXHCI *x, const void *arg)
{
    const XHCISetup *s = arg;
    unsigned int ring = xhci_ring_of(s, 1);
    QXHCIDevice dev;
    uint8_t report[XHCI_KBD_REPORT_SIZE];
    uint64_t trb;

    xhci_start_kbd(x, &dev, s);

    for (int down = 1; down >= 0; down--) {
        trb = qxhci_submit_intr_in(x, &dev, XHCI_KBD_EP, XHCI_KBD_REPORT_SIZE,
                                   1, 0);
        xhci_assert_quiet(x);

        xhci_send_key(x, down);
        xhci_take_event(x, &dev, ring, trb);
        xhci_assert_signalled(x, s, ring);
        qxhci_ack(x, ring);

        qtest_memread(x->pdev.bus->qts, dev.buf, report, sizeof(report));
        g_assert_cmphex(report[2], ==, down ? XHCI_KBD_USAGE_A : 0);
    }
    xhci_assert_quiet(x);
}

/*
 * The property as machine types set it: vmapple turns it on, and where its
 * default depends on the machine type, older ones turn it off.
 */
static void test_global(void *obj, void *data, QGuestAllocator *alloc)
{
    QXHCI *x = obj;
    const XHCISetup *s = data;
    QXHCIDevice dev;

    if (qpci_check_buggy_msi(&x->pdev)) {
        return;
    }
    xhci_start(x, &dev, s);
    xhci_assert_delivery(x, &dev, s, 1);
}

static void add_global_test(const char *name, const char *global,
                            const XHCISetup *s)
{
    g_autofree char *cmd_line = g_strdup_printf("-device usb-kbd -global "
                                                "pci-xhci.%s", global);

    qos_add_test(name, "xhci", test_global, &(QOSGraphTestOptions) {
        .edge.extra_device_opts = s->device_opts,
        .edge.after_cmd_line = cmd_line,
        .arg = (void *)s,
    });
}

static void register_delivery_tests(void)
{
    static const XHCISetup on = {
        "pin", "msi=off,msix=off", QXHCI_PIN, 0, false
    };
    static const XHCISetup off = {
        "pin", "msi=off,msix=off", QXHCI_PIN, 0, true
    };

    for (int i = 0; i < ARRAY_SIZE(xhci_setups); i++) {
        xhci_add_setup_test("targets", &xhci_setups[i], test_targets);
    }
    for (int i = 0; i < ARRAY_SIZE(xhci_modes); i++) {
        xhci_add_setup_test("key", xhci_modes[i], test_key);
    }
    add_global_test("pin/global-on", "conditional-intr-mapping=on", &on);
    add_global_test("pin/global-off", "conditional-intr-mapping=off", &off);
}

libqos_init(register_delivery_tests);

/* Changes of the mode */

typedef struct SwitchTest {
    const char *name;
    const XHCISetup *setup;
    QXHCIModeBit bit;
} SwitchTest;

static const SwitchTest switch_tests[] = {
    { "switch/msi", &xhci_msi_mode, QXHCI_MSI_ENABLE },
    { "switch/msix", &xhci_msix_mode, QXHCI_MSIX_ENABLE },
};

/* Writes IE again, as drivers do once the mode is set */
static void enable_interrupters(QXHCI *x)
{
    for (unsigned int n = 0; n < x->num_rings; n++) {
        xhci_set_ie(x, n, true);
    }
}

/* A message mode switched on and off by config writes of each size */
static void test_switch(QXHCI *x, const void *arg)
{
    const SwitchTest *t = arg;
    QXHCIDevice dev;

    /* Leaves addresses and data of the messages in place */
    qxhci_set_mode(x, t->setup->mode, t->setup->msi_vectors);
    xhci_start(x, &dev, &xhci_pin_mode);

    for (unsigned int len = 1; len <= 4; len *= 2) {
        g_test_message("%u-byte writes", len);
        xhci_assert_delivery(x, &dev, &xhci_pin_mode, 1);

        qxhci_write_bit(x, t->bit, true, len);
        enable_interrupters(x);
        for (unsigned int target = 0; target < 3; target++) {
            xhci_assert_delivery(x, &dev, t->setup, target);
        }

        qxhci_write_bit(x, t->bit, false, len);
        enable_interrupters(x);
        for (unsigned int target = 0; target < 3; target++) {
            xhci_assert_delivery(x, &dev, &xhci_pin_mode, target);
        }
    }
}

/* MSI-X on top of MSI, and back; MSI-X has precedence while both are on */
static void test_switch_both(QXHCI *x, const void *arg)
{
    QXHCIDevice dev;

    qxhci_set_mode(x, QXHCI_MSIX, 0);
    xhci_start(x, &dev, &xhci_msi_mode);
    xhci_assert_delivery(x, &dev, &xhci_msi_mode, 1);

    qxhci_write_bit(x, QXHCI_MSIX_ENABLE, true, 2);
    enable_interrupters(x);
    xhci_assert_delivery(x, &dev, &xhci_msix_mode, 1);

    qxhci_write_bit(x, QXHCI_MSIX_ENABLE, false, 2);
    enable_interrupters(x);
    xhci_assert_delivery(x, &dev, &xhci_msi_mode, 1);

    qxhci_write_bit(x, QXHCI_MSI_ENABLE, false, 2);
    enable_interrupters(x);
    xhci_assert_delivery(x, &dev, &xhci_pin_mode, 1);
}

/* Config writes elsewhere leave the mode alone */
static void test_other_writes(QXHCI *x, const void *arg)
{
    QXHCIDevice dev;

    for (int i = 0; i < ARRAY_SIZE(xhci_modes); i++) {
        g_test_message("Mode %s", xhci_modes[i]->name);
        xhci_start(x, &dev, xhci_modes[i]);
        qpci_config_writeb(&x->pdev, PCI_INTERRUPT_LINE, 0xff);
        qpci_config_writel(&x->pdev, PCI_CACHE_LINE_SIZE, 0xffffffff);
        qpci_device_enable(&x->pdev);
        xhci_assert_delivery(x, &dev, xhci_modes[i], 1);
        xhci_assert_delivery(x, &dev, xhci_modes[i], 0);
    }
}

/* The function mask holds MSI-X messages back, and is no change of mode */
static void test_msix_mask(QXHCI *x, const void *arg)
{
    QXHCIDevice dev;
    uint64_t trb;

    xhci_start(x, &dev, &xhci_msix_mode);

    for (unsigned int len = 1; len <= 4; len *= 2) {
        g_test_message("%u-byte writes", len);
        qxhci_write_bit(x, QXHCI_MSIX_MASKALL, true, len);
        trb = qxhci_submit_get_descriptor(x, &dev, 2);
        xhci_take_event(x, &dev, 2, trb);
        xhci_assert_quiet(x);

        qxhci_write_bit(x, QXHCI_MSIX_MASKALL, false, len);
        xhci_assert_signalled(x, &xhci_msix_mode, 2);
        qxhci_ack(x, 2);
        xhci_assert_quiet(x);
        xhci_assert_delivery(x, &dev, &xhci_msix_mode, 1);
    }
}

/* Asserts that all of @expected, which ends with NULL, is in @text, in order */
static void assert_says(const char *text, const char *const *expected)
{
    for (; *expected; expected++) {
        text = strstr(text, *expected);
        g_assert_nonnull(text);
    }
}

/*
 * The trace of mode changes, which shows the mode before a guest could make use
 * of it: after a reset that takes a config write.
 */
static void test_trace(QXHCI *x, const void *arg)
{
#ifdef CONFIG_TRACE_LOG
    QTestState *qts = x->pdev.bus->qts;
    char *file = xhci_log_start(x, "trace-event usb_xhci_pci_intr_mode on");
    g_autofree char *log = NULL;
    static const char *const expected[] = {
        "pin -> MSI, interrupter mapping on",
        "MSI -> MSI-X, interrupter mapping on",
        "MSI-X -> pin, interrupter mapping off",
        NULL
    };

    qxhci_write_bit(x, QXHCI_MSI_ENABLE, true, 2);
    qxhci_write_bit(x, QXHCI_MSIX_ENABLE, true, 2);
    qtest_qmp_assert_success(qts, "{ 'execute': 'system_reset' }");
    qtest_qmp_eventwait(qts, "RESET");

    log = xhci_log_stop(file);
    assert_says(log, expected);
#else
    g_test_skip("Built without the log trace backend");
#endif
}

/* The same for a controller that QEMU starts with */
static void test_trace_start(QXHCI *x, const void *arg)
{
#ifdef CONFIG_TRACE_LOG
    static const char *const expected[] = {
        "none -> pin, interrupter mapping off", NULL
    };
    g_autofree char *file = NULL;
    g_autofree char *log = NULL;
    int fd = g_file_open_tmp("xhci-test-XXXXXX", &file, NULL);

    g_assert_cmpint(fd, >=, 0);
    close(fd);
    qtest_quit(qtest_initf("%s -D %s -trace usb_xhci_pci_intr_mode",
                           qos_get_current_command_line(), file));
    g_assert_true(g_file_get_contents(file, &log, NULL, NULL));
    unlink(file);
    assert_says(log, expected);
#else
    g_test_skip("Built without the log trace backend");
#endif
}

/* What -device TYPE,help says of the property */
static void test_property(QXHCI *x, const void *arg)
{
    bool nec = qpci_config_readw(&x->pdev, PCI_VENDOR_ID) == 0x1033;
    g_autofree char *help = qtest_hmp(x->pdev.bus->qts, "device_add %s,help",
                                      nec ? "nec-usb-xhci" : "qemu-xhci");
    static const char *const expected[] = {
        "conditional-intr-mapping=<bool>", "Interrupter Target", NULL
    };

    assert_says(help, expected);
}

static void register_switch_tests(void)
{
    for (int i = 0; i < ARRAY_SIZE(switch_tests); i++) {
        xhci_add_test(switch_tests[i].name, &xhci_pin_mode, test_switch,
                      &switch_tests[i]);
    }
    xhci_add_test("switch/both", &xhci_pin_mode, test_switch_both, NULL);
    xhci_add_test("other-writes", &xhci_pin_mode, test_other_writes, NULL);
    xhci_add_test("msix-mask", &xhci_pin_mode, test_msix_mask, NULL);
    xhci_add_test("trace", &xhci_pin_mode, test_trace, NULL);
    xhci_add_test("trace-start", &xhci_pin_mode, test_trace_start, NULL);
    xhci_add_test("property", &xhci_pin_mode, test_property, NULL);
}

libqos_init(register_switch_tests);

/* Resets */

/*
 * The controller after a reset of the PCI function: nothing is pending, it is
 * back on the pin, and can be taken to the mode of @s again.
 */
static void assert_after_pci_reset(QXHCI *x, QXHCIDevice *dev,
                                   const XHCISetup *s)
{
    const XHCISetup *pin = s->mode == QXHCI_PIN ? s : &xhci_pin_mode;
    QGuestAllocator *alloc = x->alloc;

    qxhci_free(x);
    qxhci_init(x, x->pdev.bus, x->pdev.devfn, alloc);
    g_assert_false(qxhci_intx(x));

    qxhci_start(x, x->max_intrs);
    qxhci_device_init(x, dev);
    qxhci_drain(x);
    xhci_assert_delivery(x, dev, pin, 1);
    xhci_assert_delivery(x, dev, pin, 0);

    xhci_start(x, dev, s);
    xhci_assert_delivery(x, dev, s, 1);
    xhci_assert_delivery(x, dev, s, 0);
}

/* HCRST resets the controller, not the PCI function (5.4.1): no new mode */
static void test_hcrst(QXHCI *x, const void *arg)
{
    const XHCISetup *s = arg;
    unsigned int ring = xhci_ring_of(s, 1);
    QXHCIDevice dev;

    xhci_start(x, &dev, s);
    xhci_leave_pending(x, &dev, s);

    /* The event is forgotten: IE alone makes no interrupt */
    qxhci_oper_write(x, QXHCI_USBCMD, QXHCI_USBCMD_HCRST);
    xhci_set_ie(x, ring, true);
    g_assert_cmphex(qxhci_intr_read(x, ring, QXHCI_IMAN), ==, QXHCI_IMAN_IE);

    /* Starts with HCRST */
    qxhci_start(x, x->max_intrs);
    qxhci_device_init(x, &dev);
    qxhci_drain(x);
    xhci_assert_quiet(x);
    xhci_assert_delivery(x, &dev, s, 0);
    xhci_assert_delivery(x, &dev, s, 1);
}

static void test_system_reset(QXHCI *x, const void *arg)
{
    const XHCISetup *s = arg;
    QTestState *qts = x->pdev.bus->qts;
    QXHCIDevice dev;

    xhci_start(x, &dev, s);
    xhci_leave_pending(x, &dev, s);

    qtest_qmp_assert_success(qts, "{ 'execute': 'system_reset' }");
    qtest_qmp_eventwait(qts, "RESET");
    assert_after_pci_reset(x, &dev, s);
}

#define BRIDGE_SLOT         5

/*
 * Opens a PCI-to-PCI bridge to the bus behind it, with the memory that @bus
 * hands out next.
 */
static void bridge_init(QPCIDevice *bridge, QPCIBus *bus)
{
    uint64_t base = QEMU_ALIGN_UP(bus->mmio_alloc_ptr, 1 * 1024 * 1024);

    qpci_device_init(bridge, bus, &(QPCIAddress) {
        .devfn = QPCI_DEVFN(BRIDGE_SLOT, 0),
    });
    bus->mmio_alloc_ptr = base;
    qpci_config_writeb(bridge, PCI_PRIMARY_BUS, 0);
    qpci_config_writeb(bridge, PCI_SECONDARY_BUS, 1);
    qpci_config_writeb(bridge, PCI_SUBORDINATE_BUS, 1);
    qpci_config_writew(bridge, PCI_MEMORY_BASE, base >> 16);
    qpci_config_writew(bridge, PCI_MEMORY_LIMIT, base >> 16);
    qpci_device_enable(bridge);
}

/* Secondary bus reset of the bridge above the controller */
static void test_bus_reset(QPCIBus *bus, QGuestAllocator *alloc,
                           const void *arg)
{
    const XHCISetup *s = arg;
    QPCIDevice bridge;
    QXHCI x;
    QXHCIDevice dev;
    uint16_t control;

    bridge_init(&bridge, bus);
    qxhci_init(&x, bus, 1 << 8 | QPCI_DEVFN(1, 0), alloc);
    xhci_start(&x, &dev, s);
    xhci_leave_pending(&x, &dev, s);

    control = qpci_config_readw(&bridge, PCI_BRIDGE_CONTROL);
    qpci_config_writew(&bridge, PCI_BRIDGE_CONTROL,
                       control | PCI_BRIDGE_CTL_BUS_RESET);
    qpci_config_writew(&bridge, PCI_BRIDGE_CONTROL, control);
    assert_after_pci_reset(&x, &dev, s);
    qxhci_free(&x);
}

static void add_bus_reset_test(const char *type, const XHCISetup *s)
{
    g_autofree char *name = g_strdup_printf("%s/bus-reset/%s", type, s->name);
    g_autofree char *cmd_line = g_strdup_printf(
        "-device pci-bridge,id=br0,chassis_nr=1,addr=%u "
        "-device %s,bus=br0,addr=1,%s -device usb-kbd ",
        BRIDGE_SLOT, type, s->device_opts);

    if (qtest_has_device(type) && qtest_has_device("pci-bridge")) {
        xhci_add_bus_test(name, cmd_line, test_bus_reset, s);
    }
}

static void register_reset_tests(void)
{
    for (int i = 0; i < ARRAY_SIZE(xhci_modes); i++) {
        xhci_add_setup_test("hcrst", xhci_modes[i], test_hcrst);
        xhci_add_setup_test("system-reset", xhci_modes[i], test_system_reset);
        add_bus_reset_test("nec-usb-xhci", xhci_modes[i]);
        add_bus_reset_test("qemu-xhci", xhci_modes[i]);
    }
}

libqos_init(register_reset_tests);

/* Migration; a snapshot is saved and loaded by the same code */

typedef struct MigrateTest {
    const XHCISetup *setup;
    /* Mode of the destination before the state is loaded */
    const XHCISetup *destination;
} MigrateTest;

/*
 * Events are pending when the state is saved, for interrupters 0, 1 and 2 and,
 * with MSI-X, for another one whose message is masked.  Nothing is lost.
 */
static void test_migrate(QXHCI *x, const void *arg)
{
    const MigrateTest *t = arg;
    const XHCISetup *s = t->setup;
    QTestState *from;
    QXHCIDevice dev;
    uint64_t trb[3], masked_trb = 0;

    xhci_start(x, &dev, s);
    for (int i = 0; i < ARRAY_SIZE(trb); i++) {
        trb[i] = qxhci_submit_get_descriptor(x, &dev, i);
        qxhci_step(x, 20);
    }
    qxhci_take_messages(x);
    g_assert_cmpint(qxhci_intx(x), ==, s->mode == QXHCI_PIN);
    if (s->mode == QXHCI_MSIX) {
        /* No config write, which would show the mode to the destination */
        qxhci_msix_mask(x, 3, true);
        masked_trb = qxhci_submit_get_descriptor(x, &dev, 3);
        qxhci_step(x, 20);
    }

    from = xhci_migrate(x, t->destination);
    g_assert_cmpint(qxhci_intx(x), ==, s->mode == QXHCI_PIN);
    g_assert_cmphex(qxhci_take_messages(x), ==, 0);
    for (int i = 0; i < ARRAY_SIZE(trb); i++) {
        xhci_take_event(x, &dev, xhci_ring_of(s, i), trb[i]);
    }
    for (int i = 0; i < ARRAY_SIZE(trb); i++) {
        qxhci_ack(x, xhci_ring_of(s, i));
    }
    if (masked_trb) {
        qxhci_msix_mask(x, 3, false);
        xhci_assert_signalled(x, s, 3);
        xhci_take_event(x, &dev, 3, masked_trb);
        qxhci_ack(x, 3);
    }
    xhci_assert_quiet(x);
    for (int i = 0; i < ARRAY_SIZE(trb); i++) {
        xhci_assert_delivery(x, &dev, s, i);
    }

    xhci_end_migrate(x, from);
}

static void add_migrate_test(const char *name, const XHCISetup *s,
                             const XHCISetup *destination)
{
    MigrateTest *t = xhci_test_arg(sizeof(*t));
    g_autofree char *path = g_strdup_printf("migrate/%s", name);

    t->setup = s;
    t->destination = destination;
    xhci_add_test(path, s, test_migrate, t);
}

static void register_migrate_tests(void)
{
    for (int i = 0; i < ARRAY_SIZE(xhci_setups); i++) {
        if (xhci_setups[i].migrate) {
            add_migrate_test(xhci_setups[i].name, &xhci_setups[i],
                             &xhci_pin_mode);
        }
    }
    for (int i = 0; i < ARRAY_SIZE(xhci_modes); i++) {
        for (int j = 0; j < ARRAY_SIZE(xhci_modes); j++) {
            g_autofree char *name = g_strdup_printf("%s-to-%s",
                                                    xhci_modes[i]->name,
                                                    xhci_modes[j]->name);

            /* The pin is the destination's mode in the tests above */
            if (xhci_modes[j] != &xhci_pin_mode) {
                add_migrate_test(name, xhci_modes[i], xhci_modes[j]);
            }
        }
    }
}

libqos_init(register_migrate_tests);

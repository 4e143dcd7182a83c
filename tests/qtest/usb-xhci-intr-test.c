/*
 * QTest testcase for the interrupters of xHCI USB host controllers
 *
 * Which event ring an event goes to and how it is signalled, in pin, MSI and
 * MSI-X mode and whenever the mode changes.  Section numbers are those of the
 * xHCI specification, revision 1.2.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/pci/pci_regs.h"
#include "libqtest.h"
#include "libqos/libqos.h"
#include "libqos/pci-pc.h"
#include "libqos/qgraph.h"
#include "libqos/qos_external.h"
#include "libqos/xhci.h"

/* All interrupters that either controller has */
#define NUM_INTRS           16

#define KBD_EP              QXHCI_EP_IN(1)
#define KBD_REPORT_SIZE     8
#define HID_USAGE_A         0x04

typedef struct Setup {
    const char *name;
    const char *device_opts;
    QXHCIMode mode;
    unsigned int msi_vectors;
    /* Whether an event goes to the ring of its Interrupter Target */
    bool mapping;
} Setup;

static const Setup setups[] = {
    { "pin", "msi=off,msix=off", QXHCI_PIN, 0, false },
    /* The pin is also used while MSI and MSI-X are there, but disabled */
    { "pin-capable", "msi=on,msix=on", QXHCI_PIN, 0, false },
    { "pin-unconditional", "msi=off,msix=off,conditional-intr-mapping=off",
      QXHCI_PIN, 0, true },
    { "pin-capable-unconditional",
      "msi=on,msix=on,conditional-intr-mapping=off", QXHCI_PIN, 0, true },
    { "msi-1", "msi=on,msix=off", QXHCI_MSI, 1, true },
    { "msi-4", "msi=on,msix=off", QXHCI_MSI, 4, true },
    { "msi-16", "msi=on,msix=off", QXHCI_MSI, NUM_INTRS, true },
    { "msix", "msi=off,msix=on", QXHCI_MSIX, 0, true },
};

/* Ring that an event with Interrupter Target @target goes to */
static unsigned int ring_of(const Setup *s, unsigned int target)
{
    return s->mapping ? target : 0;
}

/* Asserts that the interrupts that came are those for one event on @ring */
static void assert_signalled(QXHCI *x, const Setup *s, unsigned int ring)
{
    switch (s->mode) {
    case QXHCI_PIN:
        /* 4.17.3: the pin is for interrupter 0 only */
        g_assert_cmpint(qxhci_intx(x), ==, ring == 0);
        g_assert_cmphex(qxhci_take_messages(x), ==, 0);
        break;
    case QXHCI_MSI:
        /* 4.17: the vector is the interrupter modulo the enabled vectors */
        g_assert_false(qxhci_intx(x));
        g_assert_cmphex(qxhci_take_messages(x), ==,
                        BIT(ring % s->msi_vectors));
        break;
    case QXHCI_MSIX:
        g_assert_false(qxhci_intx(x));
        g_assert_cmphex(qxhci_take_messages(x), ==, BIT(ring));
        break;
    }
}

/* Asserts that no event and no interrupt is there, nor comes */
static void assert_quiet(QXHCI *x)
{
    QXHCITrb ev;

    qxhci_step(x, 20);
    for (unsigned int ring = 0; ring < x->num_rings; ring++) {
        g_assert_false(qxhci_event_pop(x, ring, &ev));
    }
    g_assert_false(qxhci_intx(x));
    g_assert_cmphex(qxhci_take_messages(x), ==, 0);
    g_assert_cmphex(qxhci_oper_read(x, QXHCI_USBSTS) & QXHCI_USBSTS_HCE,
                    ==, 0);
}

/* Takes the Transfer Event for the TRB at @trb off @ring */
static void take_event(QXHCI *x, QXHCIDevice *dev, unsigned int ring,
                       uint64_t trb)
{
    QXHCITrb ev;

    qxhci_event_wait(x, ring, &ev);
    g_assert_cmpuint(QXHCI_TRB_TYPE(&ev), ==, QXHCI_TRB_EV_TRANSFER);
    g_assert_cmphex(ev.parameter, ==, trb);
    g_assert_cmpuint(QXHCI_TRB_SLOT(&ev), ==, dev->slot);
    g_assert_cmpuint(QXHCI_TRB_CC(&ev), ==, QXHCI_CC_SUCCESS);
}

/*
 * Does a transfer for @target, and asserts that its event is on the right
 * ring and signalled, that nothing else comes, and that serving the ring ends
 * the interrupt.
 */
static void assert_delivery(QXHCI *x, QXHCIDevice *dev, const Setup *s,
                            unsigned int target)
{
    unsigned int ring = ring_of(s, target);
    uint64_t trb = qxhci_submit_get_descriptor(x, dev, target);

    if (ring >= x->max_intrs) {
        /* 6.4.1: there is no such interrupter, the event is dropped */
        assert_quiet(x);
        return;
    }
    take_event(x, dev, ring, trb);
    assert_signalled(x, s, ring);
    qxhci_ack(x, ring);
    assert_quiet(x);
}

/* Brings up the controller in the mode of @s, with its USB device */
static void start(QXHCI *x, QXHCIDevice *dev, const Setup *s)
{
    qxhci_set_mode(x, s->mode, s->msi_vectors);
    qxhci_start(x, x->max_intrs);
    qxhci_device_init(x, dev);
    qxhci_drain(x);
    assert_quiet(x);
}

/* Presses or releases a key of the keyboard that start() set up */
static void send_key(QXHCI *x, bool down)
{
    qtest_qmp_assert_success(x->pdev.bus->qts,
        "{ 'execute': 'input-send-event', 'arguments': { 'events': ["
        "  { 'type': 'key', 'data': { 'down': %i, 'key':"
        "    { 'type': 'qcode', 'data': 'a' } } } ] } }", down);
}

static void add_xhci_test(const char *name, const Setup *s, QOSTestFunc func,
                          const void *arg)
{
    qos_add_test(name, "xhci", func, &(QOSGraphTestOptions) {
        .edge.extra_device_opts = s->device_opts,
        .edge.after_cmd_line = "-device usb-kbd",
        .arg = (void *)arg,
    });
}

static void add_setup_test(const char *prefix, const Setup *s,
                           QOSTestFunc func)
{
    g_autofree char *name = g_strdup_printf("%s/%s", prefix, s->name);

    add_xhci_test(name, s, func, s);
}

/* Delivery in each mode, for the Interrupter Target of the test */

typedef struct TargetTest {
    const Setup *setup;
    unsigned int target;
} TargetTest;

static void test_target(void *obj, void *data, QGuestAllocator *alloc)
{
    QXHCI *x = obj;
    const TargetTest *t = data;
    QXHCIDevice dev;

    if (qpci_check_buggy_msi(&x->pdev)) {
        return;
    }
    start(x, &dev, t->setup);
    g_assert_cmpuint(x->max_intrs, ==, NUM_INTRS);

    /* More than once, as each event has to be signalled anew */
    for (int i = 0; i < 3; i++) {
        assert_delivery(x, &dev, t->setup, t->target);
    }
    /* Command Completion Events go to interrupter 0, 4.9.4 */
    qxhci_command(x, QXHCI_TRB_NOOP_CMD, 0, 0);
}

/* Two events for different interrupters before either is served */
static void test_two_targets(void *obj, void *data, QGuestAllocator *alloc)
{
    QXHCI *x = obj;
    const Setup *s = data;
    QXHCIDevice dev;
    uint64_t trb[2];

    if (qpci_check_buggy_msi(&x->pdev)) {
        return;
    }
    start(x, &dev, s);

    trb[0] = qxhci_submit_get_descriptor(x, &dev, 2);
    qxhci_step(x, 20);
    assert_signalled(x, s, ring_of(s, 2));
    trb[1] = qxhci_submit_get_descriptor(x, &dev, 1);
    qxhci_step(x, 20);
    if (s->mapping) {
        assert_signalled(x, s, 1);
    } else {
        /* The guest is busy with ring 0 (EHB): nothing more until it is done */
        g_assert_true(qxhci_intx(x));
    }

    take_event(x, &dev, ring_of(s, 2), trb[0]);
    take_event(x, &dev, ring_of(s, 1), trb[1]);
    qxhci_ack(x, ring_of(s, 2));
    qxhci_ack(x, ring_of(s, 1));
    assert_quiet(x);
}

/* A key press, with the interrupt endpoint aimed at interrupter 1 */
static void test_key(void *obj, void *data, QGuestAllocator *alloc)
{
    QXHCI *x = obj;
    const Setup *s = data;
    QTestState *qts = x->pdev.bus->qts;
    QXHCIDevice dev;
    uint8_t report[KBD_REPORT_SIZE];
    uint64_t trb;

    if (qpci_check_buggy_msi(&x->pdev)) {
        return;
    }
    start(x, &dev, s);
    qxhci_configure_intr_in(x, &dev, KBD_EP, KBD_REPORT_SIZE);
    qxhci_drain(x);

    for (int down = 1; down >= 0; down--) {
        trb = qxhci_submit_intr_in(x, &dev, KBD_EP, KBD_REPORT_SIZE, 1, 0);
        assert_quiet(x);

        send_key(x, down);
        take_event(x, &dev, ring_of(s, 1), trb);
        assert_signalled(x, s, ring_of(s, 1));
        qxhci_ack(x, ring_of(s, 1));

        qtest_memread(qts, dev.buf, report, sizeof(report));
        g_assert_cmphex(report[2], ==, down ? HID_USAGE_A : 0);
    }
    assert_quiet(x);
}

static void add_target_tests(const Setup *s)
{
    static const struct {
        const char *name;
        unsigned int target;
    } targets[] = {
        { "target-0", 0 },
        { "target-1", 1 },
        { "target-2", 2 },
        { "target-last", NUM_INTRS - 1 },
        { "target-beyond-last", NUM_INTRS },
        { "target-max", 1023 },
    };

    for (int i = 0; i < ARRAY_SIZE(targets); i++) {
        TargetTest *t = g_new(TargetTest, 1);
        g_autofree char *name = g_strdup_printf("%s/%s", s->name,
                                                targets[i].name);

        t->setup = s;
        t->target = targets[i].target;
        add_xhci_test(name, s, test_target, t);
    }
}

/*
 * The property as machine types set it: vmapple turns it on, and where its
 * default depends on the machine type, older ones turn it off.
 */
static void add_global_test(const char *name, const char *global,
                            const Setup *s)
{
    g_autofree char *cmd_line = g_strdup_printf("-device usb-kbd -global "
                                                "pci-xhci.%s", global);
    TargetTest *t = g_new(TargetTest, 1);

    t->setup = s;
    t->target = 1;
    qos_add_test(name, "xhci", test_target, &(QOSGraphTestOptions) {
        .edge.extra_device_opts = s->device_opts,
        .edge.after_cmd_line = cmd_line,
        .arg = t,
    });
}

static void register_delivery_tests(void)
{
    static const Setup mapped = {
        "pin", "msi=off,msix=off", QXHCI_PIN, 0, true
    };

    for (int i = 0; i < ARRAY_SIZE(setups); i++) {
        add_target_tests(&setups[i]);
        add_setup_test("two-targets", &setups[i], test_two_targets);
        add_setup_test("key", &setups[i], test_key);
    }
    add_global_test("pin/global-on", "conditional-intr-mapping=on",
                    &setups[0]);
    add_global_test("pin/global-off", "conditional-intr-mapping=off",
                    &mapped);
}

libqos_init(register_delivery_tests);

/* Changes of the mode */

/* What a device with both capabilities can be switched between */
static const Setup pin_mode = {
    "pin", "msi=on,msix=on", QXHCI_PIN, 0, false
};
static const Setup msi_mode = {
    "msi", "msi=on,msix=on", QXHCI_MSI, NUM_INTRS, true
};
static const Setup msix_mode = {
    "msix", "msi=on,msix=on", QXHCI_MSIX, 0, true
};
static const Setup *const modes[] = { &pin_mode, &msi_mode, &msix_mode };

typedef struct SwitchTest {
    const Setup *setup;
    QXHCIModeBit bit;
    unsigned int len;
} SwitchTest;

static const SwitchTest switch_tests[] = {
    { &msi_mode, QXHCI_MSI_ENABLE, 1 },
    { &msi_mode, QXHCI_MSI_ENABLE, 2 },
    { &msi_mode, QXHCI_MSI_ENABLE, 4 },
    { &msix_mode, QXHCI_MSIX_ENABLE, 1 },
    { &msix_mode, QXHCI_MSIX_ENABLE, 2 },
    { &msix_mode, QXHCI_MSIX_ENABLE, 4 },
};

/* Writes IE again, as drivers do once the mode is set */
static void enable_interrupters(QXHCI *x)
{
    for (unsigned int n = 0; n < x->num_rings; n++) {
        qxhci_intr_write(x, n, QXHCI_IMAN, QXHCI_IMAN_IE);
    }
}

/* A message mode switched on and off by config writes of one size */
static void test_switch(void *obj, void *data, QGuestAllocator *alloc)
{
    QXHCI *x = obj;
    const SwitchTest *t = data;
    QXHCIDevice dev;

    if (qpci_check_buggy_msi(&x->pdev)) {
        return;
    }
    /* Leaves addresses and data of the messages in place */
    qxhci_set_mode(x, t->setup->mode, t->setup->msi_vectors);
    start(x, &dev, &pin_mode);

    for (int i = 0; i < 2; i++) {
        assert_delivery(x, &dev, &pin_mode, 1);

        qxhci_write_bit(x, t->bit, true, t->len);
        enable_interrupters(x);
        assert_delivery(x, &dev, t->setup, 0);
        assert_delivery(x, &dev, t->setup, 1);
        assert_delivery(x, &dev, t->setup, 2);

        qxhci_write_bit(x, t->bit, false, t->len);
        enable_interrupters(x);
        assert_delivery(x, &dev, &pin_mode, 0);
        assert_delivery(x, &dev, &pin_mode, 1);
        assert_delivery(x, &dev, &pin_mode, 2);
    }
}

/* MSI-X on top of MSI, and back; MSI-X has precedence while both are on */
static void test_switch_both(void *obj, void *data, QGuestAllocator *alloc)
{
    QXHCI *x = obj;
    QXHCIDevice dev;

    if (qpci_check_buggy_msi(&x->pdev)) {
        return;
    }
    qxhci_set_mode(x, QXHCI_MSIX, 0);
    start(x, &dev, &msi_mode);
    assert_delivery(x, &dev, &msi_mode, 1);

    qxhci_write_bit(x, QXHCI_MSIX_ENABLE, true, 2);
    enable_interrupters(x);
    assert_delivery(x, &dev, &msix_mode, 1);

    qxhci_write_bit(x, QXHCI_MSIX_ENABLE, false, 2);
    enable_interrupters(x);
    assert_delivery(x, &dev, &msi_mode, 1);

    qxhci_write_bit(x, QXHCI_MSI_ENABLE, false, 2);
    enable_interrupters(x);
    assert_delivery(x, &dev, &pin_mode, 1);
}

/* Config writes elsewhere leave the mode alone */
static void test_other_writes(void *obj, void *data, QGuestAllocator *alloc)
{
    QXHCI *x = obj;
    const Setup *s = data;
    QXHCIDevice dev;

    if (qpci_check_buggy_msi(&x->pdev)) {
        return;
    }
    start(x, &dev, s);
    qpci_config_writeb(&x->pdev, PCI_INTERRUPT_LINE, 0xff);
    qpci_config_writel(&x->pdev, PCI_CACHE_LINE_SIZE, 0xffffffff);
    qpci_device_enable(&x->pdev);
    assert_delivery(x, &dev, s, 1);
    assert_delivery(x, &dev, s, 0);
}

/* The function mask holds MSI-X messages back, and is no change of mode */
static void test_msix_mask(void *obj, void *data, QGuestAllocator *alloc)
{
    QXHCI *x = obj;
    const SwitchTest *t = data;
    QXHCIDevice dev;
    uint64_t trb;

    if (qpci_check_buggy_msi(&x->pdev)) {
        return;
    }
    start(x, &dev, &msix_mode);

    qxhci_write_bit(x, QXHCI_MSIX_MASKALL, true, t->len);
    trb = qxhci_submit_get_descriptor(x, &dev, 2);
    take_event(x, &dev, 2, trb);
    assert_quiet(x);

    qxhci_write_bit(x, QXHCI_MSIX_MASKALL, false, t->len);
    assert_signalled(x, &msix_mode, 2);
    qxhci_ack(x, 2);
    assert_quiet(x);
    assert_delivery(x, &dev, &msix_mode, 1);
}

static void add_switch_test(const char *prefix, const SwitchTest *t,
                            QOSTestFunc func)
{
    g_autofree char *name = g_strdup_printf("%s-%u-byte", prefix, t->len);

    add_xhci_test(name, t->setup, func, t);
}

static void register_switch_tests(void)
{
    for (int i = 0; i < ARRAY_SIZE(switch_tests); i++) {
        const SwitchTest *t = &switch_tests[i];

        if (t->bit == QXHCI_MSI_ENABLE) {
            add_switch_test("switch/msi", t, test_switch);
        } else {
            add_switch_test("switch/msix", t, test_switch);
            add_switch_test("msix-mask", t, test_msix_mask);
        }
    }
    add_xhci_test("switch/both", &msi_mode, test_switch_both, NULL);

    for (int i = 0; i < ARRAY_SIZE(modes); i++) {
        add_setup_test("other-writes", modes[i], test_other_writes);
    }
}

libqos_init(register_switch_tests);

/* Resets */

/* Leaves an event for interrupter 1 on its ring, signalled but not served */
static uint64_t leave_pending(QXHCI *x, QXHCIDevice *dev, const Setup *s)
{
    uint64_t trb = qxhci_submit_get_descriptor(x, dev, 1);

    qxhci_step(x, 20);
    assert_signalled(x, s, ring_of(s, 1));
    return trb;
}

/*
 * The controller after a reset of the PCI function: nothing is pending, it is
 * back on the pin, and can be taken to the mode of @s again.
 */
static void assert_after_pci_reset(QXHCI *x, QXHCIDevice *dev, const Setup *s,
                                   QPCIBus *bus, int devfn,
                                   QGuestAllocator *alloc)
{
    const Setup *pin = s->mode == QXHCI_PIN ? s : &pin_mode;

    qxhci_free(x);
    qxhci_init(x, bus, devfn, alloc);
    g_assert_false(qxhci_intx(x));

    qxhci_start(x, x->max_intrs);
    qxhci_device_init(x, dev);
    qxhci_drain(x);
    assert_delivery(x, dev, pin, 1);
    assert_delivery(x, dev, pin, 0);

    start(x, dev, s);
    assert_delivery(x, dev, s, 1);
    assert_delivery(x, dev, s, 0);
}

/* HCRST resets the controller, not the PCI function (5.4.1): no new mode */
static void test_hcrst(void *obj, void *data, QGuestAllocator *alloc)
{
    QXHCI *x = obj;
    const Setup *s = data;
    QXHCIDevice dev;

    if (qpci_check_buggy_msi(&x->pdev)) {
        return;
    }
    start(x, &dev, s);
    leave_pending(x, &dev, s);

    /* The event is forgotten: IE alone makes no interrupt */
    qxhci_oper_write(x, QXHCI_USBCMD, QXHCI_USBCMD_HCRST);
    qxhci_intr_write(x, ring_of(s, 1), QXHCI_IMAN, QXHCI_IMAN_IE);
    g_assert_cmphex(qxhci_intr_read(x, ring_of(s, 1), QXHCI_IMAN), ==,
                    QXHCI_IMAN_IE);

    /* Starts with HCRST */
    qxhci_start(x, x->max_intrs);
    qxhci_device_init(x, &dev);
    qxhci_drain(x);
    assert_quiet(x);
    assert_delivery(x, &dev, s, 0);
    assert_delivery(x, &dev, s, 1);
}

static void test_system_reset(void *obj, void *data, QGuestAllocator *alloc)
{
    QXHCI *x = obj;
    const Setup *s = data;
    QPCIBus *bus = x->pdev.bus;
    int devfn = x->pdev.devfn;
    QXHCIDevice dev;

    if (qpci_check_buggy_msi(&x->pdev)) {
        return;
    }
    start(x, &dev, s);
    leave_pending(x, &dev, s);

    qtest_qmp_assert_success(bus->qts, "{ 'execute': 'system_reset' }");
    qtest_qmp_eventwait(bus->qts, "RESET");
    assert_after_pci_reset(x, &dev, s, bus, devfn, alloc);
}

/*
 * The trace of mode changes, which shows the mode before a guest could make use
 * of it: after a reset that takes a config write.
 */
static void test_trace(void *obj, void *data, QGuestAllocator *alloc)
{
#ifdef CONFIG_TRACE_LOG
    QXHCI *x = obj;
    QTestState *qts = x->pdev.bus->qts;
    g_autofree char *file = NULL;
    g_autofree char *log = NULL;
    static const char *const expected[] = {
        "pin -> MSI, interrupter mapping on",
        "MSI -> MSI-X, interrupter mapping on",
        "MSI-X -> pin, interrupter mapping off",
    };
    char *pos;
    int fd;

    if (qpci_check_buggy_msi(&x->pdev)) {
        return;
    }
    fd = g_file_open_tmp("xhci-intr-test-XXXXXX", &file, NULL);
    g_assert_cmpint(fd, >=, 0);
    close(fd);
    g_free(qtest_hmp(qts, "logfile %s", file));
    g_free(qtest_hmp(qts, "trace-event usb_xhci_pci_intr_mode on"));

    qxhci_write_bit(x, QXHCI_MSI_ENABLE, true, 2);
    qxhci_write_bit(x, QXHCI_MSIX_ENABLE, true, 2);
    qtest_qmp_assert_success(qts, "{ 'execute': 'system_reset' }");
    qtest_qmp_eventwait(qts, "RESET");

    g_assert_true(g_file_get_contents(file, &log, NULL, NULL));
    pos = log;
    for (int i = 0; i < ARRAY_SIZE(expected); i++) {
        pos = strstr(pos, expected[i]);
        g_assert_nonnull(pos);
    }
    unlink(file);
    qos_invalidate_command_line();
#else
    g_test_skip("Built without the log trace backend");
#endif
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
static void test_bus_reset(void *obj, void *data, QGuestAllocator *alloc)
{
    QPCIBus *bus = obj;
    const Setup *s = data;
    int devfn = 1 << 8 | QPCI_DEVFN(1, 0);
    QPCIDevice bridge;
    QXHCI x;
    QXHCIDevice dev;
    uint16_t control;

    bridge_init(&bridge, bus);
    if (qpci_check_buggy_msi(&bridge)) {
        return;
    }
    qxhci_init(&x, bus, devfn, alloc);
    start(&x, &dev, s);
    leave_pending(&x, &dev, s);

    control = qpci_config_readw(&bridge, PCI_BRIDGE_CONTROL);
    qpci_config_writew(&bridge, PCI_BRIDGE_CONTROL,
                       control | PCI_BRIDGE_CTL_BUS_RESET);
    qpci_config_writew(&bridge, PCI_BRIDGE_CONTROL, control);
    assert_after_pci_reset(&x, &dev, s, bus, devfn, alloc);
    qxhci_free(&x);
}

static void add_bus_reset_tests(const char *type, const Setup *s)
{
    static const char *const buses[] = { "pci-bus", "pcie-bus" };
    g_autofree char *name = g_strdup_printf("%s/bus-reset/%s", type, s->name);
    g_autofree char *cmd_line = g_strdup_printf(
        "-device pci-bridge,id=br0,chassis_nr=1,addr=%u "
        "-device %s,bus=br0,addr=1,%s -device usb-kbd ",
        BRIDGE_SLOT, type, s->device_opts);

    for (int i = 0; i < ARRAY_SIZE(buses); i++) {
        qos_add_test(name, buses[i], test_bus_reset, &(QOSGraphTestOptions) {
            .edge.before_cmd_line = cmd_line,
            .arg = (void *)s,
        });
    }
}

static void register_reset_tests(void)
{
    for (int i = 0; i < ARRAY_SIZE(setups); i++) {
        add_setup_test("hcrst", &setups[i], test_hcrst);
        add_setup_test("system-reset", &setups[i], test_system_reset);
    }
    add_xhci_test("trace", &pin_mode, test_trace, NULL);
    for (int i = 0; i < ARRAY_SIZE(modes); i++) {
        add_bus_reset_tests("nec-usb-xhci", modes[i]);
        add_bus_reset_tests("qemu-xhci", modes[i]);
    }
}

libqos_init(register_reset_tests);

/* Migration; a snapshot is saved and loaded by the same code */

typedef struct MigrateTest {
    const Setup *setup;
    /* Mode of the destination before the state is loaded */
    const Setup *destination;
} MigrateTest;

/*
 * Migrates to a new QEMU, which is put in the mode of @destination before.  The
 * driver talks to that one then.  Returns the source.
 */
static QTestState *migrate_to_new(QXHCI *x, const Setup *destination)
{
    QPCIBus *bus = x->pdev.bus;
    QTestState *from = bus->qts;
    QTestState *to;
    QOSState from_state = { .qts = from }, to_state = { };
    g_autofree char *dir = g_dir_make_tmp("xhci-intr-test-XXXXXX", NULL);
    g_autofree char *sock = g_strdup_printf("%s/migrate", dir);
    g_autofree char *uri = g_strdup_printf("unix:%s", sock);

    to = qtest_initf("%s -incoming defer", qos_get_current_command_line());
    bus->qts = to;
    if (destination->mode == QXHCI_MSI) {
        qxhci_write_bit(x, QXHCI_MSI_ENABLE, true, 2);
    } else if (destination->mode == QXHCI_MSIX) {
        qxhci_write_bit(x, QXHCI_MSIX_ENABLE, true, 2);
    }
    qtest_qmp_assert_success(to,
        "{ 'execute': 'migrate-incoming', 'arguments': { 'uri': %s } }", uri);

    to_state.qts = to;
    alloc_init(&from_state.alloc, 0, 0, 4096, 4096);
    alloc_init(&to_state.alloc, 0, 0, 4096, 4096);
    migrate(&from_state, &to_state, uri);
    alloc_destroy(&from_state.alloc);
    alloc_destroy(&to_state.alloc);
    unlink(sock);
    rmdir(dir);
    return from;
}

static void back_to_source(QXHCI *x, QTestState *from)
{
    qtest_quit(x->pdev.bus->qts);
    x->pdev.bus->qts = from;
    /* It is stopped now, the next test needs another one */
    qos_invalidate_command_line();
}

/*
 * Events are pending when the state is saved, for interrupters 0, 1 and 2 and,
 * with MSI-X, for another one whose message is masked.  Nothing is lost.
 */
static void test_migrate(void *obj, void *data, QGuestAllocator *alloc)
{
    QXHCI *x = obj;
    const MigrateTest *t = data;
    const Setup *s = t->setup;
    QTestState *from;
    QXHCIDevice dev;
    uint64_t trb[3], masked_trb = 0;

    if (qpci_check_buggy_msi(&x->pdev)) {
        return;
    }
    start(x, &dev, s);
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

    from = migrate_to_new(x, t->destination);
    g_assert_cmpint(qxhci_intx(x), ==, s->mode == QXHCI_PIN);
    g_assert_cmphex(qxhci_take_messages(x), ==, 0);
    for (int i = 0; i < ARRAY_SIZE(trb); i++) {
        take_event(x, &dev, ring_of(s, i), trb[i]);
    }
    for (int i = 0; i < ARRAY_SIZE(trb); i++) {
        qxhci_ack(x, ring_of(s, i));
    }
    if (masked_trb) {
        qxhci_msix_mask(x, 3, false);
        assert_signalled(x, s, 3);
        take_event(x, &dev, 3, masked_trb);
        qxhci_ack(x, 3);
    }
    assert_quiet(x);
    for (int i = 0; i < ARRAY_SIZE(trb); i++) {
        assert_delivery(x, &dev, s, i);
    }

    back_to_source(x, from);
}

/* An event came while IE was clear; IE is set at the destination */
static void test_migrate_ie(void *obj, void *data, QGuestAllocator *alloc)
{
    QXHCI *x = obj;
    const Setup *s = data;
    QTestState *from;
    QXHCIDevice dev;
    uint64_t trb;

    if (qpci_check_buggy_msi(&x->pdev)) {
        return;
    }
    start(x, &dev, s);
    qxhci_intr_write(x, 0, QXHCI_IMAN, 0);
    trb = qxhci_submit_get_descriptor(x, &dev, 0);
    qxhci_step(x, 20);

    from = migrate_to_new(x, s);
    g_assert_false(qxhci_intx(x));
    g_assert_cmphex(qxhci_take_messages(x), ==, 0);
    qxhci_intr_write(x, 0, QXHCI_IMAN, QXHCI_IMAN_IE);
    assert_signalled(x, s, 0);
    take_event(x, &dev, 0, trb);
    qxhci_ack(x, 0);
    assert_quiet(x);
    back_to_source(x, from);
}

static void add_migrate_test(const char *name, const Setup *s,
                             const Setup *destination)
{
    MigrateTest *t = g_new(MigrateTest, 1);
    g_autofree char *path = g_strdup_printf("migrate/%s", name);

    t->setup = s;
    t->destination = destination;
    add_xhci_test(path, s, test_migrate, t);
}

static void register_migrate_tests(void)
{
    for (int i = 0; i < ARRAY_SIZE(setups); i++) {
        add_migrate_test(setups[i].name, &setups[i], &pin_mode);
    }
    for (int i = 0; i < ARRAY_SIZE(modes); i++) {
        add_setup_test("migrate-ie", modes[i], test_migrate_ie);
    }
    for (int i = 0; i < ARRAY_SIZE(modes); i++) {
        for (int j = 0; j < ARRAY_SIZE(modes); j++) {
            g_autofree char *name = g_strdup_printf("%s-to-%s",
                                                    modes[i]->name,
                                                    modes[j]->name);

            add_migrate_test(name, modes[i], modes[j]);
        }
    }
}

libqos_init(register_migrate_tests);

/* Hot unplug and replug, with an event pending; on the pc machine */

#define HOTPLUG_SLOT        6
#define PIIX_DEVFN          QPCI_DEVFN(1, 0)
#define PIIX_PIRQ_ROUTE     0x60
#define PIIX_IRQ            10
#define ACPI_PCIHP_EJECT    0xae08

typedef struct HotplugTest {
    const char *type;
    const Setup *setup;
} HotplugTest;

static void hotplug(QXHCI *x, QXHCIDevice *dev, const HotplugTest *t,
                    QPCIBus *bus, QGuestAllocator *alloc)
{
    qtest_qmp_assert_success(bus->qts,
        "{ 'execute': 'device_add', 'arguments': {"
        "  'driver': %s, 'id': 'xhci', 'addr': %s, 'msi': %s, 'msix': %s } }",
        t->type, stringify(HOTPLUG_SLOT),
        t->setup->mode == QXHCI_MSI ? "on" : "off",
        t->setup->mode == QXHCI_MSIX ? "on" : "off");
    qtest_qmp_assert_success(bus->qts,
        "{ 'execute': 'device_add', 'arguments': {"
        "  'driver': 'usb-kbd', 'id': 'kbd', 'bus': 'xhci.0' } }");
    qxhci_init(x, bus, QPCI_DEVFN(HOTPLUG_SLOT, 0), alloc);
    g_assert_false(qtest_get_irq(bus->qts, PIIX_IRQ));
    start(x, dev, t->setup);
}

/* The line itself: a function that is gone has no status bit */
static void hotplug_watch_line(QPCIBus *bus)
{
    QPCIDevice piix;

    qtest_irq_intercept_in(bus->qts, "ioapic");
    qpci_device_init(&piix, bus, &(QPCIAddress) { .devfn = PIIX_DEVFN });
    for (int pirq = 0; pirq < 4; pirq++) {
        qpci_config_writeb(&piix, PIIX_PIRQ_ROUTE + pirq, PIIX_IRQ);
    }
}

static void hotplug_eject(QXHCI *x, QPCIBus *bus)
{
    qtest_qmp_device_del_send(bus->qts, "xhci");
    qtest_outl(bus->qts, ACPI_PCIHP_EJECT, 1 << HOTPLUG_SLOT);
    g_assert_cmphex(qpci_config_readw(&x->pdev, PCI_VENDOR_ID), ==, 0xffff);
    g_assert_false(qtest_get_irq(bus->qts, PIIX_IRQ));
}

static void test_hotplug(void *obj, void *data, QGuestAllocator *alloc)
{
    QPCIBus *bus = &((QPCIBusPC *)obj)->bus;
    const HotplugTest *t = data;
    bool pin = t->setup->mode == QXHCI_PIN;
    QXHCI x;
    QXHCIDevice dev;

    hotplug_watch_line(bus);
    for (int i = 0; i < 2; i++) {
        hotplug(&x, &dev, t, bus, alloc);
        assert_delivery(&x, &dev, t->setup, 1);
        leave_pending(&x, &dev, t->setup);
        g_assert_cmpint(qtest_get_irq(bus->qts, PIIX_IRQ), ==, pin);

        hotplug_eject(&x, bus);
        qxhci_free(&x);
    }
    qos_invalidate_command_line();
}

/* A running controller, whose MFINDEX wraps after 2048 ms at the latest */
static void test_unplug_running(void *obj, void *data, QGuestAllocator *alloc)
{
    QPCIBus *bus = &((QPCIBusPC *)obj)->bus;
    const HotplugTest *t = data;
    QXHCI x;
    QXHCIDevice dev;

    hotplug_watch_line(bus);
    hotplug(&x, &dev, t, bus, alloc);
    qtest_qmp_device_del(bus->qts, "kbd");
    qxhci_drain(&x);
    qxhci_oper_write(&x, QXHCI_USBCMD, QXHCI_USBCMD_RS | QXHCI_USBCMD_INTE |
                     QXHCI_USBCMD_EWE);

    hotplug_eject(&x, bus);
    qtest_clock_step(bus->qts, 2100 * 1000 * 1000LL);
    g_assert_cmphex(qxhci_take_messages(&x), ==, 0);
    g_assert_false(qtest_get_irq(bus->qts, PIIX_IRQ));
    qxhci_free(&x);
    qos_invalidate_command_line();
}

static void add_hotplug_test(const char *type, const Setup *s,
                             const char *test, QOSTestFunc func)
{
    HotplugTest *t = g_new(HotplugTest, 1);
    g_autofree char *name = g_strdup_printf("%s/%s/%s", type, test, s->name);

    t->type = type;
    t->setup = s;
    qos_add_test(name, "pci-bus-pc", func,
                 &(QOSGraphTestOptions) { .arg = t });
}

static void register_hotplug_tests(void)
{
    static const char *const types[] = { "nec-usb-xhci", "qemu-xhci" };

    for (int i = 0; i < ARRAY_SIZE(modes); i++) {
        for (int j = 0; j < ARRAY_SIZE(types); j++) {
            add_hotplug_test(types[j], modes[i], "hotplug", test_hotplug);
            add_hotplug_test(types[j], modes[i], "unplug-running",
                             test_unplug_running);
        }
    }
}

libqos_init(register_hotplug_tests);

/* When an interrupt is due */

typedef struct DueTest {
    const Setup *setup;
    unsigned int intr;
    void (*set_enable)(QXHCI *x, unsigned int ring, bool on);
} DueTest;

static void set_ie(QXHCI *x, unsigned int ring, bool on)
{
    qxhci_intr_write(x, ring, QXHCI_IMAN, on ? QXHCI_IMAN_IE : 0);
}

static void set_inte(QXHCI *x, unsigned int ring, bool on)
{
    qxhci_oper_write(x, QXHCI_USBCMD,
                     QXHCI_USBCMD_RS | (on ? QXHCI_USBCMD_INTE : 0));
}

static void assert_not_signalled(QXHCI *x)
{
    qxhci_step(x, 20);
    g_assert_false(qxhci_intx(x));
    g_assert_cmphex(qxhci_take_messages(x), ==, 0);
}

/* An event that came while IE or INTE was clear is signalled when it is set */
static void test_set_enable(void *obj, void *data, QGuestAllocator *alloc)
{
    QXHCI *x = obj;
    const DueTest *t = data;
    unsigned int ring = ring_of(t->setup, t->intr);
    QXHCIDevice dev;
    uint64_t trb;

    if (qpci_check_buggy_msi(&x->pdev)) {
        return;
    }
    start(x, &dev, t->setup);

    t->set_enable(x, ring, false);
    trb = qxhci_submit_get_descriptor(x, &dev, t->intr);
    assert_not_signalled(x);

    t->set_enable(x, ring, true);
    assert_signalled(x, t->setup, ring);
    take_event(x, &dev, ring, trb);
    qxhci_ack(x, ring);
    assert_quiet(x);
    assert_delivery(x, &dev, t->setup, t->intr);
}

/*
 * Linux clears and sets IE when it resumes the bus.  An interrupt that is
 * pending meanwhile ends on the pin, and comes again.
 */
static void test_toggle_ie(void *obj, void *data, QGuestAllocator *alloc)
{
    QXHCI *x = obj;
    const DueTest *t = data;
    unsigned int ring = ring_of(t->setup, t->intr);
    QXHCIDevice dev;
    uint64_t trb;

    if (qpci_check_buggy_msi(&x->pdev)) {
        return;
    }
    start(x, &dev, t->setup);

    trb = qxhci_submit_get_descriptor(x, &dev, t->intr);
    qxhci_step(x, 20);
    assert_signalled(x, t->setup, ring);
    set_ie(x, ring, false);
    assert_not_signalled(x);
    set_ie(x, ring, true);
    if (t->setup->mode == QXHCI_PIN) {
        assert_signalled(x, t->setup, ring);
    } else {
        /* IP was cleared by the first message, 4.17.5 */
        assert_not_signalled(x);
    }
    take_event(x, &dev, ring, trb);
    qxhci_ack(x, ring);
    assert_quiet(x);
}

/*
 * A second event while the first is served is no reason for an interrupt by
 * itself, 4.17.2: the guest sees it, or hears of it once it clears EHB.
 */
static void test_busy(void *obj, void *data, QGuestAllocator *alloc)
{
    QXHCI *x = obj;
    const DueTest *t = data;
    unsigned int ring = ring_of(t->setup, t->intr);
    QXHCIDevice dev;
    uint64_t trb[2];

    if (qpci_check_buggy_msi(&x->pdev)) {
        return;
    }
    start(x, &dev, t->setup);

    /* The order of Linux's handler */
    for (int taken = 1; taken <= 2; taken++) {
        trb[0] = qxhci_submit_get_descriptor(x, &dev, t->intr);
        qxhci_step(x, 20);
        assert_signalled(x, t->setup, ring);
        g_assert_cmphex(qxhci_oper_read(x, QXHCI_USBSTS) & QXHCI_USBSTS_EINT,
                        ==, QXHCI_USBSTS_EINT);

        qxhci_oper_write(x, QXHCI_USBSTS, QXHCI_USBSTS_EINT);
        qxhci_intr_write(x, ring, QXHCI_IMAN, QXHCI_IMAN_IE | QXHCI_IMAN_IP);
        trb[1] = qxhci_submit_get_descriptor(x, &dev, t->intr);
        assert_not_signalled(x);
        qxhci_oper_write(x, QXHCI_USBSTS, QXHCI_USBSTS_EINT);
        assert_not_signalled(x);

        take_event(x, &dev, ring, trb[0]);
        if (taken == 2) {
            take_event(x, &dev, ring, trb[1]);
        }
        qxhci_write_erdp(x, ring, true);
        if (taken == 1) {
            assert_signalled(x, t->setup, ring);
            g_assert_cmphex(qxhci_oper_read(x, QXHCI_USBSTS) &
                            QXHCI_USBSTS_EINT, ==, QXHCI_USBSTS_EINT);
            take_event(x, &dev, ring, trb[1]);
            qxhci_ack(x, ring);
        }
        assert_quiet(x);
        qxhci_oper_write(x, QXHCI_USBSTS, QXHCI_USBSTS_EINT);
        assert_quiet(x);
    }
}

/* A guest that polled, and goes over to interrupts */
static void test_polled(void *obj, void *data, QGuestAllocator *alloc)
{
    QXHCI *x = obj;
    const DueTest *t = data;
    unsigned int ring = ring_of(t->setup, t->intr);
    QXHCIDevice dev;
    uint64_t trb;

    if (qpci_check_buggy_msi(&x->pdev)) {
        return;
    }
    start(x, &dev, t->setup);

    set_ie(x, ring, false);
    trb = qxhci_submit_get_descriptor(x, &dev, t->intr);
    take_event(x, &dev, ring, trb);
    /* There was no interrupt, so there is no EHB to clear */
    qxhci_write_erdp(x, ring, false);
    set_ie(x, ring, true);
    assert_quiet(x);
    assert_delivery(x, &dev, t->setup, t->intr);
}

/* Block Event Interrupt: the event comes without an interrupt, 6.4.1 */
static void test_bei(void *obj, void *data, QGuestAllocator *alloc)
{
    QXHCI *x = obj;
    const DueTest *t = data;
    unsigned int ring = ring_of(t->setup, t->intr);
    QXHCIDevice dev;
    uint64_t trb[2];

    if (qpci_check_buggy_msi(&x->pdev)) {
        return;
    }
    start(x, &dev, t->setup);
    qxhci_configure_intr_in(x, &dev, KBD_EP, KBD_REPORT_SIZE);
    qxhci_drain(x);

    for (int down = 1; down >= 0; down--) {
        trb[!down] = qxhci_submit_intr_in(x, &dev, KBD_EP, KBD_REPORT_SIZE,
                                          t->intr,
                                          down ? QXHCI_TRB_BEI : 0);
        send_key(x, down);
        if (down) {
            QXHCITrb ev;

            assert_not_signalled(x);
            g_assert_true(qxhci_event_peek(x, ring, 0, &ev));
        }
    }
    take_event(x, &dev, ring, trb[0]);
    take_event(x, &dev, ring, trb[1]);
    assert_signalled(x, t->setup, ring);
    qxhci_ack(x, ring);
    assert_quiet(x);
}

/* BEI is about success: a short packet and an error interrupt all the same */
static void test_bei_failed(void *obj, void *data, QGuestAllocator *alloc)
{
    QXHCI *x = obj;
    const DueTest *t = data;
    unsigned int ring = ring_of(t->setup, t->intr);
    QXHCIDevice dev;
    QXHCITrb ev;
    uint64_t trb;

    if (qpci_check_buggy_msi(&x->pdev)) {
        return;
    }
    start(x, &dev, t->setup);
    qxhci_configure_intr_in(x, &dev, KBD_EP, KBD_REPORT_SIZE);
    qxhci_drain(x);

    trb = qxhci_submit_intr_in(x, &dev, KBD_EP, 2 * KBD_REPORT_SIZE, t->intr,
                               QXHCI_TRB_BEI);
    send_key(x, true);
    qxhci_event_wait(x, ring, &ev);
    g_assert_cmphex(ev.parameter, ==, trb);
    g_assert_cmpuint(QXHCI_TRB_CC(&ev), ==, QXHCI_CC_SHORT_PACKET);
    assert_signalled(x, t->setup, ring);
    qxhci_ack(x, ring);
    assert_quiet(x);

    /* The keyboard has no such endpoint */
    qxhci_configure_intr_in(x, &dev, QXHCI_EP_IN(2), KBD_REPORT_SIZE);
    qxhci_drain(x);
    trb = qxhci_submit_intr_in(x, &dev, QXHCI_EP_IN(2), KBD_REPORT_SIZE,
                               t->intr, QXHCI_TRB_BEI);
    qxhci_event_wait(x, ring, &ev);
    g_assert_cmphex(ev.parameter, ==, trb);
    g_assert_cmpuint(QXHCI_TRB_CC(&ev), ==, QXHCI_CC_STALL);
    assert_signalled(x, t->setup, ring);
    qxhci_ack(x, ring);
    assert_quiet(x);
}

/* A TD in two TRBs, only the first with BEI: it ends with an interrupt */
static void test_bei_first(void *obj, void *data, QGuestAllocator *alloc)
{
    QXHCI *x = obj;
    const DueTest *t = data;
    unsigned int ring = ring_of(t->setup, t->intr);
    QXHCIDevice dev;
    QXHCITrb ev;
    uint64_t trb;

    if (qpci_check_buggy_msi(&x->pdev)) {
        return;
    }
    start(x, &dev, t->setup);
    qxhci_configure_intr_in(x, &dev, KBD_EP, KBD_REPORT_SIZE);
    qxhci_drain(x);

    trb = qxhci_submit_intr_in(x, &dev, KBD_EP, KBD_REPORT_SIZE / 2, t->intr,
                               QXHCI_TRB_CH | QXHCI_TRB_BEI);
    qxhci_submit_intr_in(x, &dev, KBD_EP, KBD_REPORT_SIZE / 2, t->intr, 0);
    send_key(x, true);
    qxhci_event_wait(x, ring, &ev);
    g_assert_cmphex(ev.parameter, ==, trb);
    g_assert_cmpuint(QXHCI_TRB_CC(&ev), ==, QXHCI_CC_SUCCESS);
    assert_signalled(x, t->setup, ring);
    qxhci_drain(x);
    assert_quiet(x);
}

static void add_due_tests(const Setup *s, unsigned int intr)
{
    static const struct {
        const char *name;
        QOSTestFunc func;
        void (*set_enable)(QXHCI *x, unsigned int ring, bool on);
    } tests[] = {
        { "set-ie", test_set_enable, set_ie },
        { "set-inte", test_set_enable, set_inte },
        { "toggle-ie", test_toggle_ie },
        { "busy", test_busy },
        { "polled", test_polled },
        { "bei", test_bei },
        { "bei-failed", test_bei_failed },
        { "bei-first", test_bei_first },
    };

    for (int i = 0; i < ARRAY_SIZE(tests); i++) {
        DueTest *t = g_new(DueTest, 1);
        g_autofree char *name = g_strdup_printf("%s/%s-%u", tests[i].name,
                                                s->name, intr);

        *t = (DueTest) { s, intr, tests[i].set_enable };
        add_xhci_test(name, s, tests[i].func, t);
    }
}

/* MSI-X enabled after IE was set, which is not written again */
static void test_msix_after_ie(void *obj, void *data, QGuestAllocator *alloc)
{
    QXHCI *x = obj;
    QXHCIDevice dev;

    if (qpci_check_buggy_msi(&x->pdev)) {
        return;
    }
    qxhci_set_mode(x, QXHCI_MSIX, 0);
    start(x, &dev, &pin_mode);
    qxhci_write_bit(x, QXHCI_MSIX_ENABLE, true, 2);
    assert_delivery(x, &dev, &msix_mode, 0);
    assert_delivery(x, &dev, &msix_mode, 2);
}

typedef struct ModeTest {
    const Setup *from;
    const Setup *to;
} ModeTest;

static void switch_mode(QXHCI *x, const Setup *to)
{
    qxhci_write_bit(x, QXHCI_MSI_ENABLE, to->mode == QXHCI_MSI, 2);
    qxhci_write_bit(x, QXHCI_MSIX_ENABLE, to->mode == QXHCI_MSIX, 2);
}

/* An interrupt that is pending at a change of mode comes in the new one */
static void test_pending_switch(void *obj, void *data, QGuestAllocator *alloc)
{
    QXHCI *x = obj;
    const ModeTest *t = data;
    bool mapping = t->from->mapping;
    QXHCIDevice dev;
    uint64_t trb[2];

    if (qpci_check_buggy_msi(&x->pdev)) {
        return;
    }
    qxhci_set_mode(x, QXHCI_MSIX, 0);
    qxhci_set_mode(x, QXHCI_MSI, msi_mode.msi_vectors);
    start(x, &dev, t->from);

    /* Signalled already: only on the pin is it still pending */
    trb[0] = qxhci_submit_get_descriptor(x, &dev, 0);
    qxhci_step(x, 20);
    assert_signalled(x, t->from, 0);
    switch_mode(x, t->to);
    if (t->from->mode == QXHCI_PIN) {
        assert_signalled(x, t->to, 0);
    } else {
        assert_not_signalled(x);
    }
    take_event(x, &dev, 0, trb[0]);
    qxhci_ack(x, 0);
    assert_quiet(x);

    /* Held back by INTE until after the change */
    switch_mode(x, t->from);
    set_inte(x, 0, false);
    trb[0] = qxhci_submit_get_descriptor(x, &dev, 0);
    trb[1] = qxhci_submit_get_descriptor(x, &dev, 2);
    assert_not_signalled(x);
    switch_mode(x, t->to);
    assert_not_signalled(x);
    set_inte(x, 0, true);
    if (t->to->mode == QXHCI_MSIX) {
        g_assert_cmphex(qxhci_take_messages(x), ==,
                        mapping ? BIT(0) | BIT(2) : BIT(0));
    } else if (t->to->mode == QXHCI_MSI) {
        /* All MSI messages go to the same address, the last one is there */
        g_assert_cmphex(qxhci_take_messages(x), ==,
                        mapping ? BIT(2) : BIT(0));
    }
    g_assert_cmpint(qxhci_intx(x), ==, t->to->mode == QXHCI_PIN);
    take_event(x, &dev, 0, trb[0]);
    take_event(x, &dev, mapping ? 2 : 0, trb[1]);
    qxhci_drain(x);
    assert_quiet(x);
    assert_delivery(x, &dev, t->to, 1);
}

/* A message that the mask holds back when MSI-X is disabled */
static void test_masked_switch(void *obj, void *data, QGuestAllocator *alloc)
{
    QXHCI *x = obj;
    QXHCIDevice dev;
    uint64_t trb;

    if (qpci_check_buggy_msi(&x->pdev)) {
        return;
    }
    start(x, &dev, &msix_mode);
    qxhci_write_bit(x, QXHCI_MSIX_MASKALL, true, 2);
    trb = qxhci_submit_get_descriptor(x, &dev, 0);
    assert_not_signalled(x);
    qxhci_oper_write(x, QXHCI_USBSTS, QXHCI_USBSTS_EINT);

    qxhci_write_bit(x, QXHCI_MSIX_ENABLE, false, 2);
    assert_signalled(x, &pin_mode, 0);
    g_assert_cmphex(qxhci_oper_read(x, QXHCI_USBSTS) & QXHCI_USBSTS_EINT, ==,
                    QXHCI_USBSTS_EINT);
    take_event(x, &dev, 0, trb);
    qxhci_ack(x, 0);
    assert_quiet(x);

    /* It was taken back, so it does not come any more */
    qxhci_write_bit(x, QXHCI_MSIX_ENABLE, true, 2);
    qxhci_write_bit(x, QXHCI_MSIX_MASKALL, false, 2);
    assert_quiet(x);
    assert_delivery(x, &dev, &msix_mode, 0);

    /* Nor does one whose event the guest has polled */
    qxhci_write_bit(x, QXHCI_MSIX_MASKALL, true, 2);
    trb = qxhci_submit_get_descriptor(x, &dev, 0);
    take_event(x, &dev, 0, trb);
    qxhci_ack(x, 0);
    qxhci_write_bit(x, QXHCI_MSIX_ENABLE, false, 2);
    assert_quiet(x);

    /* Nor one from before HCRST */
    qxhci_write_bit(x, QXHCI_MSIX_ENABLE, true, 2);
    trb = qxhci_submit_get_descriptor(x, &dev, 0);
    assert_not_signalled(x);
    qxhci_oper_write(x, QXHCI_USBCMD, QXHCI_USBCMD_HCRST);
    qxhci_write_bit(x, QXHCI_MSIX_ENABLE, false, 2);
    g_assert_cmphex(qxhci_intr_read(x, 0, QXHCI_IMAN), ==, 0);
    g_assert_cmphex(qxhci_oper_read(x, QXHCI_USBSTS) & QXHCI_USBSTS_EINT, ==,
                    0);
}

/* Unmasks @ring: its message comes, for the event at @trb, which is served */
static void assert_message_left(QXHCI *x, QXHCIDevice *dev, unsigned int ring,
                                uint64_t trb)
{
    assert_not_signalled(x);
    qxhci_msix_mask(x, ring, false);
    assert_signalled(x, &msix_mode, ring);
    take_event(x, dev, ring, trb);
    qxhci_ack(x, ring);
    assert_quiet(x);
}

/*
 * A guest that masks a vector and polls gets no message for what it has
 * served, but one for what it left (PCI 3.0, 6.8.3.5)
 */
static void test_masked_polled(void *obj, void *data, QGuestAllocator *alloc)
{
    QXHCI *x = obj;
    const unsigned int *ring = data;
    QXHCIDevice dev;
    uint64_t trb[2];

    if (qpci_check_buggy_msi(&x->pdev)) {
        return;
    }
    start(x, &dev, &msix_mode);

    /* All served */
    qxhci_msix_mask(x, *ring, true);
    trb[0] = qxhci_submit_get_descriptor(x, &dev, *ring);
    take_event(x, &dev, *ring, trb[0]);
    qxhci_ack(x, *ring);
    qxhci_msix_mask(x, *ring, false);
    assert_quiet(x);
    assert_delivery(x, &dev, &msix_mode, *ring);

    /* One is left */
    qxhci_msix_mask(x, *ring, true);
    trb[0] = qxhci_submit_get_descriptor(x, &dev, *ring);
    trb[1] = qxhci_submit_get_descriptor(x, &dev, *ring);
    take_event(x, &dev, *ring, trb[0]);
    qxhci_write_erdp(x, *ring, true);
    assert_message_left(x, &dev, *ring, trb[1]);

    /* All served, but EHB not cleared: the guest waits for the interrupt */
    qxhci_msix_mask(x, *ring, true);
    trb[0] = qxhci_submit_get_descriptor(x, &dev, *ring);
    take_event(x, &dev, *ring, trb[0]);
    qxhci_write_erdp(x, *ring, false);
    trb[1] = qxhci_submit_get_descriptor(x, &dev, *ring);
    assert_message_left(x, &dev, *ring, trb[1]);

    /* From before HCRST */
    qxhci_msix_mask(x, *ring, true);
    qxhci_submit_get_descriptor(x, &dev, *ring);
    assert_not_signalled(x);
    qxhci_oper_write(x, QXHCI_USBCMD, QXHCI_USBCMD_HCRST);
    qxhci_msix_mask(x, *ring, false);
    assert_not_signalled(x);
}

/* An event ring that the guest did not set up, 5.5.2.3.1 */
static void test_disabled_ring(void *obj, void *data, QGuestAllocator *alloc)
{
    QXHCI *x = obj;
    const Setup *s = data;
    QTestState *qts = x->pdev.bus->qts;
    QXHCIDevice dev;
    g_autofree char *file = NULL;
    g_autofree char *log = NULL;
    uint64_t trb;
    int fd;

    if (qpci_check_buggy_msi(&x->pdev)) {
        return;
    }
    fd = g_file_open_tmp("xhci-intr-test-XXXXXX", &file, NULL);
    g_assert_cmpint(fd, >=, 0);
    close(fd);
    g_free(qtest_hmp(qts, "logfile %s", file));
    g_free(qtest_hmp(qts, "log guest_errors"));

    qxhci_set_mode(x, s->mode, s->msi_vectors);
    /* Rings from before HCRST are forgotten */
    qxhci_start(x, x->max_intrs);
    qxhci_start(x, 3);
    qxhci_device_init(x, &dev);
    qxhci_drain(x);

    trb = qxhci_submit_get_descriptor(x, &dev, 5);
    if (s->mapping) {
        assert_quiet(x);
    } else {
        take_event(x, &dev, 0, trb);
        assert_signalled(x, s, 0);
        qxhci_ack(x, 0);
    }
    assert_delivery(x, &dev, s, 2);

    g_assert_true(g_file_get_contents(file, &log, NULL, NULL));
    g_assert_cmpint(strstr(log, "interrupter 5") != NULL, ==, s->mapping);
    unlink(file);
    qos_invalidate_command_line();
}

static void register_due_tests(void)
{
    static const unsigned int masked_rings[] = { 0, 1 };

    for (int i = 0; i < ARRAY_SIZE(setups); i++) {
        add_due_tests(&setups[i], 0);
        if (setups[i].mode != QXHCI_PIN) {
            add_due_tests(&setups[i], 1);
        }
    }
    for (int i = 0; i < ARRAY_SIZE(modes); i++) {
        add_setup_test("disabled-ring", modes[i], test_disabled_ring);
        for (int j = 0; j < ARRAY_SIZE(modes); j++) {
            g_autofree char *name = g_strdup_printf("switch/pending-%s-to-%s",
                                                    modes[i]->name,
                                                    modes[j]->name);

            if (i != j) {
                ModeTest *t = g_new(ModeTest, 1);

                t->from = modes[i];
                t->to = modes[j];
                add_xhci_test(name, &pin_mode, test_pending_switch, t);
            }
        }
    }
    add_xhci_test("switch/msix-after-ie", &msix_mode, test_msix_after_ie,
                  NULL);
    add_xhci_test("switch/msix-masked-to-pin", &msix_mode, test_masked_switch,
                  NULL);
    for (int i = 0; i < ARRAY_SIZE(masked_rings); i++) {
        g_autofree char *name = g_strdup_printf("mask/polled-%u",
                                                masked_rings[i]);

        add_xhci_test(name, &msix_mode, test_masked_polled,
                      (void *)&masked_rings[i]);
    }
}

libqos_init(register_due_tests);

/* Controllers with fewer interrupters */

typedef struct IntrsTest {
    const Setup *setup;
    unsigned int intrs;
} IntrsTest;

static void test_intrs(void *obj, void *data, QGuestAllocator *alloc)
{
    QPCIBus *bus = obj;
    const IntrsTest *t = data;
    Setup s = *t->setup;
    QXHCI x;
    QXHCIDevice dev;

    if (bus->has_buggy_msi) {
        g_test_skip("Incomplete support for MSI");
        return;
    }
    qxhci_init(&x, bus, QPCI_DEVFN(HOTPLUG_SLOT, 0), alloc);
    g_assert_cmpuint(x.max_intrs, ==, t->intrs);
    g_assert_cmpuint(x.max_slots, ==, 7);

    /* 4.17.1: with a single interrupter, the target is ignored */
    s.mapping &= t->intrs > 1;
    s.msi_vectors = MIN(s.msi_vectors, t->intrs);
    start(&x, &dev, &s);
    assert_delivery(&x, &dev, &s, 0);
    assert_delivery(&x, &dev, &s, 1);
    assert_delivery(&x, &dev, &s, t->intrs - 1);
    assert_delivery(&x, &dev, &s, t->intrs);
    qxhci_free(&x);
}

/* What the controller cannot have is an error */
static void test_intrs_error(void *obj, void *data, QGuestAllocator *alloc)
{
    static const char *const bad[] = {
        "intrs=0", "intrs=17", "slots=0", "slots=65",
    };
    QPCIBus *bus = obj;

    if (bus->not_hotpluggable) {
        g_test_skip("No PCI hotplug");
        return;
    }
    for (int i = 0; i < ARRAY_SIZE(bad); i++) {
        g_autofree char *out =
            qtest_hmp(bus->qts, "device_add nec-usb-xhci,%s", bad[i]);

        g_assert_nonnull(strstr(out, "must be 1 to"));
    }
}

static void register_intrs_tests(void)
{
    static const unsigned int intrs[] = { 1, 2, 8 };
    static const char *const buses[] = { "pci-bus", "pcie-bus" };

    for (int b = 0; b < ARRAY_SIZE(buses); b++) {
        for (int i = 0; i < ARRAY_SIZE(intrs); i++) {
            for (int m = 0; m < ARRAY_SIZE(modes); m++) {
                IntrsTest *t = g_new(IntrsTest, 1);
                g_autofree char *name = g_strdup_printf(
                    "nec-usb-xhci/intrs/%u-%s", intrs[i], modes[m]->name);
                g_autofree char *cmd_line = g_strdup_printf(
                    "-device nec-usb-xhci,addr=%u,%s,intrs=%u,slots=7 "
                    "-device usb-kbd ", HOTPLUG_SLOT,
                    modes[m]->device_opts, intrs[i]);

                t->setup = modes[m];
                t->intrs = intrs[i];
                qos_add_test(name, buses[b], test_intrs,
                             &(QOSGraphTestOptions) {
                    .edge.before_cmd_line = cmd_line,
                    .arg = t,
                });
            }
        }
    }
    qos_add_test("nec-usb-xhci/intrs/error", "pci-bus", test_intrs_error,
                 NULL);
}

libqos_init(register_intrs_tests);

/* Controllers on sysbus: microvm's has one line, that of xlnx-zcu102 four */

/* Asserts that line @high is high, or none for -1, and the others are low */
static void assert_lines(QXHCI *x, int high)
{
    qxhci_step(x, 20);
    for (int line = 0; line < x->max_intrs; line++) {
        g_assert_cmpint(qtest_get_irq(x->sysbus_qts, x->sysbus_irq + line), ==,
                        line == high);
    }
}

static void test_lines(void *obj, void *data, QGuestAllocator *alloc)
{
    QXHCI *x = obj;
    QTestState *qts = x->sysbus_qts;
    QXHCIDevice dev;
    uint64_t trb;

    qtest_irq_intercept_in(qts, x->sysbus_intc);
    qxhci_start(x, x->max_intrs);
    qxhci_device_init(x, &dev);
    qxhci_drain(x);
    assert_lines(x, -1);

    for (unsigned int target = 0; target < 4; target++) {
        /* 4.17.1: with a single interrupter, the target is ignored */
        unsigned int ring = x->max_intrs > 1 ? target : 0;

        trb = qxhci_submit_get_descriptor(x, &dev, target);
        take_event(x, &dev, ring, trb);
        assert_lines(x, ring);
        qxhci_ack(x, ring);
        assert_lines(x, -1);

        /* The line follows IE, INTE and IP */
        trb = qxhci_submit_get_descriptor(x, &dev, target);
        take_event(x, &dev, ring, trb);
        assert_lines(x, ring);
        set_ie(x, ring, false);
        assert_lines(x, -1);
        set_ie(x, ring, true);
        assert_lines(x, ring);
        set_inte(x, 0, false);
        assert_lines(x, -1);
        set_inte(x, 0, true);
        assert_lines(x, ring);
        qxhci_ack(x, ring);
        assert_lines(x, -1);

        /* An event that comes while IE is clear */
        set_ie(x, ring, false);
        trb = qxhci_submit_get_descriptor(x, &dev, target);
        assert_lines(x, -1);
        set_ie(x, ring, true);
        assert_lines(x, ring);
        take_event(x, &dev, ring, trb);
        qxhci_ack(x, ring);
        assert_lines(x, -1);
    }

    /* Registers of interrupters that the controller does not have */
    for (unsigned int intr = x->max_intrs; intr < QXHCI_MAX_INTRS;
         intr++) {
        qxhci_intr_write(x, intr, QXHCI_IMAN, QXHCI_IMAN_IP | QXHCI_IMAN_IE);
        assert_lines(x, -1);
    }
}

/* The lines are low after either kind of reset */
static void test_lines_reset(void *obj, void *data, QGuestAllocator *alloc)
{
    QXHCI *x = obj;
    QTestState *qts = x->sysbus_qts;
    unsigned int ring = x->max_intrs - 1;
    QXHCIDevice dev;

    qtest_irq_intercept_in(qts, x->sysbus_intc);
    for (int system = 0; system <= 1; system++) {
        qxhci_start(x, x->max_intrs);
        qxhci_device_init(x, &dev);
        qxhci_drain(x);
        qxhci_submit_get_descriptor(x, &dev, ring);
        assert_lines(x, ring);
        if (system) {
            qtest_qmp_assert_success(qts, "{ 'execute': 'system_reset' }");
            qtest_qmp_eventwait(qts, "RESET");
        } else {
            qxhci_oper_write(x, QXHCI_USBCMD, QXHCI_USBCMD_HCRST);
        }
        assert_lines(x, -1);
    }
    qos_invalidate_command_line();
}

static void register_sysbus_tests(void)
{
    /* xlnx-zcu102 has another controller, with usb-bus.1 */
    QOSGraphTestOptions opts = {
        .edge.after_cmd_line = "-device usb-kbd,bus=usb-bus.0",
    };

    qos_add_test("lines", "xhci-sysbus", test_lines, &opts);
    qos_add_test("lines-reset", "xhci-sysbus", test_lines_reset, &opts);
}

libqos_init(register_sysbus_tests);

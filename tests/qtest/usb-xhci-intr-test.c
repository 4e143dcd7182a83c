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

    take_event(x, &dev, ring_of(s, 2), trb[0]);
    take_event(x, &dev, ring_of(s, 1), trb[1]);
    qxhci_ack(x, ring_of(s, 2));
    qxhci_ack(x, ring_of(s, 1));
    qxhci_take_messages(x);
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
        trb = qxhci_submit_intr_in(x, &dev, KBD_EP, KBD_REPORT_SIZE, 1);
        assert_quiet(x);

        qtest_qmp_assert_success(qts,
            "{ 'execute': 'input-send-event', 'arguments': { 'events': ["
            "  { 'type': 'key', 'data': { 'down': %i, 'key':"
            "    { 'type': 'qcode', 'data': 'a' } } } ] } }", down);
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

static void register_delivery_tests(void)
{
    for (int i = 0; i < ARRAY_SIZE(setups); i++) {
        add_target_tests(&setups[i]);
        add_setup_test("two-targets", &setups[i], test_two_targets);
        add_setup_test("key", &setups[i], test_key);
    }
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

/* HCRST resets the controller but not the PCI function, 4.2: no new mode */
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
 * Events are pending when the state is saved, one on a ring and, with MSI-X,
 * another one whose message is masked.  Nothing is lost.
 */
static void test_migrate(void *obj, void *data, QGuestAllocator *alloc)
{
    QXHCI *x = obj;
    const MigrateTest *t = data;
    const Setup *s = t->setup;
    QPCIBus *bus = x->pdev.bus;
    QTestState *from = bus->qts;
    QTestState *to;
    QXHCIDevice dev;
    QOSState from_state = { .qts = from }, to_state = { };
    g_autofree char *dir = NULL;
    g_autofree char *sock = NULL;
    g_autofree char *uri = NULL;
    uint64_t trb, masked_trb = 0;

    if (qpci_check_buggy_msi(&x->pdev)) {
        return;
    }
    start(x, &dev, s);
    trb = leave_pending(x, &dev, s);
    if (s->mode == QXHCI_MSIX) {
        qxhci_write_bit(x, QXHCI_MSIX_MASKALL, true, 2);
        masked_trb = qxhci_submit_get_descriptor(x, &dev, 2);
        qxhci_step(x, 20);
    }

    dir = g_dir_make_tmp("xhci-intr-test-XXXXXX", NULL);
    g_assert_nonnull(dir);
    sock = g_strdup_printf("%s/migrate", dir);
    uri = g_strdup_printf("unix:%s", sock);

    /* From here on the driver talks to the destination */
    to = qtest_initf("%s -incoming defer", qos_get_current_command_line());
    bus->qts = to;
    if (t->destination->mode == QXHCI_MSI) {
        qxhci_write_bit(x, QXHCI_MSI_ENABLE, true, 2);
    } else if (t->destination->mode == QXHCI_MSIX) {
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

    g_assert_cmpint(qxhci_intx(x), ==,
                    s->mode == QXHCI_PIN && ring_of(s, 1) == 0);
    g_assert_cmphex(qxhci_take_messages(x), ==, 0);
    take_event(x, &dev, ring_of(s, 1), trb);
    qxhci_ack(x, ring_of(s, 1));
    if (masked_trb) {
        qxhci_write_bit(x, QXHCI_MSIX_MASKALL, false, 2);
        assert_signalled(x, s, 2);
        take_event(x, &dev, 2, masked_trb);
        qxhci_ack(x, 2);
    }
    assert_quiet(x);
    assert_delivery(x, &dev, s, 0);
    assert_delivery(x, &dev, s, 1);
    assert_delivery(x, &dev, s, 2);

    bus->qts = from;
    qtest_quit(to);
    unlink(sock);
    rmdir(dir);
    /* The source is stopped now, the next test needs another one */
    qos_invalidate_command_line();
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

static void test_hotplug(void *obj, void *data, QGuestAllocator *alloc)
{
    QPCIBus *bus = &((QPCIBusPC *)obj)->bus;
    const HotplugTest *t = data;
    bool pin = t->setup->mode == QXHCI_PIN;
    QPCIDevice piix;
    QXHCI x;
    QXHCIDevice dev;

    /* Watch the line itself: a function that is gone has no status bit */
    qtest_irq_intercept_in(bus->qts, "ioapic");
    qpci_device_init(&piix, bus, &(QPCIAddress) { .devfn = PIIX_DEVFN });
    for (int pirq = 0; pirq < 4; pirq++) {
        qpci_config_writeb(&piix, PIIX_PIRQ_ROUTE + pirq, PIIX_IRQ);
    }

    for (int i = 0; i < 2; i++) {
        hotplug(&x, &dev, t, bus, alloc);
        assert_delivery(&x, &dev, t->setup, 1);
        leave_pending(&x, &dev, t->setup);
        g_assert_cmpint(qtest_get_irq(bus->qts, PIIX_IRQ), ==, pin);

        qtest_qmp_device_del_send(bus->qts, "xhci");
        qtest_outl(bus->qts, ACPI_PCIHP_EJECT, 1 << HOTPLUG_SLOT);
        g_assert_cmphex(qpci_config_readw(&x.pdev, PCI_VENDOR_ID), ==, 0xffff);
        g_assert_false(qtest_get_irq(bus->qts, PIIX_IRQ));
    }
    qos_invalidate_command_line();
}

static void add_hotplug_test(const char *type, const Setup *s)
{
    HotplugTest *t = g_new(HotplugTest, 1);
    g_autofree char *name = g_strdup_printf("%s/hotplug/%s", type, s->name);

    t->type = type;
    t->setup = s;
    qos_add_test(name, "pci-bus-pc", test_hotplug,
                 &(QOSGraphTestOptions) { .arg = t });
}

static void register_hotplug_tests(void)
{
    for (int i = 0; i < ARRAY_SIZE(modes); i++) {
        add_hotplug_test("nec-usb-xhci", modes[i]);
        add_hotplug_test("qemu-xhci", modes[i]);
    }
}

libqos_init(register_hotplug_tests);

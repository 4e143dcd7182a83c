/*
 * QTest testcase for xHCI USB host controllers: mapped event rings
 *
 * The controller keeps event rings mapped.  An event must go to where the ring
 * is when it is sent, whatever has become of the memory since the last one, and
 * migration must see that it was written.  Section numbers are those of the
 * xHCI specification, revision 1.2.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/pci/pci_regs.h"
#include "libqtest.h"
#include "libqos/malloc-pc.h"
#include "libqos/pci-pc.h"
#include "libqos/qgraph.h"
#include "libqos/qos_external.h"
#include "usb-xhci-utils.h"

#define PORTSC_PLS_U0       0
#define PORTSC_PLS_U3       (3 << 5)
#define PORTSC_LWS          BIT(16)
#define PORTSC_PLC          BIT(22)

#define VGA_SLOT            5
#define VGA                 "secondary-vga"

#define IOMMU_XHCI_SLOT     4
#define VTD                 0xfed90000ULL
#define VTD_ECAP            0x10
#define VTD_GCMD            0x18
#define VTD_GCMD_TE         BIT(31)
#define VTD_GCMD_SRTP       BIT(30)
#define VTD_RTADDR          0x20
#define VTD_IOTLB_GLOBAL    (BIT_ULL(63) | BIT_ULL(60))

#define RING_SIZE           (QXHCI_RING_TRBS * QXHCI_TRB_SIZE)

/* Has the port of @dev resume, for an event on ring 0 that takes no DMA read */
static void resume_port(QXHCI *x, QXHCIDevice *dev)
{
    uint32_t reg = QXHCI_PORTSC(dev->port);

    qxhci_oper_write(x, reg, QXHCI_PORTSC_PP | PORTSC_LWS | PORTSC_PLS_U3 |
                     PORTSC_PLC);
    qxhci_oper_write(x, reg, QXHCI_PORTSC_PP | PORTSC_LWS | PORTSC_PLS_U0);
}

static void take_port_event(QXHCI *x, QXHCIDevice *dev)
{
    QXHCITrb ev;

    qxhci_event_wait(x, 0, &ev);
    g_assert_cmpuint(QXHCI_TRB_TYPE(&ev), ==, QXHCI_TRB_EV_PORT);
    g_assert_cmphex(ev.parameter, ==, dev->port << 24);
}

static void set_command_bit(QPCIDevice *pdev, uint16_t bit, bool on)
{
    uint16_t command = qpci_config_readw(pdev, PCI_COMMAND);

    command = on ? command | bit : command & ~bit;
    qpci_config_writew(pdev, PCI_COMMAND, command);
}

/* Has event ring @intr begin anew at @addr, and empty */
static void move_ring(QXHCI *x, unsigned int intr, uint64_t addr)
{
    qtest_memset(x->pdev.bus->qts, addr, 0, RING_SIZE);
    xhci_move_ring(x, intr, addr);
}

static void assert_deliveries(QXHCI *x, QXHCIDevice *dev, const XHCISetup *s)
{
    for (unsigned int target = 0; target < 3; target++) {
        xhci_assert_delivery(x, dev, s, target);
    }
}

/* Bus mastering goes off and on again, with and without an event meanwhile */
static void test_bus_master(QXHCI *x, const void *arg)
{
    const XHCISetup *s = arg;
    QXHCIDevice dev;
    QXHCITrb ev;

    xhci_start(x, &dev, s);
    assert_deliveries(x, &dev, s);

    set_command_bit(&x->pdev, PCI_COMMAND_MASTER, false);
    set_command_bit(&x->pdev, PCI_COMMAND_MASTER, true);
    assert_deliveries(x, &dev, s);

    set_command_bit(&x->pdev, PCI_COMMAND_MASTER, false);
    resume_port(x, &dev);
    g_assert_false(qxhci_event_peek(x, 0, 0, &ev));
    g_assert_cmphex(qxhci_oper_read(x, QXHCI_USBSTS) & QXHCI_USBSTS_HCE, ==,
                    QXHCI_USBSTS_HCE);

    set_command_bit(&x->pdev, PCI_COMMAND_MASTER, true);
    xhci_start(x, &dev, s);
    assert_deliveries(x, &dev, s);
}

/* The guest sets rings up in other memory, after HCRST and without */
static void test_moved(QXHCI *x, const void *arg)
{
    const XHCISetup *s = arg;
    QTestState *qts = x->pdev.bus->qts;
    uint64_t old[3], new[3];
    uint8_t before[RING_SIZE], after[RING_SIZE];
    QXHCIDevice dev;

    xhci_start(x, &dev, s);
    for (int i = 0; i < ARRAY_SIZE(new); i++) {
        new[i] = guest_alloc(x->alloc, RING_SIZE);
    }
    for (int round = 0; round < 2; round++) {
        assert_deliveries(x, &dev, s);
        for (int i = 0; i < ARRAY_SIZE(new); i++) {
            old[i] = x->event[i].addr;
            move_ring(x, i, new[i]);
        }
        qtest_memread(qts, old[0], before, sizeof(before));
        assert_deliveries(x, &dev, s);
        qtest_memread(qts, old[0], after, sizeof(after));
        g_assert_cmpmem(before, sizeof(before), after, sizeof(after));

        xhci_start(x, &dev, s);
    }
    for (int i = 0; i < ARRAY_SIZE(new); i++) {
        guest_free(x->alloc, new[i]);
    }
}

/* 5.5.2.3.1: the guest disables a ring, then has it go on */
static void test_disabled(QXHCI *x, const void *arg)
{
    const XHCISetup *s = arg;
    QTestState *qts = x->pdev.bus->qts;
    uint8_t before[RING_SIZE], after[RING_SIZE];
    QXHCIDevice dev;

    xhci_start(x, &dev, s);
    assert_deliveries(x, &dev, s);

    qxhci_intr_write(x, 1, QXHCI_ERSTSZ, 0);
    qtest_memread(qts, x->event[1].addr, before, sizeof(before));
    qxhci_submit_get_descriptor(x, &dev, 1);
    xhci_assert_quiet(x);
    qtest_memread(qts, x->event[1].addr, after, sizeof(after));
    g_assert_cmpmem(before, sizeof(before), after, sizeof(after));

    qxhci_intr_write(x, 1, QXHCI_ERSTSZ, 1);
    assert_deliveries(x, &dev, s);
}

static unsigned int count(const char *haystack, const char *needle)
{
    unsigned int n = 0;

    while ((haystack = strstr(haystack, needle))) {
        haystack += strlen(needle);
        n++;
    }
    return n;
}

/* A ring is mapped once, until something happens to it */
static void test_trace(QXHCI *x, const void *arg)
{
#ifdef CONFIG_TRACE_LOG
    const XHCISetup *s = arg;
    char *file = xhci_log_start(x, "trace-event usb_xhci_er_map on");
    g_autofree char *log = NULL;
    QXHCIDevice dev;

    xhci_start(x, &dev, s);
    for (int i = 0; i < QXHCI_RING_TRBS; i++) {
        assert_deliveries(x, &dev, s);
    }
    qxhci_intr_write(x, 1, QXHCI_ERSTSZ, 0);
    qxhci_intr_write(x, 1, QXHCI_ERSTSZ, 1);
    assert_deliveries(x, &dev, s);
    move_ring(x, 2, x->event[2].addr);
    assert_deliveries(x, &dev, s);

    log = xhci_log_stop(file);
    g_assert_cmpuint(count(log, "usb_xhci_er_map v 0,"), ==, 1);
    g_assert_cmpuint(count(log, "usb_xhci_er_map v 1,"), ==, 2);
    g_assert_cmpuint(count(log, "usb_xhci_er_map v 2,"), ==, 2);
    g_assert_cmpuint(count(log, "TRBs, RAM"), ==, 5);
#else
    g_test_skip("Built without the log trace backend");
#endif
}

static void start_vga(QXHCI *x, QPCIDevice *vga, QPCIBar *vram, uint64_t *size)
{
    qpci_device_init(vga, x->pdev.bus,
                     &(QPCIAddress) { .devfn = QPCI_DEVFN(VGA_SLOT, 0) });
    *vram = qpci_iomap(vga, 0, size);
    qpci_device_enable(vga);
}

/* A ring in the memory of a device, which goes away and comes back */
static void test_bar(QXHCI *x, const void *arg)
{
    const XHCISetup *s = arg;
    QPCIDevice vga;
    QPCIBar vram;
    uint64_t size;
    QXHCIDevice dev;
    QXHCITrb ev;

    xhci_start(x, &dev, s);
    start_vga(x, &vga, &vram, &size);
    for (int i = 0; i < 3; i++) {
        move_ring(x, i, vram.addr + i * RING_SIZE);
    }
    assert_deliveries(x, &dev, s);
    set_command_bit(&vga, PCI_COMMAND_MEMORY, false);
    set_command_bit(&vga, PCI_COMMAND_MEMORY, true);
    assert_deliveries(x, &dev, s);

    set_command_bit(&vga, PCI_COMMAND_MEMORY, false);
    qxhci_submit_get_descriptor(x, &dev, 1);
    resume_port(x, &dev);
    qxhci_step(x, 20);
    set_command_bit(&vga, PCI_COMMAND_MEMORY, true);
    for (int i = 0; i < 3; i++) {
        g_assert_false(qxhci_event_peek(x, i, 0, &ev));
    }
    qpci_iounmap(&vga, vram);
    qos_invalidate_command_line();
}

/* A ring of which the end is not in memory */
static void test_short(QXHCI *x, const void *arg)
{
    const XHCISetup *s = arg;
    const unsigned int trbs = 8;
    QPCIDevice vga;
    QPCIBar vram;
    uint64_t size;
    QXHCIDevice dev;

    xhci_start(x, &dev, s);
    start_vga(x, &vga, &vram, &size);
    qtest_memset(x->pdev.bus->qts, vram.addr, 0, RING_SIZE);
    move_ring(x, 0, vram.addr + size - trbs * QXHCI_TRB_SIZE);
    for (int i = 0; i < trbs; i++) {
        resume_port(x, &dev);
        take_port_event(x, &dev);
    }
    for (int i = 0; i < trbs; i++) {
        resume_port(x, &dev);
    }
    qpci_iounmap(&vga, vram);
    qos_invalidate_command_line();
}

/* Identity map of the first GB, or none, for the function at @devfn of bus 0 */
static void vtd_set_map(QTestState *qts, uint64_t root, int devfn, bool on)
{
    uint64_t context = root + 0x1000, table = root + 0x2000;
    uint32_t iotlb = (qtest_readq(qts, VTD + VTD_ECAP) >> 8 & 0x3ff) * 16 + 8;

    qtest_writeq(qts, root, context | 1 /* present */);
    qtest_writeq(qts, context + 16 * devfn, table | 1 /* present */);
    qtest_writeq(qts, context + 16 * devfn + 8, 1 /* 39 bits */ | 1 << 8);
    qtest_writeq(qts, table, on ? 0x83 /* large page, read, write */ : 0);
    qtest_writeq(qts, VTD + iotlb, VTD_IOTLB_GLOBAL);
}

/* An IOMMU is turned on, takes the memory of the ring away, and goes off */
static void test_iommu(void *obj, void *data, QGuestAllocator *unused)
{
    const XHCISetup *s = data;
    QTestState *qts = qtest_init("-M q35 -device intel-iommu "
                                 "-device nec-usb-xhci,addr="
                                 stringify(IOMMU_XHCI_SLOT)
                                 ",msi=on,msix=on -device usb-kbd");
    int devfn = QPCI_DEVFN(IOMMU_XHCI_SLOT, 0);
    QGuestAllocator alloc;
    QPCIBus *bus;
    uint64_t root;
    QXHCIDevice dev;
    QXHCITrb ev;
    QXHCI x;

    pc_alloc_init(&alloc, qts, 0);
    bus = qpci_new_pc(qts, &alloc);
    qxhci_init(&x, bus, devfn, &alloc);
    xhci_start(&x, &dev, s);
    assert_deliveries(&x, &dev, s);

    root = guest_alloc(&alloc, 0x3000);
    qtest_memset(qts, root, 0, 0x3000);
    vtd_set_map(qts, root, devfn, true);
    qtest_writeq(qts, VTD + VTD_RTADDR, root);
    qtest_writel(qts, VTD + VTD_GCMD, VTD_GCMD_SRTP);
    qtest_writel(qts, VTD + VTD_GCMD, VTD_GCMD_TE);
    assert_deliveries(&x, &dev, s);

    vtd_set_map(qts, root, devfn, false);
    resume_port(&x, &dev);
    vtd_set_map(qts, root, devfn, true);
    g_assert_false(qxhci_event_peek(&x, 0, 0, &ev));
    g_assert_cmphex(qxhci_oper_read(&x, QXHCI_USBSTS) & QXHCI_USBSTS_HCE, ==,
                    QXHCI_USBSTS_HCE);
    xhci_start(&x, &dev, s);
    assert_deliveries(&x, &dev, s);

    qtest_writel(qts, VTD + VTD_GCMD, 0);
    assert_deliveries(&x, &dev, s);

    guest_free(&alloc, root);
    qxhci_free(&x);
    qpci_free_pc(bus);
    alloc_destroy(&alloc);
    qtest_quit(qts);
}

/* Migration */

static QTestState *start_destination(char **dir, char **uri)
{
    *dir = g_dir_make_tmp("xhci-test-XXXXXX", NULL);
    *uri = g_strdup_printf("unix:%s/migrate", *dir);
    return qtest_initf("%s -incoming defer",
                       qos_get_current_command_line());
}

static void listen_destination(QTestState *to, const char *uri)
{
    qtest_qmp_assert_success(to,
        "{ 'execute': 'migrate-incoming', 'arguments': { 'uri': %s } }", uri);
}

/* In bytes per second, 0 for no limit */
static void set_bandwidth(QTestState *from, uint64_t bandwidth)
{
    qtest_qmp_assert_success(from,
        "{ 'execute': 'migrate-set-parameters',"
        "  'arguments': { 'max-bandwidth': %" PRIu64 " } }", bandwidth);
}

static void start_migration(QTestState *from, const char *uri,
                            uint64_t bandwidth)
{
    set_bandwidth(from, bandwidth);
    qtest_qmp_assert_success(from,
        "{ 'execute': 'migrate', 'arguments': { 'uri': %s } }", uri);
}

static void assert_migrating(QTestState *from)
{
    QDict *rsp = qtest_qmp(from, "{ 'execute': 'query-migrate' }");
    const char *status = qdict_get_try_str(qdict_get_qdict(rsp, "return"),
                                           "status");

    g_assert_cmpstr(status, !=, "completed");
    g_assert_cmpstr(status, !=, "failed");
    qobject_unref(rsp);
}

static void end_migration(QXHCI *x, QTestState *from, char *dir, char *uri)
{
    unlink(uri + strlen("unix:"));
    rmdir(dir);
    g_free(dir);
    g_free(uri);
    xhci_end_migrate(x, from);
}

/* A key is pressed when the event ring has gone to the destination already */
static void test_migrate_input(QXHCI *x, const void *arg)
{
    const XHCISetup *s = arg;
    QTestState *from = x->pdev.bus->qts;
    uint8_t ring[RING_SIZE], copy[RING_SIZE];
    uint64_t trb[2];
    char *dir, *uri;
    QTestState *to;
    QXHCIDevice dev;
    QXHCITrb ev;

    xhci_start_kbd(x, &dev, s);
    xhci_assert_delivery(x, &dev, s, 1);
    for (int i = 0; i < ARRAY_SIZE(trb); i++) {
        trb[i] = qxhci_submit_intr_in(x, &dev, XHCI_KBD_EP,
                                      XHCI_KBD_REPORT_SIZE, 1, 0);
    }
    xhci_assert_quiet(x);

    to = start_destination(&dir, &uri);
    listen_destination(to, uri);
    start_migration(from, uri, 100 * 1000);
    qtest_memread(from, x->event[1].addr, ring, sizeof(ring));
    do {
        assert_migrating(from);
        g_usleep(1000);
        qtest_memread(to, x->event[1].addr, copy, sizeof(copy));
    } while (memcmp(ring, copy, sizeof(ring)));
    set_bandwidth(from, 1000);

    xhci_send_key(x, true);
    qxhci_step(x, 20);
    g_assert_true(qxhci_event_peek(x, 1, 0, &ev));
    qtest_memread(to, x->event[1].addr, copy, sizeof(copy));
    g_assert_cmpmem(ring, sizeof(ring), copy, sizeof(copy));
    assert_migrating(from);

    set_bandwidth(from, 0);
    qtest_qmp_eventwait(to, "RESUME");
    x->pdev.bus->qts = to;
    xhci_take_event(x, &dev, 1, trb[0]);
    qxhci_ack(x, 1);
    qxhci_take_messages(x);
    xhci_assert_quiet(x);
    xhci_send_key(x, false);
    xhci_take_event(x, &dev, 1, trb[1]);
    end_migration(x, from, dir, uri);
}

/* A state is loaded into a controller that uses rings somewhere else */
static void test_load(QXHCI *x, const void *arg)
{
    const XHCISetup *s = arg;
    QPCIBus *bus = x->pdev.bus;
    QTestState *from = bus->qts;
    QXHCI other = *x;
    QXHCIDevice dev;
    char *dir, *uri;
    QTestState *to;
    QXHCITrb ev;

    xhci_start(x, &dev, s);
    assert_deliveries(x, &dev, s);

    to = start_destination(&dir, &uri);
    bus->qts = to;
    /* With the same BAR, or the load would be a change of the memory map */
    qpci_config_writel(&other.pdev, PCI_BASE_ADDRESS_0, x->bar.addr);
    qpci_config_writel(&other.pdev, PCI_BASE_ADDRESS_1, x->bar.addr >> 32);
    qpci_device_enable(&other.pdev);
    other.allocated = g_array_new(false, false, sizeof(uint64_t));
    qxhci_start(&other, 1);
    resume_port(&other, &dev);
    take_port_event(&other, &dev);
    bus->qts = from;

    listen_destination(to, uri);
    start_migration(from, uri, 0);
    qtest_qmp_eventwait(to, "RESUME");
    bus->qts = to;
    resume_port(x, &dev);
    take_port_event(x, &dev);
    qxhci_ack(x, 0);
    qxhci_take_messages(x);
    g_assert_false(qxhci_event_peek(&other, 0, 0, &ev));
    assert_deliveries(x, &dev, s);

    for (unsigned int i = 0; i < other.allocated->len; i++) {
        guest_free(other.alloc, g_array_index(other.allocated, uint64_t, i));
    }
    g_array_free(other.allocated, true);
    end_migration(x, from, dir, uri);
}

static void register_map_tests(void)
{
    const XHCISetup *s = &xhci_msix_mode;

    xhci_add_test("map/bus-master", s, test_bus_master, s);
    xhci_add_test("map/moved", s, test_moved, s);
    xhci_add_test("map/disabled", s, test_disabled, s);
    xhci_add_test("map/trace", s, test_trace, s);
    xhci_add_test("map/migrate-input", s, test_migrate_input, s);
    xhci_add_test("map/load", s, test_load, s);
    if (qtest_has_device("intel-iommu")) {
        qos_add_test("nec-usb-xhci/map/iommu", "pci-bus-pc", test_iommu,
                     &(QOSGraphTestOptions) { .arg = (void *)s });
    }
    if (qtest_has_device(VGA)) {
        const char *devices = "usb-kbd -device " VGA ",addr="
                              stringify(VGA_SLOT);

        xhci_add_device_test("map/bar", s->device_opts, devices, test_bar, s);
        xhci_add_device_test("map/short", s->device_opts, devices, test_short,
                             s);
    }
}

libqos_init(register_map_tests);

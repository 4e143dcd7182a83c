/*
 * QTest testcase for usb-storage behind xHCI: unexpected packets
 *
 * What no driver would send to usb-storage, which must not stop QEMU.  Section
 * numbers are those of the xHCI specification, revision 1.2, unless they are
 * of USB Mass Storage Class, Bulk-Only Transport (BOT), revision 1.0.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "libqtest.h"
#include "libqos/qgraph.h"
#include "libqos/qos_external.h"
#include "usb-xhci-utils.h"

/* A disk that takes 200 ms for a request */
#define STORAGE "usb-storage,drive=disk -blockdev " \
    "null-co,node-name=disk,size=65536,read-zeroes=on,latency-ns=200000000"

/* Endpoint IDs of the endpoints, and of the other direction of the first */
#define EPID_IN             QXHCI_EP_IN(1)
#define EPID_OUT            4
#define EPID_OTHER          2

/* Command Block Wrapper, BOT 5.1 */
#define CBW_SIZE            31
#define CBW_FLAGS_IN        0x80

/* Command Status Wrapper, BOT 5.2 */
#define CSW_SIZE            13

/* What QEMU's disk reads at a time, in bytes */
#define READ_CHUNK          131072

/* SCSI commands */
static const uint8_t test_unit_ready[10] = { 0x00 };
static const uint8_t inquiry[10] = { 0x12, 0, 0, 0, 36, };
static const uint8_t read_block[10] = { 0x28, [8] = 1, };
static const uint8_t read_long[10] = { 0x28, [7] = 1, [8] = 1, };

typedef struct Storage {
    QXHCIDevice dev;
    QXHCIRing ring[EPID_OUT + 1];
    uint64_t buf;
} Storage;

static void fill_ctx(QXHCI *x, Storage *s, unsigned int epid,
                     unsigned int ep_type)
{
    QTestState *qts = x->pdev.bus->qts;
    uint64_t ctx = s->dev.in_ctx + (epid + 1) * x->ctx_size;
    QXHCIRing *ring = &s->ring[epid];

    ring->addr = xhci_alloc(x, QXHCI_RING_TRBS * QXHCI_TRB_SIZE);
    ring->cycle = true;
    qtest_writel(qts, ctx + 4, 512 << 16 | ep_type << 3 | 3 << 1);
    qtest_writeq(qts, ctx + 8, ring->addr | 1 /* DCS */);
}

static void start(QXHCI *x, Storage *s)
{
    QTestState *qts = x->pdev.bus->qts;

    memset(s, 0, sizeof(*s));
    xhci_start(x, &s->dev, &xhci_pin_mode);
    qxhci_set_configuration(x, &s->dev);
    fill_ctx(x, s, EPID_IN, QXHCI_EP_TYPE_BULK_IN);
    fill_ctx(x, s, EPID_OUT, QXHCI_EP_TYPE_BULK_OUT);
    /* The controller goes by the Endpoint Type, not by the endpoint ID */
    fill_ctx(x, s, EPID_OTHER, QXHCI_EP_TYPE_BULK_IN);
    qtest_writel(qts, s->dev.in_ctx + 4, BIT(0) | BIT(EPID_IN) |
                 BIT(EPID_OUT) | BIT(EPID_OTHER));
    qtest_writel(qts, s->dev.in_ctx + x->ctx_size, EPID_OUT << 27);
    qxhci_command(x, QXHCI_TRB_CONFIG_EP, s->dev.in_ctx, s->dev.slot);
    s->buf = xhci_alloc(x, 1024);
}

static uint64_t submit(QXHCI *x, Storage *s, unsigned int epid,
                       unsigned int len)
{
    return xhci_submit_bulk(x, &s->dev, &s->ring[epid], epid, s->buf, len);
}

static void command(QXHCI *x, Storage *s, const uint8_t *cdb, uint32_t len)
{
    uint8_t cbw[CBW_SIZE] = { 'U', 'S', 'B', 'C', };

    stl_le_p(cbw + 8, len);
    cbw[12] = CBW_FLAGS_IN;
    cbw[14] = 10;
    memcpy(cbw + 15, cdb, 10);
    qtest_memwrite(x->pdev.bus->qts, s->buf, cbw, sizeof(cbw));
    xhci_assert_completion(x, submit(x, s, EPID_OUT, sizeof(cbw)),
                           QXHCI_CC_SUCCESS);
}

static void status(QXHCI *x, Storage *s)
{
    xhci_assert_completion(x, submit(x, s, EPID_IN, CSW_SIZE),
                           QXHCI_CC_SUCCESS);
}

/* A reset instead of the status of a command with a residue, BOT 3.1 */
static void test_reset(QXHCI *x, const void *arg)
{
    uint64_t trb;
    Storage s;

    start(x, &s);
    command(x, &s, inquiry, 512);
    xhci_assert_completion(x, submit(x, &s, EPID_IN, 512), QXHCI_CC_SUCCESS);

    /* Bulk-Only Mass Storage Reset */
    qxhci_ring_put(x, &s.dev.ep0, (QXHCITrb) {
        .parameter = 0x000000000000ff21ULL,
        .status = 8,
        .control = QXHCI_TRB_SETUP << 10 | QXHCI_TRB_IDT,
    });
    trb = qxhci_ring_put(x, &s.dev.ep0, (QXHCITrb) {
        .control = QXHCI_TRB_STATUS << 10 | QXHCI_TRB_IOC |
                   QXHCI_TRB_DIR_IN,
    });
    qxhci_doorbell(x, s.dev.slot, QXHCI_EP0);
    xhci_assert_completion(x, trb, QXHCI_CC_SUCCESS);

    command(x, &s, test_unit_ready, 0);
    status(x, &s);
    xhci_assert_delivery(x, &s.dev, &xhci_pin_mode, 0);
}

/* While a packet waits for data, one comes by another endpoint */
static void test_second_packet(QXHCI *x, const void *arg)
{
    Storage s;

    start(x, &s);
    /* This one only tells that the unit was reset */
    command(x, &s, test_unit_ready, 0);
    status(x, &s);

    command(x, &s, read_block, 512);
    submit(x, &s, EPID_IN, 512);
    xhci_assert_completion(x, submit(x, &s, EPID_OTHER, 512), QXHCI_CC_STALL);

    xhci_stop_transfer(x, &s.dev, EPID_IN);
    xhci_assert_delivery(x, &s.dev, &xhci_pin_mode, 0);
}

/*
 * A buffer that begins at USBCMD: QEMU writes what the packet has read when the
 * packet is cancelled, which a reset does.  With that, the guest would reset
 * the controller while it is being reset.
 */
static void test_buffer_at_usbcmd(void *obj, void *data,
                                  QGuestAllocator *alloc)
{
    const uint32_t len = READ_CHUNK + 512;
    QXHCI *x = obj;
    QTestState *qts = x->pdev.bus->qts;
    uint64_t buf;
    Storage s;

    if (qpci_check_buggy_msi(&x->pdev)) {
        return;
    }
    start(x, &s);
    buf = xhci_alloc(x, len);
    /* This one only tells that the unit was reset */
    command(x, &s, test_unit_ready, 0);
    status(x, &s);

    command(x, &s, read_long, len);
    qxhci_ring_put(x, &s.ring[EPID_IN], (QXHCITrb) {
        .parameter = x->bar.addr + x->oper + QXHCI_USBCMD,
        .status = 4,
        .control = QXHCI_TRB_NORMAL << 10 | QXHCI_TRB_CH,
    });
    for (uint32_t done = 4, n; done < len; done += n) {
        n = MIN(len - done, 0x10000);
        qxhci_ring_put(x, &s.ring[EPID_IN], (QXHCITrb) {
            .parameter = buf + done,
            .status = n,
            .control = QXHCI_TRB_NORMAL << 10 |
                       (done + n < len ? QXHCI_TRB_CH : QXHCI_TRB_IOC),
        });
    }
    qxhci_doorbell(x, s.dev.slot, EPID_IN);
    /* The first chunk comes at once, the second when the disk is allowed to */
    for (int i = 0; qtest_readb(qts, buf + READ_CHUNK - 1) == 0; i++) {
        g_assert_cmpint(i, <, 100000);
    }

    qtest_qmp_assert_success(qts, "{ 'execute': 'system_reset' }");
    qtest_qmp_eventwait(qts, "RESET");
    qtest_qmp_assert_success(qts, "{ 'execute': 'query-status' }");
    qos_invalidate_command_line();
}

static void remove_disk(void *path)
{
    unlink(path);
    g_free(path);
}

/* A disk that is full of HCRST, and slow once it has read a chunk */
static void *add_disk(GString *cmd_line, void *arg)
{
    g_autofree char *data = g_malloc(2 * READ_CHUNK);
    char *path;
    int fd = g_file_open_tmp("xhci-test-XXXXXX", &path, NULL);

    g_assert_cmpint(fd, >=, 0);
    close(fd);
    memset(data, QXHCI_USBCMD_HCRST, 2 * READ_CHUNK);
    g_assert_true(g_file_set_contents(path, data, 2 * READ_CHUNK, NULL));
    g_test_queue_destroy(remove_disk, path);
    g_string_append_printf(cmd_line,
        " -object throttle-group,id=slow,x-bps-read=%d -blockdev "
        "driver=throttle,node-name=disk,throttle-group=slow,"
        "file.driver=file,file.filename=%s ", READ_CHUNK, path);
    return arg;
}

static void register_storage_tests(void)
{
    qos_add_test("storage/buffer-at-usbcmd", "xhci", test_buffer_at_usbcmd,
                 &(QOSGraphTestOptions) {
        .before = add_disk,
        .edge.extra_device_opts = "msi=on,msix=on",
        .edge.after_cmd_line = "-device usb-storage,drive=disk",
    });
    xhci_add_device_test("storage/reset", "msi=on,msix=on", STORAGE,
                         test_reset, NULL);
    xhci_add_device_test("storage/second-packet", "msi=on,msix=on", STORAGE,
                         test_second_packet, NULL);
}

libqos_init(register_storage_tests);

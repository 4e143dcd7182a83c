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
#include "libqtest.h"
#include "libqos/qgraph.h"
#include "libqos/qos_external.h"
#include "usb-xhci-storage.h"

/* A disk that takes 200 ms for a request */
#define STORAGE "usb-storage,drive=disk -blockdev " \
    "null-co,node-name=disk,size=65536,read-zeroes=on,latency-ns=200000000"

/* What QEMU's disk reads at a time, in bytes */
#define READ_CHUNK          131072

static const XHCIStorageCommand inquiry = { { 0x12, [4] = 36 }, 512 };
static const XHCIStorageCommand read_block = { { 0x28, [8] = 1 }, 512 };
static const XHCIStorageCommand read_long = {
    { 0x28, [7] = 1, [8] = 1 }, READ_CHUNK + 512
};

/* A reset instead of the status of a command with a residue, BOT 3.1 */
static void test_reset(QXHCI *x, const void *arg)
{
    uint64_t trb;
    XHCIStorage s;

    xhci_storage_start(x, &s, inquiry.len);
    xhci_storage_command(x, &s, &inquiry);
    xhci_storage_transfer(x, &s, XHCI_STORAGE_IN, inquiry.len);

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

    xhci_storage_command(x, &s, &xhci_test_unit_ready);
    xhci_storage_status(x, &s);
    xhci_assert_delivery(x, &s.dev, &xhci_pin_mode, 0);
}

/* While a packet waits for data, one comes by another endpoint */
static void test_second_packet(QXHCI *x, const void *arg)
{
    XHCIStorage s;

    xhci_storage_start(x, &s, read_block.len);
    xhci_storage_command(x, &s, &read_block);
    xhci_storage_submit(x, &s, XHCI_STORAGE_IN, read_block.len);
    xhci_assert_completion(x,
        xhci_storage_submit(x, &s, XHCI_STORAGE_OTHER, read_block.len),
        QXHCI_CC_STALL);

    xhci_stop_transfer(x, &s.dev, XHCI_STORAGE_IN);
    xhci_assert_delivery(x, &s.dev, &xhci_pin_mode, 0);
}

typedef struct USBCMDTest {
    const char *name;
    /* Ends the packet; the last byte of it goes to @end */
    void (*act)(QXHCI *x, uint64_t end);
    const char *usb_device;
    uint32_t route;
} USBCMDTest;

static void complete_packet(QXHCI *x, uint64_t end)
{
    QTestState *qts = x->pdev.bus->qts;

    qtest_qmp_assert_success(qts, "{ 'execute': 'cont' }");
    for (int i = 0; qtest_readb(qts, end) == 0; i++) {
        g_assert_cmpint(i, <, 100000);
    }
    qxhci_drain(x);
    qxhci_command(x, QXHCI_TRB_NOOP_CMD, 0, 0);
}

static void reset_machine(QXHCI *x, uint64_t end)
{
    QTestState *qts = x->pdev.bus->qts;

    qtest_qmp_assert_success(qts, "{ 'execute': 'system_reset' }");
    qtest_qmp_eventwait(qts, "RESET");
    qtest_qmp_assert_success(qts, "{ 'execute': 'query-status' }");
}

static void unplug_disk(QXHCI *x, uint64_t end)
{
    qtest_qmp_device_del(x->pdev.bus->qts, "storage");
    qxhci_command(x, QXHCI_TRB_NOOP_CMD, 0, 0);
}

static const USBCMDTest usbcmd_tests[] = {
    { "storage/buffer-at-usbcmd", reset_machine,
      "usb-storage,drive=disk,rerror=stop" },
    { "storage/buffer-at-usbcmd-complete", complete_packet,
      "usb-storage,drive=disk,rerror=stop" },
    { "storage/buffer-at-usbcmd-unplug", unplug_disk,
      "usb-hub,port=1 -device "
      "usb-storage,id=storage,port=1.1,drive=disk,rerror=stop", 1 },
};

/*
 * A buffer that begins at USBCMD: QEMU writes what the packet has read when the
 * packet is completed or cancelled.  With that, the guest would reset the
 * controller in the middle of it.
 */
static void test_buffer_at_usbcmd(void *obj, void *data,
                                  QGuestAllocator *alloc)
{
    const uint32_t len = read_long.len;
    const USBCMDTest *t = data;
    QXHCI *x = obj;
    XHCIStorage s;

    if (qpci_check_buggy_msi(&x->pdev)) {
        return;
    }
    xhci_storage_start_at(x, &s, t->route, len);
    xhci_storage_command(x, &s, &read_long);
    qxhci_ring_put(x, &s.ring[XHCI_STORAGE_IN], (QXHCITrb) {
        .parameter = x->bar.addr + x->oper + QXHCI_USBCMD,
        .status = 4,
        .control = QXHCI_TRB_NORMAL << 10 | QXHCI_TRB_CH,
    });
    for (uint32_t done = 4, n; done < len; done += n) {
        n = MIN(len - done, 0x10000);
        qxhci_ring_put(x, &s.ring[XHCI_STORAGE_IN], (QXHCITrb) {
            .parameter = s.buf + done,
            .status = n,
            .control = QXHCI_TRB_NORMAL << 10 |
                       (done + n < len ? QXHCI_TRB_CH : QXHCI_TRB_IOC),
        });
    }
    qxhci_doorbell(x, s.dev.slot, XHCI_STORAGE_IN);
    /* The first chunk has come, and the second one has not */
    qtest_qmp_eventwait(x->pdev.bus->qts, "STOP");

    t->act(x, s.buf + len - 1);
    qos_invalidate_command_line();
}

static void remove_disk(void *path)
{
    unlink(path);
    g_free(path);
}

/* A disk that is full of HCRST, and stops QEMU once after the first chunk */
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
        " -blockdev driver=blkdebug,node-name=disk,image.driver=file,"
        "image.filename=%s,inject-error.0.event=none,inject-error.0.once=on,"
        "inject-error.0.sector=%d ", path, READ_CHUNK / 512);
    return arg;
}

static void register_storage_tests(void)
{
    for (int i = 0; i < ARRAY_SIZE(usbcmd_tests); i++) {
        const USBCMDTest *t = &usbcmd_tests[i];
        g_autofree char *cmd_line = g_strdup_printf("-device %s",
                                                    t->usb_device);

        qos_add_test(t->name, "xhci", test_buffer_at_usbcmd,
                     &(QOSGraphTestOptions) {
            .before = add_disk,
            .arg = (void *)t,
            .edge.extra_device_opts = "msi=on,msix=on",
            .edge.after_cmd_line = cmd_line,
        });
    }
    xhci_add_device_test("storage/reset", "msi=on,msix=on", STORAGE,
                         test_reset, NULL);
    xhci_add_device_test("storage/second-packet", "msi=on,msix=on", STORAGE,
                         test_second_packet, NULL);
}

libqos_init(register_storage_tests);

/*
 * QTest testcase for USB devices behind xHCI: changed state streams
 *
 * Each test saves the state of a device that is in use, and changes fields of
 * it.  A QEMU that loads the result must refuse it with an error, or go on.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "libqtest.h"
#include "libqos/qgraph.h"
#include "libqos/qos_external.h"
#include "usb-xhci-storage.h"

/*
 * Where fields are in the section of their device, in bytes.  This does not
 * change, as QEMU loads what older versions have saved.
 */
#define PCI_CONFIG          4
#define SETUP_LEN           13
#define SETUP_INDEX         17
#define KBD_EVENTS          97
#define KBD_KEYS            120
#define TABLET_EVENTS       289
#define MSD_MODE            29
#define MSD_SCSI_LEN        33
#define MSD_SCSI_OFF        37
#define MSD_DATA_LEN        41
#define MSD_CSW_RESIDUE     53
#define SENSE_LEN           100
#define REQUEST             104
#define REQUEST_CDB         105
#define REQUEST_SECTOR      129
#define REQUEST_BUFFER      141
#define REQUEST_DATA_LEN    145
#define REQUEST_DATA        149

/* Values of MSD_MODE */
enum { MODE_CBW, MODE_OUT, MODE_IN, MODE_CSW };

/* What usb-tablet sends, by the same endpoint as usb-kbd */
#define TABLET_REPORT_SIZE  6

/* What is read or written, and what of it comes after one block; in bytes */
#define BLOCK               512
#define DATA                (8 * BLOCK)
#define REST                (7 * BLOCK)

/* The buffer that QEMU has for that, in bytes */
#define BUFFER              131072

static const XHCIStorageCommand request_sense = { { 0x03, [4] = 252 }, 252 };
static const XHCIStorageCommand inquiry = { { 0x12, [4] = 36 }, 36 };
/* The least data: a buffer of one byte must not be taken for none */
static const XHCIStorageCommand short_inquiry = { { 0x12, [4] = 1 }, 1 };
static const XHCIStorageCommand read_blocks = { { 0x28, [8] = 8 }, DATA };
static const XHCIStorageCommand write_blocks = {
    { 0x2a, [8] = 8 }, DATA, true
};

/* What the guest knows; a copy goes on in the QEMU that loads the state */
typedef struct Guest {
    QXHCI x;
    /* Of a keyboard or tablet, only the device */
    XHCIStorage s;
    /* What a disk is at, if anything */
    const XHCIStorageCommand *begun;
} Guest;

typedef void (*GuestFunc)(Guest *g);

/* What is changed, and what the guest does then; NULL if QEMU refuses it */
typedef struct Case {
    GuestFunc use;
    struct {
        unsigned int offset;
        int value;
        /* 1 for a byte, 0 for four */
        unsigned int size;
    } changes[3];
    /* Bytes to leave out: those that QEMU does not read after the change */
    struct {
        unsigned int offset, len;
    } cut;
    /* Whether the request of the disk is there twice */
    bool repeat;
} Case;

typedef struct StateTest {
    const char *name;
    const char *usb_device;
    /* The end of the name that the device has in the stream */
    const char *section;
    /* What the guest does before the state is saved, and after that */
    GuestFunc prepare, use;
    /* The last one is empty */
    Case cases[8];
    /* What a disk is at when the state is saved */
    const XHCIStorageCommand *begun;
} StateTest;

/* Streams */

/* Waits for 10 ms; fails, for this reason, when that was 10 s */
static void wait_some_time(int *times, const char *reason)
{
    if (++*times > 1000) {
        g_test_message("%s", reason);
        g_assert_not_reached();
    }
    g_usleep(10000);
}

/* Whether a stream ends with its description, after the length of that */
static bool is_complete(GString *s)
{
    for (size_t n = 0; n + 5 <= s->len; n++) {
        const char *p = s->str + s->len - n - 5;

        if (p[0] == 6 /* QEMU_VM_VMDESCRIPTION */ && ldl_be_p(p + 1) == n) {
            return true;
        }
    }
    return false;
}

/* Saves the state, by way of a file */
static GString *save(const Guest *g, const char *file)
{
    g_autofree char *uri = g_strdup_printf("exec:cat > %s", file);
    QTestState *qts = g->x.pdev.bus->qts;
    GString *s = g_string_new(NULL);
    int times = 0;

    qtest_qmp_assert_success(qts,
        "{ 'execute': 'migrate', 'arguments': { 'uri': %s } }", uri);
    qtest_qmp_eventwait(qts, "STOP");
    while (!is_complete(s)) {
        g_autofree char *data = NULL;
        gsize len;

        wait_some_time(&times, "QEMU does not save the state");
        g_assert_true(g_file_get_contents(file, &data, &len, NULL));
        g_string_truncate(s, 0);
        g_string_append_len(s, data, len);
    }
    unlink(file);
    /* It is stopped now, the next test needs another one */
    qos_invalidate_command_line();
    return s;
}

/* The fields of a device, which come after its name and two numbers */
static char *find_section(GString *s, const char *name)
{
    char *p = s->str + s->len - strlen(name);

    /* Look from the end: RAM comes first.  Skip the name in the description. */
    while (memcmp(p, name, strlen(name)) || p[strlen(name)] == '"') {
        g_assert(--p > s->str);
    }
    return p + strlen(name) + 8;
}

/* Has another QEMU load a state, by way of a file */
static void load(const Guest *g, const char *file, GString *s, GuestFunc use)
{
    g_autofree char *uri = g_strdup_printf("exec:cat %s", file);
    QPCIBus *bus = g->x.pdev.bus;
    QTestState *from = bus->qts;
    Guest guest = *g;
    int times = 0;

    g_assert_true(g_file_set_contents(file, s->str, s->len, NULL));
    bus->qts = qtest_initf("%s -incoming defer",
                           qos_get_current_command_line());
    qtest_qmp_assert_success(bus->qts,
        "{ 'execute': 'migrate-incoming', 'arguments': { 'uri': %s } }", uri);
    if (use) {
        qtest_qmp_eventwait(bus->qts, "RESUME");
        use(&guest);
        xhci_assert_delivery(&guest.x, &guest.s.dev, &xhci_pin_mode, 0);
    } else {
        qtest_set_expected_status(bus->qts, EXIT_FAILURE);
        while (qtest_probe_child(bus->qts)) {
            wait_some_time(&times, "QEMU does not refuse the state");
        }
    }
    qtest_quit(bus->qts);
    bus->qts = from;
    unlink(file);
}

/* Keyboard and tablet */

static void start_hid(Guest *g)
{
    xhci_start_kbd(&g->x, &g->s.dev, &xhci_pin_mode);
}

static void poll_hid(Guest *g, unsigned int len)
{
    xhci_assert_completion(&g->x,
        qxhci_submit_intr_in(&g->x, &g->s.dev, XHCI_KBD_EP, len, 0, 0),
        QXHCI_CC_SUCCESS);
}

static void type(Guest *g)
{
    xhci_send_key(&g->x, true);
    poll_hid(g, XHCI_KBD_REPORT_SIZE);
}

static void point(Guest *g, bool down)
{
    qtest_qmp_assert_success(g->x.pdev.bus->qts,
        "{ 'execute': 'input-send-event', 'arguments': { 'events': ["
        "  { 'type': 'btn', 'data': { 'down': %i, 'button': 'left' } },"
        "  { 'type': 'abs', 'data': { 'axis': 'y', 'value': 32767 } } ] } }",
        down);
}

static void move(Guest *g)
{
    point(g, true);
    poll_hid(g, TABLET_REPORT_SIZE);
}

/*
 * Leaves events in the queue.  It shares memory with the state of a keyboard:
 * where that has the number of keys, there is one of the positions here.
 */
static void start_tablet(Guest *g)
{
    start_hid(g);
    move(g);
    for (int i = 0; i < 8; i++) {
        point(g, i % 2);
    }
}

/* load() does a transfer on endpoint 0 after any use */
static void nothing(Guest *g)
{
}

/* usb-storage */

/* Begins a command, and moves the first block if there are several */
static void begin(Guest *g, const XHCIStorageCommand *c)
{
    xhci_storage_command(&g->x, &g->s, c);
    if (c->len > BLOCK) {
        xhci_storage_transfer(&g->x, &g->s,
                              c->out ? XHCI_STORAGE_OUT : XHCI_STORAGE_IN,
                              BLOCK);
    }
}

/* The other blocks, and the status */
static void end_command(Guest *g)
{
    xhci_storage_transfer(&g->x, &g->s,
                          g->begun->out ? XHCI_STORAGE_OUT : XHCI_STORAGE_IN,
                          REST);
    xhci_storage_status(&g->x, &g->s);
}

static void test_unit(Guest *g)
{
    begin(g, &xhci_test_unit_ready);
    xhci_storage_status(&g->x, &g->s);
}

static void get_sense(Guest *g)
{
    begin(g, &request_sense);
    xhci_storage_transfer(&g->x, &g->s, XHCI_STORAGE_IN, request_sense.len);
    xhci_storage_status(&g->x, &g->s);
}

static void start_disk(Guest *g)
{
    xhci_storage_start(&g->x, &g->s, DATA);
    if (g->begun) {
        begin(g, g->begun);
    }
}

static void stall_in(Guest *g)
{
    xhci_assert_completion(&g->x,
        xhci_storage_submit(&g->x, &g->s, XHCI_STORAGE_IN, BLOCK),
        QXHCI_CC_STALL);
}

/* Sends a command, which could be taken as data, too */
static void stall_out(Guest *g)
{
    xhci_assert_completion(&g->x,
        xhci_storage_submit_command(&g->x, &g->s, &xhci_test_unit_ready),
        QXHCI_CC_STALL);
}

static void wait_in(Guest *g)
{
    xhci_storage_submit(&g->x, &g->s, XHCI_STORAGE_IN, BLOCK);
    xhci_assert_quiet(&g->x);
}

/* Tests */

#define DISK "usb-storage,drive=disk " \
    "-blockdev null-co,node-name=disk,size=65536,read-zeroes=on"

static const StateTest tests[] = {
    { "setup-index", "usb-kbd", "/usb-kbd", start_hid, type, {
        { type, { { SETUP_LEN, 4096 }, { SETUP_INDEX, 4096 } } },
        { NULL, { { SETUP_LEN, 4097 } } },
        { NULL, { { SETUP_LEN, -1 }, { SETUP_INDEX, -1 } } },
        { NULL, { { SETUP_LEN, 8 }, { SETUP_INDEX, 9 } } },
        { NULL, { { SETUP_LEN, 8 }, { SETUP_INDEX, -1 } } },
    } },
    { "hid-events", "usb-tablet", "/usb-ptr", start_tablet, move, {
        { move, { { TABLET_EVENTS, 15 } } },
        { move, { { TABLET_EVENTS, 16 } } },
        { NULL, { { TABLET_EVENTS, 17 } } },
    } },
    { "hid-keys", "usb-kbd", "/usb-kbd", start_hid, type, {
        { type, { { KBD_KEYS, 16 } } },
        { NULL, { { KBD_KEYS, 17 } } },
        { NULL, { { KBD_KEYS, -1 } } },
        { type, { { KBD_EVENTS, 16 } } },
        { NULL, { { KBD_EVENTS, 17 } } },
    } },
    { "disk-request", DISK, "/scsi-disk", start_disk, end_command, {
        { NULL, { { REQUEST_BUFFER, BUFFER + 1 } } },
        { end_command, { { REQUEST_BUFFER, DATA } } },
        { NULL, { { REQUEST_BUFFER, DATA - 1 } } },
        { NULL, { { REQUEST_BUFFER, 1 } } },
        { NULL, { { REQUEST_BUFFER, BUFFER + 1 } },
          .cut = { REQUEST_DATA_LEN, 4 + DATA } },
        { NULL, { { REQUEST_DATA_LEN, BUFFER + 1 } },
          .cut = { REQUEST_DATA, DATA } },
        /* No blocks, but data */
        { NULL, { { REQUEST_CDB + 8, 0, 1 } } },
    }, &read_blocks },
    { "disk-request-inquiry", DISK, "/scsi-disk", start_disk, nothing, {
        { NULL, { { REQUEST_BUFFER, 4095 } } },
        /* An INQUIRY for 0x1024 bytes */
        { nothing, { { REQUEST_BUFFER, 0x1024 }, { REQUEST_CDB + 3, 16, 1 } } },
        { NULL, { { REQUEST_BUFFER, 0x1023 }, { REQUEST_CDB + 3, 16, 1 } } },
    }, &inquiry },
    { "disk-request-invalid", DISK, "/scsi-disk", start_disk, nothing, {
        /* No such command, so there is no buffer */
        { stall_in, { { REQUEST_CDB, 0xff, 1 } },
          .cut = { REQUEST_SECTOR, REQUEST_DATA - REQUEST_SECTOR } },
    }, &short_inquiry },
    { "second-request", DISK, "/scsi-disk", start_disk, end_command, {
        { NULL, .repeat = true },
    }, &read_blocks },
    { "storage-packet-idle", DISK, "/usb-storage", start_disk, test_unit, {
        { stall_out, { { MSD_CSW_RESIDUE, 1 } } },
        { stall_out, { { MSD_MODE, MODE_OUT }, { MSD_SCSI_LEN, 1 },
                       { MSD_DATA_LEN, BLOCK } } },
        { stall_in, { { MSD_MODE, MODE_IN }, { MSD_SCSI_LEN, 1 } } },
        { stall_in, { { MSD_MODE, MODE_CSW } } },
    } },
    { "storage-packet-read", DISK, "/usb-storage", start_disk, end_command, {
        { end_command, { { MSD_SCSI_LEN, BUFFER - BLOCK } } },
        { stall_in, { { MSD_SCSI_LEN, BUFFER - BLOCK + 1 } } },
        { stall_in, { { MSD_SCSI_OFF, BUFFER + 1 }, { MSD_SCSI_LEN, 1 } } },
        { wait_in, { { MSD_SCSI_OFF, BUFFER + 1 }, { MSD_SCSI_LEN, 0 } } },
        { wait_in, { { MSD_MODE, MODE_CSW } } },
        { stall_out, { { MSD_MODE, MODE_CBW } } },
    }, &read_blocks },
    { "storage-packet-write", DISK, "/usb-storage", start_disk, end_command, {
        { stall_out, { { MSD_SCSI_LEN, BUFFER - BLOCK + 1 } } },
    }, &write_blocks },
    { "sense-length", DISK, "/scsi-disk", start_disk, get_sense, {
        { get_sense, { { SENSE_LEN, 252 } } },
        { NULL, { { SENSE_LEN, 253 } } },
        { NULL, { { SENSE_LEN, -1 } } },
    } },
    { "interrupt-pin", "usb-kbd", "/xhci", start_hid, nothing, {
        { NULL, { { PCI_CONFIG + 0x3d, 0, 1 } } },
        { NULL, { { PCI_CONFIG + 0x3d, 3, 1 } } },
        { NULL, { { PCI_CONFIG + 0x3d, 0x81, 1 } } },
    } },
};

static void change(GString *s, const StateTest *t, const Case *c)
{
    char *section = find_section(s, t->section);

    for (int i = 0; i < ARRAY_SIZE(c->changes); i++) {
        char *field = section + c->changes[i].offset;

        if (c->changes[i].size == 1) {
            *field = c->changes[i].value;
        } else if (c->changes[i].offset) {
            stl_be_p(field, c->changes[i].value);
        }
    }
    g_string_erase(s, section + c->cut.offset - s->str, c->cut.len);
    if (c->repeat) {
        g_string_insert_len(s, section + REQUEST - s->str, section + REQUEST,
                            REQUEST_DATA + DATA - REQUEST);
    }
}

static void test_state(QXHCI *x, const void *arg)
{
    const StateTest *t = arg;
    g_autofree char *file = NULL;
    g_autoptr(GString) saved = NULL;
    Guest g = { .x = *x, .begun = t->begun };
    int fd = g_file_open_tmp("xhci-test-XXXXXX", &file, NULL);

    g_assert_cmpint(fd, >=, 0);
    close(fd);
    t->prepare(&g);
    qxhci_drain(&g.x);
    saved = save(&g, file);
    load(&g, file, saved, t->use);
    if (t->begun && t->begun->cdb[0] == inquiry.cdb[0] &&
        ldl_be_p(find_section(saved, t->section) + REQUEST_BUFFER) != 4096) {
        g_test_skip("This version of QEMU does not save the data of INQUIRY");
        return;
    }

    for (const Case *c = t->cases; c->changes[0].offset || c->repeat; c++) {
        g_autoptr(GString) s = g_string_new_len(saved->str, saved->len);

        g_test_message("case %td", c - t->cases);
        change(s, t, c);
        load(&g, file, s, c->use);
    }
}

static void register_state_tests(void)
{
    for (int i = 0; i < ARRAY_SIZE(tests); i++) {
        g_autofree char *name = g_strdup_printf("state/%s", tests[i].name);

        xhci_add_device_test(name, xhci_pin_mode.device_opts,
                             tests[i].usb_device, test_state, &tests[i]);
    }
}

libqos_init(register_state_tests);

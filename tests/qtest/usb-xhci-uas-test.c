/*
 * QTest testcase for USB Attached SCSI behind xHCI: packets that do not fit
 *
 * What no driver would send to usb-uas, which must not stop QEMU.  Section
 * numbers are those of the xHCI specification, revision 1.2.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "libqtest.h"
#include "libqos/qgraph.h"
#include "scsi/constants.h"
#include "usb-xhci-utils.h"

/* A disk that takes 200 ms for a request */
#define UAS_WITH_DISK "usb-uas,id=uas -device scsi-hd,bus=uas.0,drive=disk " \
    "-blockdev null-co,node-name=disk,size=65536,read-zeroes=on," \
    "latency-ns=200000000"

/* The same, and LUN 1 takes half of that */
#define UAS_WITH_TWO_DISKS UAS_WITH_DISK " -device " \
    "scsi-hd,bus=uas.0,lun=1,drive=fast -blockdev null-co,node-name=fast," \
    "size=65536,read-zeroes=on,latency-ns=100000000"

/* Pipes of usb-uas, as endpoint IDs */
#define PIPE_COMMAND        2
#define PIPE_STATUS         QXHCI_EP_IN(2)
#define PIPE_DATA_IN        QXHCI_EP_IN(3)
#define PIPE_DATA_OUT       8

/* Room for a Command IU, and for a Sense or Response IU; a full Sense IU */
#define IU_SIZE             32
#define STATUS_IU_SIZE      128
#define SENSE_IU_SIZE       34

/* How a status begins: ID, tag, and the status in a Sense IU */
#define SENSE_IU(tag, status)   (0x03 << 24 | (tag) << 8 | (status))
#define READ_READY_IU(tag)      (0x06 << 24 | (tag) << 8)

/* Stream IDs 1 to 31 can be used, 4.12.2; usb-uas has the first 16 */
#define MAX_PSTREAMS        4
#define STREAM              1
#define LAST_STREAM         16

/* How many commands, and results that nobody reads, usb-uas has room for */
#define MAX_REQUESTS        256
#define MAX_RESULTS         1024

typedef struct UASPipe {
    unsigned int epid;
    unsigned int stream;
    QXHCIRing ring;
} UASPipe;

/*
 * Fills the context of @pipe in the input context of @dev, with streams if it
 * has one
 */
static void fill_ctx(QXHCI *x, QXHCIDevice *dev, UASPipe *pipe,
                     unsigned int ep_type, unsigned int max_pstreams)
{
    QTestState *qts = x->pdev.bus->qts;
    uint64_t ctx = dev->in_ctx + (pipe->epid + 1) * x->ctx_size;
    uint64_t dequeue;

    pipe->ring.addr = xhci_alloc(x, QXHCI_RING_TRBS * QXHCI_TRB_SIZE);
    pipe->ring.cycle = true;
    dequeue = pipe->ring.addr | 1 /* DCS */;
    if (pipe->stream) {
        uint64_t streams = xhci_alloc(x, (2 << max_pstreams) * 16);

        qtest_writeq(qts, streams + pipe->stream * 16,
                     dequeue | 1 << 1 /* SCT: primary, transfer ring */);
        dequeue = streams;
    }

    qtest_writel(qts, ctx, pipe->stream ? BIT(15) | max_pstreams << 10 : 0);
    qtest_writel(qts, ctx + 4, 512 << 16 | ep_type << 3 | 3 << 1);
    qtest_writeq(qts, ctx + 8, dequeue);
}

/* Enables the endpoints in the mask @epids; returns the completion code */
static unsigned int enable(QXHCI *x, QXHCIDevice *dev, uint32_t epids)
{
    QTestState *qts = x->pdev.bus->qts;
    QXHCITrb ev;

    qtest_writel(qts, dev->in_ctx + 4, BIT(0) | epids);
    qtest_writel(qts, dev->in_ctx + x->ctx_size, 31u << 27);
    ev = qxhci_try_command(x, QXHCI_TRB_CONFIG_EP, dev->in_ctx, dev->slot);
    return QXHCI_TRB_CC(&ev);
}

static void configure(QXHCI *x, QXHCIDevice *dev, UASPipe *pipe,
                      unsigned int ep_type)
{
    fill_ctx(x, dev, pipe, ep_type, MAX_PSTREAMS);
    g_assert_cmpuint(enable(x, dev, BIT(pipe->epid)), ==, QXHCI_CC_SUCCESS);
}

/* What to write to the doorbell for @pipe */
static uint32_t doorbell_target(UASPipe *pipe)
{
    return pipe->epid | pipe->stream << 16;
}

static uint64_t submit(QXHCI *x, QXHCIDevice *dev, UASPipe *pipe, uint64_t buf,
                       unsigned int len)
{
    return xhci_submit_bulk(x, dev, &pipe->ring, doorbell_target(pipe), buf,
                            len);
}

/* The status of a command is larger than the buffer for it, or fills it */
static void test_short_status(QXHCI *x, const void *arg)
{
    const unsigned int *len = arg;
    UASPipe command = { .epid = PIPE_COMMAND };
    UASPipe status = { .epid = PIPE_STATUS };
    /* A Command IU for a logical unit that is not there */
    uint8_t iu[IU_SIZE] = { 0x01, 0, 0, 1, };
    uint64_t buf, trb;
    QXHCIDevice dev;
    QXHCITrb ev;

    xhci_start(x, &dev, &xhci_pin_mode);
    qxhci_set_configuration(x, &dev);
    configure(x, &dev, &command, QXHCI_EP_TYPE_BULK_OUT);
    configure(x, &dev, &status, QXHCI_EP_TYPE_BULK_IN);

    buf = xhci_alloc(x, sizeof(iu));
    qtest_memwrite(x->pdev.bus->qts, buf, iu, sizeof(iu));
    trb = submit(x, &dev, &status, xhci_alloc(x, 64), *len);
    xhci_assert_completion(x, submit(x, &dev, &command, buf, sizeof(iu)),
                           QXHCI_CC_SUCCESS);
    /* Babble, or as much of the status as there is room for */
    qxhci_event_wait(x, 0, &ev);
    g_assert_cmphex(ev.parameter, ==, trb);
    if (*len == SENSE_IU_SIZE) {
        g_assert_cmphex(ev.status, ==, QXHCI_CC_SUCCESS << 24);
    }
    qxhci_ack(x, 0);
    xhci_assert_delivery(x, &dev, &xhci_pin_mode, 0);
}

/* A Command or Task Management IU with a tag for which there is no stream */
static void test_tag(QXHCI *x, const void *arg)
{
    const uint8_t *iu_id = arg;
    char *file = xhci_log_start(x, "log guest_errors");
    g_autofree char *log = NULL;
    UASPipe command = { .epid = PIPE_COMMAND };
    UASPipe status = { .epid = PIPE_STATUS, .stream = STREAM };
    uint8_t iu[IU_SIZE] = { *iu_id, 0, 0xff, 0xff, };
    uint64_t buf;
    QXHCIDevice dev;

    xhci_start(x, &dev, &xhci_pin_mode);
    qxhci_set_configuration(x, &dev);
    configure(x, &dev, &status, QXHCI_EP_TYPE_BULK_IN);
    configure(x, &dev, &command, QXHCI_EP_TYPE_BULK_OUT);

    buf = xhci_alloc(x, sizeof(iu));
    qtest_memwrite(x->pdev.bus->qts, buf, iu, sizeof(iu));
    xhci_assert_completion(x, submit(x, &dev, &command, buf, sizeof(iu)),
                           QXHCI_CC_SUCCESS);
    xhci_assert_delivery(x, &dev, &xhci_pin_mode, 0);

    log = xhci_log_stop(file);
    g_assert_nonnull(strstr(log, "invalid tag 0xffff"));
}

/* MaxPSASize of HCCPARAMS1, 5.3.6; nec-usb-xhci had no streams before 10.0 */
static bool has_streams(QXHCI *x)
{
    if (qpci_io_readl(&x->pdev, x->bar, 0x10) & 0xf000) {
        return true;
    }
    g_test_skip("The controller has no streams");
    return false;
}

/* Stream ID 0 is reserved, 4.12.2 */
static void test_stream_zero(QXHCI *x, const void *arg)
{
    UASPipe status = { .epid = PIPE_STATUS, .stream = STREAM };
    QXHCIDevice dev;
    QXHCITrb ev;

    if (!has_streams(x)) {
        return;
    }
    xhci_start(x, &dev, &xhci_pin_mode);
    qxhci_set_configuration(x, &dev);
    configure(x, &dev, &status, QXHCI_EP_TYPE_BULK_IN);

    qxhci_doorbell(x, dev.slot, status.epid);
    qxhci_command(x, QXHCI_TRB_FOR_EP(QXHCI_TRB_STOP_EP, status.epid), 0,
                  dev.slot);
    ev = qxhci_try_command(x, QXHCI_TRB_FOR_EP(QXHCI_TRB_SET_DEQUEUE,
                                               status.epid),
                           status.ring.addr | 1, dev.slot);
    g_assert_cmpuint(QXHCI_TRB_CC(&ev), ==, QXHCI_CC_INVALID_STREAM);
    xhci_assert_delivery(x, &dev, &xhci_pin_mode, 0);
}

/* QEMU wants the same number of streams on all endpoints */
static void test_unlike_streams(QXHCI *x, const void *arg)
{
    UASPipe status = { .epid = PIPE_STATUS, .stream = STREAM };
    UASPipe data_in = { .epid = PIPE_DATA_IN, .stream = STREAM };
    QXHCIDevice dev;

    if (!has_streams(x)) {
        return;
    }
    xhci_start(x, &dev, &xhci_pin_mode);
    qxhci_set_configuration(x, &dev);
    fill_ctx(x, &dev, &status, QXHCI_EP_TYPE_BULK_IN, MAX_PSTREAMS);
    fill_ctx(x, &dev, &data_in, QXHCI_EP_TYPE_BULK_IN, MAX_PSTREAMS + 1);
    g_assert_cmpuint(enable(x, &dev, BIT(status.epid) | BIT(data_in.epid)), ==,
                     QXHCI_CC_RESOURCE);
    xhci_assert_delivery(x, &dev, &xhci_pin_mode, 0);
}

/* Two transfers on one stream, of which neither can complete */
static void test_busy_stream(QXHCI *x, const void *arg)
{
    const unsigned int *epid = arg;
    UASPipe pipe = { .epid = *epid, .stream = STREAM };
    g_autofree char *log = NULL;
    QXHCIDevice dev;
    char *file;

    if (!has_streams(x)) {
        return;
    }
    file = xhci_log_start(x, "log guest_errors");
    xhci_start(x, &dev, &xhci_pin_mode);
    qxhci_set_configuration(x, &dev);
    configure(x, &dev, &pipe, QXHCI_EP_TYPE_BULK_IN);

    submit(x, &dev, &pipe, xhci_alloc(x, 64), 64);
    xhci_assert_completion(x, submit(x, &dev, &pipe, xhci_alloc(x, 64), 64),
                           QXHCI_CC_STALL);
    xhci_assert_delivery(x, &dev, &xhci_pin_mode, 0);

    log = xhci_log_stop(file);
    g_assert_nonnull(strstr(log, "stream 1 is busy"));
}

typedef struct UASDisk {
    QXHCIDevice dev;
    UASPipe command, status, data_in, data_out;
    uint64_t iu, status_iu, buf;
    uint8_t lun;
} UASDisk;

/*
 * Sends a Command IU for one block; returns its TRB.  The one for TEST UNIT
 * READY is cut short, as the rest is zero.
 */
static uint64_t send_command(QXHCI *x, UASDisk *d, uint8_t opcode,
                             uint16_t tag)
{
    uint8_t iu[IU_SIZE] = { 0x01, [9] = d->lun, [16] = opcode, [24] = 1 };

    stw_be_p(iu + 2, tag);
    qtest_memwrite(x->pdev.bus->qts, d->iu, iu, sizeof(iu));
    return submit(x, &d->dev, &d->command, d->iu,
                  opcode == TEST_UNIT_READY && !d->lun ? 4 : sizeof(iu));
}

static uint64_t submit_status(QXHCI *x, UASDisk *d)
{
    return submit(x, &d->dev, &d->status, d->status_iu, STATUS_IU_SIZE);
}

/* Half a block */
static uint64_t submit_data(QXHCI *x, UASDisk *d, UASPipe *pipe)
{
    return submit(x, &d->dev, pipe, d->buf, 256);
}

/* Takes the status that the transfer at @trb reads; returns how it begins */
static uint32_t take_status(QXHCI *x, UASDisk *d, uint64_t trb)
{
    uint8_t iu[8];

    xhci_assert_completion(x, trb, QXHCI_CC_SHORT_PACKET);
    qtest_memread(x->pdev.bus->qts, d->status_iu, iu, sizeof(iu));
    return iu[0] << 24 | lduw_be_p(iu + 2) << 8 | (iu[0] == 0x03 ? iu[6] : 0);
}

/* Brings up a disk, which has told of its reset then */
static void start_disk(QXHCI *x, UASDisk *d, unsigned int stream)
{
    *d = (UASDisk) {
        .command.epid = PIPE_COMMAND,
        .status = { .epid = PIPE_STATUS, .stream = stream },
        .data_in = { .epid = PIPE_DATA_IN, .stream = stream },
        .data_out = { .epid = PIPE_DATA_OUT, .stream = stream },
    };
    xhci_start(x, &d->dev, &xhci_pin_mode);
    qxhci_set_configuration(x, &d->dev);
    configure(x, &d->dev, &d->command, QXHCI_EP_TYPE_BULK_OUT);
    fill_ctx(x, &d->dev, &d->status, QXHCI_EP_TYPE_BULK_IN, MAX_PSTREAMS);
    fill_ctx(x, &d->dev, &d->data_in, QXHCI_EP_TYPE_BULK_IN, MAX_PSTREAMS);
    fill_ctx(x, &d->dev, &d->data_out, QXHCI_EP_TYPE_BULK_OUT, MAX_PSTREAMS);
    g_assert_cmpuint(enable(x, &d->dev, BIT(PIPE_STATUS) | BIT(PIPE_DATA_IN) |
                            BIT(PIPE_DATA_OUT)), ==, QXHCI_CC_SUCCESS);

    d->iu = xhci_alloc(x, IU_SIZE);
    d->status_iu = xhci_alloc(x, STATUS_IU_SIZE);
    d->buf = xhci_alloc(x, 512);
    xhci_assert_completion(x, send_command(x, d, TEST_UNIT_READY, stream ?: 1),
                           QXHCI_CC_SUCCESS);
    take_status(x, d, submit_status(x, d));
}

/* Lets the disk finish its requests */
static void wait_for_disk(void)
{
    g_usleep(300 * 1000);
}

/*
 * The device is reset while a transfer waits for the data of a command, and a
 * second one was refused
 */
static void test_reset_data(QXHCI *x, const void *arg)
{
    UASDisk d;
    uint64_t trb;
    QXHCITrb ev;

    if (!has_streams(x)) {
        return;
    }
    start_disk(x, &d, STREAM);
    trb = submit_data(x, &d, &d.data_in);
    xhci_assert_completion(x, send_command(x, &d, READ_10, STREAM),
                           QXHCI_CC_SUCCESS);
    xhci_assert_completion(x, submit_data(x, &d, &d.data_in), QXHCI_CC_STALL);

    qxhci_oper_write(x, QXHCI_PORTSC(d.dev.port),
                     QXHCI_PORTSC_PP | QXHCI_PORTSC_PR);
    do {
        qxhci_event_wait(x, 0, &ev);
    } while (QXHCI_TRB_TYPE(&ev) == QXHCI_TRB_EV_PORT);
    g_assert_cmphex(ev.parameter, ==, trb);
    g_assert_cmpuint(QXHCI_TRB_CC(&ev), ==, QXHCI_CC_STALL);
    qxhci_ack(x, 0);
    qxhci_command(x, QXHCI_TRB_FOR_EP(QXHCI_TRB_STOP_EP, PIPE_DATA_IN), 0,
                  d.dev.slot);
    xhci_assert_delivery(x, &d.dev, &xhci_pin_mode, 0);
}

/*
 * The device is reset while it has several commands.  It waits for the first
 * one; meanwhile, the second one is completed and freed.
 */
static void test_reset_commands(QXHCI *x, const void *arg)
{
    UASDisk d;

    start_disk(x, &d, 0);
    d.lun = 1;
    /* This one only tells that the unit was reset */
    send_command(x, &d, TEST_UNIT_READY, 2);
    qxhci_drain(x);
    take_status(x, &d, submit_status(x, &d));

    d.lun = 0;
    xhci_assert_completion(x, send_command(x, &d, READ_10, 1),
                           QXHCI_CC_SUCCESS);
    d.lun = 1;
    /*
     * The device looks for one that can take data when it has a new one.  There
     * are more than the resets that follow.
     */
    for (int tag = 2; tag <= 9; tag++) {
        xhci_assert_completion(x, send_command(x, &d, WRITE_10, tag),
                               QXHCI_CC_SUCCESS);
    }
    for (int i = 0; i < 2; i++) {
        xhci_assert_completion(x, submit_data(x, &d, &d.data_out),
                               QXHCI_CC_SUCCESS);
    }
    qxhci_oper_write(x, QXHCI_PORTSC(d.dev.port),
                     QXHCI_PORTSC_PP | QXHCI_PORTSC_PR);

    start_disk(x, &d, 0);
    /* The last command was freed, so its tag can be used again */
    xhci_assert_completion(x, send_command(x, &d, READ_10, 9),
                           QXHCI_CC_SUCCESS);
    wait_for_disk();
    g_assert_cmphex(take_status(x, &d, submit_status(x, &d)), ==,
                    READ_READY_IU(9));
    xhci_assert_delivery(x, &d.dev, &xhci_pin_mode, 0);
}

/* Streams of a device that does not use them, as it is at high speed */
static void test_stop_stream(QXHCI *x, const void *arg)
{
    UASPipe status = { .epid = PIPE_STATUS, .stream = STREAM };
    QXHCIDevice dev;

    if (!has_streams(x)) {
        return;
    }
    xhci_start(x, &dev, &xhci_pin_mode);
    qxhci_set_configuration(x, &dev);
    configure(x, &dev, &status, QXHCI_EP_TYPE_BULK_IN);

    submit(x, &dev, &status, xhci_alloc(x, 64), 64);
    xhci_stop_transfer(x, &dev, status.epid);
    xhci_assert_delivery(x, &dev, &xhci_pin_mode, 0);
}

/* A transfer on the endpoint that has the number of the command pipe, but IN */
static void test_command_in(QXHCI *x, const void *arg)
{
    UASPipe pipe = { .epid = QXHCI_EP_IN(1) };
    uint64_t buf = xhci_alloc(x, 64);
    uint8_t data[64];
    QXHCIDevice dev;

    xhci_start(x, &dev, &xhci_pin_mode);
    qxhci_set_configuration(x, &dev);
    configure(x, &dev, &pipe, QXHCI_EP_TYPE_BULK_IN);

    qtest_memset(x->pdev.bus->qts, buf, 0xa5, sizeof(data));
    xhci_assert_completion(x, submit(x, &dev, &pipe, buf, sizeof(data)),
                           QXHCI_CC_STALL);
    qtest_memread(x->pdev.bus->qts, buf, data, sizeof(data));
    for (int i = 0; i < sizeof(data); i++) {
        g_assert_cmphex(data[i], ==, 0xa5);
    }
    xhci_assert_delivery(x, &dev, &xhci_pin_mode, 0);
}

/* The same with the number of the status pipe, which is in use, but OUT */
static void test_status_out(QXHCI *x, const void *arg)
{
    UASPipe status = { .epid = PIPE_STATUS };
    UASPipe pipe = { .epid = PIPE_STATUS - 1 };
    QXHCIDevice dev;

    xhci_start(x, &dev, &xhci_pin_mode);
    qxhci_set_configuration(x, &dev);
    configure(x, &dev, &status, QXHCI_EP_TYPE_BULK_IN);
    configure(x, &dev, &pipe, QXHCI_EP_TYPE_BULK_OUT);

    submit(x, &dev, &status, xhci_alloc(x, 64), 64);
    xhci_assert_completion(x, submit(x, &dev, &pipe, xhci_alloc(x, 64), 64),
                           QXHCI_CC_STALL);
    xhci_assert_delivery(x, &dev, &xhci_pin_mode, 0);
}

/* The host moves data the other way than the command, before or after it */
static void test_direction(QXHCI *x, const void *arg)
{
    const uint8_t *opcode = arg;
    UASDisk d;
    uint64_t trb;
    QXHCITrb ev;

    if (!has_streams(x)) {
        return;
    }
    for (int after = 0; after < 2; after++) {
        start_disk(x, &d, STREAM);
        if (after) {
            send_command(x, &d, *opcode, STREAM);
        }
        trb = submit_data(x, &d, *opcode == READ_10 ? &d.data_out
                                                    : &d.data_in);
        if (!after) {
            send_command(x, &d, *opcode, STREAM);
        }
        do {
            qxhci_event_wait(x, 0, &ev);
        } while (ev.parameter != trb);
        g_assert_cmpuint(QXHCI_TRB_CC(&ev), ==, QXHCI_CC_STALL);
        qxhci_drain(x);
        xhci_assert_delivery(x, &d.dev, &xhci_pin_mode, 0);
    }
}

/* Goes on with the transfer that was stopped, 4.6.9 */
static void resume(QXHCI *x, UASDisk *d, UASPipe *pipe)
{
    qxhci_doorbell(x, d->dev.slot, doorbell_target(pipe));
}

/* Transfers are stopped and resumed before a command, which has no data */
static void test_resume(QXHCI *x, const void *arg)
{
    const unsigned int *stream = arg;
    UASDisk d;
    uint64_t data, status, command;

    if (!has_streams(x)) {
        return;
    }
    start_disk(x, &d, *stream);
    data = submit_data(x, &d, &d.data_in);
    status = submit_status(x, &d);
    xhci_stop_transfer(x, &d.dev, PIPE_DATA_IN);
    resume(x, &d, &d.data_in);
    xhci_stop_transfer(x, &d.dev, PIPE_STATUS);
    resume(x, &d, &d.status);

    command = send_command(x, &d, TEST_UNIT_READY, *stream);
    xhci_assert_completion(x, data, QXHCI_CC_SHORT_PACKET);
    xhci_assert_completion(x, command, QXHCI_CC_SUCCESS);
    g_assert_cmphex(take_status(x, &d, status), ==, SENSE_IU(*stream, GOOD));
    submit_status(x, &d);
    xhci_assert_delivery(x, &d.dev, &xhci_pin_mode, 0);
}

/* The same while the disk reads, and after it has */
static void test_resume_data(QXHCI *x, const void *arg)
{
    UASDisk d;
    uint64_t trb;

    if (!has_streams(x)) {
        return;
    }
    start_disk(x, &d, STREAM);
    for (int after = 0; after < 2; after++) {
        trb = submit_data(x, &d, &d.data_in);
        xhci_assert_completion(x, send_command(x, &d, READ_10, STREAM),
                               QXHCI_CC_SUCCESS);
        xhci_stop_transfer(x, &d.dev, PIPE_DATA_IN);
        if (!after) {
            resume(x, &d, &d.data_in);
        }
        wait_for_disk();
        if (after) {
            resume(x, &d, &d.data_in);
        }
        xhci_assert_completion(x, trb, QXHCI_CC_SUCCESS);
        xhci_assert_completion(x, submit_data(x, &d, &d.data_in),
                               QXHCI_CC_SUCCESS);
        g_assert_cmphex(take_status(x, &d, submit_status(x, &d)), ==,
                        SENSE_IU(STREAM, GOOD));
    }
    xhci_assert_delivery(x, &d.dev, &xhci_pin_mode, 0);
}

/* Nobody reads what becomes of the commands, until a reset */
static void test_unread_status(QXHCI *x, const void *arg)
{
    /* A Command IU for a logical unit that is not there */
    uint8_t iu[IU_SIZE] = { 0x01, 0, 0, 1, };
    uint64_t buf = xhci_alloc(x, sizeof(iu));
    char *file = xhci_log_start(x, "log guest_errors");
    g_autofree char *log = NULL;
    QXHCITrb ev;
    QXHCIDevice dev;

    qtest_memwrite(x->pdev.bus->qts, buf, iu, sizeof(iu));
    for (int reset = 0; reset < 2; reset++) {
        UASPipe command = { .epid = PIPE_COMMAND };

        xhci_start(x, &dev, &xhci_pin_mode);
        qxhci_set_configuration(x, &dev);
        configure(x, &dev, &command, QXHCI_EP_TYPE_BULK_OUT);
        for (int i = 0; i <= MAX_RESULTS; i++) {
            submit(x, &dev, &command, buf, sizeof(iu));
            qxhci_event_wait(x, 0, &ev);
            qxhci_ack(x, 0);
            /* One too many is not taken */
            g_assert_cmphex(ev.status, ==, i < MAX_RESULTS
                            ? QXHCI_CC_SUCCESS << 24
                            : QXHCI_CC_STALL << 24 | sizeof(iu));
        }
        xhci_assert_delivery(x, &dev, &xhci_pin_mode, 0);
    }
    log = xhci_log_stop(file);
    g_assert_nonnull(strstr(log, "does not read the status"));
}

/* Nor does anybody take what the commands read */
static void test_untaken_data(QXHCI *x, const void *arg)
{
    uint32_t status[2];
    UASDisk d;

    start_disk(x, &d, 0);
    for (int tag = 1; tag <= MAX_REQUESTS + 1; tag++) {
        xhci_assert_completion(x, send_command(x, &d, READ_10, tag),
                               QXHCI_CC_SUCCESS);
    }
    wait_for_disk();
    status[0] = take_status(x, &d, submit_status(x, &d));
    status[1] = take_status(x, &d, submit_status(x, &d));
    /* The last was one too many, and the first is ready for its data */
    g_assert_cmphex(MIN(status[0], status[1]), ==,
                    SENSE_IU(MAX_REQUESTS + 1, TASK_SET_FULL));
    g_assert_cmphex(MAX(status[0], status[1]), ==, READ_READY_IU(1));
    submit_status(x, &d);
    xhci_assert_delivery(x, &d.dev, &xhci_pin_mode, 0);
}

/*
 * Two statuses while a transfer waits for one.  The next transfer on the ring
 * is started when the first one completes, without a doorbell, and there is
 * room for as many as before.
 */
static void test_two_statuses(QXHCI *x, const void *arg)
{
    UASDisk d;

    start_disk(x, &d, 0);
    for (int i = 0; i < 20; i++) {
        QXHCITrb status = {
            .parameter = d.status_iu,
            .status = STATUS_IU_SIZE,
            .control = QXHCI_TRB_NORMAL << 10 | QXHCI_TRB_IOC,
        };
        QXHCITrb command = {
            .parameter = d.iu,
            .status = IU_SIZE,
            .control = QXHCI_TRB_NORMAL << 10,
        };
        uint64_t trb[2];

        trb[0] = qxhci_ring_put(x, &d.status.ring, status);
        qxhci_doorbell(x, d.dev.slot, PIPE_STATUS);
        trb[1] = qxhci_ring_put(x, &d.status.ring, status);

        qxhci_ring_put(x, &d.command.ring, command);
        qxhci_ring_put(x, &d.command.ring, command);
        qxhci_doorbell(x, d.dev.slot, PIPE_COMMAND);
        xhci_assert_completion(x, trb[0], QXHCI_CC_SHORT_PACKET);
        xhci_assert_completion(x, trb[1], QXHCI_CC_SHORT_PACKET);
    }
}

static void add_uas_test(const char *name, const char *device_opts,
                         XHCITestFunc func, const void *arg)
{
    xhci_add_device_test(name, device_opts, "usb-uas", func, arg);
}

static void register_uas_tests(void)
{
    static const unsigned int short_len = 4, full_len = SENSE_IU_SIZE;
    static const unsigned int status = PIPE_STATUS, data_in = PIPE_DATA_IN;
    static const unsigned int stream = STREAM, last_stream = LAST_STREAM;
    static const uint8_t command_iu = 0x01, task_iu = 0x05;
    static const uint8_t read_10 = READ_10, write_10 = WRITE_10;

    /* High speed, which has no streams */
    add_uas_test("uas/short-status", "msi=on,msix=on,p3=0",
                 test_short_status, &short_len);
    add_uas_test("uas/full-status", "msi=on,msix=on,p3=0",
                 test_short_status, &full_len);
    add_uas_test("uas/tag-of-command", "msi=on,msix=on", test_tag,
                 &command_iu);
    add_uas_test("uas/tag-of-task", "msi=on,msix=on", test_tag, &task_iu);
    add_uas_test("uas/stream-zero", "msi=on,msix=on", test_stream_zero, NULL);
    add_uas_test("uas/unlike-streams", "msi=on,msix=on", test_unlike_streams,
                 NULL);
    xhci_add_device_test("uas/reset-data", "msi=on,msix=on", UAS_WITH_DISK,
                         test_reset_data, NULL);
    xhci_add_device_test("uas/reset-commands", "msi=on,msix=on,p3=0",
                         UAS_WITH_TWO_DISKS, test_reset_commands, NULL);
    add_uas_test("uas/stop-stream", "msi=on,msix=on,p3=0", test_stop_stream,
                 NULL);
    add_uas_test("uas/command-in", "msi=on,msix=on", test_command_in, NULL);
    add_uas_test("uas/status-out", "msi=on,msix=on", test_status_out, NULL);
    xhci_add_device_test("uas/read-of-write", "msi=on,msix=on", UAS_WITH_DISK,
                         test_direction, &write_10);
    xhci_add_device_test("uas/write-of-read", "msi=on,msix=on", UAS_WITH_DISK,
                         test_direction, &read_10);
    xhci_add_device_test("uas/resume", "msi=on,msix=on", UAS_WITH_DISK,
                         test_resume, &stream);
    xhci_add_device_test("uas/resume-last", "msi=on,msix=on", UAS_WITH_DISK,
                         test_resume, &last_stream);
    xhci_add_device_test("uas/resume-data", "msi=on,msix=on", UAS_WITH_DISK,
                         test_resume_data, NULL);
    add_uas_test("uas/unread-status", "msi=on,msix=on", test_unread_status,
                 NULL);
    xhci_add_device_test("uas/untaken-data", "msi=on,msix=on,p3=0",
                         UAS_WITH_DISK, test_untaken_data, NULL);
    xhci_add_device_test("uas/two-statuses", "msi=on,msix=on,p3=0",
                         UAS_WITH_DISK, test_two_statuses, NULL);
    add_uas_test("uas/busy-status", "msi=on,msix=on", test_busy_stream,
                 &status);
    add_uas_test("uas/busy-data", "msi=on,msix=on", test_busy_stream,
                 &data_in);
}

libqos_init(register_uas_tests);

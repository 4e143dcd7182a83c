/*
 * QTest testcase for xHCI interrupters: a reference model
 *
 * A small model of interrupters, event rings, interrupt modes and lines,
 * written from the xHCI specification, revision 1.2, and from PCI 3.0, and not
 * from QEMU's device.  The same operations are done to the model and to the
 * device, and after each of them registers, the memory of event rings, INTx,
 * messages and the Pending Bit Array are compared.  The operations are those
 * of drivers (a table of profiles), or drawn at random.
 *
 * Where the specification leaves it to the device what a guest sees, the model
 * takes what the device says, and goes on from there.
 *
 * The environment variables XHCI_MODEL_STEPS and XHCI_MODEL_SEED set the length
 * and the seed of the random walk.  A failure prints the seed, the number of
 * steps after which model and device differ for the first time, and the last
 * operations.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/pci/pci_regs.h"
#include "qemu/bswap.h"
#include "qemu/cutils.h"
#include "libqtest.h"
#include "libqos/qgraph.h"
#include "libqos/qos_external.h"
#include "usb-xhci-utils.h"

/* Interrupters whose rings are set up; events go to one more than these */
#define NUM_RINGS           4

/* Event ring segments: how many TRBs (6.5), and between how many to move */
#define MIN_TRBS            16
#define MAX_TRBS            24
#define NUM_SEGMENTS        2
#define ERST_STRIDE         64

/* Host Controller Event, 6.4.2.6 and 6.4.5; Connect Status Change, 5.4.8 */
#define TRB_EV_HOST         37
#define CC_EVENT_RING_FULL  21
#define PORTSC_CSC          BIT(17)

#define HOTPLUG_ID          "walk"

#define DEFAULT_STEPS       1000
#define DEFAULT_SEED        1
#define OPS_SHOWN           40

typedef struct ModelIntr {
    /* Registers, 5.5.2 */
    bool ie;
    bool ip;
    bool ehb;
    uint32_t erstsz;
    uint64_t erdp;
    /* Interrupt Pending Enable, 4.17.5 */
    bool ipe;

    /*
     * An interrupt is due, and a mask holds its message back.  4.17.5: IP goes
     * when the message is written.  The device may take that for done when the
     * Pending bit is set, or not: as long as that matters, IP is free.
     */
    bool held, ip_free;
    /* Entry of the MSI-X table: mask, dword of x->msg, low bits of the data */
    bool masked;
    unsigned int msg, data;

    /* The event ring, 4.9.4: which of the segments, and of what size */
    bool enabled;
    unsigned int segment, size;
    /* Where the guest and the controller are, and events in between */
    unsigned int dequeue, enqueue, num_events;
    bool cycle;
} ModelIntr;

typedef struct Model {
    bool inte, running, eint, eint_free;
    bool msi, msix, maskall, intx;
    unsigned int msi_vectors;
    ModelIntr intr[NUM_RINGS];
    /* Vectors of the messages that were sent in this step */
    uint32_t messages;
    /* All segments, little-endian: what the controller must have written */
    QXHCITrb memory[NUM_RINGS][NUM_SEGMENTS][MAX_TRBS];
} Model;

typedef struct ModelTest {
    QXHCI *x;
    QPCIBus *bus;
    QXHCIDevice dev;
    Model m;

    /* Guest memory with the segments, and the tables that point at them */
    uint64_t memory, erst;
    /* In the BAR; and the data of all MSI-X messages, without the low bits */
    uint64_t msix_table, msix_pba;
    uint32_t msg_data;
    /* Where the USB device is that comes and goes, or 0 */
    unsigned int hot_port;

    bool conditional;
    GRand *rand;
    unsigned int seed, step;
    char *ops[OPS_SHOWN];
    QTestState *first_qts;
} ModelTest;

/* The model */

static QXHCIMode model_mode(const Model *m)
{
    /* PCI: MSI-X and MSI exclude INTx; of these two, MSI-X is taken */
    return m->msix ? QXHCI_MSIX : m->msi ? QXHCI_MSI : QXHCI_PIN;
}

/* IP, IE and INTE make an interrupt, in the way of the current mode, 4.17 */
static void model_signal(Model *m, unsigned int n)
{
    ModelIntr *i = &m->intr[n];
    bool level = i->ip && i->ie && m->inte;

    switch (model_mode(m)) {
    case QXHCI_PIN:
        /* 4.17.3: interrupter 0 only */
        if (n == 0) {
            m->intx = level;
        }
        break;
    case QXHCI_MSI:
        if (level) {
            m->messages |= BIT(n % m->msi_vectors);
            i->ip = false;
        }
        break;
    case QXHCI_MSIX:
        if (level && (m->maskall || i->masked)) {
            i->held = i->ip_free = true;
        } else if (level) {
            m->messages |= BIT(n);
            i->ip = false;
        }
        break;
    }
}

static void model_signal_all(Model *m)
{
    for (unsigned int n = 0; n < NUM_RINGS; n++) {
        model_signal(m, n);
    }
}

/* IPE, IE and no EHB set IP and EHB, 4.17.2 and 4.17.5 */
static void model_check(Model *m, unsigned int n)
{
    ModelIntr *i = &m->intr[n];

    if (i->ipe && i->ie && !i->ehb) {
        i->ip = true;
        i->ip_free = false;
        i->ehb = true;
        m->eint = true;
    }
    model_signal(m, n);
}

/* The message that was held back is sent, or not due any more */
static void model_release(ModelIntr *i)
{
    i->held = false;
    if (i->ip_free) {
        i->ip = i->ip_free = false;
    } else {
        /* One for a later interrupt, with INTE or IE clear, or for both? */
        i->ip_free = i->ip;
    }
}

/* After m->msi or m->msix changed from what @old says */
static void model_mode_changed(Model *m, QXHCIMode old)
{
    QXHCIMode mode = model_mode(m);

    if (mode == old) {
        return;
    }
    m->intx = false;
    for (unsigned int n = 0; n < NUM_RINGS; n++) {
        ModelIntr *i = &m->intr[n];

        /* What was not told to the guest in one way will be in the other */
        if (i->held && !i->ip) {
            i->ip = m->eint = true;
        } else if (i->held) {
            /* 5.4.2: EINT is for IP going from 0 to 1, which it did before */
            m->eint_free = true;
        }
        i->held = i->ip_free = false;
    }
    model_signal_all(m);
}

/* PCI: a message that is held back goes out when its vector is unmasked */
static void model_unmask(Model *m)
{
    for (unsigned int n = 0; n < NUM_RINGS; n++) {
        ModelIntr *i = &m->intr[n];

        if (!m->maskall && !i->masked && i->held) {
            model_release(i);
            m->messages |= BIT(n);
        }
    }
}

/* Writes a TRB for the Event Ring, and moves on, 4.9.4 */
static void model_put(Model *m, unsigned int n, uint64_t parameter,
                      unsigned int cc, uint32_t control)
{
    ModelIntr *i = &m->intr[n];

    m->memory[n][i->segment][i->enqueue] = (QXHCITrb) {
        .parameter = cpu_to_le64(parameter),
        .status = cpu_to_le32(cc << 24),
        .control = cpu_to_le32(control | i->cycle),
    };
    i->num_events++;
    if (++i->enqueue == i->size) {
        i->enqueue = 0;
        i->cycle = !i->cycle;
    }
}

/*
 * An event for interrupter @n.  The last TRB that is free is for the Event
 * Ring Full Error, and nothing overwrites what the guest has not taken, 4.9.4.
 * There, the controller fetches no TRBs until the guest moves ERDP.  QEMU goes
 * on, and loses the event that is in the way and those that follow.
 */
static void model_event(Model *m, unsigned int n, uint64_t parameter,
                        unsigned int cc, uint32_t control)
{
    ModelIntr *i = &m->intr[n];

    /* 5.5.2.3.1: undefined for a ring that is disabled; QEMU drops it */
    if (!i->enabled || i->num_events == i->size - 1) {
        return;
    }
    if (i->num_events == i->size - 2) {
        model_put(m, n, 0, CC_EVENT_RING_FULL, TRB_EV_HOST << 10);
    } else {
        model_put(m, n, parameter, cc, control);
    }
    i->ipe = true;
    model_check(m, n);
}

/* HCRST, 5.4.1: MSI and MSI-X stay as they are, but nothing is due */
static void model_reset(Model *m)
{
    for (unsigned int n = 0; n < NUM_RINGS; n++) {
        ModelIntr *i = &m->intr[n];

        *i = (ModelIntr) {
            .masked = i->masked, .msg = i->msg, .data = i->data,
        };
    }
    m->inte = m->running = m->eint = m->eint_free = m->intx = false;
}

/* Comparison */

/* Fails if @what, of interrupter or place @n, is not @want on the device */
static void mt_expect(ModelTest *t, const char *what, unsigned int n,
                      uint64_t is, uint64_t want)
{
    if (is == want) {
        return;
    }
    fprintf(stderr, "model and device differ after XHCI_MODEL_STEPS=%u with "
            "XHCI_MODEL_SEED=%u:\n  %s (%u) is 0x%" PRIx64 " and not 0x%"
            PRIx64 "\nthe last operations:\n", t->step, t->seed, what, n, is,
            want);
    for (unsigned int i = 0; i < OPS_SHOWN; i++) {
        unsigned int op = t->step + 1 + i;

        if (op >= OPS_SHOWN && t->ops[op % OPS_SHOWN]) {
            fprintf(stderr, "  %u %s\n", op - OPS_SHOWN,
                    t->ops[op % OPS_SHOWN]);
        }
    }
    g_assert_not_reached();
}

/*
 * All segments, also those that are not in use: an event must be there, be the
 * right one, and not be anywhere else.
 */
static void mt_compare_rings(ModelTest *t)
{
    Model *m = &t->m;
    QXHCITrb memory[NUM_RINGS][NUM_SEGMENTS][MAX_TRBS];
    QXHCITrb *is = memory[0][0], *want = m->memory[0][0];

    qtest_memread(t->bus->qts, t->memory, memory, sizeof(memory));
    if (!memcmp(memory, m->memory, sizeof(memory))) {
        return;
    }
    for (unsigned int i = 0; i < sizeof(memory) / sizeof(*is); i++) {
        unsigned int segment = i / MAX_TRBS;
        g_autofree char *what = g_strdup_printf(
            "event ring %u, segment %u, TRB", segment / NUM_SEGMENTS,
            segment % NUM_SEGMENTS);

        mt_expect(t, what, i % MAX_TRBS, le64_to_cpu(is[i].parameter),
                  le64_to_cpu(want[i].parameter));
        mt_expect(t, what, i % MAX_TRBS, le32_to_cpu(is[i].status),
                  le32_to_cpu(want[i].status));
        mt_expect(t, what, i % MAX_TRBS, le32_to_cpu(is[i].control),
                  le32_to_cpu(want[i].control));
    }
}

static void mt_compare_messages(ModelTest *t)
{
    Model *m = &t->m;
    uint32_t data[QXHCI_MAX_INTRS], want[QXHCI_MAX_INTRS] = { };
    uint32_t any = 0;

    qtest_memread(t->bus->qts, t->x->msg, data, sizeof(data));
    for (unsigned int v = 0; v < QXHCI_MAX_INTRS; v++) {
        if (!(m->messages & BIT(v))) {
            continue;
        }
        if (model_mode(m) == QXHCI_MSIX) {
            want[m->intr[v].msg] = t->msg_data | m->intr[v].data;
        } else if (!want[0] || le32_to_cpu(data[0]) == (t->msg_data | v)) {
            /* All MSI vectors have one address: one of the messages is there */
            want[0] = t->msg_data | v;
        }
    }
    for (unsigned int i = 0; i < QXHCI_MAX_INTRS; i++) {
        mt_expect(t, "message at", i, le32_to_cpu(data[i]), want[i]);
        any |= data[i];
    }
    if (any) {
        qtest_memset(t->bus->qts, t->x->msg, 0, sizeof(data));
    }
    m->messages = 0;
}

static void mt_compare(ModelTest *t)
{
    Model *m = &t->m;
    uint32_t sts = qxhci_oper_read(t->x, QXHCI_USBSTS);
    uint32_t regs[NUM_RINGS][8];
    uint32_t held = 0;

    if (m->eint_free) {
        m->eint = sts & QXHCI_USBSTS_EINT;
        m->eint_free = false;
    }
    mt_expect(t, "HCE", 0, !!(sts & QXHCI_USBSTS_HCE), false);
    mt_expect(t, "EINT", 0, !!(sts & QXHCI_USBSTS_EINT), m->eint);
    mt_expect(t, "INTx", 0, qxhci_intx(t->x), m->intx);
    mt_compare_messages(t);

    /* In one go, as this is where the time of a long walk goes */
    qpci_memread(&t->x->pdev, t->x->bar, t->x->runtime + 0x20, regs,
                 sizeof(regs));
    for (unsigned int n = 0; n < NUM_RINGS; n++) {
        ModelIntr *i = &m->intr[n];
        uint32_t iman = le32_to_cpu(regs[n][QXHCI_IMAN / 4]);
        uint32_t erdp = le32_to_cpu(regs[n][QXHCI_ERDP / 4]);

        held |= i->held ? BIT(n) : 0;
        if (i->ip_free) {
            i->ip = iman & QXHCI_IMAN_IP;
            i->ip_free = i->held;
        }
        mt_expect(t, "IP", n, !!(iman & QXHCI_IMAN_IP), i->ip);
        mt_expect(t, "IE", n, !!(iman & QXHCI_IMAN_IE), i->ie);
        mt_expect(t, "EHB", n, !!(erdp & QXHCI_ERDP_EHB), i->ehb);
        mt_expect(t, "ERDP", n, erdp & ~0xf, (uint32_t)i->erdp);
        mt_expect(t, "ERDP, high", n,
                  le32_to_cpu(regs[n][QXHCI_ERDP / 4 + 1]), i->erdp >> 32);
        mt_expect(t, "ERSTSZ", n, le32_to_cpu(regs[n][QXHCI_ERSTSZ / 4]),
                  i->erstsz);
    }
    if (m->msix) {
        /* PCI 3.0, 6.8.2.9 */
        mt_expect(t, "Pending Bit Array", 0,
                  qpci_io_readl(&t->x->pdev, t->x->bar, t->msix_pba), held);
    }
    mt_compare_rings(t);
}

/* Operations, each on model and device */

/* Compares what the last operation left, and begins another */
G_GNUC_PRINTF(2, 3)
static void mt_op(ModelTest *t, const char *fmt, ...)
{
    char **op = &t->ops[(t->step + 1) % OPS_SHOWN];
    va_list ap;

    mt_compare(t);
    t->step++;
    g_free(*op);
    va_start(ap, fmt);
    *op = g_strdup_vprintf(fmt, ap);
    va_end(ap);
}

static void mt_write64(ModelTest *t, uint64_t offset, uint64_t val)
{
    qpci_io_writel(&t->x->pdev, t->x->bar, offset, val);
    qpci_io_writel(&t->x->pdev, t->x->bar, offset + 4, val >> 32);
}

static void mt_intr_write64(ModelTest *t, unsigned int n, uint32_t reg,
                            uint64_t val)
{
    mt_write64(t, t->x->runtime + 0x20 + 0x20 * n + reg, val);
}

/* A transfer with Interrupter Target @target */
static void op_event(ModelTest *t, unsigned int target)
{
    Model *m = &t->m;
    bool mapping = t->x->max_intrs > 1 &&
        (model_mode(m) != QXHCI_PIN || !t->conditional);
    unsigned int ring = mapping ? target : 0;
    uint64_t trb;

    if (!m->running) {
        return;
    }
    mt_op(t, "event for interrupter %u", target);
    trb = qxhci_submit_get_descriptor(t->x, &t->dev, target);
    /* 6.4.1: else there is no such interrupter */
    if (ring < NUM_RINGS) {
        model_event(m, ring, trb, QXHCI_CC_SUCCESS,
                    QXHCI_TRB_EV_TRANSFER << 10 | QXHCI_EP0 << 16 |
                    t->dev.slot << 24);
    }
}

/* Writes IMAN; IP is write-1-to-clear */
static void op_iman(ModelTest *t, unsigned int n, bool clear_ip, bool ie)
{
    mt_op(t, "IMAN[%u]: IE = %u%s", n, ie, clear_ip ? ", IP cleared" : "");
    qxhci_intr_write(t->x, n, QXHCI_IMAN, (ie ? QXHCI_IMAN_IE : 0) |
                     (clear_ip ? QXHCI_IMAN_IP : 0));
    t->m.intr[n].ie = ie;
    t->m.intr[n].ip &= !clear_ip;
    model_check(&t->m, n);
}

static uint64_t mt_segment(ModelTest *t, unsigned int n)
{
    return t->memory +
        sizeof(QXHCITrb) * MAX_TRBS * (n * NUM_SEGMENTS + t->m.intr[n].segment);
}

/* Takes @count events off ring @n, which were compared, and writes ERDP */
static void op_erdp(ModelTest *t, unsigned int n, unsigned int count, bool ehb)
{
    ModelIntr *i = &t->m.intr[n];

    mt_op(t, "ERDP[%u]: %u of %u events taken%s", n, count, i->num_events,
          ehb ? ", EHB cleared" : "");
    i->dequeue = (i->dequeue + count) % i->size;
    i->num_events -= count;
    i->erdp = mt_segment(t, n) + i->dequeue * QXHCI_TRB_SIZE;
    mt_intr_write64(t, n, QXHCI_ERDP, i->erdp | (ehb ? QXHCI_ERDP_EHB : 0));

    i->ipe &= i->num_events > 0;
    if (ehb) {
        i->ehb = false;
        if (i->held) {
            /* PCI 3.0, 6.8.3.5: served, so not due any more */
            model_release(i);
        }
    }
    model_check(&t->m, n);
}

/*
 * Sets up ring @n, which is not in use, in its segment @segment, 4.9.4
 * @erdp_last: in which order to write the registers; ERSTBA starts the ring
 */
static void mt_set_up_ring(ModelTest *t, unsigned int n, unsigned int segment,
                           unsigned int size, bool erdp_last)
{
    ModelIntr *i = &t->m.intr[n];
    uint64_t erst = t->erst + (n * NUM_SEGMENTS + segment) * ERST_STRIDE;
    uint64_t entry[2];

    i->segment = segment;
    i->size = size;
    i->dequeue = i->enqueue = i->num_events = 0;
    i->erdp = mt_segment(t, n);
    i->erstsz = 1;
    i->enabled = i->cycle = true;
    i->ipe = false;
    memset(t->m.memory[n][segment], 0, sizeof(t->m.memory[n][segment]));

    qtest_memset(t->bus->qts, i->erdp, 0, sizeof(t->m.memory[n][segment]));
    entry[0] = cpu_to_le64(i->erdp);
    entry[1] = cpu_to_le64(size);
    qtest_memwrite(t->bus->qts, erst, entry, sizeof(entry));
    if (!erdp_last) {
        mt_intr_write64(t, n, QXHCI_ERDP, i->erdp);
    }
    qxhci_intr_write(t->x, n, QXHCI_ERSTSZ, 1);
    mt_intr_write64(t, n, QXHCI_ERSTBA, erst);
    if (erdp_last) {
        mt_intr_write64(t, n, QXHCI_ERDP, i->erdp);
    }
}

static void op_set_up_ring(ModelTest *t, unsigned int n, unsigned int segment,
                           unsigned int size, bool erdp_last)
{
    mt_op(t, "ring %u anew, in segment %u, %u TRBs, ERDP written %s", n,
          segment, size, erdp_last ? "last" : "first");
    mt_set_up_ring(t, n, segment, size, erdp_last);
}

/* 5.5.2.3.1: any ring but the primary one; with @erstba, for good */
static void op_disable_ring(ModelTest *t, unsigned int n, bool erstba)
{
    ModelIntr *i = &t->m.intr[n];

    mt_op(t, "ring %u off%s", n, erstba ? ", ERSTBA = 0" : "");
    qxhci_intr_write(t->x, n, QXHCI_ERSTSZ, 0);
    i->erstsz = 0;
    i->enabled = false;
    if (erstba) {
        mt_intr_write64(t, n, QXHCI_ERSTBA, 0);
        i->ipe = false;
    }
}

static void op_usbcmd(ModelTest *t, bool running, bool inte)
{
    mt_op(t, "USBCMD: RS = %u, INTE = %u", running, inte);
    qxhci_oper_write(t->x, QXHCI_USBCMD, (running ? QXHCI_USBCMD_RS : 0) |
                     (inte ? QXHCI_USBCMD_INTE : 0));
    t->m.running = running;
    t->m.inte = inte;
    model_signal_all(&t->m);
}

static void op_clear_eint(ModelTest *t)
{
    mt_op(t, "USBSTS: EINT cleared");
    qxhci_oper_write(t->x, QXHCI_USBSTS, QXHCI_USBSTS_EINT);
    t->m.eint = false;
}

/* MSI Enable, MSI-X Enable, or the MSI-X Function Mask */
static void op_mode_bit(ModelTest *t, QXHCIModeBit bit, bool on,
                        unsigned int len)
{
    static const char *const names[] = { "MSI", "MSI-X", "function mask" };
    bool *const bits[] = { &t->m.msi, &t->m.msix, &t->m.maskall };
    QXHCIMode old = model_mode(&t->m);

    mt_op(t, "%s %s, %u bytes", names[bit], on ? "on" : "off", len);
    qxhci_write_bit(t->x, bit, on, len);
    *bits[bit] = on;
    model_mode_changed(&t->m, old);
    model_unmask(&t->m);
}

/* May change the number of vectors while MSI is on */
static void op_msi_vectors(ModelTest *t, unsigned int vectors)
{
    mt_op(t, "MSI with %u vectors", vectors);
    qxhci_setup_msi(t->x, vectors);
    t->m.msi_vectors = vectors;
}

static void op_mask(ModelTest *t, unsigned int n, bool on)
{
    mt_op(t, "MSI-X vector %u %smasked", n, on ? "" : "un");
    qxhci_msix_mask(t->x, n, on);
    t->m.intr[n].masked = on;
    model_unmask(&t->m);
}

/*
 * Writes address and data of vector @n, which is masked, and reads them back.
 * The message may be held back already: it goes to where the entry says when
 * it is sent.
 */
static void op_msix_entry(ModelTest *t, unsigned int n, unsigned int msg,
                          unsigned int data)
{
    uint64_t entry = t->msix_table + n * PCI_MSIX_ENTRY_SIZE;
    uint64_t addr = t->x->msg + 4 * msg;
    uint32_t want[4] = {
        addr, addr >> 32, t->msg_data | data, t->m.intr[n].masked
    };

    mt_op(t, "MSI-X vector %u: to %u, data 0x%x", n, msg, data);
    mt_write64(t, entry + PCI_MSIX_ENTRY_LOWER_ADDR, addr);
    qpci_io_writel(&t->x->pdev, t->x->bar, entry + PCI_MSIX_ENTRY_DATA,
                   t->msg_data | data);
    t->m.intr[n].msg = msg;
    t->m.intr[n].data = data;

    for (unsigned int i = 0; i < ARRAY_SIZE(want); i++) {
        mt_expect(t, "dword of the entry", i,
                  qpci_io_readl(&t->x->pdev, t->x->bar, entry + 4 * i),
                  want[i]);
    }
}

/* The line is disabled behind the status bit that is compared */
static void op_intx_disable(ModelTest *t, bool on)
{
    uint16_t cmd = qpci_config_readw(&t->x->pdev, PCI_COMMAND);

    mt_op(t, "INTx %sabled", on ? "dis" : "en");
    cmd = on ? cmd | PCI_COMMAND_INTX_DISABLE
             : cmd & ~PCI_COMMAND_INTX_DISABLE;
    qpci_config_writew(&t->x->pdev, PCI_COMMAND, cmd);
}

static void mt_clear_port_change(ModelTest *t, unsigned int port)
{
    qxhci_oper_write(t->x, QXHCI_PORTSC(port), QXHCI_PORTSC_PP | PORTSC_CSC);
}

/* The port that has a USB device, other than the keyboard */
static unsigned int mt_find_port(ModelTest *t)
{
    for (unsigned int port = 1; port <= t->x->max_ports; port++) {
        if (port != t->dev.port &&
            qxhci_oper_read(t->x, QXHCI_PORTSC(port)) & QXHCI_PORTSC_CCS) {
            return port;
        }
    }
    g_assert_not_reached();
}

/*
 * Plugs in a second USB device, or unplugs it.  The change bit, which is clear
 * before, makes an event for interrupter 0 (4.19.2), and the guest clears it.
 */
static void op_plug(ModelTest *t, bool on)
{
    unsigned int port = t->hot_port;
    uint32_t portsc;

    mt_op(t, "USB device %splugged", on ? "" : "un");
    if (on) {
        qtest_qmp_assert_success(t->bus->qts,
            "{ 'execute': 'device_add', 'arguments': {"
            "  'driver': 'usb-kbd', 'id': '" HOTPLUG_ID "' } }");
        port = mt_find_port(t);
    } else {
        qtest_qmp_device_del(t->bus->qts, HOTPLUG_ID);
    }
    portsc = qxhci_oper_read(t->x, QXHCI_PORTSC(port));
    mt_expect(t, "CCS", port, !!(portsc & QXHCI_PORTSC_CCS), on);
    mt_expect(t, "CSC", port, !!(portsc & PORTSC_CSC), true);
    mt_clear_port_change(t, port);
    t->hot_port = on ? port : 0;

    /* A halted controller tells nothing */
    if (t->m.running) {
        model_event(&t->m, 0, port << 24, QXHCI_CC_SUCCESS,
                    QXHCI_TRB_EV_PORT << 10);
    }
}

static unsigned int pick(ModelTest *t, unsigned int below)
{
    return g_rand_int_range(t->rand, 0, below);
}

static unsigned int pick_size(ModelTest *t)
{
    return MIN_TRBS + pick(t, MAX_TRBS - MIN_TRBS + 1);
}

/*
 * Brings up the controller after a reset of it, in the mode that it is in.
 * The interrupts of the commands that take are all served.
 */
static void mt_start(ModelTest *t)
{
    Model *m = &t->m;

    qxhci_start(t->x, NUM_RINGS);
    qxhci_device_init(t->x, &t->dev);
    for (unsigned int port = 1; port <= t->x->max_ports; port++) {
        if (port != t->dev.port) {
            mt_clear_port_change(t, port);
        }
    }
    qxhci_drain(t->x);
    qxhci_oper_write(t->x, QXHCI_USBSTS, QXHCI_USBSTS_EINT);

    /* From the rings of libqos to those of the model */
    qxhci_oper_write(t->x, QXHCI_USBCMD, QXHCI_USBCMD_INTE);
    for (unsigned int n = 0; n < NUM_RINGS; n++) {
        m->intr[n].ie = true;
        mt_set_up_ring(t, n, 0, t->rand ? pick_size(t) : MAX_TRBS, false);
    }
    qxhci_oper_write(t->x, QXHCI_USBCMD, QXHCI_USBCMD_INTE | QXHCI_USBCMD_RS);
    m->running = m->inte = true;
}

static void op_hcrst(ModelTest *t)
{
    mt_op(t, "HCRST");
    qxhci_oper_write(t->x, QXHCI_USBCMD, QXHCI_USBCMD_HCRST);
    model_reset(&t->m);
    for (unsigned int n = 0; n < NUM_RINGS; n++) {
        /* Nothing is due any more */
        op_iman(t, n, false, true);
    }
    mt_compare(t);
    mt_start(t);
}

/* After realize or a reset of the PCI function: all is off */
static void mt_start_pci(ModelTest *t)
{
    model_reset(&t->m);
    t->m.msi = t->m.msix = t->m.maskall = false;
    mt_compare(t);
    /* The messages of all modes, which also unmasks the MSI-X vectors */
    qxhci_setup_msix(t->x);
    qxhci_setup_msi(t->x, 1);
    t->m.msi_vectors = 1;
    t->msg_data = qpci_io_readl(&t->x->pdev, t->x->bar,
                                t->msix_table + PCI_MSIX_ENTRY_DATA);
    for (unsigned int n = 0; n < NUM_RINGS; n++) {
        t->m.intr[n].msg = t->m.intr[n].data = n;
        t->m.intr[n].masked = false;
    }
    mt_start(t);
}

static void op_system_reset(ModelTest *t)
{
    mt_op(t, "system reset");
    qtest_qmp_assert_success(t->bus->qts, "{ 'execute': 'system_reset' }");
    qtest_qmp_eventwait(t->bus->qts, "RESET");
    /* A machine may load its firmware anew, over what is in memory */
    qtest_memwrite(t->bus->qts, t->memory, t->m.memory, sizeof(t->m.memory));
    qxhci_free(t->x);
    qxhci_init(t->x, t->bus, t->x->pdev.devfn, t->x->alloc);
    mt_start_pci(t);
}

/* The destination does not have the USB device that was plugged in */
static void op_migrate(ModelTest *t)
{
    QTestState *from;

    g_assert_cmpuint(t->hot_port, ==, 0);
    mt_op(t, "migration");
    from = xhci_migrate(t->x, &xhci_pin_mode);
    if (from != t->first_qts) {
        qtest_quit(from);
    }
}

static void mt_init(ModelTest *t, QXHCI *x, bool conditional)
{
    uint8_t cap = qpci_find_capability(&x->pdev, PCI_CAP_ID_MSIX, 0);

    memset(t, 0, sizeof(*t));
    t->x = x;
    t->bus = x->pdev.bus;
    t->conditional = conditional;
    t->first_qts = t->bus->qts;
    t->memory = xhci_alloc(x, sizeof(t->m.memory));
    t->erst = xhci_alloc(x, NUM_RINGS * NUM_SEGMENTS * ERST_STRIDE);
    /* Both are in BAR 0 */
    t->msix_table = qpci_config_readl(&x->pdev, cap + PCI_MSIX_TABLE);
    t->msix_pba = qpci_config_readl(&x->pdev, cap + PCI_MSIX_PBA);
    mt_start_pci(t);
}

static void mt_end(ModelTest *t)
{
    if (t->hot_port) {
        op_plug(t, false);
    }
    mt_compare(t);
    for (unsigned int i = 0; i < OPS_SHOWN; i++) {
        g_free(t->ops[i]);
    }
    guest_free(t->x->alloc, t->erst);
    guest_free(t->x->alloc, t->memory);
    if (t->bus->qts != t->first_qts) {
        xhci_end_migrate(t->x, t->first_qts);
    }
}

/* Profiles: the orders in which drivers and firmware do things */

typedef enum Action {
    END,
    MODE,           /* MSI or MSI-X on, if the mode has it */
    IE, NO_IE,      /* of all interrupters */
    INTE, NO_INTE,
    RS,
    EVENTS,         /* for interrupters 0, 1 and 2 */
    SERVE,          /* what was signalled, as Linux does */
    POLL,           /* take all events; EHB is not written */
} Action;

typedef struct Profile {
    const char *name;
    Action actions[24];
} Profile;

/* Each begins with the controller halted, on the pin, and no interrupter on */
static const Profile profiles[] = {
    { "linux-probe", {
        MODE, INTE, IE, RS, EVENTS, SERVE, EVENTS, EVENTS, SERVE } },
    { "linux-resume", {
        MODE, INTE, IE, RS, EVENTS, SERVE, NO_IE, EVENTS, IE, SERVE,
        EVENTS, NO_IE, IE, SERVE, EVENTS, SERVE } },
    { "macos", {
        IE, MODE, INTE, RS, EVENTS, SERVE, EVENTS, EVENTS, SERVE } },
    { "windows", {
        INTE, RS, EVENTS, MODE, IE, SERVE, EVENTS, SERVE } },
    { "freebsd", {
        MODE, IE, INTE, RS, EVENTS, SERVE, EVENTS, SERVE } },
    { "edk2-then-os", {
        IE, RS, EVENTS, POLL, EVENTS, POLL, NO_IE, MODE, INTE, IE, EVENTS,
        SERVE, EVENTS, SERVE } },
    { "serenity-msi", {
        IE, INTE, MODE, RS, EVENTS, SERVE, EVENTS, SERVE } },
    { "serenity-msix", {
        MODE, IE, INTE, RS, EVENTS, SERVE, EVENTS, SERVE } },
    { "seabios-then-os", {
        RS, EVENTS, POLL, EVENTS, POLL, MODE, INTE, IE, EVENTS, SERVE } },
    { "mode-with-event-pending", {
        IE, INTE, RS, EVENTS, MODE, SERVE, EVENTS, SERVE } },
    { "inte-last", {
        IE, RS, EVENTS, MODE, INTE, SERVE, NO_INTE, EVENTS, INTE, SERVE } },
};

typedef struct ProfileTest {
    const Profile *profile;
    QXHCIMode mode;
    unsigned int msi_vectors;
} ProfileTest;

static void do_action(ModelTest *t, Action action, const ProfileTest *p)
{
    Model *m = &t->m;

    switch (action) {
    case MODE:
        if (p->mode == QXHCI_MSI) {
            op_msi_vectors(t, p->msi_vectors);
            op_mode_bit(t, QXHCI_MSI_ENABLE, true, 2);
        } else if (p->mode == QXHCI_MSIX) {
            op_mode_bit(t, QXHCI_MSIX_ENABLE, true, 2);
        }
        break;
    case IE:
    case NO_IE:
        for (unsigned int n = 0; n < NUM_RINGS; n++) {
            op_iman(t, n, false, action == IE);
        }
        break;
    case INTE:
    case NO_INTE:
        op_usbcmd(t, m->running, action == INTE);
        break;
    case RS:
        op_usbcmd(t, true, m->inte);
        break;
    case EVENTS:
        for (unsigned int target = 0; target < 3; target++) {
            op_event(t, target);
        }
        break;
    case SERVE:
        op_clear_eint(t);
        for (unsigned int n = 0; n < NUM_RINGS; n++) {
            if (m->intr[n].ehb) {
                op_iman(t, n, true, m->intr[n].ie);
                op_erdp(t, n, m->intr[n].num_events, true);
            }
            /* Whatever the order was, no event may be left behind */
            g_assert_cmpuint(m->intr[n].num_events, ==, 0);
        }
        break;
    case POLL:
        for (unsigned int n = 0; n < NUM_RINGS; n++) {
            op_erdp(t, n, m->intr[n].num_events, false);
        }
        break;
    case END:
        g_assert_not_reached();
    }
}

static void test_profile(QXHCI *x, const void *arg)
{
    const ProfileTest *p = arg;
    ModelTest t;

    mt_init(&t, x, true);
    for (unsigned int n = 0; n < NUM_RINGS; n++) {
        op_iman(&t, n, true, false);
    }
    op_usbcmd(&t, false, false);

    for (const Action *a = p->profile->actions; *a != END; a++) {
        do_action(&t, *a, p);
    }
    mt_end(&t);
}

/* The random walk */

typedef struct WalkTest {
    bool conditional;
    /* What the walk is in for most of the time */
    QXHCIMode mode;
} WalkTest;

/* A write of one of the sizes that reach the bit */
static unsigned int pick_len(ModelTest *t)
{
    return 1 << pick(t, 3);
}

static void walk_mode(ModelTest *t, QXHCIMode home)
{
    bool go_home = pick(t, 3);
    unsigned int n = pick(t, NUM_RINGS);

    switch (pick(t, 7)) {
    case 0:
        op_mode_bit(t, QXHCI_MSI_ENABLE,
                    go_home ? home == QXHCI_MSI : pick(t, 2), pick_len(t));
        break;
    case 1:
        op_mode_bit(t, QXHCI_MSIX_ENABLE,
                    go_home ? home == QXHCI_MSIX : pick(t, 2), pick_len(t));
        break;
    case 2:
        op_msi_vectors(t, 1 << pick(t, 5));
        break;
    case 3:
        op_mode_bit(t, QXHCI_MSIX_MASKALL, !pick(t, 4), pick_len(t));
        break;
    case 4:
        op_mask(t, n, !pick(t, 4));
        break;
    case 5:
        op_intx_disable(t, pick(t, 2));
        break;
    case 6:
        /* PCI 3.0, 6.8.2: only while the vector is masked */
        if (!t->m.maskall && !t->m.intr[n].masked) {
            op_mask(t, n, true);
        }
        /* No two vectors write to the same dword */
        op_msix_entry(t, n,
                      n + NUM_RINGS * pick(t, QXHCI_MAX_INTRS / NUM_RINGS),
                      pick(t, QXHCI_MAX_INTRS));
        if (pick(t, 2)) {
            op_mask(t, n, false);
        }
        break;
    }
}

static void walk_ring(ModelTest *t, unsigned int n)
{
    ModelIntr *i = &t->m.intr[n];
    bool move = pick(t, 2);

    if (n == 0) {
        /* 5.5.2.3.2: the primary one, only while halted */
        op_usbcmd(t, false, t->m.inte);
    } else if (i->enabled && (!move || pick(t, 2))) {
        op_disable_ring(t, n, pick(t, 2));
        if (pick(t, 2)) {
            return;
        }
    }
    op_set_up_ring(t, n, move ? !i->segment : i->segment, pick_size(t),
                   pick(t, 2));
    if (n == 0) {
        op_usbcmd(t, true, t->m.inte);
    }
}

/* Up to more events than the ring has room for */
static void walk_fill(ModelTest *t, unsigned int target)
{
    for (unsigned int count = pick(t, 2 * MAX_TRBS); count > 0; count--) {
        op_event(t, target);
    }
}

static void walk_step(ModelTest *t, QXHCIMode home)
{
    unsigned int n = pick(t, NUM_RINGS);
    unsigned int what = pick(t, 10000);

    if (what < 4) {
        if (t->hot_port) {
            op_plug(t, false);
        }
        op_migrate(t);
    } else if (what < 10) {
        op_system_reset(t);
    } else if (what < 40) {
        op_hcrst(t);
    } else if (what < 1600) {
        walk_mode(t, home);
    } else if (what < 2100) {
        op_usbcmd(t, pick(t, 8), pick(t, 4));
    } else if (what < 2600) {
        op_clear_eint(t);
    } else if (what < 2700) {
        op_plug(t, !t->hot_port);
    } else if (what < 3100) {
        walk_ring(t, n);
    } else if (what < 3160) {
        walk_fill(t, n);
    } else if (what < 4800) {
        op_iman(t, n, pick(t, 2), pick(t, 4));
    } else if (what < 6600) {
        unsigned int events = t->m.intr[n].num_events;

        op_erdp(t, n, pick(t, 2) ? events : pick(t, events + 1), pick(t, 3));
    } else {
        /* One of them has no ring */
        op_event(t, pick(t, NUM_RINGS + 1));
    }
}

static unsigned int env_number(const char *name, unsigned int def)
{
    const char *val = getenv(name);
    unsigned int num;

    if (!val) {
        return def;
    }
    if (qemu_strtoui(val, NULL, 0, &num) < 0) {
        g_error("%s is no number: %s", name, val);
    }
    return num;
}

static void test_walk(QXHCI *x, const void *arg)
{
    const WalkTest *w = arg;
    ModelTest t;
    unsigned int steps = env_number("XHCI_MODEL_STEPS", DEFAULT_STEPS);

    mt_init(&t, x, w->conditional);
    t.seed = env_number("XHCI_MODEL_SEED", DEFAULT_SEED);
    t.rand = g_rand_new_with_seed(t.seed);
    g_test_message("XHCI_MODEL_STEPS=%u XHCI_MODEL_SEED=%u", steps, t.seed);

    while (t.step < steps) {
        walk_step(&t, w->mode);
    }
    g_rand_free(t.rand);
    mt_end(&t);
}

/* Registration */

static void register_model_tests(void)
{
    /* The message modes are switched on by the test */
    static const XHCISetup capable = { "capable", "msi=on,msix=on" };
    static const XHCISetup unconditional = {
        "unconditional", "msi=on,msix=on,conditional-intr-mapping=off"
    };
    static const struct {
        const char *name;
        QXHCIMode mode;
        unsigned int msi_vectors;
    } modes[] = {
        { "pin", QXHCI_PIN, 0 },
        { "msi-1", QXHCI_MSI, 1 },
        { "msi-16", QXHCI_MSI, 16 },
        { "msix", QXHCI_MSIX, 0 },
    };
    static const struct {
        const char *name;
        WalkTest test;
    } walks[] = {
        { "walk/pin", { true, QXHCI_PIN } },
        { "walk/msi", { true, QXHCI_MSI } },
        { "walk/msix", { true, QXHCI_MSIX } },
        { "walk/unconditional", { false, QXHCI_PIN } },
    };

    for (int i = 0; i < ARRAY_SIZE(profiles); i++) {
        for (int j = 0; j < ARRAY_SIZE(modes); j++) {
            ProfileTest *p = xhci_test_arg(sizeof(*p));
            g_autofree char *name = g_strdup_printf("profile/%s/%s",
                                                    profiles[i].name,
                                                    modes[j].name);

            p->profile = &profiles[i];
            p->mode = modes[j].mode;
            p->msi_vectors = modes[j].msi_vectors;
            xhci_add_test(name, &capable, test_profile, p);
        }
    }
    for (int i = 0; i < ARRAY_SIZE(walks); i++) {
        xhci_add_test(walks[i].name,
                      walks[i].test.conditional ? &capable : &unconditional,
                      test_walk, &walks[i].test);
    }
}

libqos_init(register_model_tests);

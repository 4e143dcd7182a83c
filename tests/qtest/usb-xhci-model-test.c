/*
 * QTest testcase for xHCI interrupters: a reference model
 *
 * A small model of interrupters, interrupt modes and lines, written from the
 * xHCI specification, revision 1.2, and not from QEMU's device.  The same
 * operations are done to the model and to the device, and after each of them
 * registers, event rings, INTx and messages are compared.  The operations are
 * those of drivers (a table of profiles), or drawn at random.
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

/* Leaves room for the event that says that the ring is full */
#define MAX_EVENTS          (QXHCI_RING_TRBS - 4)

#define DEFAULT_STEPS       1000
#define DEFAULT_SEED        1
#define OPS_SHOWN           40

typedef struct ModelIntr {
    bool ie;
    bool ip;
    bool ehb;
    /* Interrupt Pending Enable, 4.17.5 */
    bool ipe;
    /* PCI: message held back by a mask */
    bool pba;
    bool masked;
    /* TRB pointers of the events that the guest has not taken */
    unsigned int num_events;
    uint64_t events[QXHCI_RING_TRBS];
} ModelIntr;

typedef struct Model {
    bool inte, running, eint;
    bool msi, msix, maskall, intx;
    unsigned int msi_vectors;
    ModelIntr intr[NUM_RINGS];
    /* Vectors of the messages that were sent in this step */
    uint32_t messages;
} Model;

typedef struct ModelTest {
    QXHCI *x;
    QPCIBus *bus;
    QXHCIDevice dev;
    Model m;

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
        if (level) {
            if (m->maskall || i->masked) {
                i->pba = true;
            } else {
                m->messages |= BIT(n);
            }
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
        i->ehb = true;
        m->eint = true;
    }
    model_signal(m, n);
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
        /* A message that was not sent leaves its interrupter pending */
        if (old == QXHCI_MSIX && m->intr[n].pba) {
            m->intr[n].pba = false;
            m->intr[n].ip = true;
            m->eint = true;
        }
    }
    model_signal_all(m);
}

/* PCI: a message that is held back goes out when its vector is unmasked */
static void model_unmask(Model *m)
{
    for (unsigned int n = 0; n < NUM_RINGS; n++) {
        ModelIntr *i = &m->intr[n];

        if (m->msix && !m->maskall && !i->masked && i->pba) {
            i->pba = false;
            m->messages |= BIT(n);
        }
    }
}

/* Comparison */

G_GNUC_PRINTF(2, 3)
static void mt_fail(ModelTest *t, const char *fmt, ...)
{
    va_list ap;

    fprintf(stderr, "model and device differ after XHCI_MODEL_STEPS=%u "
            "with XHCI_MODEL_SEED=%u:\n  ", t->step, t->seed);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, "\nthe last operations:\n");
    for (unsigned int i = 0; i < OPS_SHOWN; i++) {
        unsigned int n = t->step + 1 + i;

        if (n >= OPS_SHOWN && t->ops[n % OPS_SHOWN]) {
            fprintf(stderr, "  %u %s\n", n - OPS_SHOWN,
                    t->ops[n % OPS_SHOWN]);
        }
    }
    g_assert_not_reached();
}

static void mt_compare_ring(ModelTest *t, unsigned int n)
{
    const ModelIntr *i = &t->m.intr[n];
    QXHCITrb ev;

    if (i->num_events) {
        uint64_t last = i->events[i->num_events - 1];

        if (!qxhci_event_peek(t->x, n, i->num_events - 1, &ev)) {
            mt_fail(t, "an event is missing on ring %u", n);
        }
        if (ev.parameter != last) {
            mt_fail(t, "event on ring %u is for 0x%" PRIx64 " and not 0x%"
                    PRIx64, n, ev.parameter, last);
        }
    }
    if (qxhci_event_peek(t->x, n, i->num_events, &ev)) {
        mt_fail(t, "an event is on ring %u that must not be, for 0x%" PRIx64,
                n, ev.parameter);
    }
}

static void mt_compare(ModelTest *t)
{
    Model *m = &t->m;
    uint32_t sts = qxhci_oper_read(t->x, QXHCI_USBSTS);
    uint32_t messages = qxhci_take_messages(t->x);
    bool intx = qxhci_intx(t->x);
    uint32_t regs[NUM_RINGS][8];

    if (sts & QXHCI_USBSTS_HCE) {
        mt_fail(t, "controller error");
    }
    if (!!(sts & QXHCI_USBSTS_EINT) != m->eint) {
        mt_fail(t, "EINT is not %u", m->eint);
    }
    if (intx != m->intx) {
        mt_fail(t, "INTx is not %u", m->intx);
    }
    if (model_mode(m) == QXHCI_MSI && messages != m->messages) {
        /* All MSI vectors have one address: one of the messages is there */
        if (!is_power_of_2(messages) || !(messages & m->messages)) {
            mt_fail(t, "messages 0x%x and not of 0x%x", messages, m->messages);
        }
    } else if (messages != m->messages) {
        mt_fail(t, "messages 0x%x and not 0x%x", messages, m->messages);
    }
    m->messages = 0;

    /* In one go, as this is where the time of a long walk goes */
    qpci_memread(&t->x->pdev, t->x->bar, t->x->runtime + 0x20, regs,
                 sizeof(regs));
    for (unsigned int n = 0; n < NUM_RINGS; n++) {
        const ModelIntr *i = &m->intr[n];
        uint32_t iman = le32_to_cpu(regs[n][QXHCI_IMAN / 4]);
        uint32_t erdp = le32_to_cpu(regs[n][QXHCI_ERDP / 4]);

        if (!!(iman & QXHCI_IMAN_IP) != i->ip) {
            mt_fail(t, "IP of interrupter %u is not %u", n, i->ip);
        }
        if (!!(iman & QXHCI_IMAN_IE) != i->ie) {
            mt_fail(t, "IE of interrupter %u is not %u", n, i->ie);
        }
        if (!!(erdp & QXHCI_ERDP_EHB) != i->ehb) {
            mt_fail(t, "EHB of interrupter %u is not %u", n, i->ehb);
        }
        mt_compare_ring(t, n);
    }
}

/* Operations, each on model and device */

G_GNUC_PRINTF(2, 3)
static void mt_op(ModelTest *t, const char *fmt, ...)
{
    char **op = &t->ops[++t->step % OPS_SHOWN];
    va_list ap;

    g_free(*op);
    va_start(ap, fmt);
    *op = g_strdup_vprintf(fmt, ap);
    va_end(ap);
}

/* A transfer with Interrupter Target @target */
static void op_event(ModelTest *t, unsigned int target)
{
    Model *m = &t->m;
    bool mapping = t->x->max_intrs > 1 &&
        (model_mode(m) != QXHCI_PIN || !t->conditional);
    unsigned int ring = mapping ? target : 0;
    uint64_t trb;

    if (!m->running ||
        (ring < NUM_RINGS && m->intr[ring].num_events == MAX_EVENTS)) {
        return;
    }
    mt_op(t, "event for interrupter %u", target);
    trb = qxhci_submit_get_descriptor(t->x, &t->dev, target);
    /* 5.5.2.3.1, 6.4.1: else there is no such ring or interrupter */
    if (ring < NUM_RINGS) {
        ModelIntr *i = &m->intr[ring];

        i->events[i->num_events++] = trb;
        i->ipe = true;
        model_check(m, ring);
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

/* Takes @count events off ring @n, and writes ERDP */
static void op_erdp(ModelTest *t, unsigned int n, unsigned int count, bool ehb)
{
    ModelIntr *i = &t->m.intr[n];
    QXHCITrb ev;

    mt_op(t, "ERDP[%u]: %u of %u events taken%s", n, count, i->num_events,
          ehb ? ", EHB cleared" : "");
    for (unsigned int e = 0; e < count; e++) {
        if (!qxhci_event_pop(t->x, n, &ev) || ev.parameter != i->events[e]) {
            mt_fail(t, "event %u on ring %u is not the one expected", e, n);
        }
    }
    i->num_events -= count;
    memmove(i->events, i->events + count,
            i->num_events * sizeof(i->events[0]));
    qxhci_write_erdp(t->x, n, ehb);

    if (ehb) {
        i->ehb = false;
        /* PCI: a message whose cause is gone is not pending any more */
        i->pba = false;
    }
    i->ipe &= i->num_events > 0;
    model_check(&t->m, n);
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

static void op_msi(ModelTest *t, bool on, unsigned int len)
{
    QXHCIMode old = model_mode(&t->m);

    mt_op(t, "MSI %s, %u bytes", on ? "on" : "off", len);
    qxhci_write_bit(t->x, QXHCI_MSI_ENABLE, on, len);
    t->m.msi = on;
    model_mode_changed(&t->m, old);
}

/* May change the number of vectors while MSI is on */
static void op_msi_vectors(ModelTest *t, unsigned int vectors)
{
    mt_op(t, "MSI with %u vectors", vectors);
    qxhci_setup_msi(t->x, vectors);
    t->m.msi_vectors = vectors;
}

static void op_msix(ModelTest *t, bool on, unsigned int len)
{
    QXHCIMode old = model_mode(&t->m);

    mt_op(t, "MSI-X %s, %u bytes", on ? "on" : "off", len);
    qxhci_write_bit(t->x, QXHCI_MSIX_ENABLE, on, len);
    t->m.msix = on;
    model_mode_changed(&t->m, old);
}

static void op_maskall(ModelTest *t, bool on, unsigned int len)
{
    mt_op(t, "MSI-X function mask %s, %u bytes", on ? "on" : "off", len);
    qxhci_write_bit(t->x, QXHCI_MSIX_MASKALL, on, len);
    t->m.maskall = on;
    model_unmask(&t->m);
}

static void op_mask(ModelTest *t, unsigned int n, bool on)
{
    mt_op(t, "MSI-X vector %u %smasked", n, on ? "" : "un");
    qxhci_msix_mask(t->x, n, on);
    t->m.intr[n].masked = on;
    model_unmask(&t->m);
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

/*
 * Brings up the controller after a reset of it, in the mode that it is in.
 * The interrupts of the commands that take are all served.
 */
static void mt_start(ModelTest *t)
{
    Model *m = &t->m;

    qxhci_start(t->x, NUM_RINGS);
    qxhci_device_init(t->x, &t->dev);
    qxhci_drain(t->x);
    qxhci_oper_write(t->x, QXHCI_USBSTS, QXHCI_USBSTS_EINT);

    for (unsigned int n = 0; n < NUM_RINGS; n++) {
        ModelIntr *i = &m->intr[n];

        i->ip = i->ehb = i->ipe = i->pba = false;
        i->num_events = 0;
        i->ie = true;
    }
    m->running = m->inte = true;
    m->eint = m->intx = false;
}

static void op_hcrst(ModelTest *t)
{
    mt_op(t, "HCRST");
    mt_start(t);
}

/* After realize or a reset of the PCI function: all is off */
static void mt_start_pci(ModelTest *t)
{
    memset(&t->m, 0, sizeof(t->m));
    t->m.msi_vectors = 1;
    /* The messages of all modes, which also unmasks the MSI-X vectors */
    qxhci_setup_msix(t->x);
    qxhci_setup_msi(t->x, 1);
    mt_start(t);
}

static void op_system_reset(ModelTest *t)
{
    mt_op(t, "system reset");
    qtest_qmp_assert_success(t->bus->qts, "{ 'execute': 'system_reset' }");
    qtest_qmp_eventwait(t->bus->qts, "RESET");
    qxhci_free(t->x);
    qxhci_init(t->x, t->bus, t->x->pdev.devfn, t->x->alloc);
    mt_start_pci(t);
}

static void op_migrate(ModelTest *t)
{
    QTestState *from;

    mt_op(t, "migration");
    from = xhci_migrate(t->x, &xhci_pin_mode);
    if (from != t->first_qts) {
        qtest_quit(from);
    }
}

static void mt_init(ModelTest *t, QXHCI *x, bool conditional)
{
    memset(t, 0, sizeof(*t));
    t->x = x;
    t->bus = x->pdev.bus;
    t->conditional = conditional;
    t->first_qts = t->bus->qts;
    mt_start_pci(t);
    mt_compare(t);
}

static void mt_end(ModelTest *t)
{
    for (unsigned int i = 0; i < OPS_SHOWN; i++) {
        g_free(t->ops[i]);
    }
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
            mt_compare(t);
            op_msi(t, true, 2);
        } else if (p->mode == QXHCI_MSIX) {
            op_msix(t, true, 2);
        }
        mt_compare(t);
        break;
    case IE:
    case NO_IE:
        for (unsigned int n = 0; n < NUM_RINGS; n++) {
            op_iman(t, n, false, action == IE);
            mt_compare(t);
        }
        break;
    case INTE:
    case NO_INTE:
        op_usbcmd(t, m->running, action == INTE);
        mt_compare(t);
        break;
    case RS:
        op_usbcmd(t, true, m->inte);
        mt_compare(t);
        break;
    case EVENTS:
        for (unsigned int target = 0; target < 3; target++) {
            op_event(t, target);
            mt_compare(t);
        }
        break;
    case SERVE:
        op_clear_eint(t);
        mt_compare(t);
        for (unsigned int n = 0; n < NUM_RINGS; n++) {
            if (m->intr[n].ehb) {
                op_iman(t, n, true, m->intr[n].ie);
                mt_compare(t);
                op_erdp(t, n, m->intr[n].num_events, true);
                mt_compare(t);
            }
            /* Whatever the order was, no event may be left behind */
            g_assert_cmpuint(m->intr[n].num_events, ==, 0);
        }
        break;
    case POLL:
        for (unsigned int n = 0; n < NUM_RINGS; n++) {
            op_erdp(t, n, m->intr[n].num_events, false);
            mt_compare(t);
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
        mt_compare(&t);
    }
    op_usbcmd(&t, false, false);
    mt_compare(&t);

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

static unsigned int pick(ModelTest *t, unsigned int below)
{
    return g_rand_int_range(t->rand, 0, below);
}

/* A write of one of the sizes that reach the bit */
static unsigned int pick_len(ModelTest *t)
{
    return 1 << pick(t, 3);
}

static void walk_mode(ModelTest *t, QXHCIMode home)
{
    bool go_home = pick(t, 3);

    switch (pick(t, 6)) {
    case 0:
        op_msi(t, go_home ? home == QXHCI_MSI : pick(t, 2), pick_len(t));
        break;
    case 1:
        op_msix(t, go_home ? home == QXHCI_MSIX : pick(t, 2), pick_len(t));
        break;
    case 2:
        op_msi_vectors(t, 1 << pick(t, 5));
        break;
    case 3:
        op_maskall(t, !pick(t, 4), pick_len(t));
        break;
    case 4:
        op_mask(t, pick(t, NUM_RINGS), !pick(t, 4));
        break;
    case 5:
        op_intx_disable(t, pick(t, 2));
        break;
    }
}

static void walk_step(ModelTest *t, QXHCIMode home)
{
    unsigned int n = pick(t, NUM_RINGS);
    unsigned int what = pick(t, 10000);

    if (what < 4) {
        op_migrate(t);
    } else if (what < 10) {
        op_system_reset(t);
    } else if (what < 40) {
        op_hcrst(t);
    } else if (what < 1400) {
        walk_mode(t, home);
    } else if (what < 2000) {
        op_usbcmd(t, pick(t, 8), pick(t, 4));
    } else if (what < 2600) {
        op_clear_eint(t);
    } else if (what < 4600) {
        op_iman(t, n, pick(t, 2), pick(t, 4));
    } else if (what < 6600) {
        unsigned int events = t->m.intr[n].num_events;

        op_erdp(t, n, pick(t, 2) ? events : pick(t, events + 1), pick(t, 3));
    } else {
        /* One of them has no ring */
        op_event(t, pick(t, NUM_RINGS + 1));
    }
    mt_compare(t);
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
            ProfileTest *p = g_new(ProfileTest, 1);
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

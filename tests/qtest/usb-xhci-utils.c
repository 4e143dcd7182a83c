/*
 * What the tests of xHCI USB host controllers have in common
 *
 * Section numbers are those of the xHCI specification, revision 1.2.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "libqtest.h"
#include "libqos/libqos.h"
#include "libqos/qgraph.h"
#include "libqos/qos_external.h"
#include "usb-xhci-utils.h"

const XHCISetup xhci_setups[] = {
    { "pin", "msi=off,msix=off", QXHCI_PIN, 0, false, true },
    /* The pin is also used while MSI and MSI-X are there, but disabled */
    { "pin-capable", "msi=on,msix=on", QXHCI_PIN, 0, false },
    { "pin-unconditional", "msi=off,msix=off,conditional-intr-mapping=off",
      QXHCI_PIN, 0, true, true },
    { "pin-capable-unconditional",
      "msi=on,msix=on,conditional-intr-mapping=off", QXHCI_PIN, 0, true,
      true },
    { "msi-1", "msi=on,msix=off", QXHCI_MSI, 1, true },
    { "msi-4", "msi=on,msix=off", QXHCI_MSI, 4, true },
    { "msi-16", "msi=on,msix=off", QXHCI_MSI, QXHCI_MAX_INTRS, true, true },
    { "msix", "msi=off,msix=on", QXHCI_MSIX, 0, true, true },
};

const XHCISetup xhci_pin_mode = {
    "pin", "msi=on,msix=on", QXHCI_PIN, 0, false
};
const XHCISetup xhci_msi_mode = {
    "msi", "msi=on,msix=on", QXHCI_MSI, QXHCI_MAX_INTRS, true
};
const XHCISetup xhci_msix_mode = {
    "msix", "msi=on,msix=on", QXHCI_MSIX, 0, true
};
const XHCISetup *const xhci_modes[] = {
    &xhci_pin_mode, &xhci_msi_mode, &xhci_msix_mode,
};

/* Adding tests */

typedef struct XHCITest {
    XHCITestFunc func;
    XHCIBusTestFunc bus_func;
    const void *arg;
} XHCITest;

void *xhci_test_arg(size_t size)
{
    /* They stay in reach, so that LeakSanitizer does not take them for lost */
    static GSList *args;
    void *arg = g_malloc0(size);

    args = g_slist_prepend(args, arg);
    return arg;
}

static void run_test(void *obj, void *data, QGuestAllocator *alloc)
{
    QXHCI *x = obj;
    const XHCITest *t = data;

    if (!qpci_check_buggy_msi(&x->pdev)) {
        t->func(x, t->arg);
    }
}

void xhci_add_device_test(const char *name, const char *device_opts,
                          const char *usb_device, XHCITestFunc func,
                          const void *arg)
{
    g_autofree char *cmd_line = g_strdup_printf("-device %s", usb_device);
    XHCITest *t = xhci_test_arg(sizeof(*t));

    t->func = func;
    t->arg = arg;
    qos_add_test(name, "xhci", run_test, &(QOSGraphTestOptions) {
        .edge.extra_device_opts = device_opts,
        .edge.after_cmd_line = cmd_line,
        .arg = t,
    });
}

void xhci_add_test(const char *name, const XHCISetup *s, XHCITestFunc func,
                   const void *arg)
{
    xhci_add_device_test(name, s->device_opts, "usb-kbd", func, arg);
}

void xhci_add_setup_test(const char *prefix, const XHCISetup *s,
                         XHCITestFunc func)
{
    g_autofree char *name = g_strdup_printf("%s/%s", prefix, s->name);

    xhci_add_test(name, s, func, s);
}

void xhci_add_intr_tests(const char *prefix, XHCITestFunc func)
{
    for (int i = 0; i < ARRAY_SIZE(xhci_setups); i++) {
        const XHCISetup *s = &xhci_setups[i];
        unsigned int num_intrs = s->mode == QXHCI_PIN ? 1 : 2;

        for (unsigned int intr = 0; intr < num_intrs; intr++) {
            XHCIIntrTest *t = xhci_test_arg(sizeof(*t));
            g_autofree char *name = g_strdup_printf("%s/%s-%u", prefix,
                                                    s->name, intr);

            t->setup = s;
            t->intr = intr;
            xhci_add_test(name, s, func, t);
        }
    }
}

static void run_bus_test(void *obj, void *data, QGuestAllocator *alloc)
{
    QPCIBus *bus = obj;
    const XHCITest *t = data;

    if (bus->has_buggy_msi) {
        g_test_skip("Skipping due to incomplete support for MSI");
        return;
    }
    t->bus_func(bus, alloc, t->arg);
}

void xhci_add_bus_test(const char *name, const char *cmd_line,
                       XHCIBusTestFunc func, const void *arg)
{
    static const char *const buses[] = { "pci-bus", "pcie-bus" };

    for (int i = 0; i < ARRAY_SIZE(buses); i++) {
        XHCITest *t = xhci_test_arg(sizeof(*t));

        t->bus_func = func;
        t->arg = arg;
        qos_add_test(name, buses[i], run_bus_test, &(QOSGraphTestOptions) {
            .edge.before_cmd_line = cmd_line,
            .arg = t,
        });
    }
}

/* Guest memory */

uint64_t xhci_alloc(QXHCI *x, size_t size)
{
    uint64_t addr = guest_alloc(x->alloc, size);

    qtest_memset(x->pdev.bus->qts, addr, 0, size);
    return addr;
}

/* Bringing up the controller */

void xhci_start(QXHCI *x, QXHCIDevice *dev, const XHCISetup *s)
{
    qxhci_set_mode(x, s->mode, s->msi_vectors);
    qxhci_start(x, x->max_intrs);
    qxhci_device_init(x, dev);
    qxhci_drain(x);
    xhci_assert_quiet(x);
}

void xhci_start_kbd(QXHCI *x, QXHCIDevice *dev, const XHCISetup *s)
{
    xhci_start(x, dev, s);
    qxhci_configure_intr_in(x, dev, XHCI_KBD_EP, XHCI_KBD_REPORT_SIZE);
    qxhci_drain(x);
}

unsigned int xhci_configure_kbd_as(QXHCI *x, QXHCIDevice *dev,
                                   unsigned int ep_type)
{
    uint64_t ctx = dev->in_ctx + (XHCI_KBD_EP + 1) * x->ctx_size;
    uint32_t info = cpu_to_le32(XHCI_KBD_REPORT_SIZE << 16 | ep_type << 3);
    QXHCITrb ev;

    qtest_memwrite(x->pdev.bus->qts, ctx + 4, &info, sizeof(info));
    ev = qxhci_try_command(x, QXHCI_TRB_CONFIG_EP, dev->in_ctx, dev->slot);
    return QXHCI_TRB_CC(&ev);
}

void xhci_switch_mode(QXHCI *x, const XHCISetup *to)
{
    qxhci_write_bit(x, QXHCI_MSI_ENABLE, to->mode == QXHCI_MSI, 2);
    qxhci_write_bit(x, QXHCI_MSIX_ENABLE, to->mode == QXHCI_MSIX, 2);
}

void xhci_move_ring(QXHCI *x, unsigned int intr, uint64_t addr)
{
    uint64_t erst = guest_alloc(x->alloc, QXHCI_TRB_SIZE);
    uint64_t segment[2] = { cpu_to_le64(addr), cpu_to_le64(QXHCI_RING_TRBS) };

    qtest_memwrite(x->pdev.bus->qts, erst, segment, sizeof(segment));
    x->event[intr] = (QXHCIRing) { .addr = addr, .cycle = true };
    qxhci_intr_write(x, intr, QXHCI_ERDP, addr);
    qxhci_intr_write(x, intr, QXHCI_ERDP + 4, addr >> 32);
    qxhci_intr_write(x, intr, QXHCI_ERSTSZ, 1);
    qxhci_intr_write(x, intr, QXHCI_ERSTBA, erst);
    qxhci_intr_write(x, intr, QXHCI_ERSTBA + 4, erst >> 32);
    guest_free(x->alloc, erst);
}

void xhci_set_ie(QXHCI *x, unsigned int intr, bool on)
{
    qxhci_intr_write(x, intr, QXHCI_IMAN, on ? QXHCI_IMAN_IE : 0);
}

void xhci_set_inte(QXHCI *x, bool on)
{
    qxhci_oper_write(x, QXHCI_USBCMD,
                     QXHCI_USBCMD_RS | (on ? QXHCI_USBCMD_INTE : 0));
}

/* Events */

unsigned int xhci_ring_of(const XHCISetup *s, unsigned int target)
{
    return s->mapping ? target : 0;
}

void xhci_take_event(QXHCI *x, QXHCIDevice *dev, unsigned int ring,
                     uint64_t trb)
{
    QXHCITrb ev;

    qxhci_event_wait(x, ring, &ev);
    g_assert_cmpuint(QXHCI_TRB_TYPE(&ev), ==, QXHCI_TRB_EV_TRANSFER);
    g_assert_cmphex(ev.parameter, ==, trb);
    g_assert_cmpuint(QXHCI_TRB_SLOT(&ev), ==, dev->slot);
    g_assert_cmpuint(QXHCI_TRB_CC(&ev), ==, QXHCI_CC_SUCCESS);
}

uint64_t xhci_leave_pending(QXHCI *x, QXHCIDevice *dev, const XHCISetup *s)
{
    uint64_t trb = qxhci_submit_get_descriptor(x, dev, 1);

    qxhci_step(x, 20);
    xhci_assert_signalled(x, s, xhci_ring_of(s, 1));
    return trb;
}

uint64_t xhci_submit_bulk(QXHCI *x, QXHCIDevice *dev, QXHCIRing *ring,
                          uint32_t target, uint64_t buf, unsigned int len)
{
    uint64_t trb = qxhci_ring_put(x, ring, (QXHCITrb) {
        .parameter = buf,
        .status = len,
        .control = QXHCI_TRB_NORMAL << 10 | QXHCI_TRB_IOC,
    });

    qxhci_doorbell(x, dev->slot, target);
    return trb;
}

void xhci_assert_completion(QXHCI *x, uint64_t trb, unsigned int cc)
{
    QXHCITrb ev;

    qxhci_event_wait(x, 0, &ev);
    g_assert_cmphex(ev.parameter, ==, trb);
    g_assert_cmpuint(QXHCI_TRB_CC(&ev), ==, cc);
    qxhci_ack(x, 0);
}

void xhci_stop_transfer(QXHCI *x, QXHCIDevice *dev, unsigned int epid)
{
    QXHCITrb ev;

    qxhci_ring_put(x, &x->cmd, (QXHCITrb) {
        .control = QXHCI_TRB_STOP_EP << 10 | epid << 16 | dev->slot << 24,
    });
    qxhci_doorbell(x, 0, 0);
    qxhci_event_wait(x, 0, &ev);
    g_assert_cmpuint(QXHCI_TRB_TYPE(&ev), ==, QXHCI_TRB_EV_TRANSFER);
    qxhci_event_wait(x, 0, &ev);
    g_assert_cmpuint(QXHCI_TRB_TYPE(&ev), ==, QXHCI_TRB_EV_COMMAND);
    qxhci_ack(x, 0);
}

void xhci_send_key(QXHCI *x, bool down)
{
    qtest_qmp_assert_success(x->pdev.bus->qts,
        "{ 'execute': 'input-send-event', 'arguments': { 'events': ["
        "  { 'type': 'key', 'data': { 'down': %i, 'key':"
        "    { 'type': 'qcode', 'data': 'a' } } } ] } }", down);
}

/* Interrupts */

void xhci_assert_signalled(QXHCI *x, const XHCISetup *s, unsigned int ring)
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

void xhci_assert_not_signalled(QXHCI *x)
{
    qxhci_step(x, 20);
    g_assert_false(qxhci_intx(x));
    g_assert_cmphex(qxhci_take_messages(x), ==, 0);
}

void xhci_assert_quiet(QXHCI *x)
{
    QXHCITrb ev;

    xhci_assert_not_signalled(x);
    for (unsigned int ring = 0; ring < x->num_rings; ring++) {
        g_assert_false(qxhci_event_pop(x, ring, &ev));
    }
    g_assert_cmphex(qxhci_oper_read(x, QXHCI_USBSTS) & QXHCI_USBSTS_HCE,
                    ==, 0);
}

void xhci_assert_delivery(QXHCI *x, QXHCIDevice *dev, const XHCISetup *s,
                          unsigned int target)
{
    unsigned int ring = xhci_ring_of(s, target);
    uint64_t trb = qxhci_submit_get_descriptor(x, dev, target);

    if (ring >= x->max_intrs) {
        /* 6.4.1: there is no such interrupter, the event is dropped */
        xhci_assert_quiet(x);
        return;
    }
    xhci_take_event(x, dev, ring, trb);
    xhci_assert_signalled(x, s, ring);
    qxhci_ack(x, ring);
    xhci_assert_quiet(x);
}

/* QEMU */

QTestState *xhci_migrate(QXHCI *x, const XHCISetup *destination)
{
    QPCIBus *bus = x->pdev.bus;
    QTestState *from = bus->qts;
    QTestState *to;
    QOSState from_state = { .qts = from }, to_state = { };
    g_autofree char *dir = g_dir_make_tmp("xhci-test-XXXXXX", NULL);
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

void xhci_end_migrate(QXHCI *x, QTestState *from)
{
    qtest_quit(x->pdev.bus->qts);
    x->pdev.bus->qts = from;
    /* It is stopped now, the next test needs another one */
    qos_invalidate_command_line();
}

char *xhci_log_start(QXHCI *x, const char *command)
{
    QTestState *qts = x->pdev.bus->qts;
    char *file;
    int fd = g_file_open_tmp("xhci-test-XXXXXX", &file, NULL);

    g_assert_cmpint(fd, >=, 0);
    close(fd);
    g_free(qtest_hmp(qts, "logfile %s", file));
    g_free(qtest_hmp(qts, "%s", command));
    return file;
}

char *xhci_log_stop(char *file)
{
    char *log;

    g_assert_true(g_file_get_contents(file, &log, NULL, NULL));
    unlink(file);
    g_free(file);
    /* The next test needs a QEMU without the log */
    qos_invalidate_command_line();
    return log;
}

/*
 * libqos driver for xHCI USB host controllers
 *
 * Section numbers are those of the xHCI specification, revision 1.2.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "../libqtest.h"
#include "hw/pci/pci.h"
#include "hw/pci/pci_regs.h"
#include "qemu/bitops.h"
#include "qemu/host-utils.h"
#include "qemu/module.h"
#include "qgraph.h"
#include "xhci.h"

#define XHCI_SLOT               4

#define TRB_CYCLE               BIT(0)
#define TRB_LINK_TOGGLE         BIT(1)
#define TRB_TARGET(n)           ((uint32_t)(n) << 22)

#define WAIT_MS                 1000

/* Not 0, which is what message memory holds while nothing came */
#define MSG_DATA                0xa500

typedef struct QXHCIPci {
    QOSGraphObject obj;
    QXHCI xhci;
} QXHCIPci;

static QTestState *qxhci_qts(QXHCI *x)
{
    return x->pdev.bus->qts;
}

/* Registers */

static uint32_t qxhci_read32(QXHCI *x, uint64_t off)
{
    return qpci_io_readl(&x->pdev, x->bar, off);
}

static void qxhci_write32(QXHCI *x, uint64_t off, uint32_t val)
{
    qpci_io_writel(&x->pdev, x->bar, off, val);
}

static void qxhci_write64(QXHCI *x, uint64_t off, uint64_t val)
{
    qxhci_write32(x, off, val);
    qxhci_write32(x, off + 4, val >> 32);
}

static uint64_t qxhci_intr_off(QXHCI *x, unsigned int intr, uint32_t reg)
{
    return x->runtime + 0x20 + 0x20 * intr + reg;
}

uint32_t qxhci_oper_read(QXHCI *x, uint32_t reg)
{
    return qxhci_read32(x, x->oper + reg);
}

void qxhci_oper_write(QXHCI *x, uint32_t reg, uint32_t val)
{
    qxhci_write32(x, x->oper + reg, val);
}

uint32_t qxhci_intr_read(QXHCI *x, unsigned int intr, uint32_t reg)
{
    return qxhci_read32(x, qxhci_intr_off(x, intr, reg));
}

void qxhci_intr_write(QXHCI *x, unsigned int intr, uint32_t reg, uint32_t val)
{
    qxhci_write32(x, qxhci_intr_off(x, intr, reg), val);
}

void qxhci_doorbell(QXHCI *x, unsigned int slot, uint32_t val)
{
    qxhci_write32(x, x->doorbell + 4 * slot, val);
}

void qxhci_step(QXHCI *x, unsigned int ms)
{
    qtest_clock_step(qxhci_qts(x), ms * 1000000LL);
}

/* Guest memory */

static uint64_t qxhci_alloc(QXHCI *x, size_t size)
{
    uint64_t addr = guest_alloc(x->alloc, size);

    g_assert_cmphex(addr, !=, 0);
    g_array_append_val(x->allocated, addr);
    qtest_memset(qxhci_qts(x), addr, 0, size);
    return addr;
}

static void qxhci_free_rings(QXHCI *x)
{
    for (unsigned int i = 0; i < x->allocated->len; i++) {
        guest_free(x->alloc, g_array_index(x->allocated, uint64_t, i));
    }
    g_array_set_size(x->allocated, 0);
}

void qxhci_free(QXHCI *x)
{
    qxhci_free_rings(x);
    g_array_free(x->allocated, true);
    guest_free(x->alloc, x->msg);
}

static void qxhci_poke32(QXHCI *x, uint64_t addr, uint32_t val)
{
    val = cpu_to_le32(val);
    qtest_memwrite(qxhci_qts(x), addr, &val, sizeof(val));
}

static void qxhci_poke64(QXHCI *x, uint64_t addr, uint64_t val)
{
    val = cpu_to_le64(val);
    qtest_memwrite(qxhci_qts(x), addr, &val, sizeof(val));
}

static void qxhci_trb_write(QXHCI *x, uint64_t addr, QXHCITrb trb)
{
    QXHCITrb le = {
        .parameter = cpu_to_le64(trb.parameter),
        .status = cpu_to_le32(trb.status),
        .control = cpu_to_le32(trb.control),
    };

    qtest_memwrite(qxhci_qts(x), addr, &le, sizeof(le));
}

static QXHCITrb qxhci_trb_read(QXHCI *x, uint64_t addr)
{
    QXHCITrb le;

    qtest_memread(qxhci_qts(x), addr, &le, sizeof(le));
    return (QXHCITrb) {
        .parameter = le64_to_cpu(le.parameter),
        .status = le32_to_cpu(le.status),
        .control = le32_to_cpu(le.control),
    };
}

/* Rings, 4.9 */

static void qxhci_ring_init(QXHCI *x, QXHCIRing *ring)
{
    ring->addr = qxhci_alloc(x, QXHCI_RING_TRBS * QXHCI_TRB_SIZE);
    ring->idx = 0;
    ring->cycle = true;
}

uint64_t qxhci_ring_put(QXHCI *x, QXHCIRing *ring, QXHCITrb trb)
{
    uint64_t addr = ring->addr + ring->idx * QXHCI_TRB_SIZE;

    trb.control |= ring->cycle ? TRB_CYCLE : 0;
    qxhci_trb_write(x, addr, trb);

    if (++ring->idx == QXHCI_RING_TRBS - 1) {
        qxhci_trb_write(x, ring->addr + ring->idx * QXHCI_TRB_SIZE, (QXHCITrb) {
            .parameter = ring->addr,
            .control = QXHCI_TRB_LINK << 10 | TRB_LINK_TOGGLE |
                       (ring->cycle ? TRB_CYCLE : 0),
        });
        ring->idx = 0;
        ring->cycle = !ring->cycle;
    }
    return addr;
}

/* Sets ERSTBA last, which starts the ring, and IE after it */
static void qxhci_event_ring_start(QXHCI *x, unsigned int intr)
{
    QXHCIRing *ring = &x->event[intr];
    uint64_t erst = qxhci_alloc(x, QXHCI_TRB_SIZE);

    qxhci_ring_init(x, ring);
    qxhci_poke64(x, erst, ring->addr);
    qxhci_poke32(x, erst + 8, QXHCI_RING_TRBS);

    qxhci_write64(x, qxhci_intr_off(x, intr, QXHCI_ERDP), ring->addr);
    qxhci_intr_write(x, intr, QXHCI_ERSTSZ, 1);
    qxhci_write64(x, qxhci_intr_off(x, intr, QXHCI_ERSTBA), erst);
    qxhci_intr_write(x, intr, QXHCI_IMOD, 0);
    qxhci_intr_write(x, intr, QXHCI_IMAN, QXHCI_IMAN_IE);
}

bool qxhci_event_peek(QXHCI *x, unsigned int ring, unsigned int n,
                      QXHCITrb *ev)
{
    QXHCIRing *r = &x->event[ring];
    unsigned int idx = r->idx + n;
    bool cycle = idx < QXHCI_RING_TRBS ? r->cycle : !r->cycle;

    g_assert_cmpuint(ring, <, x->num_rings);
    g_assert_cmpuint(n, <, QXHCI_RING_TRBS);
    *ev = qxhci_trb_read(x, r->addr +
                         idx % QXHCI_RING_TRBS * QXHCI_TRB_SIZE);
    return (ev->control & TRB_CYCLE) == (cycle ? TRB_CYCLE : 0);
}

bool qxhci_event_pop(QXHCI *x, unsigned int ring, QXHCITrb *ev)
{
    QXHCIRing *r = &x->event[ring];

    if (!qxhci_event_peek(x, ring, 0, ev)) {
        return false;
    }
    if (++r->idx == QXHCI_RING_TRBS) {
        r->idx = 0;
        r->cycle = !r->cycle;
    }
    return true;
}

void qxhci_event_wait(QXHCI *x, unsigned int ring, QXHCITrb *ev)
{
    for (int ms = 0; ms < WAIT_MS; ms++) {
        if (qxhci_event_pop(x, ring, ev)) {
            return;
        }
        qxhci_step(x, 1);
    }
    g_test_message("no event on ring %u, USBSTS 0x%x", ring,
                   qxhci_oper_read(x, QXHCI_USBSTS));
    g_assert_not_reached();
}

void qxhci_write_erdp(QXHCI *x, unsigned int ring, bool ehb)
{
    QXHCIRing *r = &x->event[ring];
    uint64_t erdp = r->addr + r->idx * QXHCI_TRB_SIZE;

    qxhci_write64(x, qxhci_intr_off(x, ring, QXHCI_ERDP),
                  erdp | (ehb ? QXHCI_ERDP_EHB : 0));
}

void qxhci_ack(QXHCI *x, unsigned int ring)
{
    qxhci_intr_write(x, ring, QXHCI_IMAN, QXHCI_IMAN_IE | QXHCI_IMAN_IP);
    qxhci_write_erdp(x, ring, true);
}

void qxhci_drain(QXHCI *x)
{
    QXHCITrb ev;

    for (unsigned int ring = 0; ring < x->num_rings; ring++) {
        while (qxhci_event_pop(x, ring, &ev)) {
            /* nothing to do with it */
        }
        qxhci_ack(x, ring);
    }
    qxhci_take_messages(x);
}

/* Interrupts */

static uint8_t qxhci_cap(QXHCI *x, uint8_t id)
{
    uint8_t cap = qpci_find_capability(&x->pdev, id, 0);

    g_assert_cmphex(cap, !=, 0);
    return cap;
}

static uint64_t qxhci_msix_table(QXHCI *x)
{
    uint32_t table = qpci_config_readl(&x->pdev, qxhci_cap(x, PCI_CAP_ID_MSIX) +
                                       PCI_MSIX_TABLE);

    /* The driver maps BAR 0 only */
    g_assert_cmphex(table & PCI_MSIX_FLAGS_BIRMASK, ==, 0);
    return table & ~PCI_MSIX_FLAGS_BIRMASK;
}

void qxhci_write_bit(QXHCI *x, QXHCIModeBit bit, bool on, unsigned int len)
{
    static const struct {
        uint8_t cap;
        uint16_t mask;
    } bits[] = {
        [QXHCI_MSI_ENABLE]   = { PCI_CAP_ID_MSI, PCI_MSI_FLAGS_ENABLE },
        [QXHCI_MSIX_ENABLE]  = { PCI_CAP_ID_MSIX, PCI_MSIX_FLAGS_ENABLE },
        [QXHCI_MSIX_MASKALL] = { PCI_CAP_ID_MSIX, PCI_MSIX_FLAGS_MASKALL },
    };
    uint8_t cap = qxhci_cap(x, bits[bit].cap);
    uint16_t mask = bits[bit].mask;
    uint32_t flags;

    /* Message Control is at the same offset of either capability */
    flags = qpci_config_readw(&x->pdev, cap + PCI_MSI_FLAGS);
    flags = on ? flags | mask : flags & ~mask;

    switch (len) {
    case 1:
        if (mask > 0xff) {
            qpci_config_writeb(&x->pdev, cap + PCI_MSI_FLAGS + 1, flags >> 8);
        } else {
            qpci_config_writeb(&x->pdev, cap + PCI_MSI_FLAGS, flags);
        }
        break;
    case 2:
        qpci_config_writew(&x->pdev, cap + PCI_MSI_FLAGS, flags);
        break;
    case 4:
        /* The ID and the next pointer below are read-only */
        qpci_config_writel(&x->pdev, cap, flags << 16);
        break;
    default:
        g_assert_not_reached();
    }
}

void qxhci_setup_msi(QXHCI *x, unsigned int vectors)
{
    uint8_t cap = qxhci_cap(x, PCI_CAP_ID_MSI);
    uint16_t flags = qpci_config_readw(&x->pdev, cap + PCI_MSI_FLAGS);
    uint8_t data = flags & PCI_MSI_FLAGS_64BIT ? PCI_MSI_DATA_64
                                               : PCI_MSI_DATA_32;

    g_assert(is_power_of_2(vectors));
    qpci_config_writel(&x->pdev, cap + PCI_MSI_ADDRESS_LO, x->msg);
    if (flags & PCI_MSI_FLAGS_64BIT) {
        qpci_config_writel(&x->pdev, cap + PCI_MSI_ADDRESS_HI, x->msg >> 32);
    }
    qpci_config_writew(&x->pdev, cap + data, MSG_DATA);

    flags &= ~PCI_MSI_FLAGS_QSIZE;
    flags |= ctz32(vectors) << ctz32(PCI_MSI_FLAGS_QSIZE);
    qpci_config_writew(&x->pdev, cap + PCI_MSI_FLAGS, flags);
}

void qxhci_setup_msix(QXHCI *x)
{
    uint64_t table = qxhci_msix_table(x);

    for (unsigned int v = 0; v < x->max_intrs; v++) {
        uint64_t entry = table + v * PCI_MSIX_ENTRY_SIZE;

        qxhci_write64(x, entry + PCI_MSIX_ENTRY_LOWER_ADDR, x->msg + 4 * v);
        qxhci_write32(x, entry + PCI_MSIX_ENTRY_DATA, MSG_DATA | v);
        qxhci_write32(x, entry + PCI_MSIX_ENTRY_VECTOR_CTRL, 0);
    }
}

void qxhci_msix_mask(QXHCI *x, unsigned int vector, bool on)
{
    uint64_t entry = qxhci_msix_table(x) + vector * PCI_MSIX_ENTRY_SIZE;

    qxhci_write32(x, entry + PCI_MSIX_ENTRY_VECTOR_CTRL,
                  on ? PCI_MSIX_ENTRY_CTRL_MASKBIT : 0);
}

void qxhci_set_mode(QXHCI *x, QXHCIMode mode, unsigned int vectors)
{
    if (qpci_find_capability(&x->pdev, PCI_CAP_ID_MSI, 0)) {
        qxhci_write_bit(x, QXHCI_MSI_ENABLE, false, 2);
    }
    if (qpci_find_capability(&x->pdev, PCI_CAP_ID_MSIX, 0)) {
        qxhci_write_bit(x, QXHCI_MSIX_ENABLE, false, 2);
    }

    switch (mode) {
    case QXHCI_PIN:
        break;
    case QXHCI_MSI:
        qxhci_setup_msi(x, vectors);
        qxhci_write_bit(x, QXHCI_MSI_ENABLE, true, 2);
        break;
    case QXHCI_MSIX:
        qxhci_setup_msix(x);
        qxhci_write_bit(x, QXHCI_MSIX_ENABLE, true, 2);
        break;
    }
}

bool qxhci_intx(QXHCI *x)
{
    return qpci_config_readw(&x->pdev, PCI_STATUS) & PCI_STATUS_INTERRUPT;
}

uint32_t qxhci_take_messages(QXHCI *x)
{
    uint32_t vectors = 0;
    uint32_t data[QXHCI_MAX_INTRS];

    qtest_memread(qxhci_qts(x), x->msg, data, sizeof(data));
    for (unsigned int i = 0; i < ARRAY_SIZE(data); i++) {
        if (data[i]) {
            uint32_t val = le32_to_cpu(data[i]);

            g_assert_cmphex(val & ~(QXHCI_MAX_INTRS - 1), ==, MSG_DATA);
            vectors |= BIT(val & (QXHCI_MAX_INTRS - 1));
        }
    }
    if (vectors) {
        qtest_memset(qxhci_qts(x), x->msg, 0, sizeof(data));
    }
    return vectors;
}

/* Commands, 4.6 */

static uint64_t qxhci_submit_command(QXHCI *x, unsigned int type,
                                     uint64_t parameter, unsigned int slot)
{
    uint64_t addr = qxhci_ring_put(x, &x->cmd, (QXHCITrb) {
        .parameter = parameter,
        .control = type << 10 | slot << 24,
    });

    qxhci_doorbell(x, 0, 0);
    return addr;
}

QXHCITrb qxhci_try_command(QXHCI *x, unsigned int type, uint64_t parameter,
                           unsigned int slot)
{
    uint64_t addr = qxhci_submit_command(x, type, parameter, slot);
    QXHCITrb ev;

    /* Port Status Change Events may come first */
    do {
        qxhci_event_wait(x, 0, &ev);
    } while (QXHCI_TRB_TYPE(&ev) == QXHCI_TRB_EV_PORT);

    g_assert_cmpuint(QXHCI_TRB_TYPE(&ev), ==, QXHCI_TRB_EV_COMMAND);
    g_assert_cmphex(ev.parameter, ==, addr);
    qxhci_ack(x, 0);
    return ev;
}

unsigned int qxhci_command(QXHCI *x, unsigned int type, uint64_t parameter,
                           unsigned int slot)
{
    QXHCITrb ev = qxhci_try_command(x, type, parameter, slot);

    g_assert_cmpuint(QXHCI_TRB_CC(&ev), ==, QXHCI_CC_SUCCESS);
    return QXHCI_TRB_SLOT(&ev);
}

/* USB devices */

/* Context @index of the device or input context at @ctx, 6.2 */
static uint64_t qxhci_ctx(QXHCI *x, uint64_t ctx, unsigned int index)
{
    return ctx + index * x->ctx_size;
}

/*
 * Fills the context of endpoint @epid in the input context, 6.2.3.
 * @ep_type: EP Type field; @interval: 125 us * 2 ** @interval
 */
static void qxhci_fill_ep_ctx(QXHCI *x, QXHCIDevice *dev, unsigned int epid,
                              unsigned int ep_type, unsigned int max_packet,
                              unsigned int interval, uint64_t dequeue)
{
    uint64_t ctx = qxhci_ctx(x, dev->in_ctx, epid + 1);

    qxhci_poke32(x, ctx, interval << 16);
    qxhci_poke32(x, ctx + 4, max_packet << 16 | ep_type << 3 | 3 << 1);
    qxhci_poke64(x, ctx + 8, dequeue | 1 /* DCS */);
    qxhci_poke32(x, ctx + 16, max_packet);
}

/* Resets the port, which takes a USB 2 device to the Enabled state, 4.19.1.1 */
static void qxhci_port_reset(QXHCI *x, unsigned int port)
{
    uint32_t reg = QXHCI_PORTSC(port);

    qxhci_oper_write(x, reg, QXHCI_PORTSC_PP | QXHCI_PORTSC_PR);
    for (int ms = 0; ms < WAIT_MS; ms++) {
        if (qxhci_oper_read(x, reg) & QXHCI_PORTSC_PED) {
            return;
        }
        qxhci_step(x, 1);
    }
    g_assert_not_reached();
}

void qxhci_device_init(QXHCI *x, QXHCIDevice *dev)
{
    for (unsigned int port = 1; port <= x->max_ports; port++) {
        if (qxhci_oper_read(x, QXHCI_PORTSC(port)) & QXHCI_PORTSC_CCS) {
            qxhci_device_init_port(x, dev, port);
            return;
        }
    }
    g_assert_not_reached();
}

void qxhci_device_init_port(QXHCI *x, QXHCIDevice *dev, unsigned int port)
{
    uint64_t slot_ctx;
    uint32_t portsc = qxhci_oper_read(x, QXHCI_PORTSC(port));

    g_assert_cmphex(portsc & QXHCI_PORTSC_CCS, ==, QXHCI_PORTSC_CCS);
    memset(dev, 0, sizeof(*dev));
    dev->port = port;
    qxhci_port_reset(x, dev->port);

    dev->slot = qxhci_command(x, QXHCI_TRB_ENABLE_SLOT, 0, 0);
    g_assert_cmpuint(dev->slot, !=, 0);

    dev->buf = qxhci_alloc(x, 64);
    dev->out_ctx = qxhci_alloc(x, 32 * x->ctx_size);
    dev->in_ctx = qxhci_alloc(x, 33 * x->ctx_size);
    qxhci_poke64(x, x->dcbaa + 8 * dev->slot, dev->out_ctx);

    /* Add the slot context and the one of endpoint 0 */
    qxhci_ring_init(x, &dev->ep0);
    qxhci_poke32(x, dev->in_ctx + 4, BIT(0) | BIT(QXHCI_EP0));
    slot_ctx = qxhci_ctx(x, dev->in_ctx, 1);
    qxhci_poke32(x, slot_ctx, 1 << 27 | QXHCI_PORTSC_SPEED(portsc) << 20);
    qxhci_poke32(x, slot_ctx + 4, dev->port << 16);
    qxhci_fill_ep_ctx(x, dev, QXHCI_EP0, 4, 64, 0, dev->ep0.addr);
    qxhci_command(x, QXHCI_TRB_ADDRESS_DEV, dev->in_ctx, dev->slot);
}

/*
 * @setup is the Setup Packet of USB 2.0, 9.3, as a little-endian number.  Its
 * data stage, if any, reads to dev->buf.  All TRBs have @target.
 */
static uint64_t qxhci_submit_control(QXHCI *x, QXHCIDevice *dev,
                                     uint64_t setup, unsigned int target)
{
    uint16_t len = setup >> 48;
    uint64_t addr;

    qxhci_ring_put(x, &dev->ep0, (QXHCITrb) {
        .parameter = setup,
        .status = TRB_TARGET(target) | 8,
        .control = QXHCI_TRB_SETUP << 10 | QXHCI_TRB_IDT |
                   (len ? QXHCI_TRB_TRT_IN : 0),
    });
    if (len) {
        qxhci_ring_put(x, &dev->ep0, (QXHCITrb) {
            .parameter = dev->buf,
            .status = TRB_TARGET(target) | len,
            .control = QXHCI_TRB_DATA << 10 | QXHCI_TRB_DIR_IN,
        });
    }
    addr = qxhci_ring_put(x, &dev->ep0, (QXHCITrb) {
        .status = TRB_TARGET(target),
        .control = QXHCI_TRB_STATUS << 10 | QXHCI_TRB_IOC |
                   (len ? 0 : QXHCI_TRB_DIR_IN),
    });
    qxhci_doorbell(x, dev->slot, QXHCI_EP0);
    return addr;
}

uint64_t qxhci_submit_get_descriptor(QXHCI *x, QXHCIDevice *dev,
                                     unsigned int target)
{
    /* GET_DESCRIPTOR, device descriptor, 18 bytes */
    return qxhci_submit_control(x, dev, 0x0012000001000680ULL, target);
}

void qxhci_set_configuration(QXHCI *x, QXHCIDevice *dev)
{
    uint64_t addr;
    QXHCITrb ev;

    /* SET_CONFIGURATION 1 */
    addr = qxhci_submit_control(x, dev, 0x0000000000010900ULL, 0);
    qxhci_event_wait(x, 0, &ev);
    g_assert_cmphex(ev.parameter, ==, addr);
    g_assert_cmpuint(QXHCI_TRB_CC(&ev), ==, QXHCI_CC_SUCCESS);
    qxhci_ack(x, 0);
}

void qxhci_configure_intr_in(QXHCI *x, QXHCIDevice *dev, unsigned int epid,
                             unsigned int max_packet)
{
    uint64_t slot_ctx = qxhci_ctx(x, dev->in_ctx, 1);

    qxhci_set_configuration(x, dev);
    qxhci_ring_init(x, &dev->intr_in);
    qxhci_poke32(x, dev->in_ctx + 4, BIT(0) | BIT(epid));
    qxhci_poke32(x, slot_ctx, epid << 27);
    qxhci_fill_ep_ctx(x, dev, epid, 7, max_packet, 3, dev->intr_in.addr);
    qxhci_command(x, QXHCI_TRB_CONFIG_EP, dev->in_ctx, dev->slot);
}

uint64_t qxhci_submit_intr_in(QXHCI *x, QXHCIDevice *dev, unsigned int epid,
                              unsigned int len, unsigned int target,
                              uint32_t flags)
{
    uint64_t addr = qxhci_ring_put(x, &dev->intr_in, (QXHCITrb) {
        .parameter = dev->buf,
        .status = TRB_TARGET(target) | len,
        .control = QXHCI_TRB_NORMAL << 10 | QXHCI_TRB_IOC | QXHCI_TRB_ISP |
                   flags,
    });

    qxhci_doorbell(x, dev->slot, epid);
    return addr;
}

/* Controller */

void qxhci_start(QXHCI *x, unsigned int num_rings)
{
    g_assert_cmpuint(num_rings, <=, x->max_intrs);

    qxhci_oper_write(x, QXHCI_USBCMD, QXHCI_USBCMD_HCRST);
    g_assert_cmphex(qxhci_oper_read(x, QXHCI_USBSTS) &
                    (QXHCI_USBSTS_HCH | QXHCI_USBSTS_CNR), ==,
                    QXHCI_USBSTS_HCH);
    qxhci_free_rings(x);

    x->dcbaa = qxhci_alloc(x, 8 * (x->max_slots + 1));
    qxhci_ring_init(x, &x->cmd);
    qxhci_oper_write(x, QXHCI_CONFIG, x->max_slots);
    qxhci_write64(x, x->oper + QXHCI_DCBAAP, x->dcbaa);
    qxhci_write64(x, x->oper + QXHCI_CRCR, x->cmd.addr | 1 /* RCS */);

    x->num_rings = num_rings;
    for (unsigned int intr = 0; intr < num_rings; intr++) {
        qxhci_event_ring_start(x, intr);
    }

    qxhci_oper_write(x, QXHCI_USBCMD, QXHCI_USBCMD_INTE | QXHCI_USBCMD_RS);
    g_assert_cmphex(qxhci_oper_read(x, QXHCI_USBSTS) & QXHCI_USBSTS_HCH,
                    ==, 0);
}

void qxhci_attach(QXHCI *x, QGuestAllocator *alloc)
{
    x->alloc = alloc;
    x->allocated = g_array_new(false, false, sizeof(uint64_t));
    x->msg = guest_alloc(alloc, 4 * QXHCI_MAX_INTRS);
}

void qxhci_read_caps(QXHCI *x)
{
    uint32_t params;

    qtest_memset(qxhci_qts(x), x->msg, 0, 4 * QXHCI_MAX_INTRS);

    /* Capability Registers, 5.3 */
    x->oper = extract32(qxhci_read32(x, 0x00), 0, 8);
    params = qxhci_read32(x, 0x04);
    x->max_slots = extract32(params, 0, 8);
    x->max_intrs = extract32(params, 8, 11);
    x->max_ports = extract32(params, 24, 8);
    x->ctx_size = qxhci_read32(x, 0x10) & BIT(2) ? 64 : 32;
    x->doorbell = qxhci_read32(x, 0x14);
    x->runtime = qxhci_read32(x, 0x18);
    g_assert_cmpuint(x->max_intrs, <=, QXHCI_MAX_INTRS);
}

void qxhci_init(QXHCI *x, QPCIBus *bus, int devfn, QGuestAllocator *alloc)
{
    memset(x, 0, sizeof(*x));
    qpci_device_init(&x->pdev, bus, &(QPCIAddress) { .devfn = devfn });
    qxhci_attach(x, alloc);
    x->bar = qpci_iomap(&x->pdev, 0, NULL);
    qpci_device_enable(&x->pdev);
    qxhci_read_caps(x);
}

/* qgraph */

static void *qxhci_pci_get_driver(void *obj, const char *interface)
{
    QXHCIPci *d = obj;

    if (!g_strcmp0(interface, "xhci")) {
        return &d->xhci;
    }
    if (!g_strcmp0(interface, "pci-device")) {
        return &d->xhci.pdev;
    }

    fprintf(stderr, "%s not present in xhci\n", interface);
    g_assert_not_reached();
}

static void qxhci_pci_start_hw(QOSGraphObject *obj)
{
    QXHCIPci *d = (QXHCIPci *)obj;

    qpci_device_enable(&d->xhci.pdev);
    qxhci_read_caps(&d->xhci);
}

static void qxhci_pci_destructor(QOSGraphObject *obj)
{
    QXHCIPci *d = (QXHCIPci *)obj;

    qpci_iounmap(&d->xhci.pdev, d->xhci.bar);
    g_array_free(d->xhci.allocated, true);
}

static void *qxhci_pci_create(void *pci_bus, QGuestAllocator *alloc,
                              void *addr)
{
    QXHCIPci *d = g_new0(QXHCIPci, 1);

    qpci_device_init(&d->xhci.pdev, pci_bus, addr);
    qxhci_attach(&d->xhci, alloc);
    d->xhci.bar = qpci_iomap(&d->xhci.pdev, 0, NULL);

    d->obj.get_driver = qxhci_pci_get_driver;
    d->obj.start_hw = qxhci_pci_start_hw;
    d->obj.destructor = qxhci_pci_destructor;
    return &d->obj;
}

static const struct {
    const char *name;
    uint16_t vendor_id;
    uint16_t device_id;
} qxhci_types[] = {
    { "nec-usb-xhci", PCI_VENDOR_ID_NEC, PCI_DEVICE_ID_NEC_UPD720200 },
    { "qemu-xhci", PCI_VENDOR_ID_REDHAT, PCI_DEVICE_ID_REDHAT_XHCI },
};

/* Has all controllers consume @interface, a PCI bus */
static void qxhci_consumes(const char *interface)
{
    for (int i = 0; i < ARRAY_SIZE(qxhci_types); i++) {
        QPCIAddress addr = {
            .devfn = QPCI_DEVFN(XHCI_SLOT, 0),
            .vendor_id = qxhci_types[i].vendor_id,
            .device_id = qxhci_types[i].device_id,
        };
        QOSGraphEdgeOptions opts = {
            .extra_device_opts = "addr=" stringify(XHCI_SLOT),
        };

        add_qpci_address(&opts, &addr);
        qos_node_consumes(qxhci_types[i].name, interface, &opts);
    }
}

static void qxhci_register_nodes(void)
{
    for (int i = 0; i < ARRAY_SIZE(qxhci_types); i++) {
        qos_node_create_driver(qxhci_types[i].name, qxhci_pci_create);
        qos_node_produces(qxhci_types[i].name, "xhci");
        qos_node_produces(qxhci_types[i].name, "pci-device");
    }
    qxhci_consumes("pci-bus");
    qxhci_consumes("pcie-bus");
}

libqos_init(qxhci_register_nodes);
